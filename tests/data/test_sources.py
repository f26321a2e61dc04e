"""Names of datasets of all kinds, and several datasets as one source."""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from class_tars import made_images, write_class_tars, write_large_tar
from listings import listing, numbered, reasons, write, write_shard, write_table
from made import SOURCE, TARGET, write_folder

from xmixup_fast.cli import parse_settings
from xmixup_fast.commands.evaluate import main as evaluate
from xmixup_fast.data.remote.catalog import open_remote
from xmixup_fast.data.sources import read_dataset
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.yaml_file import read
from xmixup_fast.train import main
from xmixup_fast.training.target import target_data


def test_missing_packages_are_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"^hf:x: needs the datasets library: pip install 'xmixup_fast\[hf\]'$"):
        read_dataset("hf:x")


def test_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.doc").touch()
    with pytest.raises(ValueError, match=r"a\.doc: expected a folder, a table"):
        read_dataset(tmp_path / "a.doc")
    for name in ("a.zip", "a.TAR.GZ", "a.tgz", "a-{000..012}.tar.gz", "x/*.tar.zst"):
        with pytest.raises(ValueError, match=r"is a compressed archive, .* unpack it, and name the folder; tar shards"):
            read_dataset(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        read_dataset(tmp_path / "absent")
    with pytest.raises(ValueError, match="torchvision:MNIST: expected one of Flowers102, Food101"):
        read_dataset("torchvision:MNIST")


@pytest.mark.parametrize("what", ["tars", "tars/*.tar", "large.tar", "parts/large.tar.001", "set.tgz", "set.tar.gz"])
def test_what_only_a_url_reads_is_told_with_the_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    images, photos = made_images(2, 2, 3000), write_folder(tmp_path / "photos", SOURCE, 1)
    write_class_tars(tmp_path / "tars", images)
    write_large_tar(tmp_path / "large.tar", images)
    write_large_tar(tmp_path / "parts" / "large.tar", images, parts=2)
    for end in ("tgz", "tar.gz"):
        with tarfile.open(tmp_path / f"set.{end}", "w:gz") as tar:
            tar.add(photos, "set")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="can be a --source: file:///") as raised:
        read_dataset(what)
    url = re.search(r"file:///\S+", str(raised.value))
    assert url and len(open_remote(url[0], tmp_path / "cache", print).classes) >= 2


def test_several_datasets_are_one_in_which_classes_of_one_name_are_one(tmp_path: Path) -> None:
    write(tmp_path / "a", "train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg")
    write(tmp_path / "b", "4.jpg", "5.jpg")
    pairs = (("4.jpg", "ant"), ("5.jpg", "cat"), ("absent.jpg", "cat"))
    table = write_table(tmp_path / "b" / "b.csv", [{"path": path, "label": label} for path, label in pairs])
    joined = read_dataset([str(tmp_path / "a"), str(table)])
    assert joined.classes == ["ant", "cat", "dog"]
    assert listing(joined) == {
        "train": [("4.jpg", "ant"), ("5.jpg", "cat"), ("train/cat/1.jpg", "cat"), ("train/dog/2.jpg", "dog")],
        "val": [("val/cat/3.jpg", "cat")],
        "test": [],
    }
    assert reasons(joined, tmp_path) == {"b/absent.jpg": f"no such file ({table}, line 4)"}
    with pytest.raises(ValueError, match=r"train/cat/1\.jpg: listed twice"):
        read_dataset([str(tmp_path / "a"), str(tmp_path / "a")])


@contextmanager
def opened() -> Iterator[list[str]]:
    """Collects the real paths of all files and folders that the block opens."""
    paths: list[str] = []
    active = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if active and event in ("open", "os.scandir", "os.listdir") and isinstance(arguments[0], str | bytes | Path):
            paths.append(os.path.realpath(os.fsdecode(arguments[0])))

    sys.addaudithook(hook)  # a hook cannot be removed
    yield paths
    active = False


