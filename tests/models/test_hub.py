"""The Hub without a network, with one that does not answer, and with one that is flaky: servers on the loopback."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants

from xmixup_fast.models import hub
from xmixup_fast.models.build import build


@pytest.fixture
def nothing() -> Iterator[str]:
    """The address of a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def busy() -> Iterator[str]:
    """The address of a server that answers every request with 503."""

    class Busy(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("model", ["resnet18", "hf-hub:user/network"])
@pytest.mark.parametrize("server", ["nothing", "silent"])
def test_a_missing_network_is_one_line_within_ten_seconds(
    server: str, model: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.CONNECT_SECONDS < hub.ANSWER_SECONDS < 10
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.5)
    endpoint = request.getfixturevalue(server)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    logging.getLogger("huggingface_hub").addHandler(handler)
    started = time.monotonic()
    try:
        with pytest.raises(ValueError, match=rf"{model} .*\({endpoint} cannot be reached: .*\)") as caught:
            build(model, "timm", ["a"])
    finally:
        logging.getLogger("huggingface_hub").removeHandler(handler)
    assert time.monotonic() - started < 5 and "\n" not in str(caught.value) and not records
    assert constants.HF_HUB_OFFLINE is False, "another Hub may be tried by the same process"


def test_a_name_service_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1))
    monkeypatch.setattr(constants, "ENDPOINT", "http://absent.invalid")
    with hub.reachable_hub() as reason:
        assert reason.startswith("http://absent.invalid cannot be reached: no answer in 0 s")


def test_without_a_network_the_cache_serves_at_once(cache: Path, nothing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", nothing)
    body = timm.create_model("test_resnet", num_classes=3)
    repository, revision = cache / "models--user--network", "0" * 40
    timm.models.save_for_hf(body, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    network = build("hf-hub:user/network", "timm", ["a"])
    assert torch.equal(network.body.conv1[0].weight, body.conv1[0].weight)
    shutil.rmtree(repository)
    with pytest.raises(ValueError, match="cannot be reached"):
        build("hf-hub:user/network", "timm", ["a"])


@pytest.mark.usefixtures("cache")
def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_unreachable", lambda _: pytest.fail("the Hub was asked"))
    with pytest.raises(ValueError, match=r"weights: timm cannot get its weights for resnet18 \((?!http)"):
        build("resnet18", "timm", ["a"])
    assert constants.HF_HUB_OFFLINE


def test_a_hub_that_is_busy_is_there_and_its_retries_are_one_line(
    busy: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", busy)
    logger = logging.getLogger("huggingface_hub.utils._http")
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    for _ in range(2):
        caplog.clear()
        with hub.reachable_hub() as reason:
            assert reason == "" and not constants.HF_HUB_OFFLINE
            for attempt in range(5):
                logger.warning(f"Retrying in 1s [Retry {attempt}/5].")
        assert [record.getMessage() for record in caplog.records] == ["Retrying in 1s [Retry 0/5]."]
    logger.warning("afterwards")
    assert len(caplog.records) == 2


def test_a_network_without_published_weights_is_told_as_such(nothing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", nothing)
    with pytest.raises(ValueError, match="No pretrained weights exist"):
        build("lcnet_035", "timm", ["a"])
