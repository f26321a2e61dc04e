"""Formats: files are told and read by their content, alike by every reader and command; what is lost is said."""

from __future__ import annotations

import csv
import io
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_runs import run
from test_decoding import DECODERS, HEIGHT, ROOT, WIDTH, Bytes, decoded, encoded, kinds, made_decoder, photo
from torch import Tensor

from xmixup_fast.commands.predict import Prediction, predict
from xmixup_fast.data.dataset import BadFile, Dataset
from xmixup_fast.data.decoding import pillow
from xmixup_fast.data.formats import EXTENSIONS, NOT_AN_IMAGE, format_of, is_image
from xmixup_fast.data.image_store import ImageStore
from xmixup_fast.data.readers.folder import find_images
from xmixup_fast.data.sources import read_dataset

DEEP = np.asarray(photo())[..., 0].astype(np.uint16) * 256 + np.asarray(photo(seed=1))[..., 0]
"""Grey samples of 16 bits."""
needs_avif = pytest.mark.skipif(not PIL.features.check("avif"), reason="needs a Pillow with AVIF")


def tiff_of_16_bits(samples: np.ndarray) -> bytes:
    """A TIFF file of uint16[H, W, 3], which Pillow does not write."""
    height, width, channels = samples.shape
    data = samples.astype("<u2").tobytes()
    ifd = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)]
    ifd += [(277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data))]
    bits = struct.pack("<3H", 16, 16, 16)
    entries = b"".join(struct.pack("<HHII", *entry) for entry in ifd)
    return b"II*\0" + struct.pack("<I", 14 + len(data)) + bits + data + struct.pack("<H", 9) + entries + bytes(4)


def tiff_of_grey(samples: np.ndarray, white_is_zero: bool) -> bytes:
    """A TIFF file of uint16[H, W]."""
    (height, width), data = samples.shape, samples.astype("<u2").tobytes()
    ifd = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, not white_is_zero)]
    ifd += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data))]
    entries = b"".join(struct.pack("<HHII", *entry) for entry in ifd)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", 9) + entries + bytes(4)


def files() -> dict[str, bytes]:
    """The bytes of photo() in every format that Pillow writes, by file name."""
    rgb, turned = photo(), photo().rotate(180)
    pages = {"save_all": True, "append_images": [turned]}
    found = {
        "a.tif": encoded(rgb, "TIFF"),
        "lzw.tiff": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "big.tif": encoded(rgb, "TIFF", big_tiff=True),
        "pages.tif": encoded(rgb, "TIFF", **pages),
        "cmyk.tif": encoded(rgb.convert("CMYK"), "TIFF"),
        "deep-colours.tif": tiff_of_16_bits(np.asarray(rgb).astype(np.uint16) * 256 + 99),
        "deep.tif": encoded(PIL.Image.fromarray(DEEP), "TIFF"),
        "deep.pgm": encoded(PIL.Image.fromarray(DEEP), "PPM"),
        "deep.jp2": encoded(PIL.Image.fromarray(DEEP), "JPEG2000"),
        "a.bmp": encoded(rgb, "BMP"),
        "a.dib": encoded(rgb, "DIB"),
        "a.gif": encoded(rgb, "GIF"),
        "moving.gif": encoded(rgb, "GIF", **pages),
        "a.ico": encoded(rgb, "ICO", sizes=[(16, 16), (WIDTH, HEIGHT)]),
        "a.ppm": encoded(rgb, "PPM"),
        "grey.pnm": encoded(rgb.convert("L"), "PPM"),
        "a.tga": encoded(rgb, "TGA"),
        "a.jp2": encoded(rgb, "JPEG2000"),
        "a.j2k": encoded(rgb, "JPEG2000", no_jp2=True),
        "a.jfif": encoded(rgb, "JPEG"),
        "a.mpo": encoded(rgb, "MPO", **pages),
    }
    if "HEIF" in pillow.READABLE:
        found["a.heic"] = encoded(rgb, "HEIF", quality=100)
    if "AVIF" in pillow.READABLE:
        found["a.avif"] = encoded(rgb, "AVIF", quality=100)
    return found


