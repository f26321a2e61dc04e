"""ImagePool.from_folder: the package's decoders and readers for a loop of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made import SOURCE, TARGET, write_folder
from PIL import Image
from small_runs import run

from xmixup_fast import ImagePool


def silent(text: str) -> None:
    pass


def test_images_are_the_files_pixels_with_their_classes(data: Path) -> None:
    pool = ImagePool.from_folder(data / "target", resize="full", log=silent)
    assert pool.classes == tuple(sorted(TARGET)) and len(pool) == 30
    files = sorted((data / "target").glob("*/*.png"))
    for i, path in enumerate(files):
        assert np.array_equal(pool[i].numpy(), np.asarray(Image.open(path)))
        assert pool.classes[int(pool.labels[i])] == path.parent.name


def test_resize_is_the_short_side(data: Path) -> None:
    pool = ImagePool.from_folder(data / "target", resize=18, log=silent)
    assert pool.sizes.tolist() == [[18, 20]] * 30


def test_labels_are_positions_in_the_classes_that_are_given(data: Path) -> None:
    pool = ImagePool.from_folder(data / "source", resize="full", classes=["snow", "grass"], log=silent)
    assert pool.classes == ("snow", "grass") and sorted(pool.labels.tolist()) == [0] * 4 + [1] * 4
    for label, name in enumerate(pool.classes):
        (first, *_) = (pool.labels == label).nonzero().flatten().tolist()
        assert np.array_equal(pool[first].numpy(), np.asarray(Image.open(data / "source" / name / "000.png")))


def test_classes_stay_with_the_pool(data: Path, tmp_path: Path) -> None:
    pool = ImagePool.from_folder(data / "source", log=silent)
    assert "4 classes" in repr(pool)
    pool.save(tmp_path / "pool.safetensors")
    assert ImagePool.load(tmp_path / "pool.safetensors").classes == pool.classes == pool.to("meta").classes
    torch.save(pool, tmp_path / "pool.pt")
    assert torch.load(tmp_path / "pool.pt").classes == pool.classes


def test_a_manifest_gives_the_images_of_a_run_in_their_splits(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", "finetune")
    parts = [
        ImagePool.from_folder(result.folder / "manifest.csv", split=split, log=silent)
        for split in ("train", "val", "test", "all")
    ]
    numbers = [result.summary[name] for name in ("num_train", "num_val", "num_test")]
    assert [len(part) for part in parts] == [*numbers, sum(numbers)]
    assert all(part.classes == tuple(sorted(TARGET)) for part in parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["rose", "tulip"]}, "classes: expected distinct classes of .*, got tulip, which it does not have"),
        ({"classes": ["rose", "rose"]}, "classes: expected distinct classes of .*, got rose, rose, one of them twice"),
        ({"classes": []}, "classes: expected distinct classes of .*, got none"),
        ({"resize": 0}, "resize: expected a positive number of pixels, got 0"),
        ({"resize": "small"}, "resize: expected a whole number, or full, got 'small'"),
        ({"split": "dev"}, "split: expected one of train, val, test, all, got 'dev'"),
        ({"split": "test"}, "classes: .* has no test image of grass, rose, sky, snow"),
        ({"bad_files": "ignore"}, "bad_files: expected one of error, skip, got 'ignore'"),
        ({"decoder": "opencv"}, "decoder: expected one of auto, dali, .*, got 'opencv'"),
    ],
)
def test_wrong_arguments_are_named(data: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImagePool.from_folder(data / "source", log=silent, **options)  # type: ignore[arg-type]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        ImagePool.from_folder(tmp_path / "absent")


@pytest.mark.parametrize("folder", [3, None, ["photos"]])
def test_a_folder_that_is_no_path_is_named(folder: object) -> None:
    with pytest.raises(TypeError, match="folder: expected a path or the name of a dataset, got "):
        ImagePool.from_folder(folder)  # type: ignore[arg-type]


def test_bad_files_raise_as_in_fit_or_are_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", SOURCE, 2)
    (folder / "rose" / "001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 bad file.*\n.*001.png"):
        ImagePool.from_folder(folder, log=silent)
    lines: list[str] = []
    pool = ImagePool.from_folder(folder, bad_files="skip", log=lines.append)
    assert len(pool) == 7 and any("1 bad file skipped" in line and "001.png" in line for line in lines)
    (folder / "rose" / "000.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="has no train image of rose"):
        ImagePool.from_folder(folder, bad_files="skip", log=silent)
    shutil.rmtree(folder / "rose")
    assert len(ImagePool.from_folder(folder, log=silent)) == 6
