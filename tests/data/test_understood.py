"""What is said of a dataset before anything is decoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmixup_fast.data.dataset import Dataset, FileImage, Findings, Sample
from xmixup_fast.data.understood import understood


def made(classes: int, findings: Findings | None = None) -> Dataset:
    names = [f"class {i:03d}" for i in range(classes)]
    splits = {
        split: [
            Sample(FileImage(Path(split, name, f"{i}.png")), label)
            for label, name in enumerate(names)
            for i in range(n)
        ]
        for split, n in (("train", 5), ("val", 2), ("test", 1))
    }
    return Dataset(names, **splits, findings=findings or Findings())


@pytest.mark.parametrize("classes", [1, 3, 20, 21, 300])
def test_the_first_and_last_ten_classes_are_counted_by_split(classes: int) -> None:
    first, *lines = understood("photos", made(classes))
    assert (
        first
        == f"photos: {classes} classes, {8 * classes} images ({5 * classes} train, {2 * classes} val, {classes} test)"
    )
    each = [f"  class {i:03d}       5 train       2 val       1 test" for i in range(classes)]
    if classes > 20:
        each[10:-10] = [f"  ... {classes - 20} more classes ..."]
    assert lines == each


def test_unused_images_are_counted_too() -> None:
    assert next(understood("photos", made(2), ["unused", "out", "unused"])) == (
        "photos: 2 classes, 19 images (10 train, 4 val, 2 test, 2 unused, 1 out)"
    )


def test_ignored_files_and_guesses_follow() -> None:
    ignored = {("cat", ".raw"): 40, ("dog", ".raw"): 38, ("", ".txt"): 1, ("cat", ""): 1}
    findings = Findings(ignored, ["photos: one folder, photos, holds all others"])
    *_, files, guess = understood("photos", made(2, findings))
    assert files == "80 files ignored: 40 .raw in cat, 38 .raw in dog, 1 .txt in the top folder and 1 more"
    assert guess == "photos: one folder, photos, holds all others"
