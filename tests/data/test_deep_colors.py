"""Colours of 16 bits, of which Pillow gives the upper bytes: what is said where these are empty, and ``bit_range``."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from test_decoding import photo, png_of_16_bits
from test_reading import COMPOSED, read

from xmixup_fast.data.decoding.reading import Reading

OPAQUE, PREMULTIPLIED, UNKNOWN = 2, 1, 0
"""What TIFF says of a fourth sample."""
MIRRORED = 2
"""The orientation of an image that is mirrored left to right."""


def tiff(
    samples: np.ndarray, order: str, *, deflated: bool = False, extra: int = OPAQUE, orientation: int = 1
) -> bytes:
    """A TIFF file of uint16[H, W, C], in the byte order < or >."""
    height, width, channels = samples.shape
    data = samples.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if deflated else data
    tags = {256: width, 257: height, 258: 0, 259: 8 if deflated else 1, 262: 2, 273: 0, 274: orientation}
    tags |= {277: channels, 278: height, 279: len(data)} | ({338: extra} if channels == 4 else {})
    bits = 8 + 2 + 12 * len(tags) + 4
    tags |= {258: bits, 273: bits + 2 * channels}
    entries = b""
    for tag, value in sorted(tags.items()):
        if tag in (273, 279):
            entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
        elif tag == 258:
            entries += struct.pack(f"{order}HHII", tag, 3, channels, value)
        else:
            entries += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + struct.pack(f"{order}I", 0) + struct.pack(f"{order}H", 16) * channels + data


def with_alpha(samples: np.ndarray, alpha: int = 65535) -> np.ndarray:
    return np.concatenate([samples, np.full_like(samples[..., :1], alpha)], axis=2)


WRITERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "png": lambda samples: png_of_16_bits(samples, 2),
    "png with alpha": lambda samples: png_of_16_bits(with_alpha(samples), 6),
    "tiff, little-endian": lambda samples: tiff(samples, "<"),
    "tiff, big-endian": lambda samples: tiff(samples, ">"),
    "tiff, little-endian, deflated": lambda samples: tiff(samples, "<", deflated=True),
    "tiff, big-endian, deflated": lambda samples: tiff(samples, ">", deflated=True),
    "tiff with alpha": lambda samples: tiff(with_alpha(samples), "<"),
    "tiff with alpha, deflated": lambda samples: tiff(with_alpha(samples), ">", deflated=True),
    "tiff with a fourth sample": lambda samples: tiff(with_alpha(samples), "<", extra=UNKNOWN),
    "tiff, mirrored": lambda samples: tiff(samples[:, ::-1], "<", orientation=MIRRORED),
}


def colors(most: int) -> np.ndarray:
    """Colours of 16 bits up to a greatest sample, uint16[H, W, 3]."""
    samples = (np.asarray(photo()).astype(np.uint32) * most // 255).astype(np.uint16)
    samples[0, 0, 0] = most
    return samples


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("most", "bits"), [(200, 8), (256, 10), (4095, 12), (4096, 14), (16383, 14), (16384, 16)])
def test_colours_of_fewer_bits_are_said_or_scaled(kind: str, most: int, bits: int) -> None:
    samples = colors(most)
    for bit_range, kept in (("full", 16), ("auto", bits)):
        result, said = read(WRITERS[kind](samples), Reading(bit_range=bit_range))  # type: ignore[arg-type]
        assert np.array_equal(result, samples >> (kept - 8)), (bit_range, np.asarray(result).max())
        expected = f"16-bit colour images with no value above {2**bits - 1}, which look like {bits} bits and "
        assert [line.startswith(expected) for line in said] == [True] * (bits < 16)
        assert not said or ("--bit-range auto scales them" in said[0]) == (bit_range == "full")


@pytest.mark.parametrize("most", [255, 4095, 65535])
def test_grey_with_alpha_goes_by_its_bits(most: int) -> None:
    grey = colors(most)[..., :1]
    bits = {255: 8, 4095: 12, 65535: 16}[most]
    result, said = read(png_of_16_bits(with_alpha(grey), 4), Reading(bit_range="auto"))
    assert np.array_equal(result, np.repeat(grey >> (bits - 8), 3, axis=2)) and len(said) == (bits < 16)


@pytest.mark.parametrize(("alpha", "shown"), [(65535, True), (4095, True), (0, False)])
def test_alpha_has_the_range_of_the_colours_where_it_fits_in(alpha: int, shown: bool) -> None:
    samples = colors(4095)
    result, said = read(png_of_16_bits(with_alpha(samples, alpha), 6), Reading(bit_range="auto"))
    assert np.array_equal(result, samples >> 4 if shown else np.full(samples.shape, 255))
    assert any(line.startswith(COMPOSED) for line in said) != shown


def test_black_is_black() -> None:
    for data in (png_of_16_bits(colors(0), 2), tiff(colors(0), "<")):
        result, said = read(data, Reading(bit_range="auto"))
        assert np.asarray(result).max() == 0 and not said


def test_premultiplied_colours_are_what_pillow_makes_of_them() -> None:
    """They are divided by alpha, which is not possible with lower bytes."""
    data = tiff(with_alpha(colors(4095)), "<", extra=PREMULTIPLIED)
    for bit_range in ("full", "auto"):
        result, said = read(data, Reading(bit_range=bit_range))  # type: ignore[arg-type]
        assert np.array_equal(result, colors(4095) >> 8)
        assert len(said) == 1 and "which come out dark" in said[0]