def expected(name: str) -> tuple[np.ndarray, int]:
    """The pixels of one of files(), and how far a mean sample may be from them."""
    rgb = photo()
    if name.startswith("deep."):
        return np.repeat((DEEP >> 8).astype(np.uint8)[..., None], 3, axis=2), 0
    if name.startswith("grey"):
        return np.asarray(rgb.convert("L").convert("RGB")), 0
    lossy = {"a.gif": 10, "moving.gif": 10, "a.jfif": 10, "a.mpo": 10, "a.heic": 10, "a.avif": 10}
    return np.asarray(rgb), lossy.get(name, 0)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_format_is_read_by_its_content(decoder: str) -> None:
    lines: list[str] = []
    images = [Bytes(f"{number}", data) for number, data in enumerate(files().values())]
    for name, result in zip(files(), made_decoder(decoder).decode(images, lines.append), strict=True):
        assert isinstance(result, Tensor), (name, result)
        pixels, distance = expected(name)
        assert result.shape == pixels.shape and result.is_contiguous(), name
        assert np.abs(result.numpy().astype(int) - pixels).mean() <= distance, name
    assert lines == ["images with several pages or frames, of which the first is taken: 2, such as 12"]


T = PIL.Image.Transpose
UPRIGHT = (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)
"""What EXIF's orientations 2 to 8 ask for."""


@pytest.mark.parametrize("format", ["TIFF", "PNG", "HEIF", "AVIF"])
def test_orientations_are_obeyed_once(format: str) -> None:
    if format not in pillow.READABLE:
        pytest.skip("not readable here")
    for orientation, transposition in enumerate(UPRIGHT, start=2):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        upright = np.asarray(photo().transpose(transposition)).astype(int)
        (result,) = decoded("pillow", [encoded(photo(), format, exif=exif.tobytes())])
        assert result.shape == upright.shape and np.abs(result.numpy() - upright).mean() < 15, orientation


@pytest.mark.parametrize("data", [*files().items(), *kinds().items()], ids=lambda item: item[0])
def test_files_are_told_by_name_or_first_bytes(data: tuple[str, bytes]) -> None:
    name, content = data

    def unread() -> bytes:
        raise AssertionError

    assert is_image(name, unread) and is_image(name.upper(), unread)
    if not name.endswith(".tga"):  # these begin with no magic number
        assert is_image("IMG_0001", lambda: content[:32]) and is_image("a.jpg~", lambda: content[:32])


BEGINNINGS = sorted({data[:length] for data in files().values() for length in (0, 4, 12, 32)})


@settings(max_examples=50)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=64))
def test_what_is_no_image_is_a_bad_file_whatever_it_begins_like(beginning: bytes, rest: bytes) -> None:
    (result,) = decoded("pillow", [beginning + rest])
    assert isinstance(result, BadFile) and result.reason and "\n" not in result.reason
    if format_of(beginning + rest) is None and not beginning:
        assert result.reason == (NOT_AN_IMAGE if rest else "empty")


def test_other_files_are_no_images() -> None:
    others = {
        "a.txt": b"BM and PNG are formats, P1 is another one",
        "a.mp4": b"\0\0\0 ftypisom\0\0\2\0isomiso2avc1mp41",
        "a.mov": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
        "a.cr3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        "a.eps": encoded(photo(), "EPS"),
        "a.pdf": encoded(photo(), "PDF"),
        "a.wav": b"RIFF\0\0\0\0WAVEfmt ",
        "a.ttf": b"\0\1\0\0\0\x0f\0\x80",
        "a.mpg": b"\0\0\1\xba!\0\1\0\1",
        "a.zip": b"PK\3\4",
        "Thumbs": b"",
    }
    for name, content in others.items():
        assert not is_image(name, lambda content=content: content), name
    assert all(extension == extension.lower() and extension[0] == "." for extension in EXTENSIONS)


