"""docs/known_truth.py makes photos whose verdict is known: shuffled labels, and a source of the same classes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from made import SOURCE, TARGET, write_folder

from xmixup_fast.commands.compare import main
from xmixup_fast.data.sources import read_dataset

PROGRAM = Path(__file__).resolve().parents[2] / "docs" / "known_truth.py"


@pytest.fixture(scope="module")
def make() -> Any:
    return runpy.run_path(str(PROGRAM))["main"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[bytes, str]:
    """The class of each image of a folder, by the image's bytes."""
    dataset = read_dataset(folder)
    assert not dataset.val and not dataset.test and not dataset.bad
    return {sample.image.read(): dataset.classes[sample.label] for sample in dataset.train}


def test_photos_and_source_share_classes_and_no_image(make: Any, tmp_path: Path) -> None:
    for split, count in (("train", 9), ("test", 4)):
        write_folder(tmp_path / "all" / split, TARGET, count, seed=count)
    make([str(tmp_path / "all"), str(tmp_path / "made"), "--images", "6"])
    photos, source, shuffled = (contents(tmp_path / "made" / name) for name in ("photos", "source", "shuffled"))
    for found, count in ((photos, 6), (source, 7), (shuffled, 6)):
        assert sorted(found.values()) == sorted(list(TARGET) * count)
    assert not photos.keys() & source.keys() and photos.keys() == shuffled.keys()
    assert photos | source == {
        sample.image.read(): dataset.classes[sample.label]
        for dataset in [read_dataset(tmp_path / "all")]
        for sample in dataset.samples
    }
    kept = sum(photos[image] == shuffled[image] for image in photos)
    assert 0 < kept < len(photos) * 2 / 3  # about one in three by chance
    make([str(tmp_path / "all"), str(tmp_path / "again"), "--images", "6"])
    assert contents(tmp_path / "again" / "shuffled") == shuffled
    make([str(tmp_path / "all"), str(tmp_path / "other"), "--images", "6", "--seed", "1"])
    assert contents(tmp_path / "other" / "photos") != photos


def test_compare_takes_what_is_made(make: Any, place: Path) -> None:
    write_folder(place / "all", TARGET, 13)
    write_folder(place / "imagenet", SOURCE, 2)
    make(["all", "made", "--images", "6"])
    for photos, source in (("made/shuffled", "imagenet"), ("made/photos", "made/source")):
        words = [
            "--source",
            source,
            "--model",
            "test_resnet",
            "--weights",
            "none",
            "--image-size",
            "32",
            "--methods",
            "xmixup",
        ]
        assert main([photos, *words, "--table"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["all", "made"], "argument TARGET: expected more than 20 images in each class, got 5 of "),
        (["all", "made", "--images", "1"], "argument --images: expected 2 or more, got 1"),
        (["all", "all", "--images", "2"], "argument DIR: expected an empty folder or none, got all"),
        (["nowhere", "made"], "argument TARGET: nowhere: no such"),
    ],
)
def test_what_cannot_be_made_is_said(
    make: Any, place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write_folder(place / "all", TARGET, 5)
    with pytest.raises(SystemExit, match="2"):
        make(words)
    assert message in capsys.readouterr().err and not (place / "made").exists()
