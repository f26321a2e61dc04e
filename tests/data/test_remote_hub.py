"""Sources on the hub, by hf://: pinned, refused with advice, and there without a network once they were fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_five_of_200_classes_of_a_sorted_repository(tmp_path: Path) -> None:
    folder = write_tiny_imagenet(tmp_path / "repo", count=4, group=4)
    url = "hf://datasets/zh-plus/tiny-imagenet/data/train-*.parquet"
    with HubServer({"zh-plus/tiny-imagenet": folder}) as hub:
        first, again = fetched(hub, tmp_path, (url, [3, 50, 51, 120, 199], ""), (url, [3, 50], ""))
        assert of("classes", first) == ["classes 200"] and len(of("image", first)) == 5 * 4
        size = sum(int(line.rpartition(" ")[2]) for line in of("image", first))
        assert hub.bytes < 1.2 * size + 100_000  # the end of the file, 500 bytes for each of 200 groups, once
        assert len(hub.requests) < 36 and not hub.count("/resolve/main/")  # all of one commit
        assert of("image", again) == of("image", first)[:8]
    offline, refused = fetched(hub, tmp_path, (url, [3, 199], ""), (url, [4], ""))
    assert of("image", offline) == [line for line in of("image", first) if line.split()[1] in ("3", "199")]
    assert any("nothing answers; takes what was fetched before" in line for line in offline)
    assert "not all images of" in of("error", refused)[0]


def test_a_small_repository_that_is_not_sorted_is_there_as_a_whole(tmp_path: Path) -> None:
    drawn = [jpeg(i, 32) for i in range(100)]
    path = write_parquet(
        tmp_path / "repo" / "a.parquet", drawn, [i % 10 for i in range(100)], names="abcdefghij", group=10
    )
    with HubServer({"made/mixed": tmp_path / "repo"}) as hub:
        (first,) = fetched(hub, tmp_path, ("hf://datasets/made/mixed", [0], ""))
        assert len(of("image", first)) == 10
        sent = hub.bytes
        assert path.stat().st_size < sent < 1.5 * path.stat().st_size
    (offline,) = fetched(hub, tmp_path, ("hf://datasets/made/mixed", [1, 9], ""))
    assert len(of("image", offline)) == 20 and not of("error", offline)


def test_of_a_repository_the_folder_data_is_taken(tmp_path: Path) -> None:
    for name, folder in (("below", "data"), ("odd", "plain text")):
        write_parquet(tmp_path / name / folder / "train-0.parquet", [jpeg(0, 16), jpeg(1, 16)], ["cat", "dog"])
        (tmp_path / name / "README.md").write_text("photos")
    urls = ["hf://datasets/made/below", "hf://datasets/made/below/data", "hf://datasets/made/odd"]
    with HubServer({"made/below": tmp_path / "below", "made/odd": tmp_path / "odd"}) as hub:
        top, data, odd = fetched(hub, tmp_path, *((url, [0], "") for url in urls))
    assert f"{urls[0]}: takes the files in its folder data" in top
    assert len(of("image", top)) == len(of("image", data)) == 1 and not of("error", top) + of("error", data)
    assert f"got folders: name one of plain text: {urls[2]}/FOLDER" in of("error", odd)[0]


def test_what_is_gated_or_missing_says_what_to_do(tmp_path: Path) -> None:
    write_parquet(tmp_path / "repo" / "a.parquet", [jpeg(0, 16), jpeg(1, 16)], ["cat", "dog"])
    names = {
        "made/missing": "",
        "made/gated": "",
        "made/gated/a.parquet": "not-accepted",
        "made/gated/none.parquet": "accepted",
        "made/gated@other": "accepted",
        "made/gated/*.parquet": "accepted",
    }
    with HubServer({"made/gated": tmp_path / "repo"}, gated={"made/gated": "accepted"}) as hub:
        found = fetched(hub, tmp_path, *((f"hf://datasets/{name}", [0], token) for name, token in names.items()))
    *refused, allowed = found
    for (name, _), lines in zip(names.items(), refused[:3], strict=False):
        page = f"{hub.url}/datasets/{'/'.join(name.split('/')[:2])}"
        assert f"accept its terms on {page}, then log in: hf auth login" in of("error", lines)[0]
    assert all("no such file" in of("error", lines)[0] for lines in refused[3:])
    assert not of("error", allowed) and len(of("image", allowed)) == 1
