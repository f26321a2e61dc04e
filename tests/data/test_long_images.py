"""Images longer than 16 short sides: their middle is kept, alike by all decoders, in pools, streams and predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jpegs import EXIF, exif, with_segments
from test_decoding import DECODERS, Bytes, decoded, encoded, made_decoder, photo
from torch import Tensor

from xmixup_fast.commands.predict import Prediction, predict
from xmixup_fast.data.dataset import FileImage, Sample
from xmixup_fast.data.decoding.pillow import Header
from xmixup_fast.data.decoding.steps import LONGEST, kept_size, resized_bytes
from xmixup_fast.data.image_store import ImageStore
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save
from xmixup_fast.ops.image_pool import Crops

LINE = "images longer than 16 short sides, cropped to the middle: "


def middle(pixels: np.ndarray) -> np.ndarray:
    """The middle 16 short sides."""
    height, width = (min(length, LONGEST * min(pixels.shape[:2])) for length in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


@given(st.integers(1, 2000), st.integers(1, 2000), st.one_of(st.none(), st.integers(1, 50)))
def test_the_bytes_of_an_image_are_bounded(height: int, width: int, short_side: int | None) -> None:
    short, long = sorted(kept_size(height, width))
    assert short == min(height, width) and long == min(max(height, width), LONGEST * short)
    size = resized_bytes(Header(False, height, width), short_side)
    assert size == resized_bytes(Header(False, width, height), short_side)
    assert size <= 3 * LONGEST * (short if short_side is None else short_side) ** 2


@pytest.mark.parametrize("decoder", DECODERS)
@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(15, 100)), min_size=1, max_size=6),
    st.sampled_from(["JPEG", "PNG"]),
    st.integers(1, 8),
    st.sampled_from([None, 5]),
)
def test_the_middle_of_long_images_is_kept(
    decoder: str, sizes: list[tuple[int, int]], format: str, orientation: int, side: int | None
) -> None:
    files = [encoded(photo(height, width), format) for height, width in sizes]
    if format == "JPEG":
        files = [with_segments(data, (EXIF, exif(orientation))) for data in files]
    lines: list[str] = []
    results = list(made_decoder(decoder, side).decode([Bytes(str(i), f) for i, f in enumerate(files)], lines.append))
    for data, result, size in zip(files, results, sizes, strict=True):
        assert isinstance(result, Tensor) and result.is_contiguous()
        assert result.numel() == resized_bytes(Header(False, *size), side)
        if side is None:
            upright = PIL.ImageOps.exif_transpose(PIL.Image.open(Bytes("", data).open())).convert("RGB")
            assert np.array_equal(result, middle(np.asarray(upright)))
        else:
            expected = encoded(PIL.Image.fromarray(decoded(decoder, [data], None)[0].numpy()), "PNG")
            assert torch.equal(result, decoded(decoder, [expected], side)[0])
    long = [str(i) for i, (short, length) in enumerate(sizes) if length > LONGEST * short]
    assert lines == ([f"{LINE}{len(long)}, such as {long[0]}"] if long else [])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Long and other images, of two formats."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(33, 900), (900, 33), (40, 50), (50, 33)]):
        photo(*size, number).save(folder / f"{number}.jpg")
        photo(*size, number).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("side", [None, 35])
def test_windows_of_streams_are_those_of_pools(folder: Path, tmp_path: Path, decoder: str, side: int | None) -> None:
    samples = [Sample(FileImage(path), 0) for path in sorted(folder.iterdir())]
    lines: list[str] = []
    store = ImageStore(made_decoder(decoder, side), tmp_path / "cache", None, lines.append, smallest=32)
    pool, stream = store.build(samples, "test images"), store.stream(samples, "test images")
    assert torch.equal(pool.sizes, stream.sizes) and int(pool.sizes.max()) == LONGEST * (side or 33)
    said = f"test images: {LINE}4, such as {folder}/0.jpg"
    assert lines.count(said) == 2
    corners = (pool.sizes - 32) * torch.tensor([0.4, 0.6])
    for index in (torch.arange(8), torch.tensor([0, 2, 6])):
        windows = torch.cat([corners[index].int(), torch.full((len(index), 2), 32, dtype=torch.int32)], dim=1)
        ((batch, crops),) = stream.fetch([Crops(index, windows, torch.zeros(len(index), dtype=torch.bool))])
        for i, (top, left, height, width) in zip(range(len(index)), windows.tolist(), strict=True):
            got = batch[int(crops.index[i])]
            assert torch.equal(got, pool[int(index[i])][top : top + height, left : left + width])


def test_predictions_are_of_the_middle(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(build("test_resnet", "none", ["a", "b"]), tmp_path / "model.safetensors", image_size=32)
    middles = tmp_path / "middles"
    middles.mkdir()
    for path in folder.glob("*.png"):
        PIL.Image.fromarray(middle(np.asarray(PIL.Image.open(path)))).save(middles / path.name)
    found, expected = (
        [item.top for item in predict(tmp_path / "model.safetensors", images) if isinstance(item, Prediction)]
        for images in (sorted(folder.glob("*.png")), middles)
    )
    assert found == expected and len(found) == 4
    assert capsys.readouterr().err == f"{LINE}2, such as {folder}/0.png\n"


def test_a_very_long_image_takes_little_memory(tmp_path: Path) -> None:
    PIL.Image.new("L", (12000, 1)).save(tmp_path / "a.png")
    pool = ImageStore(made_decoder("pillow", 256), None, 2**22, print).build(
        [Sample(FileImage(tmp_path / "a.png"), 0)], "images"
    )
    assert pool.sizes.tolist() == [[256, 256 * LONGEST]]