def test_names_in_archives_and_indexes_open_nothing_outside_of_the_folder(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", "1.jpg", "class/2.jpg")
    up = ["../outside/1.jpg", "../../outside/1.jpg", "a/../../../outside/class/2.jpg", str(outside / "1.jpg")]
    members = [(name.replace(".jpg", end), "x") for name in up for end in (".jpg", ".cls")]
    shards = write_shard(tmp_path / "shards" / "a.tar", [*numbered(1), *members])
    base = write(tmp_path / "data" / "food-101", "images/pie/1.jpg")
    (base / "meta").mkdir()
    index = ["pie/1", *(f"../{name.removesuffix('.jpg')}" for name in up[:3]), str(outside / "1")]
    for split, listed in (("train", index), ("test", [])):
        (base / "meta" / f"{split}.json").write_text(json.dumps({"pie": listed}))
    with opened() as paths:
        for name, count in ((str(shards), len(members)), (f"torchvision:Food101:{tmp_path}/data", 4)):
            dataset = read_dataset(name)
            assert len(dataset.bad) == count and len(dataset.train) == 1
            assert all("leads" in file.reason or "no such file" in file.reason for file in dataset.bad)
            listing(dataset)
    assert str(base / "images" / "pie" / "1.jpg") in paths and str(shards) in paths
    assert not [path for path in paths if path.startswith(str(outside))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    write_folder(folder / "target", TARGET, 10)
    write_folder(folder / "a", SOURCE, 2)
    write_folder(folder / "b", {"snow": SOURCE["snow"], "mud": (90, 70, 40)}, 2)
    return folder


def flags(folders: Path, output: Path, *more: str) -> list[str]:
    small = ["--model", "test_resnet", "--weights", "none", "--selection", "random", "--top-k", "5"]
    small += ["--steps", "1", "--batch-size", "8", "--image-size", "32", "--device", "cpu", "--output", str(output)]
    return [*small, "--no-report", "--target", str(folders / "target"), *more]


def test_a_run_takes_several_sources(folders: Path, tmp_path: Path) -> None:
    sources = [str(folders / "a"), str(folders / "b")]
    assert main(flags(folders, tmp_path / "run", "--source", *sources)) == 0
    selection = json.loads((tmp_path / "run" / "selection.json").read_text())
    for entries in selection["classes"].values():
        assert {entry["class"] for entry in entries} == {*SOURCE, "mud"}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["source"] == sources
    assert read(tmp_path / "run" / "config.yaml").source == sources
    again = ["--config", str(tmp_path / "run" / "config.yaml"), "--seed", "2"]
    assert parse_settings(again, "train", None).source == sources
    assert parse_settings(["--target", "t", "--model", "m", "--source", "a"], "train", None).source == "a"


def test_a_run_lists_the_bad_files_of_target_and_source(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {}
    for name in ("target", "a"):
        paths = sorted(path.relative_to(folders) for path in (folders / name).rglob("*.png"))
        rows = [{"path": path, "label": path.parent.name} for path in [*paths, paths[0].with_name("absent.png")]]
        tables[name] = str(write_table(folders / f"{name}.csv", rows))
    options = flags(folders, tmp_path / "run", "--target", tables["target"], "--source", tables["a"])
    assert main(options) == 2
    error = "error: top_k: expected at most 4, the number of usable source classes, got 5\n"
    assert capsys.readouterr().err == error
    assert main([*options, "--top-k", "4"]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "error: 2 bad files; --bad-files skip trains without them:"
    names = [line.split(": ")[0].strip() for line in lines]
    assert names == [str(folders / name / "absent.png") for name in ("target/blue", "a/grass")]
    assert not (tmp_path / "run").exists()


def test_missing_files_are_named_before_a_class_that_is_too_small_to_cut(folders: Path) -> None:
    paths = [path.relative_to(folders) for path in (folders / "target").rglob("*.png")]
    red = [path for path in paths if path.parent.name == "red"]
    rows = [{"path": str(p).replace("red/", "rde/") if p in red[1:] else p, "label": p.parent.name} for p in paths]
    table = write_table(folders / "misspelt.csv", rows)
    with pytest.raises(ValueError) as caught:
        target_data(Settings(target=str(table), model="m"), print)
    *missing, last = str(caught.value).split("\n  ")
    assert len(missing) == 9 and all("/rde/" in line and "no such file" in line for line in missing)
    assert last.startswith(
        "class red (1): expected at least 3 different training images each, to cut test and validation"
    )


def test_what_decides_the_classes_is_the_runs_and_reaches_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, site in enumerate(("a", "b")):
        write_folder(tmp_path / "target" / site, TARGET, 2, seed=seed)
    run = tmp_path / "run"
    assert main(flags(tmp_path, run, "--method", "finetune")) == 2
    assert "a, b all hold the folders blue, green, red: expected --classes outer" in capsys.readouterr().err
    assert main(flags(tmp_path, run, "--method", "finetune", "--classes", "inner")) == 0
    assert read(run / "config.yaml").classes == "inner"
    for number, (target, more) in enumerate(
        (([], []), (["--target", str(tmp_path / "target")], ["--classes", "inner"]))
    ):
        model = run / "model.safetensors" if target else run
        assert evaluate([str(model), *target, *more, "--device", "cpu", "--output", str(tmp_path / str(number))]) == 0
        assert json.loads((tmp_path / str(number) / "evaluation.json").read_text())["images"] == 3


def test_the_default_output_is_a_plain_folder_name(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [path.relative_to(folders) for path in (folders / "target").rglob("*.png")]
    odd = write_table(folders / "odd: [*] ä.csv", [{"path": path, "label": path.parent.name} for path in paths])
    monkeypatch.chdir(tmp_path)
    plain = [flag for flag in flags(folders, tmp_path) if flag not in ("--output", str(tmp_path))]
    assert main([*plain, "--method", "finetune", "--target", str(odd)]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert re.search(r"-finetune-odd-ä\.csv-s0-[0-9a-f]{8}$", run.name)
