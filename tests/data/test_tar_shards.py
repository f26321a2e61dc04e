"""Tar shards: which images are listed under which names, and which members are bad files."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listings import listing, numbered, reasons, write, write_shard

from xmixup_fast.data.layout import SPLITS, why_missing
from xmixup_fast.data.sources import read_dataset


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_shard_is_read_where_it_lies(tmp_path: Path, form: int) -> None:
    # A name that does not fit into a header and is not ASCII, as far as each format allows that.
    long = "Größe 大/" + ("n" * 60 if form == tarfile.USTAR_FORMAT else "n" * 200)
    members = [
        ("README.txt", "not a sample"),
        ("a/1.JPG", "a/1.JPG"),
        ("a/1.json", json.dumps({"label": 7, "other": 1})),
        ("b/1.cls", "cat\n"),
        ("b/1.seg.png", "not the image"),
        ("b/1.png", "b/1.png"),
        (f"{long}.webp", f"{long}.webp"),
        (f"{long}.cls", "7"),
        (f"{long}.json", json.dumps({"label": "from .cls where there is one"})),
        ("4.jpeg", b""),
        ("4.cls", "çay"),
    ]
    shard = write_shard(tmp_path / "a.tar", members, form)
    before = sorted(tmp_path.iterdir())
    dataset = read_dataset(shard)
    expected = [("", "çay"), ("a/1.JPG", "7"), ("b/1.png", "cat"), (f"{long}.webp", "7")]
    assert listing(dataset) == {"train": sorted(expected), "val": [], "test": []}
    assert not dataset.bad and sorted(tmp_path.iterdir()) == before
    image = dataset.train[0].image
    assert image.name == f"{shard}/4.jpeg" and image == read_dataset(shard).train[0].image
    stamp = image.stamp()
    assert stamp == read_dataset(shard).train[0].image.stamp() != dataset.train[1].image.stamp()
    os.utime(shard, (1, 1))
    assert image.stamp() != stamp
    shard.write_bytes(shard.read_bytes()[:1024])
    with pytest.raises(OSError, match="has become shorter"):
        dataset.train[1].image.read()


def test_names_of_shards_are_ranges_wildcards_or_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        write_shard(tmp_path / "train" / f"x-{i + 8:03d}.tar", numbered(i))
    write_shard(tmp_path / "train" / "._x-008.tar", [("hidden.jpg", "hidden.jpg"), ("hidden.cls", "cat")])
    write_shard(tmp_path / "val" / "x.tar", numbered(7))
    write_shard(tmp_path / "test" / "x.tar", numbered(8, 9))
    all_train = [("0.jpg", "cat"), ("1.jpg", "cat"), ("2.jpg", "cat")]
    unsplit = {"train": all_train, "val": [], "test": []}
    cut = {"train": all_train, "val": [("7.jpg", "cat")], "test": [("8.jpg", "cat"), ("9.jpg", "cat")]}
    monkeypatch.chdir(tmp_path)
    for prefix in ("", f"{tmp_path}/"):
        for name in ("train/x-{008..010}.tar", "train/x-*.tar", "train", "train/x-0{0..1}{0..9}.tar"):
            dataset = read_dataset(prefix + name)
            assert listing(dataset) == unsplit, name
            missing = 17 if name.endswith("{0..9}.tar") else 0
            assert [file.reason for file in dataset.bad] == ["no such file"] * missing
        assert listing(read_dataset(prefix + "*/*.tar")) == cut
    assert listing(read_dataset(".")) == listing(read_dataset(tmp_path)) == cut
    assert listing(read_dataset("train/x-008.tar"))["train"] == all_train[:1]
    write_shard(tmp_path / "odd[1]{0..1}.tar", numbered(5))
    assert listing(read_dataset("odd[1]{0..1}.tar"))["train"] == [("5.jpg", "cat")]
    with pytest.raises(FileNotFoundError, match=r"y\*\.tar: no such file"):
        read_dataset("y*.tar")
    with pytest.raises(
        ValueError, match=r"y-0\.tar: no such file\n  y-1\.tar: no such file\n  y-\{0\.\.1\}\.tar: no images"
    ):
        read_dataset("y-{0..1}.tar")


def test_tars_beside_class_folders_are_no_dataset(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg")
    write_shard(tmp_path / "cat.tar", numbered(1))
    assert listing(read_dataset(tmp_path))["train"] == [("cat/1.jpg", "cat")]


@pytest.mark.parametrize("prefix", ["", "./", "photos/", "./train/"])
def test_packed_class_folders_are_no_shards(tmp_path: Path, prefix: str) -> None:
    members = [(f"{prefix}{kind}/{i}.jpg", "x") for kind in ("dog", "cat") for i in range(20)]
    shard = write_shard(tmp_path / "a.tar", members)
    below = prefix.removeprefix("./")
    with pytest.raises(ValueError) as caught:
        read_dataset(shard)
    assert str(caught.value) == (
        f"{shard}: holds class folders ({below}cat, {below}dog), no samples with labels (.cls or .json): unpack it and "
        "name the folder, or leave it out"
    )


def test_shards_without_any_label_are_one_bad_file(tmp_path: Path) -> None:
    shards = [write_shard(tmp_path / "a.tar", [(f"{i}.jpg", "x") for i in range(20)])]
    shards.append(write_shard(tmp_path / "b.tar", numbered(1, 2)))
    dataset = read_dataset(tmp_path)
    assert len(dataset.train) == 2
    ((name, reason),) = dataset.bad
    assert name == str(shards[0])
    assert reason.startswith("its images (20) have no labels: expected a .cls or .json member beside each; ")


def test_long_lists_of_shards_are_cut(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        read_dataset(f"{tmp_path}/a-{{0000..2999}}.tar")
    assert str(caught.value).split("\n  ")[10:] == ["... and 2990 more", f"{tmp_path}/a-{{0000..2999}}.tar: no images"]


@pytest.mark.parametrize("label", ["NA", "n/a", "None", "NULL", "nan", "<NA>", ""])
@pytest.mark.parametrize("kind", ["cls", "json"])
def test_labels_that_mean_a_missing_value_are_bad_files(tmp_path: Path, kind: str, label: str) -> None:
    content = label if kind == "cls" else json.dumps({"label": label})
    dataset = read_dataset(write_shard(tmp_path / "a.tar", [*numbered(1), ("2.jpg", "x"), (f"2.{kind}", content)]))
    assert dataset.classes == ["cat"]
    assert dataset.bad == [(f"{tmp_path}/a.tar/2.jpg", why_missing(label))]


@pytest.mark.parametrize("packed", ["b.tar.gz", "b.tgz", "b.ZIP", "b.tar.zst"])
def test_compressed_files_beside_shards_are_named(tmp_path: Path, packed: str) -> None:
    write_shard(tmp_path / "a.tar", numbered(1))
    write(tmp_path, packed)
    findings = read_dataset(tmp_path).findings
    assert findings.ignored == {("", packed[1:].lower()): 1}
    assert findings.guesses == [
        f"{tmp_path}: {packed} left out, as compressed: unpack to .tar, or to folders, what belongs to it"
    ]


BAD_MEMBERS: list[tuple[str, str | bytes]] = [
    ("../up.jpg", "x"),
    ("a/../../up.cls", "x"),
    ("/root.jpg", "x"),
    ("unlabelled.jpg", "x"),
    ("pictureless.cls", "x"),
    ("other.xcf", "x"),
    ("other.cls", "x"),
    ("two.jpg", "x"),
    ("two.png", "x"),
    ("two.cls", "x"),
    ("again.jpg", "x"),
    ("again.cls", "x"),
    ("again.jpg", "x"),
    ("json.jpg", "x"),
    ("json.json", "{"),
    ("list.jpg", "x"),
    ("list.json", "[]"),
    ("float.jpg", "x"),
    ("float.json", '{"label": 0.5}'),
    ("blank.jpg", "x"),
    ("blank.cls", " "),
    ("nan.jpg", "x"),
    ("nan.cls", "nan"),
    ("bytes.jpg", "x"),
    ("bytes.cls", b"\xff"),
]


def test_members_that_cannot_be_used_are_bad_files(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", [*numbered(1), *BAD_MEMBERS])
    with tarfile.open(shard, "a") as tar:
        for name, kind in (("soft.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("dir.jpg", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "1.jpg"
            tar.addfile(member)
        member = tarfile.TarInfo("holes.jpg")
        member.pax_headers = {"GNU.sparse.map": "512,0", "GNU.sparse.size": "512"}
        tar.addfile(member)
    dataset = read_dataset(shard)
    assert listing(dataset)["train"] == [("1.jpg", "cat")]
    found = {file.name.removeprefix(f"{shard}/"): file.reason for file in dataset.bad}
    assert len(found) == len(dataset.bad) == 18
    link = "a link or special member, not a plain file"
    assert found.pop("json.jpg").startswith("Expecting property name")
    assert "can't decode byte 0xff" in found.pop("bytes.jpg")
    assert found == {
        "../up.jpg": "its name leads out of the archive",
        "a/../../up.cls": "its name leads out of the archive",
        "/root.jpg": "its name leads out of the archive",
        "unlabelled.jpg": "an image without a label (.cls or .json)",
        "pictureless": "a label without an image",
        "other": "a label without an image",
        "two.jpg": "two.png has the same name",
        "again.jpg": "again.jpg has the same name",
        "list.jpg": '.json: expected "label" with a number or a name, got None',
        "float.jpg": '.json: expected "label" with a number or a name, got 0.5',
        "blank.jpg": why_missing(""),
        "nan.jpg": why_missing("nan"),
        **{"soft.jpg": link, "hard.jpg": link, "holes.jpg": link, "dir.jpg": "a folder, not a file"},
    }


def test_damaged_shards_are_bad_files_and_their_whole_samples_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "data"
    whole = write_shard(root / "a.tar", numbered(1, 2)).read_bytes()
    blocks = [name for name, _ in numbered(1, 2)]
    assert whole[4 * 512 :].startswith(b"2.jpg")  # each member has one block of header and one of content
    (root / "empty.tar").write_bytes(b"")
    (root / "text.tar").write_text("not a tar file" * 100)
    (root / "cut.tar").write_bytes(whole[: 5 * 512 + 2])
    (root / "even.tar").write_bytes(whole[: len(blocks) * 1024])
    (root / "header.tar").write_bytes(whole[: 4 * 512] + b"?" * 512 + whole[5 * 512 :])
    with tarfile.open(root / "packed.tar", "w:gz") as tar:
        tar.add(root / "a.tar")
    (root / "link.tar").symlink_to(write_shard(tmp_path / "elsewhere.tar", numbered(3)))
    (root / "folder.tar").mkdir()
    dataset = read_dataset(f"{root}/*.tar")
    names = sorted(sample.image.name.removeprefix(f"{root}/").removesuffix(".jpg") for sample in dataset.train)
    assert names == ["a.tar/1", "a.tar/2", "cut.tar/1", "even.tar/1", "even.tar/2", "header.tar/1", "link.tar/3"]
    assert dataset.findings.guesses == [
        f"{root}: 1 link leads out of it and is followed, such as {root}/link.tar -> {tmp_path}/elsewhere.tar"
    ]
    found = reasons(dataset, root)
    assert found.pop("folder.tar") == "a folder, not a file"
    assert found.pop("cut.tar/2.jpg") == "the shard ends within it"
    expected = {"empty.tar", "text.tar", "cut.tar", "even.tar", "header.tar", "packed.tar"}
    assert found.keys() == expected
    assert all(reason.startswith("expected a whole, uncompressed tar file: ") for reason in found.values())
    assert found["header.tar"].endswith("neither a header nor the end at byte 2048")


NAMES = {split: [name for name, of in SPLITS.items() if of == split] for split in ("train", "val", "test")}


@given(data=st.data())
def test_a_part_of_a_shards_name_tells_its_split(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("s")
    form = data.draw(st.sampled_from(["{}", "imagenet-{}-{:06d}", "my.data_{}", "{}.{:02d}", "a b-{}"]))
    for number, split in enumerate(("train", "val", "test")):
        name = data.draw(st.sampled_from(NAMES[split]))
        name = data.draw(st.sampled_from([name, name.upper(), name.title()]))
        write_shard(root / f"{form.format(name, number)}.tar", numbered(number))
    expected = {"train": [("0.jpg", "cat")], "val": [("1.jpg", "cat")], "test": [("2.jpg", "cat")]}
    assert listing(read_dataset(root)) == listing(read_dataset(f"{root}/*.tar")) == expected


def test_names_of_shards_that_are_not_clear_stop(tmp_path: Path) -> None:
    for folder, names, like in (
        (
            "a",
            ("train", "other"),
            r"shards name the splits train, but other\.tar none: rename these, or leave them out",
        ),
        ("b", ("val-0", "test-0"), "has test and val but no train split"),
        ("c", ("train-0", "val-0", "dev-0"), "val and dev are both a val split|dev and val are both a val split"),
        (
            "d",
            ("train-val-0", "test"),
            r"train-val-0\.tar: names several splits, train, val: rename it, .* train-000\.tar",
        ),
        ("e/train", ("0",), ""),
    ):
        for number, name in enumerate(names):
            write_shard(tmp_path / folder / f"{name}.tar", numbered(number))
        if like:
            with pytest.raises(ValueError, match=like):
                read_dataset(tmp_path / folder)
    write_shard(tmp_path / "e" / "beside.tar", numbered(3))
    with pytest.raises(ValueError, match=r"name the splits train, but beside\.tar none"):
        read_dataset(tmp_path / "e")


def test_names_of_folders_come_before_names_of_shards(tmp_path: Path) -> None:
    for number, name in enumerate(("train/test-0.tar", "Validation/train-0.tar")):
        write_shard(tmp_path / name, numbered(number))
    write(tmp_path, "docs/readme.txt", "train/index.json", "train/1.tar.gz", "train/.hidden")
    assert read_dataset(tmp_path).findings.ignored == {("train", ".json"): 1, ("train", ".tar.gz"): 1}
    assert read_dataset(tmp_path).findings.guesses == [
        f"{tmp_path}: no shards in docs, left out",
        f"{tmp_path}: train/1.tar.gz left out, as compressed: unpack to .tar, or to folders, what belongs to it",
    ]
    for name in (str(tmp_path), f"{tmp_path}/*/*.tar"):
        assert listing(read_dataset(name)) == {"train": [("0.jpg", "cat")], "val": [("1.jpg", "cat")], "test": []}


def test_shards_of_one_split_are_a_whole_dataset(tmp_path: Path) -> None:
    write_shard(tmp_path / "x-val-0.tar", numbered(0))
    write_shard(tmp_path / "x-val-1.tar", numbered(1))
    write_shard(tmp_path / "x-train-0.tar", numbered(2))
    dataset = read_dataset(f"{tmp_path}/x-val-{{0..1}}.tar")
    assert [name for name, _ in listing(dataset)["train"]] == ["0.jpg", "1.jpg"]
    assert "all shards are named val, and taken for the whole dataset" in dataset.findings.guesses[0]
    assert not read_dataset(f"{tmp_path}/x-train-0.tar").findings.guesses
    cut = listing(read_dataset(f"{tmp_path}/x-{{train,val}}-0.tar"))
    assert (cut["train"], cut["val"]) == ([("2.jpg", "cat")], [("0.jpg", "cat")])


def test_fields_end_in_what_they_hold_and_what_is_not_looked_at_is_counted(tmp_path: Path) -> None:
    members = [
        ("a.image.jpg", "a"),
        ("a.cls", "x"),
        ("./b.seg.png", "mask"),
        ("./b.PNG", "b"),
        ("./b.meta.json", "{"),
        ("./b.json", '{"label": "x"}'),
        ("./b.txt", "caption"),
        ("c.v1.2.jpg", "c"),
        ("c.v1.2.cls", "x"),
        (".hidden.jpg", "none"),
        ("__MACOSX/._a.jpg", "none"),
        ("README", "none"),
        *(pair for i in range(7) for pair in ((f"img.{i}.jpg", "lost"), (f"img.{i}.cls", "x"))),
    ]
    dataset = read_dataset(write_shard(tmp_path / "a.tar", members))
    assert listing(dataset)["train"] == [("a", "x"), ("b", "x"), ("c", "x")]
    assert dataset.findings.ignored == {("", ".seg.png"): 1, ("", ".meta.json"): 1, ("", ".txt"): 1, ("", ""): 1}
    (lost,) = dataset.bad
    assert lost.name == f"{tmp_path}/a.tar/img.0.jpg"
    assert lost.reason.startswith("7 images of one key, which ends at the first dot: .0.jpg, .1.jpg, .2.jpg")


def test_a_field_can_be_chosen(tmp_path: Path) -> None:
    members = [
        pair
        for i in "12"
        for pair in ((f"{i}.input.jpg", f"in{i}"), (f"{i}.decoded.jpg", f"out{i}"), (f"{i}.cls", "x"))
    ]
    shard = write_shard(tmp_path / "a.tar", members)
    with pytest.raises(
        ValueError, match=r"2 images of one key, .*: \.input\.jpg, \.decoded\.jpg: choose one with --image-field"
    ):
        read_dataset(shard)
    for field in ("input", "input.jpg", "Input.JPG"):
        dataset = read_dataset(shard, image_field=field)
        assert listing(dataset)["train"] == [("in1", "x"), ("in2", "x")]
        assert dataset.findings.ignored == {("", ".decoded.jpg"): 2}
    with pytest.raises(
        ValueError, match=r"no image in the field mask, which image_field names; it has \.input\.jpg, \.decoded"
    ):
        read_dataset(shard, image_field="mask")
