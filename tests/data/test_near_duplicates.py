"""Images that look nearly alike: the same photo at other sizes and qualities, and pairs of hashes."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import write_folder
from sklearn.datasets import load_sample_images

from xmixup_fast.data.near_duplicates import MOST_BITS, near_pairs
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.target import target_data


@settings(max_examples=200)
@given(
    hashes=st.lists(st.integers(0, 2**64 - 1), max_size=8),
    flips=st.lists(st.lists(st.integers(0, 63), max_size=7), max_size=8),
)
def test_all_pairs_are_found(hashes: list[int], flips: list[list[int]]) -> None:
    for value, bits in zip(list(hashes), flips, strict=False):
        for bit in bits:
            value ^= 1 << bit
        hashes.append(value)
    expected = [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= MOST_BITS
    ]
    assert near_pairs(hashes) == expected


def test_one_photo_at_another_size_and_quality_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for seed, name in enumerate(("china", "flower")):
        write_folder(folder, {name: (100, 90, 80)}, 8, size=(80, 90), seed=seed)
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        photo = PIL.Image.fromarray(pixels)
        photo.save(folder / name / "photo.jpg", quality=95)
        photo.resize((photo.width // 3, photo.height // 3)).save(folder / name / "small.png")
    china = PIL.Image.fromarray(load_sample_images().images[0])
    china.save(folder / "flower" / "wrong.jpg", quality=60)
    lines: list[str] = []
    target_data(Settings(target=str(folder), model="m", cache="none", near_duplicates=True), lines.append)
    (line,) = [line for line in lines if line.startswith("near duplicates: ")]
    assert line.startswith("near duplicates: 4 pairs among 21 images, ") and ", 2 with two labels (" in line
    assert "china/photo.jpg ~ china/small.png" in line


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    folder = write_folder(tmp_path / "photos", {"a": (9, 9, 9), "b": (200, 9, 9)}, 3, seed=1)
    with pytest.raises(
        ValueError, match=r"near_duplicates: needs the package imagehash: pip install 'xmixup_fast\[near"
    ):
        target_data(Settings(target=str(folder), model="m", cache="none", near_duplicates=True), print)
