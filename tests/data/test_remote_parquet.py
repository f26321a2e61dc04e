"""Sources that are Parquet files: which bytes move for some classes, what comes of them, and what stops."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hub_server import HubServer, jpeg, wordnet_ids, write_parquet, write_tiny_imagenet

from xmixup_fast.data.dataset import Dataset
from xmixup_fast.data.remote import parquet
from xmixup_fast.data.remote.cache import SourceFolder
from xmixup_fast.data.remote.catalog import RemoteCatalog
from xmixup_fast.data.remote.files import RemoteFiles
from xmixup_fast.data.remote.layout import Options


def opened(
    place: str | Path, cache: Path, options: Options | None = None, said: list[str] | None = None
) -> RemoteCatalog:
    """The catalog of a Parquet file, or of a folder's."""
    files = RemoteFiles(str(place))
    paths = [path for path in files.find() if path.endswith(".parquet")]
    folder = SourceFolder.make(cache, "made", "1")
    found = parquet.layout(files, paths, folder, options or Options(), (said if said is not None else []).append)
    folder.describe({"url": files.url, "classes": found.classes})
    return RemoteCatalog("made", found, folder)


def images(dataset: Dataset) -> list[tuple[str, str, bytes]]:
    """Class, file name and bytes of each image."""
    return [(dataset.classes[one.label], Path(one.image.name).name, one.image.read()) for one in dataset.train]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 classes of 20 images, sorted, in groups of 20 rows."""
    return write_tiny_imagenet(tmp_path_factory.mktemp("tiny"))


LABELS = (3, 50, 51, 120, 199)


def test_five_of_200_classes_move_little_more_than_their_images(tiny: Path, tmp_path: Path) -> None:
    path = next((tiny / "data").glob("train-*"))
    with HubServer({"made/tiny": tiny}) as hub:
        catalog = opened(hub.address("made/tiny", f"data/{path.name}"), tmp_path)
        assert catalog.classes == wordnet_ids() and catalog.counts == [20] * 200
        about, before = hub.bytes, len(hub.requests)
        found = catalog.fetch(LABELS, None, print)
        size = sum(len(image) for _, _, image in images(found))
        assert size > 100 * 4000 and size < hub.bytes - about < 1.2 * size
        assert about < 200_000  # the end of a file with 200 groups; the statistics tell the labels
        assert len(hub.requests) - before <= 2 * len(LABELS) + 1
        sent = hub.bytes
        catalog = opened(hub.address("made/tiny", f"data/{path.name}"), tmp_path)
        assert images(catalog.fetch(LABELS, 10, print)) == [one for i, one in enumerate(images(found)) if i % 20 < 10]
        assert hub.bytes == sent
    assert not found.bad
    local = images(opened(path, tmp_path / "local").fetch(LABELS, None, print))
    assert images(found) == local
    assert local[20] == (wordnet_ids()[50], "00001000.jpg", local[20][2])
    assert catalog.size is not None and 0.9 < catalog.size / path.stat().st_size < 1


def test_groups_that_hold_two_classes_are_read_once(tmp_path: Path) -> None:
    drawn = [jpeg(i, 32) for i in range(40)]
    path = write_parquet(tmp_path / "a.parquet", drawn, [i // 8 for i in range(40)], names="abcde", group=5)
    catalog = opened(path, tmp_path)
    assert catalog.counts == [8] * 5
    assert images(catalog.fetch([1, 2], 7, print)) == [
        ("bc"[i // 16], f"{i:08d}.jpg", drawn[i]) for i in [*range(8, 15), *range(16, 23)]
    ]


def shuffled(folder: Path, count: int = 200, **options: object) -> Path:
    """A file of 20 classes whose rows are not sorted, in groups of 10 rows."""
    labels = [(7 * i) % 20 for i in range(count)]
    return write_parquet(folder / "a.parquet", [jpeg(i, 48) for i in range(count)], labels, group=10, **options)


def test_small_files_that_are_not_sorted_are_fetched_whole_once(tmp_path: Path) -> None:
    path = shuffled(tmp_path / "repo")
    said: list[str] = []
    with HubServer({"made/mixed": tmp_path / "repo"}) as hub:
        catalog = opened(hub.address("made/mixed", path.name), tmp_path, said=said)
        before = hub.bytes
        first = catalog.fetch([0, 1], None, said.append)
        assert hub.bytes - before == path.stat().st_size
        assert any("whole" in line for line in said)
    expected = opened(path, tmp_path / "local")
    assert images(first) == images(expected.fetch([0, 1], None, print))
    assert images(catalog.fetch([2, 19], None, print)) == images(expected.fetch([2, 19], None, print))
    again = parquet.whole(catalog.folder)
    assert again is not None and len(again) == 1  # a later run needs no network


def test_large_files_that_are_not_sorted_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shuffled(tmp_path / "repo")
    monkeypatch.setattr(parquet, "LARGEST_WHOLE", 100_000)
    with HubServer({"made/mixed": tmp_path / "repo"}) as hub:
        address = hub.address("made/mixed", path.name)
        catalog = opened(address, tmp_path)
        before = hub.bytes
        with pytest.raises(
            ValueError, match=r"20 images of 2 classes, \d+ kB, lie in 10 of 20 row groups, .*--fetch-anyway"
        ):
            catalog.fetch([0, 1], None, print)
        assert hub.bytes == before
        allowed = opened(address, tmp_path, Options(anyway=True))
        assert len(images(allowed.fetch([0, 1], None, print))) == 20
        assert hub.bytes - before < path.stat().st_size
        # One class of which all rows of a group are wanted is no waste.
        everything = opened(address, tmp_path / "other").fetch(range(20), None, print)
        assert len(images(everything)) == 200


@pytest.mark.parametrize("is_sorted", [True, False])
def test_an_interrupted_fetch_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_sorted: bool) -> None:
    count, wanted = 800, range(0, 40, 2) if is_sorted else [1]
    drawn = [jpeg(i, 48) for i in range(count)]
    labels = [i // 20 if is_sorted else i % 40 for i in range(count)]
    path = write_parquet(tmp_path / "repo" / "a.parquet", drawn, labels, group=20)
    monkeypatch.setattr("xmixup_fast.data.remote.whole.LARGEST_BLOCK", 50_000)
    monkeypatch.setattr("xmixup_fast.data.remote.whole.IN_FLIGHT", 1)
    most = 10**6

    def fail(method: str, path: str) -> int | None:
        return 404 if sum(request.startswith("GET") for request in hub.requests) > most else None

    with HubServer({"made/a": tmp_path / "repo"}, fail=fail) as hub:
        catalog = opened(hub.address("made/a", path.name), tmp_path)
        names = [catalog.classes.index(str(label)) for label in wanted]
        before, most = hub.bytes, len(hub.requests) + 10
        with pytest.raises(OSError, match=r"^http.*no such file"):  # the cache is not to blame
            catalog.fetch(names, None, print)
        moved, most = hub.bytes, 10**6
        assert moved > before
        kept = sum(file.stat().st_size for file in catalog.folder.path.rglob("*.*") if file.suffix in (".jpg", ".part"))
        assert kept > 0
        found = catalog.fetch(names, None, print)
        size = sum(len(data) for _, _, data in images(found)) if is_sorted else path.stat().st_size
        assert hub.bytes - moved < size - kept + 10_000
    expected = {str(label): [drawn[i] for i in range(count) if labels[i] == label] for label in wanted}
    assert images(found) == images(opened(path, tmp_path / "local").fetch(names, None, print))
    for name in expected:
        assert [data for label, _, data in images(found) if label == name] == expected[name]


def test_rows_that_cannot_be_used_are_bad_files(tmp_path: Path) -> None:
    drawn: Sequence[bytes | None] = [jpeg(0), None, b"not an image", jpeg(3), jpeg(4), jpeg(5)]
    path = write_parquet(tmp_path / "a.parquet", drawn, [0, 0, 0, None, -1, 7], names=["cat", "dog"])
    said: list[str] = []
    catalog = opened(path, tmp_path, said=said)
    assert catalog.classes == ["cat"] and said == [f"{path}: no rows of dog: left out"]
    found = catalog.fetch([0], None, print)
    assert images(found) == [("cat", "00000000.jpg", drawn[0])]
    reasons = {name.removeprefix(str(path)): reason for name, reason in found.bad}
    assert reasons["/1"].startswith("no image") and reasons["/2"].startswith("not a JPEG")
    rows = [reason for name, reason in found.bad if name == str(path)]
    assert [text.rpartition(": ")[2] for text in rows] == [
        "no label (None)",
        "no label (-1)",
        "expected a label below 2, got 7",
    ]


def test_labels_are_names_or_get_names(tmp_path: Path) -> None:
    drawn = [jpeg(i, 16) for i in range(4)]
    texts = write_parquet(tmp_path / "texts.parquet", drawn, ["dog", " cat", "nan", "dog"])
    catalog = opened(texts, tmp_path / "1")
    assert catalog.classes == ["cat", "dog"] and catalog.counts == [1, 2]
    assert [name for name, _, _ in images(catalog.fetch([0, 1], None, print))] == ["cat", "dog", "dog"]
    numbers = write_parquet(tmp_path / "numbers.parquet", drawn, [1, 0, 1, 10])
    assert opened(numbers, tmp_path / "2").classes == ["0", "1", "10"]
    named = Options(classes=["zebra", "ape", *"cdefghij", "gnu"])
    assert opened(numbers, tmp_path / "3", named).classes == ["ape", "gnu", "zebra"]
    told = write_parquet(tmp_path / "told.parquet", drawn, [0, 1, 0, 1], names=["tench, Tinca tinca", "goldfish"])
    assert opened(told, tmp_path / "4").classes == ["goldfish", "tench, Tinca tinca"]
    # What the file says of its labels counts, whatever order the caller's names have.
    assert opened(told, tmp_path / "5", named).classes == ["goldfish", "tench, Tinca tinca"]


def test_plain_bytes_are_images_and_files_of_a_folder_one_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    drawn = [jpeg(i, 16) for i in range(6)]
    (tmp_path / "data").mkdir()
    for i, split in enumerate(("train-0", "train-1", "test-0")):
        pq.write_table(
            pa.table({"img": drawn[2 * i : 2 * i + 2], "label": ["a", "b"]}), tmp_path / "data" / f"{split}.parquet"
        )
    said: list[str] = []
    catalog = opened(tmp_path / "data", tmp_path, said=said)
    assert said == [f"{tmp_path}/data: test-0.parquet left out, as not named train"]
    assert [data for _, _, data in images(catalog.fetch([0, 1], None, print))] == [drawn[i] for i in (0, 2, 1, 3)]
    pq.write_table(pa.table({"img": drawn, "label": [0] * 6}), tmp_path / "data" / "train-2.parquet")
    with pytest.raises(
        ValueError, match=r"train-2\.parquet: expected the columns .* label \(string\), got .* label \(int64\)"
    ):
        opened(tmp_path / "data", tmp_path)


def test_files_of_the_datasets_library_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    drawn = [jpeg(i, 16) for i in range(4)]
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["z", "a"])})
    rows = {"img": [{"bytes": data, "path": None} for data in drawn], "fine": [0, 1, 1, 0]}
    for folder in ("test", "train"):
        (tmp_path / folder).mkdir()
        datasets.Dataset.from_dict(rows, features).to_parquet(str(tmp_path / folder / "0000.parquet"))
    said: list[str] = []
    catalog = opened(tmp_path / "*" / "0000.parquet", tmp_path, said=said)
    assert len(said) == 1 and "0000.parquet left out, as not named train" in said[0]
    assert [(name, data) for name, _, data in images(catalog.fetch([0, 1], None, print))] == [
        ("a", drawn[1]),
        ("a", drawn[2]),
        ("z", drawn[0]),
        ("z", drawn[3]),
    ]


@pytest.mark.parametrize(
    ("columns", "like"),
    [
        ({"image": [b"1"], "name": ["a"]}, "expected a column label, or one of class labels, among image, name"),
        ({"path": ["1.jpg"], "label": ["a"]}, "expected one column of encoded images .* found none among path, label"),
        ({"a": [b"1"], "b": [b"1"], "label": [0]}, "expected one column of .* found a, b among a, b, label"),
        ({"a": [b"1"], "label": [0.5]}, "label: expected integers or strings, got double"),
        ({"a": [b"1"], "label": ["None"]}, "no row has a class: .*expected a class, got 'None'"),
    ],
)
def test_columns_that_are_not_clear_stop(tmp_path: Path, columns: dict[str, list[object]], like: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=f"a.parquet: {like}"):
        opened(tmp_path / "a.parquet", tmp_path)


def test_damage_is_found_where_it_is(tmp_path: Path) -> None:
    drawn = [jpeg(i, 48) for i in range(40)]
    path = write_parquet(tmp_path / "a.parquet", drawn, [i // 10 for i in range(40)], names="abcd", group=10)
    data = path.read_bytes()
    begin = data.index(drawn[10]) - 60  # the header of the second group's page is there
    path.write_bytes(data[:begin] + bytes(60) + data[begin + 60 :])
    found = opened(path, tmp_path / "1").fetch([0, 1, 2], None, print)
    assert [name for name, _, _ in images(found)] == ["a"] * 10 + ["c"] * 10
    assert len(found.bad) == 10 and "row group 1 is damaged" in found.bad[0].reason
    path.write_bytes(data[:-1000])
    with pytest.raises(ValueError, match=r"a\.parquet: expected a Parquet file; it does not end as one"):
        opened(path, tmp_path / "2")
    path.write_bytes(data[:-200] + bytes(100) + data[-100:])
    with pytest.raises(ValueError, match=r"a\.parquet: a Parquet file whose end is damaged"):
        opened(path, tmp_path / "3")


def test_a_full_disk_names_the_cache(tmp_path: Path) -> None:
    path = shuffled(tmp_path / "repo")
    with HubServer({"made/mixed": tmp_path / "repo"}) as hub:
        catalog = opened(hub.address("made/mixed", path.name), tmp_path)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # files cannot be longer, as on a full disk
        try:
            with pytest.raises(OSError, match=rf"^cache: {tmp_path}/sources/.*; name another folder, or none$"):
                catalog.fetch([0, 1], None, print)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("limit", [2, None])
@pytest.mark.parametrize("spoil", [lambda data: data[:100], lambda data: b""])
def test_an_image_that_was_cut_short_in_the_cache_comes_anew(
    tmp_path: Path, limit: int | None, spoil: Callable[[bytes], bytes]
) -> None:
    drawn = [jpeg(i, 32) for i in range(20)]
    path = write_parquet(tmp_path / "a.parquet", drawn, [i // 10 for i in range(20)], names="ab", group=10)
    catalog = opened(path, tmp_path / "cache")
    first = images(catalog.fetch([0, 1], None, print))
    place = catalog.folder.class_folder("a") / "00000005.jpg"
    place.write_bytes(spoil(place.read_bytes()))
    again = opened(path, tmp_path / "cache")
    assert images(again.fetch([0, 1], limit, print)) == [one for i, one in enumerate(first) if i % 10 < (limit or 10)]
    assert images(again.fetch([0, 1], None, print)) == first, "whatever was asked for in between"


def test_a_damaged_row_group_has_one_name_whatever_is_there(tmp_path: Path) -> None:
    path = shuffled(tmp_path / "repo")
    data = path.read_bytes()
    begin = data.index(jpeg(20, 48)) - 20  # in the header of the page
    path.write_bytes(data[:begin] + bytes(16) + data[begin + 16 :])
    with HubServer({"made/mixed": tmp_path / "repo"}) as hub:
        address = hub.address("made/mixed", "a.parquet")
        catalog = opened(address, tmp_path / "cache")
        bad = [catalog.fetch([label], None, print).bad for label in (0, 1)]  # the second is read from the whole file
        assert parquet.whole(catalog.folder)
    names = [[one.name for one in of] for of in bad]
    assert all(of and all(name.startswith(f"{address}/") for name in of) for of in names)
    assert all(one.reason.startswith(f"{address}: row group 2 is damaged") for of in bad for one in of)
    assert [of == sorted(of, key=lambda name: int(name.rpartition("/")[2])) for of in names] == [True, True]


def test_bad_rows_are_the_same_whatever_is_there(tmp_path: Path) -> None:
    drawn: list[bytes | None] = [jpeg(i, 48) for i in range(200)]
    drawn[1] = drawn[41] = b"no image"
    labels = [-1 if i == 60 else i % 20 for i in range(200)]
    write_parquet(tmp_path / "repo" / "a.parquet", drawn, labels, group=10)
    with HubServer({"made/mixed": tmp_path / "repo"}) as hub:
        address = hub.address("made/mixed", "a.parquet")
        got = []
        for before in ([], [([1], 1)], [([0, 1], None)], [([1], None), (range(20), None)]):
            for labels_of, limit in [*before, ([1], 2)]:
                found = opened(address, tmp_path / f"cache{before}").fetch(labels_of, limit, print)
            got.append((images(found), found.bad))
    assert got == [got[0]] * 4 and [name for _, name, _ in got[0][0]] == ["00000021.jpg"]
    assert [one.name for one in got[0][1]] == [address, f"{address}/1"]
