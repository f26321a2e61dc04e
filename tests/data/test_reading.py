"""What images become where their files leave it open: transparency, unused bits, and sizes above the limit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from made import SOURCE, TARGET, write_folder
from test_decoding import Bytes, encoded, photo

from xmixup_fast import evaluate, fit, predict
from xmixup_fast.data.dataset import BadFile
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.data.decoding.reading import Reading
from xmixup_fast.data.image_cache import ImageCache

SIDE = 24
COMPOSED = "images with transparency, composed on the background"


def read(
    data: bytes, reading: Reading, short_side: int | None = None, decoder: str = "pillow"
) -> tuple[Any, list[str]]:
    """The decoded image, or why there is none; and what was said."""
    said: list[str] = []
    made = make_decoder(decoder, short_side, torch.device("cpu"), 2, said.append, reading=reading)
    (result,) = made.decode([Bytes("x", data)])
    return result, said


def shape() -> PIL.Image.Image:
    """Transparency, mode L: a square that is opaque, a half transparent edge, and nothing around."""
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[6:18, 6:18], alpha[8:16, 8:16] = 128, 255
    return PIL.Image.fromarray(alpha)


def with_alpha(mode: str) -> PIL.Image.Image:
    black = PIL.Image.new(mode, (SIDE, SIDE))
    black.putalpha(shape())
    return black


def keyed(mode: str, other: Any) -> PIL.Image.Image:
    """An image of zeros, which are to be transparent, with a square of another value."""
    image = PIL.Image.new(mode, (SIDE, SIDE))
    image.paste(other, (8, 8, 16, 16))
    return image


def palette() -> PIL.Image.Image:
    image = keyed("P", 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


TRANSPARENT: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "rgba.png": (encoded(with_alpha("RGB"), "PNG"), (0, 0, 0)),
    "grey-alpha.png": (encoded(with_alpha("L"), "PNG"), (0, 0, 0)),
    "rgba.webp": (encoded(with_alpha("RGB"), "WEBP", lossless=True, exact=True), (0, 0, 0)),
    "rgba.tiff": (encoded(with_alpha("RGB"), "TIFF"), (0, 0, 0)),
    "palette.png": (encoded(palette(), "PNG", transparency=0), (10, 20, 30)),
    "palette-bytes.png": (encoded(palette(), "PNG", transparency=bytes([0, 255])), (10, 20, 30)),
    "palette.gif": (encoded(palette(), "GIF", transparency=0), (10, 20, 30)),
    "colour-key.png": (encoded(keyed("RGB", (10, 20, 30)), "PNG", transparency=(0, 0, 0)), (10, 20, 30)),
    "grey-key.png": (encoded(keyed("L", 70), "PNG", transparency=0), (70, 70, 70)),
    "bit-key.png": (encoded(keyed("1", 1), "PNG", transparency=0), (255, 255, 255)),
    "deep-key.png": (
        encoded(PIL.Image.fromarray(np.asarray(keyed("L", 70)).astype(np.uint16) << 8), "PNG", transparency=0),
        (70, 70, 70),
    ),
}
"""Files whose corner is transparent, and the colour of their middle, which is opaque."""


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("background", ["white", "#0a64c8"])
def test_what_is_transparent_shows_the_background(name: str, background: str) -> None:
    data, middle = TRANSPARENT[name]
    reading = Reading.of(background)
    result, said = read(data, reading)
    assert result[0, 0].tolist() == list(reading.background), name
    assert result[SIDE // 2, SIDE // 2].tolist() == list(middle), name
    assert said == [f"{COMPOSED}: 1, such as x"], name


def test_half_transparent_pixels_are_blended() -> None:
    result, _ = read(TRANSPARENT["rgba.png"][0], Reading())
    assert result[7, 7].tolist() == [127] * 3


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_opaque_images_with_an_alpha_channel_stay_what_they_are(format: str) -> None:
    image = photo()
    opaque = image.copy()
    opaque.putalpha(255)
    options = {"lossless": True} if format == "WEBP" else {}
    result, said = read(encoded(opaque, format, **options), Reading())
    assert np.array_equal(result, image) and not said


def deep(most: int) -> np.ndarray:
    """Samples of 16 bits up to a greatest one."""
    return np.linspace(0, most, 12 * 16).astype(np.uint16).reshape(12, 16)


@pytest.mark.parametrize(
    ("most", "bits"), [(255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14), (16384, 16)]
)
def test_samples_of_fewer_bits_are_said_or_scaled(most: int, bits: int) -> None:
    samples = deep(most)
    data = encoded(PIL.Image.fromarray(samples), "PNG")
    for bit_range, kept in (("full", 16), ("auto", bits)):
        result, said = read(data, Reading(bit_range=bit_range))  # type: ignore[arg-type]
        assert np.array_equal(result[..., 0], samples >> (kept - 8))
        kind = f"16-bit grey images with no value above {2**bits - 1}, which look like {bits} bits and "
        assert [line.startswith(kind) for line in said] == [True] * (bits < 16)
        assert not said or ("--bit-range auto" in said[0]) == (bit_range == "full")


def test_where_zero_is_white_the_unused_range_is_the_white_one() -> None:
    from test_formats import tiff_of_grey

    samples = deep(4095)
    result, said = read(tiff_of_grey(samples, True), Reading(bit_range="auto"))
    assert np.array_equal(result[..., 0], (4095 - samples) >> 4) and "taken for such" in said[0]
    result, said = read(tiff_of_grey(samples, True), Reading())
    assert result.min() > 239 and "nearly white" in said[0]


# --- large images ---

HEIGHT, WIDTH = 160, 200
LARGE = photo(HEIGHT, WIDTH)


def turned(orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return encoded(LARGE, "JPEG", exif=exif.tobytes(), quality=95)


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
@pytest.mark.parametrize(
    ("max_pixels", "short_side", "scale"),
    [(32000, 40, 1), (31999, 40, 2), (8000, 80, 2), (2000, 40, 4), (1999, 20, 8), (500, 20, 8)],
)
def test_large_jpeg_files_are_decoded_at_a_part_of_their_size(
    decoder: str, max_pixels: int, short_side: int, scale: int
) -> None:
    """No smaller than what they are resized to, and nearly the same pixels."""
    reading = Reading(max_pixels=max_pixels)
    result, said = read(turned(6), reading, short_side, decoder)
    assert tuple(result.shape) == (WIDTH * short_side // HEIGHT, short_side, 3)  # turned upright
    assert bool([line for line in said if line.startswith("JPEG files with more than max_pixels")]) == (scale > 1)
    whole, _ = read(turned(6), Reading(), short_side, decoder)
    assert (result.float() - whole.float()).abs().mean() < 8
    assert torch.equal(result, whole) == (scale == 1)


@pytest.mark.parametrize(
    ("format", "max_pixels", "short_side"),
    [("PNG", 31999, 20), ("JPEG", 31999, None), ("JPEG", 499, 20), ("JPEG", 7999, 80)],
)
def test_images_that_are_too_large_say_what_to_do(format: str, max_pixels: int, short_side: int | None) -> None:
    result, _ = read(encoded(LARGE, format), Reading(max_pixels=max_pixels), short_side)
    assert isinstance(result, BadFile)
    assert result.reason == (
        f"200 x 160 pixels, more than max_pixels, {max_pixels}; raise --max-pixels, scale it down, or crop it"
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF"])
def test_pillows_own_limit_is_none_here_and_stays_for_others(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    data = encoded(LARGE, format)
    result, _ = read(data, Reading())
    assert result.shape == (HEIGHT, WIDTH, 3)
    assert PIL.Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(PIL.Image.DecompressionBombError):
        PIL.Image.open(io.BytesIO(data))


def test_what_was_cached_is_of_one_reading(tmp_path: Path) -> None:
    readings = [Reading(), Reading.of("black"), Reading(bit_range="auto"), Reading(max_pixels=10**6)]
    decoders = [make_decoder("pillow", SIDE, torch.device("cpu"), 2, print, reading=reading) for reading in readings]
    assert len({ImageCache(tmp_path, decoder).pack([b"x" * 16]).index for decoder in decoders}) == len(readings)


def test_shapes_in_the_alpha_channel_alone_are_learned_and_predicted(tmp_path: Path) -> None:
    """The network's file tells the background, so that evaluate and predict see what training saw."""
    for number, (name, box) in enumerate({"left": (0, 0, 16, 36), "right": (20, 0, 36, 36)}.items()):
        (tmp_path / "icons" / name).mkdir(parents=True)
        for i in range(10):
            alpha = PIL.Image.new("L", (36, 36), 0)
            alpha.paste(255, (box[0], i, box[2], 36))
            image = PIL.Image.new("RGBA", (36, 36), (0, 0, number, 0))
            image.putalpha(alpha)
            image.save(tmp_path / "icons" / name / f"{i}.png")
    result = fit(
        str(tmp_path / "icons"),
        method="finetune",
        model="test_resnet",
        weights="none",
        image_size=32,
        batch_size=8,
        steps=25,
        flip=False,
        lr=0.05,
        background="#ffd000",
        report=False,
        output=str(tmp_path / "run"),
    )
    assert result.summary["test_accuracy"] == 100.0
    images = sorted((tmp_path / "icons").rglob("*.png"))
    predicted = list(predict(tmp_path / "run" / "model.safetensors", images))
    assert [item.top[0].name for item in predicted] == [path.parent.name for path in images]  # type: ignore[union-attr]
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((tmp_path / "run" / "model.safetensors").read_bytes())
    assert evaluate(alone, tmp_path / "icons", split="all", log=lambda line: None).accuracy == 100.0


def test_a_run_counts_what_is_composed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = write_folder(tmp_path / "target", {**TARGET, **SOURCE}, 4)
    for path in sorted(target.rglob("*.png")):
        image = PIL.Image.open(path).convert("RGBA")
        image.putalpha(200)
        image.save(path)
    settings = {"method": "finetune", "model": "test_resnet", "weights": "none", "image_size": 32, "steps": 1}
    fit(str(target), batch_size=4, report=False, test="none", output=str(tmp_path / "run"), **settings)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert f"train images: {COMPOSED}: " in said and f"val images: {COMPOSED}: " in said