@needs_avif
@pytest.mark.parametrize(("name", "format"), [("a.heic", "HEIF"), ("a.avif", "AVIF")])
def test_without_a_decoder_heic_and_avif_say_what_to_install(
    name: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_heif")
    content = files()[name]
    monkeypatch.setattr(pillow, "READABLE", [other for other in pillow.READABLE if other != format])
    reason = f"{format}, which cannot be read here; pip install 'xmixup_fast[heif]'"
    lines: list[str] = []
    images = [Bytes("b", content), Bytes("a", content), Bytes("c.png", encoded(photo(), "PNG"))]
    bad = [item for item in made_decoder("pillow").decode(images, lines.append) if isinstance(item, BadFile)]
    assert bad == [BadFile("b", reason), BadFile("a", reason)] and lines == [f"{reason}: 2, such as a"]


def test_heif_is_optional() -> None:
    program = (
        "import sys; sys.modules['pillow_heif'] = None; from xmixup_fast.data.decoding import pillow; "
        "print('JPEG' in pillow.READABLE, 'HEIF' in pillow.READABLE)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "True False\n"


def as_pgm(samples: np.ndarray) -> bytes:
    return f"P5 {samples.shape[1]} {samples.shape[0]} 65535\n".encode() + samples.astype(">u2").tobytes()


WRITERS: list[Callable[[np.ndarray], bytes]] = [
    lambda samples: encoded(PIL.Image.fromarray(samples), "PNG"),
    lambda samples: encoded(PIL.Image.fromarray(samples), "TIFF"),
    lambda samples: encoded(PIL.Image.fromarray(samples.astype(np.int32)), "TIFF"),
    as_pgm,
]


@settings(max_examples=50)
@given(arrays(np.uint16, (3, 4)), st.integers(0, 16), st.sampled_from(WRITERS))
def test_deep_grey_becomes_its_upper_byte_and_dark_files_are_said(
    samples: np.ndarray, shift: int, write: Callable[[np.ndarray], bytes]
) -> None:
    samples = samples >> shift
    lines: list[str] = []
    (result,) = made_decoder("pillow", None).decode([Bytes("x", write(samples))], lines.append)
    assert np.array_equal(result, np.repeat((samples >> 8)[..., None], 3, axis=2))
    bits = next(bits for bits in (8, 10, 12, 14, 16) if samples.max() < 2**bits)
    said = f"16-bit grey images with no value above {2**bits - 1}, which look like {bits} bits and come out "
    assert [line.startswith(said) for line in lines] == [True] * int(0 < samples.max() < 2**14)


@settings(max_examples=20)
@given(arrays(np.uint16, (2, 4)))
def test_zero_may_be_white(samples: np.ndarray) -> None:
    both = [tiff_of_grey(samples, True), tiff_of_grey(65535 - samples, False)]
    for result in decoded("pillow", both, None):
        assert np.array_equal(result, np.repeat(((65535 - samples) >> 8)[..., None], 3, axis=2))


@settings(max_examples=50)
@given(arrays(np.int32, (3, 4), elements=st.integers(-(2**31), 2**31 - 1)))
def test_deeper_grey_is_clipped_and_said(samples: np.ndarray) -> None:
    lines: list[str] = []
    data = encoded(PIL.Image.fromarray(samples), "TIFF")
    (result,) = made_decoder("pillow", None).decode([Bytes("x", data)], lines.append)
    clipped = samples.clip(0, 65535)
    assert np.array_equal(result, np.repeat((clipped >> 8)[..., None], 3, axis=2))
    said = "grey images with values outside of 0 to 65535, which were clipped: 1, such as x"
    assert (said in lines) == bool((clipped != samples).any())


def test_samples_without_meaning_as_rgb_are_bad_files() -> None:
    lab = PIL.Image.merge("LAB", photo().split())
    data = [encoded(PIL.Image.fromarray(DEEP.astype(np.float32)), format) for format in ("TIFF", "PPM")]
    for item in decoded("pillow", [*data, encoded(lab, "TIFF")]):
        assert isinstance(item, BadFile) and "whose range is not known; save it with 8 or 16 bits" in item.reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that have all files(), once with their extensions alone."""
    folder = tmp_path_factory.mktemp("formats")
    for class_name in ("one", "two"):
        (folder / class_name).mkdir()
        for name, content in files().items():
            (folder / class_name / f"{name.replace('.', '-')}{Path(name).suffix}").write_bytes(content)
    return folder


def as_table(folder: Path, to: Path) -> Dataset:
    rows = [[str(path.relative_to(folder)), path.parent.name] for path in sorted(folder.glob("*/*.*"))]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *rows])
    return read_dataset(folder / "table.csv")


def as_shards(folder: Path, to: Path) -> Dataset:
    with tarfile.open(to / "a.tar", "w") as tar:
        for path in sorted(folder.glob("*/*.*")):
            if path.suffix != ".csv":
                key = f"{path.parent.name}-{path.stem}"
                tar.add(path, f"{key}{path.suffix}")
                label = tarfile.TarInfo(f"{key}.cls")
                label.size = 3
                tar.addfile(label, io.BytesIO(path.parent.name.encode()))
    return read_dataset(to / "a.tar")


def as_hub_dataset(folder: Path, to: Path) -> Dataset:
    datasets = pytest.importorskip("datasets")
    paths = sorted(folder.glob("*/*.*"))
    rows = {
        "image": [{"bytes": path.read_bytes(), "path": None} for path in paths],
        "label": [path.parent.name for path in paths],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(to / "hub")
    return read_dataset(f"hf:{to / 'hub'}")


@pytest.mark.parametrize("read", [lambda folder, to: read_dataset(folder), as_table, as_shards, as_hub_dataset])
def test_every_reader_gives_every_format(folder: Path, tmp_path: Path, read: Any) -> None:
    dataset = read(folder, tmp_path)
    assert not dataset.bad and dataset.classes == ["one", "two"] and len(dataset.train) == 2 * len(files())
    lines: list[str] = []
    store = ImageStore(made_decoder("pillow"), tmp_path / "cache", None, lines.append)
    pool = store.build(dataset.train, "train images")
    assert not store.bad and len(pool) == len(dataset.train)
    pages = [line for line in lines if "several pages or frames, of which the first is taken: 4, such as " in line]
    assert len(pages) == 1 and pages[0].startswith("train images: ")
    store.build(dataset.train, "train images")  # from the cache, which keeps what was said
    assert lines.count(pages[0]) == 2


def test_training_and_prediction_take_every_format(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "photos"
    for i, (name, content) in enumerate(files().items()):
        path = folder / ("one", "two")[i % 2] / f"{name.replace('.', '-')}{Path(name).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    options = {"target": str(folder), "source": [str(folder)], "steps": 1, "selection": "random"}
    result = run(data, tmp_path / "run", **options)
    assert sum(result.summary[f"num_{split}"] for split in ("train", "val", "test")) == len(files())
    found = list(predict(result.folder, [folder]))
    assert [item.file for item in found if isinstance(item, Prediction)] == [
        image.name for image in find_images(folder, [])
    ]
    nameless = []
    for name, content in files().items():
        nameless.append(tmp_path / name.replace(".", "-"))
        nameless[-1].write_bytes(content)
    again = {item.file: item.top for item in predict(result.folder, nameless)}
    by_name = {Path(item.file).stem: item.top for item in found}
    assert len(again) == len(files()) and all(again[str(path)] == by_name[path.name] for path in nameless)
