"""Sources that are tar shards with an index: which bytes move, and what happens where the index is of other shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer, wordnet_ids
from listings import write_shard
from range_server import RangeServer

from xmixup_fast.__main__ import main
from xmixup_fast.data.catalog import Catalog
from xmixup_fast.data.dataset import Dataset
from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.data.remote.index import Row, write_index

COUNT, BYTES = 4, 30_000


def payload(label: int, i: int) -> bytes:
    """What stands for an image; nothing here decodes it."""
    return np.random.default_rng([label, i]).bytes(BYTES)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards with 200 classes, mixed as usual, and their index."""
    folder = tmp_path_factory.mktemp("shards")
    names = wordnet_ids()
    order = np.random.default_rng(0).permutation(200 * COUNT).tolist()
    for shard in range(8):
        members: list[tuple[str, str | bytes]] = []
        for number in order[100 * shard : 100 * shard + 100]:
            label, i = divmod(number, COUNT)
            members += [(f"{number:06d}.jpg", payload(label, i)), (f"{number:06d}.cls", names[label])]
        write_shard(folder / f"a-{shard:03d}.tar", members)
    assert main(["index", str(folder)]) == 0
    return folder


def read(dataset: Dataset) -> list[tuple[str, bytes]]:
    """Class and bytes of each image."""
    return [(dataset.classes[one.label], one.image.read()) for one in dataset.train]


def opened(address: str, cache: Path) -> Catalog:
    return open_remote(address, cache, print)


def test_five_of_200_classes_move_little_more_than_their_images(shards: Path, tmp_path: Path) -> None:
    labels = (199, 3, 51, 50, 120)
    with HubServer({"made/shards": shards}) as hub:
        catalog = opened(hub.address("made/shards", "a-{000..007}.tar"), tmp_path)
        assert catalog.classes == wordnet_ids() and catalog.counts == [COUNT] * 200
        assert catalog.size == sum(path.stat().st_size for path in shards.glob("*.tar"))
        found = catalog.fetch(labels, None, print)
        size = 5 * COUNT * BYTES
        assert size <= hub.bytes < 1.2 * size + (shards / "index.parquet").stat().st_size + 200 * 513
        sent, asked = hub.bytes, hub.count("GET")
        again = opened(hub.address("made/shards", "index.parquet"), tmp_path).fetch(labels, 2, print)
        assert asked < 5 * COUNT + 20 and hub.bytes - sent < 10 * BYTES + 10 * 512 + 60_000
    order = sorted(range(len(found.train)), key=lambda i: found.train[i].label)
    assert [found.train[i].label for i in order] == [label for label in sorted(labels) for _ in range(COUNT)]
    for label in labels:
        own = {data for name, data in read(found) if name == wordnet_ids()[label]}
        assert own == {payload(label, i) for i in range(COUNT)}
        assert {data for name, data in read(again) if name == wordnet_ids()[label]} < own
    assert not found.bad
    local = opened(f"file://{shards}", tmp_path / "local").fetch(labels, None, print)
    assert read(local) == read(found)


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [("a-{000..001}.tar", [0, 1]), ("a-00[67].tar", [6, 7]), ("a-005.tar", [5]), ("*.tar", range(8)), ("", range(8))],
)
def test_of_shards_that_are_named_no_others_are_used(
    shards: Path, tmp_path: Path, pattern: str, chosen: list[int]
) -> None:
    order = np.random.default_rng(0).permutation(200 * COUNT).tolist()
    expected: dict[str, list[bytes]] = {}
    for label, i in (divmod(number, COUNT) for shard in chosen for number in order[100 * shard : 100 * shard + 100]):
        expected.setdefault(wordnet_ids()[label], []).append(payload(label, i))
    with RangeServer(shards) as server:
        catalog = opened(f"{server.url}/{pattern}", tmp_path)
        assert catalog.classes == sorted(expected)
        assert catalog.counts == [len(expected[name]) for name in catalog.classes]
        assert catalog.size == sum((shards / f"a-{shard:03d}.tar").stat().st_size for shard in chosen)
        for limit in (1, None):
            found = catalog.fetch([0, 7, len(catalog.classes) - 1], limit, print)
            own: dict[str, list[bytes]] = {}
            for name, data in read(found):
                own.setdefault(name, []).append(data)
            assert {name: len(of) for name, of in own.items()} == {
                name: min(limit or COUNT, len(expected[name])) for name in own
            }
            assert len(own) == 3 and all(set(of) <= set(expected[name]) for name, of in own.items())


def test_shards_that_an_index_does_not_list_are_said(tmp_path: Path) -> None:
    write_shard(tmp_path / "s" / "a.tar", made(tmp_path, "cat", "dog"))
    assert main(["index", str(tmp_path / "s")]) == 0
    write_shard(tmp_path / "s" / "b.tar", made(tmp_path, "cat"))
    lines: list[str] = []
    both = open_remote(f"file://{tmp_path}/s/*.tar", tmp_path / "cache", lines.append)
    assert both.counts == [1, 1] and any("lists no images of b.tar: left out" in line for line in lines)
    with pytest.raises(ValueError, match=r"lists no images of b\.tar: run xmixup index on all shards again"):
        opened(f"file://{tmp_path}/s/b.tar", tmp_path / "cache")


