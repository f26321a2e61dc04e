"""Decoding: all decoders give the same pixels of every kind of file, and name all bad files and no other file."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import threading
import types
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from torch import Tensor

from xmixup_fast.data.dataset import BadFile, FileImage, Image
from xmixup_fast.data.decoding import choose
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.data.decoding.decoder import Decoder, ordered_map
from xmixup_fast.data.decoding.pillow import Header
from xmixup_fast.data.decoding.steps import Encoded

ROOT = Path(__file__).resolve().parents[2]


def has(package: str) -> bool:
    try:
        return bool(version(package))
    except ImportError:
        return False


HAS_DALI = has("nvidia-dali-cuda130")
DECODERS = [
    "pillow",
    "torchvision",
    pytest.param("torchcodec", marks=pytest.mark.skipif(not has("torchcodec"), reason="needs torchcodec")),
    pytest.param("dali", marks=pytest.mark.skipif(not HAS_DALI, reason="needs DALI")),
]

HEIGHT, WIDTH = 67, 101


class Bytes(Image):
    """An image in memory."""

    name = ""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data

    def read(self) -> bytes:
        return self.data

    def stamp(self) -> str:
        return str(zlib.crc32(self.data))


class Unreadable(Bytes):
    def read(self) -> bytes:
        raise PermissionError(13, "Permission denied")


def made_decoder(name: str, short_side: int = HEIGHT) -> Decoder:
    return make_decoder(name, short_side, torch.device("cpu"), 2, print)


def decoded(name: str, data: Sequence[bytes], short_side: int = HEIGHT) -> list[Tensor | BadFile]:
    images = [Bytes(str(i), item) for i, item in enumerate(data)]
    return list(made_decoder(name, short_side).decode(images))


def photo(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> PIL.Image.Image:
    """An image of smooth colours with some noise."""
    random = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(random.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC)).astype(int)
    return PIL.Image.fromarray((smooth + random.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: PIL.Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_16_bits(samples: np.ndarray, colour_type: int) -> bytes:
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def kinds() -> dict[str, bytes]:
    """The bytes of one file of each kind, by name."""
    rgb = photo()
    rgba = rgb.copy()
    rgba.putalpha(PIL.Image.linear_gradient("L").resize(rgb.size))
    palette = rgb.convert("P", palette=PIL.Image.Palette.ADAPTIVE)
    deep = np.asarray(rgb).astype(np.uint16) * 256 + np.asarray(photo(seed=1))
    return {
        "baseline.jpg": encoded(rgb, "JPEG"),
        "full-colour.jpg": encoded(rgb, "JPEG", subsampling=0),
        "progressive.jpg": encoded(rgb, "JPEG", progressive=True),
        "grey.jpg": encoded(rgb.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "rgb.jpg": encoded(rgb, "JPEG", keep_rgb=True),
        "trailing.jpg": encoded(rgb, "JPEG") + b"more" * 20,
        "rgb.png": encoded(rgb, "PNG"),
        "grey.png": encoded(rgb.convert("L"), "PNG"),
        "black-and-white.png": encoded(rgb.convert("1"), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette-4-bits.png": encoded(rgb.quantize(13), "PNG", bits=4),
        "palette-transparent.png": encoded(palette, "PNG", transparency=bytes(range(100))),
        "grey-alpha.png": encoded(rgb.convert("LA"), "PNG"),
        "rgba.png": encoded(rgba, "PNG"),
        "colour-key.png": encoded(rgb, "PNG", transparency=(10, 20, 30)),
        "16-bits.png": png_of_16_bits(deep, 2),
        "16-bits-grey.png": png_of_16_bits(deep[..., 0], 0),
        "animated.png": encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        "lossy.webp": encoded(rgb, "WEBP"),
        "lossless.webp": encoded(rgb, "WEBP", lossless=True),
        "rgba.webp": encoded(rgba, "WEBP", lossless=True, exact=True),
        "animated.webp": encoded(rgb, "WEBP", lossless=True, save_all=True, append_images=[rgb.rotate(180)]),
    }


LOSSLESS = {
    **dict.fromkeys(("rgb.png", "colour-key.png", "16-bits.png", "animated.png"), "RGB"),
    **dict.fromkeys(("lossless.webp", "animated.webp"), "RGB"),
    **dict.fromkeys(("grey.png", "grey-alpha.png"), "L"),
    "black-and-white.png": "1",
}
"""Files without loss, and the mode to which photo() is converted before it is written."""


@pytest.mark.parametrize("decoder", DECODERS[1:])
@pytest.mark.parametrize("short_side", [HEIGHT, 224, 40, 9])
def test_all_decoders_give_the_same_pixels(short_side: int, decoder: str) -> None:
    files = kinds()
    both = [decoded(name, list(files.values()), short_side) for name in ("pillow", decoder)]
    for name, first, second in zip(files, *both, strict=True):
        assert isinstance(first, Tensor) and isinstance(second, Tensor), (name, first, second)
        assert first.dtype == torch.uint8 and first.is_contiguous() and second.is_contiguous()
        assert torch.equal(first, second), name


@pytest.mark.parametrize("decoder", DECODERS)
def test_pixels_are_those_of_the_file(decoder: str) -> None:
    files = kinds()
    results = dict(zip(files, decoded(decoder, list(files.values())), strict=True))
    for name, mode in LOSSLESS.items():
        assert np.array_equal(results[name], photo().convert(mode).convert("RGB")), name
    deep_grey = np.asarray(photo())[..., :1].repeat(3, axis=2)
    assert np.array_equal(results["16-bits-grey.png"], deep_grey)
    for name in files.keys() - LOSSLESS.keys() - {"16-bits-grey.png"}:
        image = PIL.Image.open(io.BytesIO(files[name])).convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        expected = np.asarray(PIL.Image.alpha_composite(white, image).convert("RGB")).astype(int)
        assert np.abs(results[name].numpy() - expected).max() <= 1, name


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("format", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_images_are_turned_upright(decoder: str, format: str, options: dict[str, object]) -> None:
    files = []
    for orientation in range(1, 9):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        files.append(encoded(photo(), format, exif=exif, **options))
    for data, result in zip(files, decoded(decoder, files), strict=True):
        upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))).convert("RGB")
        assert np.array_equal(result, upright)
    assert [tuple(result.shape) for result in decoded(decoder, files, 20)] == [(20, 30, 3)] * 4 + [(30, 20, 3)] * 4


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("short_side", [20, 64, 120])
def test_resizing_is_antialiased(decoder: str, short_side: int) -> None:
    sizes = ((300, 400), (400, 300), (77, 500), (64, 64))
    photos = [photo(*size, seed) for seed, size in enumerate(sizes)]
    for image, result in zip(photos, decoded(decoder, [encoded(p, "PNG") for p in photos], short_side), strict=True):
        short, long = min(image.size), max(image.size)
        scaled = int(short_side * long / short)
        size = (scaled, short_side) if image.width >= image.height else (short_side, scaled)
        expected = np.asarray(image.resize(size, PIL.Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(result.numpy() - expected).max() <= 1


def damaged_png() -> bytes:
    """A PNG file with a row filter that does not exist, which crashes torchvision 0.29's decoder."""
    data = bytearray(encoded(photo(), "PNG"))
    data[len(data) // 2] ^= 255
    return bytes(data)


def bomb() -> bytes:
    """A PNG file whose header says that it has 12 GiB of pixels."""
    header = struct.pack(">IIBBBBB", 2**16, 2**16, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(2**20))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Bad files by name: their bytes, and a part of the reason that must be given."""
    jpeg, png, webp = (encoded(photo(), format) for format in ("JPEG", "PNG", "WEBP"))
    return {
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "no-end.jpg": (jpeg[:-2], "truncated"),
        "head.jpg": (jpeg[:30], ""),
        "half.png": (png[: len(png) // 2], "truncated"),
        "half.webp": (webp[: len(webp) // 2], ""),
        "damaged.png": (damaged_png(), ""),
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"this is no image", "not a JPEG, PNG, "),
        "drawing.jpg": (encoded(photo(), "EPS"), "not a JPEG, PNG, "),
        "bomb.png": (bomb(), "65536 x 65536 pixels, more than max_pixels, 178956970; raise --max-pixels"),
    }


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_bad_file_is_named_and_no_other(decoder: str, tmp_path: Path) -> None:
    bad, good = bad_files(), encoded(photo(), "JPEG")
    images: list[Image] = []
    for name, (data, _) in bad.items():
        images += [Bytes(f"good before {name}", good), Bytes(name, data)]
    (tmp_path / "folder.jpg").mkdir()
    images += [Unreadable("locked.jpg", good), FileImage(tmp_path / "folder.jpg"), FileImage(tmp_path / "absent.jpg")]
    results = list(made_decoder(decoder).decode(images))
    expected = {name: reason for name, (_, reason) in bad.items()} | {
        "locked.jpg": "Permission denied",
        str(tmp_path / "folder.jpg"): "Is a directory",
        str(tmp_path / "absent.jpg"): "No such file or directory",
    }
    assert len(results) == len(images)
    for image, result in zip(images, results, strict=True):
        if image.name in expected:
            assert isinstance(result, BadFile) and result.name == image.name, image.name
            assert expected[image.name] in result.reason and "\n" not in result.reason and result.reason
            assert ".cpp" not in result.reason
        else:
            assert np.array_equal(result, PIL.Image.open(io.BytesIO(good)))


def test_large_images_below_pillows_limit_are_read_without_a_warning() -> None:
    header = struct.pack(">IIBBBBB", 10000, 9000, 1, 0, 0, 0, 0)
    large = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    with pytest.warns(PIL.Image.DecompressionBombWarning):
        PIL.Image.open(io.BytesIO(large))
    program = (
        "import io, sys; from xmixup_fast.data.decoding.pillow import read_header; "
        "print(read_header(io.BytesIO(sys.stdin.buffer.read()), 'x'))"
    )
    done = subprocess.run([sys.executable, "-c", program], input=large, capture_output=True, cwd=ROOT)
    assert done.stdout.decode().startswith("Header(plain_jpeg=False, height=9000, width=10000") and not done.stderr


@pytest.mark.skipif(not HAS_DALI, reason="needs DALI")
def test_what_dali_alone_cannot_decode_is_decoded_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from xmixup_fast.data.decoding import dali

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of memory")

    files = [encoded(photo(seed=seed), "JPEG") for seed in range(3)]
    expected = decoded("torchvision", files)
    monkeypatch.setattr(dali.Pipeline, "run", fail)
    with pytest.warns(UserWarning, match="DALI could not decode .* out of memory"):
        results = decoded("dali", files)
    assert all(torch.equal(first, second) for first, second in zip(results, expected, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning, since a bad file explains the failure
        assert isinstance(decoded("dali", [*files, files[0][:1500]])[-1], BadFile)


@pytest.mark.skipif(not HAS_DALI, reason="needs DALI")
def test_batches_are_bounded_in_images_and_bytes() -> None:
    from xmixup_fast.data.decoding import dali

    def sizes(images: int, height: int, width: int) -> list[int]:
        made = Encoded("", np.zeros(0, np.uint8), Header(True, height, width))
        return [len(batch) for batch in dali.into_batches([made] * images)]

    assert sizes(40, 10, 10) == [16, 16, 8]
    assert sizes(5, 2000, 2000) == [2, 2, 1]
    assert sizes(3, 9000, 9000) == [1, 1, 1]
    assert sizes(0, 1, 1) == []


def test_auto_takes_what_is_installed_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    arguments = (20, torch.device("cpu"), 1, messages.append)
    if HAS_DALI:
        assert make_decoder("auto", *arguments).name == "dali" and not messages
    dali = "DALI is not installed; pip install nvidia-dali-cuda130 (Linux only)"
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    if has("torchcodec"):
        assert make_decoder("auto", *arguments).name == "torchcodec"
        assert messages.pop() == f"decoder: torchcodec, since {dali}"
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    torchcodec = "torchcodec is not installed; pip install 'torchcodec>=0.16'"
    assert make_decoder("auto", *arguments).name == "torchvision"
    assert messages.pop() == f"decoder: torchvision, since {dali}; {torchcodec}"
    monkeypatch.delattr("torchvision.io.decode_jpeg")  # as in a later version
    assert make_decoder("auto", *arguments).name == "pillow"
    fault = "torchvision is installed without decode_jpeg; pip install torchvision"
    assert messages.pop() == f"decoder: pillow, since {dali}; {torchcodec}; {fault}"
    assert make_decoder("pillow", *arguments).name == "pillow" and not messages
    for name, message in (("dali", dali), ("torchcodec", torchcodec), ("torchvision", fault)):
        with pytest.raises(ValueError, match=re.escape(f"decoder: {message}; or use auto")):
            make_decoder(name, *arguments)
    broken = types.SimpleNamespace()  # as torchcodec 0.15 is

    def fail(name: str) -> object:
        raise RuntimeError("libavutil.so: cannot open\nmore")

    monkeypatch.setitem(sys.modules, "torchcodec.decoders", broken)
    with pytest.raises(ValueError, match="torchcodec is installed without decode_jpeg; pip install"):
        make_decoder("torchcodec", *arguments)
    monkeypatch.setattr(choose, "import_module", fail)
    with pytest.raises(ValueError, match=r"torchcodec does not work here \(libavutil.so: cannot open\)"):
        make_decoder("torchcodec", *arguments)


def test_workers_stay_in_order_and_not_too_far_ahead() -> None:
    started = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        return 2 * item

    with ThreadPoolExecutor(3) as workers:
        results = ordered_map(workers, work, range(100), 5)
        taken = [next(results) for _ in range(10)]
        workers.submit(int).result()
        assert len(started) <= 16
        assert taken + list(results) == list(range(0, 200, 2))
