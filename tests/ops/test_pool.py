"""ImagePool: what goes in comes out, and what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from xmixup_fast import ImagePool

images = st_np.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)))


@given(st.lists(images, max_size=5))
def test_images_come_out_as_they_went_in(arrays: list[np.ndarray]) -> None:
    pool = ImagePool.from_images(arrays, labels=range(len(arrays)))
    assert len(pool) == len(arrays)
    for i, array in enumerate(arrays):
        assert np.array_equal(pool[i].numpy(), array)
    assert pool.labels.tolist() == list(range(len(arrays)))
    assert pool.pixels.numel() == sum(array.size for array in arrays)


def test_views_of_arrays_are_copied_right() -> None:
    array = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(ImagePool.from_images([array[::2, ::3]])[0].numpy(), array[::2, ::3])


def test_dense_batch_is_used_in_place() -> None:
    batch = torch.randint(0, 256, (3, 4, 5, 3), dtype=torch.uint8)
    pool = ImagePool.from_dense(batch, labels=[2, 0, 1])
    assert pool.pixels.data_ptr() == batch.data_ptr()
    assert all(torch.equal(pool[i], batch[i]) for i in range(3))
    assert pool.sizes.tolist() == [[4, 5]] * 3 and pool.labels.tolist() == [2, 0, 1]


def test_labels_are_minus_one_where_none_are_given() -> None:
    assert ImagePool.from_dense(torch.zeros(2, 4, 5, 3, dtype=torch.uint8)).labels.tolist() == [-1, -1]


@given(st.lists(images, max_size=3))
def test_safetensors_file_brings_everything_back(tmp_path_factory: pytest.TempPathFactory, arrays: list) -> None:
    path = tmp_path_factory.mktemp("pool") / "pool.safetensors"
    pool = ImagePool.from_images(arrays, labels=[7] * len(arrays))
    pool.save(path)
    loaded = ImagePool.load(path)
    for name in ("pixels", "offsets", "sizes", "labels"):
        assert torch.equal(getattr(loaded, name), getattr(pool, name))
    assert [p.name for p in path.parent.iterdir()] == ["pool.safetensors"], "nothing is left beside the file"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pool.safetensors"
    pool = ImagePool.from_dense(torch.ones(1, 2, 2, 3, dtype=torch.uint8))
    pool.save(path)

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        ImagePool.from_dense(torch.zeros(1, 2, 2, 3, dtype=torch.uint8)).save(path)
    assert ImagePool.load(path).pixels.eq(1).all()
    assert [p.name for p in tmp_path.iterdir()] == ["pool.safetensors"]


def test_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match=r"model.safetensors: expected an image pool, found tensors \['weight'\]"):
        ImagePool.load(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"text.safetensors: not a safetensors file"):
        ImagePool.load(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError):
        ImagePool.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"images\[1\]: .* got float32\[4, 5, 3\]"),
        (np.zeros((4, 5), np.uint8), r"images\[1\]: .* got uint8\[4, 5\]"),
        (np.zeros((4, 5, 4), np.uint8), r"images\[1\]: .* got uint8\[4, 5, 4\]"),
        (np.zeros((0, 5, 3), np.uint8), r"images\[1\]: .* got uint8\[0, 5, 3\]"),
    ],
)
def test_wrong_images_are_named(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImagePool.from_images([np.zeros((2, 2, 3), np.uint8), array])


def test_wrong_batches_labels_and_parts_are_named() -> None:
    batch = torch.zeros(2, 4, 5, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"batch: .* got uint8\[2, 3, 4, 5\] that is not contiguous"):
        ImagePool.from_dense(batch.permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"labels: expected int64\[2\], one label for each image, got int64\[3\]"):
        ImagePool.from_dense(batch, labels=[0, 1, 2])
    pool = ImagePool.from_dense(batch)
    with pytest.raises(ValueError, match=r"sizes: expected a contiguous int32\[2, 2\], got int64\[2, 2\]"):
        ImagePool(pool.pixels, pool.offsets, pool.sizes.long(), pool.labels)
    with pytest.raises(ValueError, match="labels: expected a tensor on cpu, as pixels, got meta"):
        ImagePool(pool.pixels, pool.offsets, pool.sizes, pool.labels.to("meta"))


def test_moving_to_the_same_device_copies_nothing() -> None:
    pool = ImagePool.from_dense(torch.zeros(1, 2, 2, 3, dtype=torch.uint8))
    assert pool.to("cpu") is pool
    assert pool.to("meta").device.type == "meta"
    assert "1 images" in repr(pool)


def test_arrays_that_torch_does_not_take_are_copied() -> None:
    """Read-only ones, as Pillow's are, and mirrored ones, as from BGR to RGB; torch warns, or refuses them."""
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    array.setflags(write=False)
    views = [array, array[::-1, :, ::-1], array[::2, ::-2], torch.from_numpy(array.copy()).flip(0)[:, ::2]]
    pool = ImagePool.from_images(iter(views), np.arange(4, dtype=np.uint8))
    assert all(np.array_equal(pool[i].numpy(), np.asarray(view)) for i, view in enumerate(views))
    assert pool.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImagePool.from_images([[[1, 2, 3]]]), r"images\[0\]: expected a uint8.*, got \[\[1, 2, 3\]\]; numpy"),
        (lambda: ImagePool.from_images([object()]), r"images\[0\]: expected a uint8\[.*\], got a object; numpy"),
        (lambda: ImagePool.from_dense(np.zeros((1, 2, 2, 3), np.uint8)), r"batch: .*; torch.from_numpy makes one"),
        (lambda: ImagePool.from_dense(None), "batch: expected a tensor uint8.*, got None$"),
        (lambda: ImagePool.from_dense(torch.zeros(2, 0, 5, 3).byte()), r"batch: expected images with pixels, got"),
        (lambda: ImagePool(*[np.zeros(1)] * 4), r"pixels: expected a tensor, got float64\[1\]; ImagePool.from_images"),
        *((lambda labels=labels: made_pool(labels), f"labels: expected {message}") for labels, message in (
            ([0.5, 1], r"int64\[2\], one label for each image, got float64\[2\]"),
            ([True, 1], r"int64\[2\], one label for each image, got bool\[2\]"),
            (torch.ones(2), r"int64\[2\], one label for each image, got float32\[2\]"),
            (["cat", "dog"], r"integers, got \['cat', 'dog'\]"),
            (np.array([2**63, 0], np.uint64), r"integers that int64 holds, up to \d+, got uint64\[2\]"),
            (3, "integers, got 3"),
        )),
    ],
)  # fmt: skip
def test_what_makes_no_pool_is_refused(make: Callable[[], ImagePool], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def made_pool(labels: Any) -> ImagePool:
    return ImagePool.from_dense(torch.zeros(2, 4, 5, 3, dtype=torch.uint8), labels)
