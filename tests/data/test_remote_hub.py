"""Sources on the hub, by hf://: pinned, refused with advice, and there without a network once they were fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import HubServer, jpeg, write_parquet, write_tiny_imagenet

OPEN = """
import json, os, sys
from pathlib import Path
from xmixup_fast.data.remote.catalog import open_remote
for url, labels, token in json.loads(sys.argv[2]):
    os.environ["HF_TOKEN"] = token
    lines = []
    try:
        catalog = open_remote(url, Path(sys.argv[1]), lines.append)
        found = catalog.fetch(labels, None, lines.append)
        lines.append(f"classes {len(catalog.classes)}")
        lines += [f"image {one.label} {one.image.name} {len(one.image.read())}" for one in found.train]
    except (ValueError, OSError) as error:
        lines.append(f"error {error}")
    print(json.dumps(lines))
"""
Case = tuple[str, list[int], str]
"""A URL, the labels to fetch, and a token."""


def fetched(hub: HubServer, folder: Path, *cases: Case) -> list[list[str]]:
    """What a process of its own, whose caches are in a folder, says of sources and their images."""
    env = {**os.environ, **hub.env(folder / "hf")}
    arguments = [sys.executable, "-c", OPEN, str(folder / "cache"), json.dumps(cases)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(kind: str, lines: list[str]) -> list[str]:
    """The lines that begin with a word."""
    return [line for line in lines if line.startswith(kind)]


TINY, MIXED = "hf://datasets/zh-plus/tiny-imagenet/data/train-*.parquet", "hf://datasets/made/mixed"
REFUSED = {
    "made/missing": "",
    "made/gated": "",
    "made/gated/a.parquet": "not-accepted",
    "made/gated/none.parquet": "accepted",
    "made/gated@other": "accepted",
    "made/gated/*.parquet": "accepted",
}
"""Tokens for repositories; the last one is accepted."""
FOLDERS = ["made/below", "made/below/data", "made/odd"]


@dataclass
class Said:
    """What processes said, which take seconds to begin: one for a sorted repository, one for others, one offline."""

    sorted: list[list[str]]
    others: list[list[str]]
    offline: list[list[str]]
    hubs: list[HubServer]
    """Of the first two."""
    root: Path


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    root = tmp_path_factory.mktemp("hub")
    write_tiny_imagenet(root / "tiny", count=4, group=4)
    drawn = [jpeg(i, 32) for i in range(100)]
    labels = [i % 10 for i in range(100)]
    write_parquet(root / "mixed" / "a.parquet", drawn, labels, names="abcdefghij", group=10)
    for name, folder in (("below", "data"), ("odd", "plain text"), ("gated", "")):
        file = "a.parquet" if name == "gated" else "train-0.parquet"
        write_parquet(root / name / folder / file, [jpeg(0, 16), jpeg(1, 16)], ["cat", "dog"])
        (root / name / "README.md").write_text("photos")
    with HubServer({"zh-plus/tiny-imagenet": root / "tiny"}) as first:
        of_sorted = fetched(first, root, (TINY, [3, 50, 51, 120, 199], ""), (TINY, [3, 50], ""))
    repositories = {f"made/{name}": root / name for name in ("mixed", "below", "odd", "gated")}
    with HubServer(repositories, gated={"made/gated": "accepted"}) as hub:
        named = {**dict.fromkeys(FOLDERS, ""), **REFUSED}
        others = fetched(hub, root, (MIXED, [0], ""), *((f"hf://datasets/{one}", [0], named[one]) for one in named))
    offline = fetched(hub, root, (TINY, [3, 199], ""), (TINY, [4], ""), (MIXED, [1, 9], ""))
    return Said(of_sorted, others, offline, [first, hub], root)


def test_five_of_200_classes_of_a_sorted_repository(said: Said) -> None:
    (first, again), (offline, refused, _), hub = said.sorted, said.offline, said.hubs[0]
    assert of("classes", first) == ["classes 200"] and len(of("image", first)) == 5 * 4
    size = sum(int(line.rpartition(" ")[2]) for line in of("image", first))
    assert hub.bytes < 1.2 * size + 100_000  # the end of the file, 500 bytes for each of 200 groups, once
    assert len(hub.requests) < 36 and not hub.count("/resolve/main/")  # all of one commit
    assert of("image", again) == of("image", first)[:8]
    assert of("image", offline) == [line for line in of("image", first) if line.split()[1] in ("3", "199")]
    assert any("nothing answers; takes what was fetched before" in line for line in offline)
    assert "not all images of" in of("error", refused)[0]


def test_a_small_repository_that_is_not_sorted_is_there_as_a_whole(said: Said) -> None:
    first, offline = said.others[0], said.offline[2]
    assert len(of("image", first)) == 10
    size = (said.root / "mixed" / "a.parquet").stat().st_size
    assert size < said.hubs[1].bytes < 1.5 * size + 20_000  # the last is of the others
    assert len(of("image", offline)) == 20 and not of("error", offline)


def test_of_a_repository_the_folder_data_is_taken(said: Said) -> None:
    top, data, odd = said.others[1:4]
    assert f"hf://datasets/{FOLDERS[0]}: takes the files in its folder data" in top
    assert len(of("image", top)) == len(of("image", data)) == 1 and not of("error", top) + of("error", data)
    assert f"got folders: name one of plain text: hf://datasets/{FOLDERS[2]}/FOLDER" in of("error", odd)[0]


def test_what_is_gated_or_missing_says_what_to_do(said: Said) -> None:
    *refused, allowed = said.others[4:]
    for name, lines in list(zip(REFUSED, refused, strict=False))[:3]:
        page = f"{said.hubs[1].url}/datasets/{'/'.join(name.split('/')[:2])}"
        assert f"accept its terms on {page}, then log in: hf auth login" in of("error", lines)[0]
    assert all("no such file" in of("error", lines)[0] for lines in refused[3:])
    assert not of("error", allowed) and len(of("image", allowed)) == 1
