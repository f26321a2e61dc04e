"""Files that begin like images and are no photos, or whose samples Pillow misreads: ignored, or bad with a way out."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from listings import write_shard
from test_decoding import decoded, encoded, made_decoder, photo
from torch import Tensor

from xmixup_fast.data.dataset import BadFile, FileImage
from xmixup_fast.data.formats import NO_CAMERA_RAW, NOT_AN_IMAGE, OTHERS, RAW, format_of, is_image
from xmixup_fast.data.image_store import ImageStore
from xmixup_fast.data.readers.folder import find_images
from xmixup_fast.data.sources import read_dataset
from xmixup_fast.data.understood import understood


def tiff(samples: np.ndarray, order: str = "<", separate: bool = False, below: int = 0, **tags: int) -> bytes:
    """An uncompressed TIFF file of [H, W, C].

    Args:
        samples: of 8 or 16 bits.
        order: the order of bytes, < or >.
        separate: whether each colour has a plane of its own.
        below: height and width of an image below the first page; 0 for none.
        tags: numbers of further tags, such as t254, with their values.
    """
    height, width, channels = samples.shape
    planes = [samples[..., i] for i in range(channels)] if separate else [samples]
    strips = [plane.astype(samples.dtype.newbyteorder(order)).tobytes() for plane in planes]
    shorts, longs = "H", "I"
    entries: dict[int, tuple[str, list[int]]] = {
        **{256: (longs, [width]), 257: (longs, [height]), 258: (shorts, [8 * samples.itemsize] * channels)},
        **{259: (shorts, [1]), 262: (shorts, [2 if channels > 2 else 1]), 277: (shorts, [channels])},
        **{273: (longs, [8 + sum(map(len, strips[:i])) for i in range(len(strips))]), 278: (longs, [height])},
        **{279: (longs, list(map(len, strips))), 284: (shorts, [1 + separate])},
        **({338: (shorts, [2])} if channels in (2, 4) else {}),
        **({339: (shorts, [2] * channels)} if samples.dtype.kind == "i" else {}),
        **{int(name[1:]): (longs, [value]) for name, value in tags.items()},
    }
    data = b"".join(strips)
    if below:
        entries[330] = (longs, [8 + len(data)])
        data += directory({256: (longs, [below]), 257: (longs, [below])}, order, 8 + len(data))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return head + data + directory(entries, order, 8 + len(data))


def directory(entries: dict[int, tuple[str, list[int]]], order: str, at: int) -> bytes:
    """A TIFF directory that lies at a position, and the values that do not fit into it."""
    rows, rest = b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{kind}", *values)
        rows += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        rows += (
            value.ljust(4, b"\0")
            if len(value) <= 4
            else struct.pack(f"{order}I", at + 6 + 12 * len(entries) + len(rest))
        )
        rest += value if len(value) > 4 else b""
    return struct.pack(f"{order}H", len(entries)) + rows + bytes(4) + rest


THUMBNAIL = tiff(np.asarray(photo(12, 16)), t254=1)
"""How a camera's RAW file begins: with a small page."""


