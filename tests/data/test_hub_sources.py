"""Sources on the hub, by hf://: pinned, refused with advice, and there without a network once they were fetched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import HubServer, jpeg, write_parquet, write_tiny_imagenet

OPEN = """
import sys
from pathlib import Path
from xmixup_fast.data.remote.catalog import open_remote
try:
    catalog = open_remote(sys.argv[1], Path(sys.argv[2]), print)
    found = catalog.fetch([int(label) for label in sys.argv[3:]], None, print)
    print("classes", len(catalog.classes))
    for one in found.train:
        print("image", one.label, one.image.name, len(one.image.read()))
except (ValueError, OSError) as error:
    print("error", error)
"""


def fetched(hub: HubServer, folder: Path, url: str, *labels: int, token: str = "") -> list[str]:
    """What a process of its own, whose caches are in a folder, prints of a source and its images."""
    env = {**os.environ, **hub.env(folder / "hf"), "HF_TOKEN": token}
    arguments = [sys.executable, "-c", OPEN, url, str(folder / "cache"), *map(str, labels)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def of(kind: str, lines: list[str]) -> list[str]:
    """The lines that begin with a word."""
    return [line for line in lines if line.startswith(kind)]


def test_five_of_200_classes_of_a_sorted_repository(tmp_path: Path) -> None:
    folder = write_tiny_imagenet(tmp_path / "repo", count=8, group=8)
    url = "hf://datasets/zh-plus/tiny-imagenet/data/train-*.parquet"
    with HubServer({"zh-plus/tiny-imagenet": folder}) as hub:
        first = fetched(hub, tmp_path, url, 3, 50, 51, 120, 199)
        sent, asked = hub.bytes, len(hub.requests)
        assert of("classes", first) == ["classes 200"] and len(of("image", first)) == 5 * 8
        size = sum(int(line.rpartition(" ")[2]) for line in of("image", first))
        assert sent < 1.2 * size + 100_000  # the end of the file, 500 bytes for each of 200 groups
        assert asked < 30 and not hub.count("/resolve/main/")  # all of one commit
        assert of("image", fetched(hub, tmp_path, url, 3, 50)) == of("image", first)[:16]
        assert hub.bytes - sent < 150_000  # the end alone
    before = time.monotonic()
    offline = fetched(hub, tmp_path, url, 3, 199)
    assert of("image", offline) == [line for line in of("image", first) if line.split()[1] in ("3", "199")]
    assert any("nothing answers; takes what was fetched before" in line for line in offline)
    (refused,) = of("error", fetched(hub, tmp_path, url, 4))
    assert "not all images of" in refused
    assert time.monotonic() - before < 60


def test_a_small_repository_that_is_not_sorted_is_there_as_a_whole(tmp_path: Path) -> None:
    drawn = [jpeg(i, 32) for i in range(100)]
    path = write_parquet(
        tmp_path / "repo" / "a.parquet", drawn, [i % 10 for i in range(100)], names="abcdefghij", group=10
    )
    with HubServer({"made/mixed": tmp_path / "repo"}) as hub:
        first = fetched(hub, tmp_path, "hf://datasets/made/mixed", 0)
        assert len(of("image", first)) == 10
        sent = hub.bytes
        assert path.stat().st_size < sent < 1.5 * path.stat().st_size
    offline = fetched(hub, tmp_path, "hf://datasets/made/mixed", 1, 9)
    assert len(of("image", offline)) == 20 and not of("error", offline)


@pytest.mark.parametrize(
    ("name", "token", "expected"),
    [
        ("made/missing", "", "PAGE"),
        ("made/gated", "", "PAGE"),
        ("made/gated", "not-accepted", "PAGE"),
        ("made/gated", "accepted", ""),
        ("made/gated/none.parquet", "accepted", "no such file"),
        ("made/gated@other", "accepted", "no such"),
    ],
)
def test_what_is_gated_or_missing_says_what_to_do(tmp_path: Path, name: str, token: str, expected: str) -> None:
    write_parquet(tmp_path / "repo" / "a.parquet", [jpeg(0, 16), jpeg(1, 16)], ["cat", "dog"])
    with HubServer({"made/gated": tmp_path / "repo"}, gated={"made/gated": "accepted"}) as hub:
        lines = fetched(hub, tmp_path, f"hf://datasets/{name}", 0, token=token)
    errors = of("error", lines)
    if not expected:
        assert not errors and len(of("image", lines)) == 1
    elif expected == "PAGE":
        assert f"accept its terms on {hub.url}/datasets/{name}" in errors[0] and "hf auth login" in errors[0]
    else:
        assert expected in errors[0] and name.rpartition("@")[0] in errors[0]
    assert "Traceback" not in "".join(lines)
