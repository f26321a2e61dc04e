"""JPEG files of every kind: all decoders give Pillow's pixels, whole and in windows, and the same files are bad."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jpegs import ADOBE, EXIF, JFIF, exif, joined, segments, with_precision, with_segments, without, xmp
from test_decoding import DECODERS, Bytes, decoded, encoded, made_decoder, photo
from torch import Tensor

from xmixup_fast.data.dataset import BadFile
from xmixup_fast.data.decoding.steps import window_views

OTHERS = DECODERS[1:]
"""All decoders but Pillow, with which they are compared."""
MODES = ("grey", "YCbCr", "RGB", "CMYK", "YCCK")
SUBSAMPLINGS = (0, 1, 2, "4:1:1")
RESTARTS: tuple[dict[str, int], ...] = ({}, {"restart_marker_blocks": 2}, {"restart_marker_rows": 1})
DROPPED = ((), (ADOBE,), (JFIF,), (ADOBE, JFIF))
SIZES = ((1, 1), (1, 16), (9, 1), (8, 8), (33, 65), (65, 33), (15, 9), (64, 31))
KINDS = list(itertools.product(MODES, SUBSAMPLINGS, (False, True), RESTARTS, DROPPED))

orientations = st.builds(
    exif,
    st.integers(0, 9),
    order=st.sampled_from([b"II", b"MM"]),
    kind=st.sampled_from([1, 3, 4]),
    count=st.sampled_from([0, 1, 2]),
    head=st.sampled_from([b"Exif\0\0", b"Exif\0\xff", b"exif\0\0", b"other\0"]),
)
metadata = st.one_of(
    orientations,
    orientations.flatmap(lambda content: st.integers(0, len(content)).map(lambda end: content[:end])),
    st.integers(0, 9).map(xmp),
    st.binary(max_size=20).map(b"Exif\0\0".__add__),
)


def written(kind: tuple[Any, ...], size: tuple[int, int], quality: int = 80, seed: int = 0) -> bytes:
    """A JPEG file: its colour space, subsampling, whether it is progressive, restart intervals, missing markers."""
    mode, subsampling, progressive, restarts, dropped = kind
    options: dict[str, Any] = {"quality": quality, **restarts}
    if progressive:
        options["progressive"] = True
    if mode in ("YCbCr", "CMYK", "YCCK"):
        options["subsampling"] = subsampling
    if mode == "RGB":
        options["keep_rgb"] = True
    image = photo(*size, seed)
    data = encoded(image.convert({"grey": "L", "CMYK": "CMYK", "YCCK": "CMYK"}.get(mode, "RGB")), "JPEG", **options)
    if mode == "YCCK":  # the last byte of Adobe's marker names the transform
        parts = segments(data)
        data = joined([(marker, content[:-1] + b"\2" if marker == ADOBE else content) for marker, content in parts])
    return without(data, *dropped)


def assert_agree(decoder: str, files: Sequence[bytes], *, bad: int | None = 0, side: int | None = 20) -> None:
    """All files are alike for a decoder and Pillow, ``bad`` of them bad."""
    expected, results = (decoded(name, files, side) for name in ("pillow", decoder))
    for number, (one, other) in enumerate(zip(expected, results, strict=True)):
        if isinstance(one, BadFile) or isinstance(other, BadFile):
            assert one == other
        else:
            assert torch.equal(one, other), number
    if bad is not None:
        assert sum(isinstance(item, BadFile) for item in expected) == bad


@pytest.mark.parametrize("decoder", OTHERS)
def test_every_kind_of_jpeg_has_the_same_pixels(decoder: str) -> None:
    numbers = random.Random(0)
    files = []
    for kind in KINDS:
        size, quality, seed = numbers.choice(SIZES), numbers.choice([5, 80, 100]), numbers.randrange(9)
        data = written(kind, size, quality, seed)
        if numbers.random() < 0.5:
            data = with_segments(data, (EXIF, exif(numbers.randrange(10))))
        files.append(data + numbers.choice([b"", b"", b"x", bytes(100), data]))
    assert len(files) > 450
    assert_agree(decoder, files)


def test_pillows_pixels_of_cmyk_are_inverted_with_and_without_adobes_marker() -> None:
    data = encoded(photo().convert("CMYK"), "JPEG", quality=100)
    for item in decoded("pillow", [data, without(data, ADOBE)]):
        assert np.abs(item.numpy() - np.asarray(photo()).astype(int)).mean() < 2


@pytest.mark.parametrize("decoder", OTHERS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(metadata, max_size=3), min_size=1, max_size=8))
def test_orientations_are_found_in_the_same_places(decoder: str, files: list[list[bytes]]) -> None:
    jpeg = encoded(photo(10, 14), "JPEG")
    assert_agree(decoder, [with_segments(jpeg, *((EXIF, content) for content in contents)) for contents in files])


@pytest.mark.parametrize("decoder", DECODERS)
def test_windows_have_the_same_pixels_as_whole_images(decoder: str) -> None:
    numbers = random.Random(1)
    contents = [
        (),
        ((EXIF, exif(6)),),
        ((EXIF, xmp(6)),),
        ((EXIF, xmp(6)), (EXIF, exif(8))),
        ((EXIF, exif(5, kind=4)),),
    ]
    files = [
        with_segments(written(numbers.choice(KINDS), (70, 90), 80, number), *numbers.choice(contents))
        for number in range(40)
    ]
    images = [Bytes(str(number), data) for number, data in enumerate(files)]
    wholes = decoded("pillow", files, None)
    windows = [[numbers.randrange(70 - 20), numbers.randrange(70 - 20), 20, 20] for _ in files]
    made = made_decoder(decoder, None)
    with ThreadPoolExecutor(2) as workers:
        pixels = made.window_decoder(workers)(images, windows)
    views = window_views(pixels, windows)
    for got, whole, (top, left, height, width) in zip(views, wholes, windows, strict=True):
        assert torch.equal(got, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("decoder", ["torchvision", *DECODERS[2:3]])
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3),
    st.booleans(),
)
def test_damaged_files_are_alike(decoder: str, kind: Any, changes: list[tuple[float, int]], cut: bool) -> None:
    data = bytearray(written(kind, (33, 40)))
    for place, value in changes:
        data[2 + int(place * (len(data) - 3))] = value
    assert_agree(decoder, [bytes(data[: len(data) - 60 * cut])], bad=None)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("progressive", [False, True])
def test_twelve_bits_are_a_bad_file_that_says_what_to_do(decoder: str, progressive: bool) -> None:
    data = encoded(photo(), "JPEG", progressive=progressive)
    for bits in (12, 16, 2):
        assert_agree(decoder, [with_precision(data, bits)], bad=1)
        (item,) = decoded(decoder, [with_precision(data, bits)])
        assert isinstance(item, BadFile)
        assert item.reason == (
            f"JPEG that Pillow does not read (cannot handle {bits}-bit layers); save it anew, as 8-bit JPEG or PNG"
        )


@pytest.mark.parametrize("decoder", ["torchvision", *DECODERS[2:3]])
def test_what_a_decoder_fails_at_goes_to_pillow_and_is_said(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_decoder(decoder)

    def fail(data: np.ndarray) -> Tensor:
        raise RuntimeError("no memory")

    monkeypatch.setattr(type(made), "decode_jpeg", staticmethod(fail))
    lines: list[str] = []
    data = encoded(photo(), "JPEG")
    first, second = made.decode([Bytes("good", data), Bytes("bad", data[:-500])], lines.append)
    assert np.array_equal(first, decoded("pillow", [data])[0]) and isinstance(second, BadFile)
    assert lines == ["JPEG files that the decoder failed at, decoded with Pillow: 1, such as good"]