def photos(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            (folder / name / f"{i}.jpg").write_bytes(encoded(photo(seed=i), "JPEG"))


@pytest.mark.parametrize("content", [THUMBNAIL, encoded(photo(), "TIFF"), encoded(photo(), "JPEG")])
def test_raw_partial_and_text_files_are_ignored_and_counted_whatever_they_hold(tmp_path: Path, content: bytes) -> None:
    photos(tmp_path)
    for extension in OTHERS - {".csv", ".tsv", ".parquet"}:  # tables of paths and labels stop, see test_folders.py
        for name in (f"a{extension}", f"B.JPG{extension.upper()}"):
            (tmp_path / "cat" / name).write_bytes(content)
        assert not is_image(f"x{extension}", lambda: content)
    dataset = read_dataset(tmp_path)
    assert len(dataset.train) == 4 and not dataset.bad
    assert dataset.findings.ignored == {("cat", extension): 2 for extension in OTHERS - {".csv", ".tsv", ".parquet"}}
    counted: Counter[tuple[str, str]] = Counter()
    assert len(list(find_images(tmp_path, [], counted))) == 4
    assert counted[str(tmp_path / "cat"), ".nef"] == 2


@pytest.mark.parametrize("short_side", [32, None])
def test_raw_that_is_named_in_a_table_is_a_bad_file(tmp_path: Path, short_side: int | None) -> None:
    photos(tmp_path)
    names = [f"cat/{i:02d}{extension.upper()}" for i, extension in enumerate(sorted(RAW))]
    for name in names:
        (tmp_path / name).write_bytes(encoded(photo(), "TIFF"))
    rows = ["path,label", *(f"{name},cat" for name in names), "cat/0.jpg,cat", "dog/0.jpg,dog"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    store = ImageStore(made_decoder("pillow", short_side), None, None, print)  # type: ignore[arg-type]
    assert len(store.build(read_dataset(tmp_path / "table.csv").train, "images")) == 2
    assert store.bad == [BadFile(str(tmp_path / name), NO_CAMERA_RAW) for name in names]


@settings(max_examples=30)
@given(st.integers(0, 7), st.sampled_from("<>"))
def test_a_page_that_is_marked_as_reduced_is_no_photo(kind: int, order: str) -> None:
    (result,) = decoded("pillow", [tiff(np.asarray(photo()), order, t254=kind)])
    assert isinstance(result, BadFile) == bool(kind & 1)
    if isinstance(result, BadFile):
        assert result.reason.startswith("its first page is marked as a reduced-resolution image, as in camera RAW; ")


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_that_holds_raw_is_a_bad_file_and_other_tiff_is_not(order: str, tmp_path: Path) -> None:
    pixels = np.asarray(photo())
    raw: list[dict[str, Any]] = [{"t50706": 0x01040000}, {"t255": 2}, {"below": 400}, {"t254": 1, "below": 400}]
    for options in raw:
        (tmp_path / "a.tif").write_bytes(tiff(pixels, order, **options))
        (result,) = made_decoder("pillow").decode([FileImage(tmp_path / "a.tif")])
        assert isinstance(result, BadFile)
        assert result.reason.endswith(("it to JPEG, PNG or TIFF", "the photo to JPEG, PNG or TIFF")), result
    sound: list[dict[str, Any]] = [{}, {"t254": 0}, {"t254": 2}, {"t255": 1}, {"below": 8}, {"t330": 10**6}]
    for options in sound:  # a pyramid has smaller images below the page
        (result,) = decoded("pillow", [tiff(pixels, order, **options)])
        assert isinstance(result, Tensor) and np.array_equal(result, pixels), (options, result)


def test_raw_without_a_name_says_so() -> None:
    cr2 = THUMBNAIL[:8] + b"CR\2\0" + THUMBNAIL[12:]
    heads = [b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"II\x1a\0\0\0\0\0HEAPCCDR", b"FUJIFILMCCD-RAW ", b"\0MRM", b"FOVb"]
    heads.append(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom")
    for item in decoded("pillow", [cr2, *(head + bytes(99) for head in heads)]):
        assert isinstance(item, BadFile) and item.reason == NO_CAMERA_RAW


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_samples_of_tiff_are_read_right_or_refused(data: st.DataObject) -> None:
    channels, order = data.draw(st.sampled_from([1, 3, 4])), data.draw(st.sampled_from("<>"))
    kind, separate = data.draw(st.sampled_from(["u1", "i1", "u2"])), data.draw(st.booleans())
    samples = data.draw(arrays(kind, (3, 5, channels)))
    (result,) = decoded("pillow", [tiff(samples, order, separate)], None)  # type: ignore[arg-type]
    if isinstance(result, BadFile):
        assert kind == "i1" or (kind == "u2" and separate), result
        assert "save it" in result.reason
    else:
        assert kind != "i1"
        expected = (samples >> 8 * (samples.itemsize - 1)).astype(np.uint8).astype(float)
        if channels == 4:  # the fourth is opacity, before white
            opacity = expected[..., 3:] / 255
            expected = opacity * expected[..., :3] + (1 - opacity) * 255
        assert np.abs(result.numpy() - np.broadcast_to(expected, (3, 5, 3))).max() <= (channels == 4)


numbers = st.integers(1, 20000)
spaces = st.sampled_from([" ", "\n", "\t ", "\n# made by hand\n"])


@given(numbers, numbers, st.sampled_from("123456"), spaces, spaces)
def test_ppm_is_told_by_its_whole_header(width: int, height: int, kind: str, first: str, second: str) -> None:
    maximum = "" if kind in "14" else f"{second}255"
    head = f"P{kind}{first}{width}{second}{height}{maximum}\n"
    assert format_of(f"{head}0 1 0 1".encode()) == "PPM"
    if "#" not in head:
        assert format_of(f"P{kind} {width} photos of cats and dogs".encode()) is None
        assert format_of(f"P{kind} {width}x{height} 255\n".encode()) is None


def test_a_text_that_begins_like_an_image_is_none() -> None:
    for text in ("P5 2024 photos", "P6, page 3", "P1 is the first part", "P2 3 4 and 5 are parts"):
        assert not is_image("notes", lambda text=text: text.encode()), text
        (item,) = decoded("pillow", [text.encode()])
        assert isinstance(item, BadFile) and item.reason == NOT_AN_IMAGE


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF"])
@given(st.lists(st.sampled_from([b"\xef\xbb\xbf", b"\n", b"\r\n", b" ", b"\xff\xfe"]), min_size=1, max_size=5))
def test_bytes_before_an_image_are_named(format: str, marks: list[bytes]) -> None:
    before = b"".join(marks)
    (item,) = decoded("pillow", [before + encoded(photo(), format)])
    assert isinstance(item, BadFile)
    assert item.reason.startswith(
        f"{format} behind {len(before)} other byte{'s' * (len(before) > 1)}, a byte-order mark"
    )


def test_what_shards_ignore_has_a_place(tmp_path: Path) -> None:
    members = [("1.jpg", "1"), ("1.cls", "cat"), ("2.jpg", "2"), ("2.cls", "dog"), ("1.nef", "raw"), ("2.bin", "b")]
    write_shard(tmp_path / "a.tar", members)
    *_, line = understood("a.tar", read_dataset(tmp_path / "a.tar"))
    assert line == "2 files ignored: 1 .bin in the top folder, 1 .nef in the top folder"