def made(folder: Path, *labels: str) -> list[tuple[str, str | bytes]]:
    return [pair for i, label in enumerate(labels) for pair in ((f"{i}.jpg", f"image {i}"), (f"{i}.cls", label))]


def test_an_index_that_is_older_than_its_shards_is_found(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s" / "a.tar", made(tmp_path, "cat", "dog", "cat"))
    assert main(["index", str(tmp_path / "s")]) == 0
    # As long as before, but other members are where the index says.
    write_shard(shard, [*made(tmp_path, "cat", "dog", "cat")[2:], *made(tmp_path, "cat")])
    found = opened(f"file://{tmp_path}/s", tmp_path / "1").fetch([0], None, print)
    assert len(found.train) + len(found.bad) == 2 and found.bad
    assert all("the index is older than the shards" in file.reason for file in found.bad)
    write_shard(shard, made(tmp_path, *["cat"] * 20))
    with pytest.raises(ValueError, match=r"the index is older than the shards: a\.tar has \d+ bytes, and had 10240"):
        opened(f"file://{tmp_path}/s", tmp_path / "2").fetch([0], None, print)
    shard.unlink()
    write_shard(tmp_path / "s" / "b.tar", made(tmp_path, "cat"))
    with pytest.raises(FileNotFoundError, match=r"a\.tar: no such file"):
        opened(f"file://{tmp_path}/s", tmp_path / "3").fetch([0], None, print)


def test_an_index_leads_nowhere_else(tmp_path: Path) -> None:
    write_shard(tmp_path / "s" / "a.tar", made(tmp_path, "cat", "dog"))
    elsewhere = tmp_path / "repo" / "other.parquet"
    elsewhere.parent.mkdir()
    assert main(["index", str(tmp_path / "s"), "--output", str(elsewhere)]) == 0
    local = opened(f"file://{elsewhere}", tmp_path / "1").fetch([1], None, print)
    assert read(local) == [("dog", b"image 1")]
    with HubServer({"made/a": tmp_path / "repo"}) as hub, pytest.raises(ValueError, match="was written for shards in"):
        opened(hub.address("made/a", "other.parquet"), tmp_path / "2")


@pytest.mark.parametrize(
    ("shard", "listed", "message"),
    [
        ("../a.tar", {"../a.tar": {"size": 1024}}, "names a shard outside of its folder"),
        ("/a.tar", {"/a.tar": {"size": 1024}}, "names a shard outside of its folder"),
        ("../a.tar", {"a.tar": {"size": 1024}}, r"damaged: rows are of \.\./a\.tar, no shard that it lists"),
        (None, {"a.tar": {"size": 1024}}, "damaged: its rows of cat are not where it says"),
        ("a.tar", {"a.tar": {}}, r"damaged metadata \(KeyError\('size'\)\)"),
    ],
)
def test_an_index_of_other_places_or_without_them_is_refused(
    tmp_path: Path, shard: str, listed: dict[str, dict[str, int | str]], message: str
) -> None:
    write_shard(tmp_path / "a.tar", made(tmp_path, "cat"))
    (tmp_path / "s").mkdir()
    write_index(tmp_path / "s" / "index.parquet", [Row("cat", shard, "0.jpg", 512, 7)], listed)
    with pytest.raises(ValueError, match=f"index.parquet: {message}"):
        opened(f"file://{tmp_path}/s/index.parquet", tmp_path / "cache").fetch([0], None, print)
    assert not list((tmp_path / "cache").rglob("*.jpg"))


@pytest.mark.parametrize("text", ["no JSON", "3", "null", "{}", *(json.dumps({"format": 1, **some}) for some in (
    {"classes": {}, "shards": {}}, {"folder": None, "shards": {}}, {"folder": None, "classes": {}},
    {"folder": None, "classes": {"cat": None}, "shards": {}}, {"folder": None, "classes": {}, "shards": {"a": 3}},
))])  # fmt: skip
def test_an_index_whose_metadata_lack_something_is_refused(tmp_path: Path, text: str) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "index.parquet"
    write_index(path, [Row("cat", "a.tar", "0.jpg", 512, 7)], {"a.tar": {"size": 1024}})
    pq.write_table(pq.read_table(path).replace_schema_metadata({"xmixup_fast": text}), path)
    with pytest.raises(ValueError, match=r"index\.parquet: damaged metadata .*: write it with xmixup index anew"):
        opened(f"file://{path}", tmp_path / "cache")


def test_an_interrupted_fetch_goes_on(shards: Path, tmp_path: Path) -> None:
    most = 10**6

    def fail(method: str, path: str) -> int | None:
        return 404 if hub.count("GET") > most else None

    with HubServer({"made/shards": shards}, fail=fail) as hub:
        catalog = opened(hub.address("made/shards", "a-{000..007}.tar"), tmp_path)
        most = hub.count("GET") + 12
        with pytest.raises(OSError, match="no such file"):
            catalog.fetch(range(0, 200, 20), None, print)
        kept, sent, most = len(list(tmp_path.rglob("*.jpg"))), hub.bytes, 10**6
        found = catalog.fetch(range(0, 200, 20), None, print)
        assert 0 < kept < len(found.train) == 10 * COUNT
        assert hub.bytes - sent < 1.1 * (10 * COUNT - kept) * BYTES  # with the index
