"""The formats of images, and how a file is told to be an image.

This is a list of our own, never Pillow's default: Pillow would start Ghostscript for an EPS file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath

NOT_AN_IMAGE = "not a JPEG, PNG, WebP, TIFF, GIF, BMP, ICO, PPM, JPEG 2000, AVIF, HEIC or TGA image"
"""What is wrong with a file in none of the formats."""

_EXTENSIONS = {
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .mpo",
    "PNG": ".png .apng",
    "WEBP": ".webp",
    "TIFF": ".tif .tiff",
    "GIF": ".gif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "ICO": ".ico",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "AVIF": ".avif .avifs",
    "HEIF": ".heic .heif .hif .heics .heifs",
    "TGA": ".tga .icb .vda .vst",
}

FORMATS = tuple(_EXTENSIONS)
"""Pillow's names of the formats. TGA is the last one, since its files do not begin with a magic number."""

EXTENSIONS = {extension for extensions in _EXTENSIONS.values() for extension in extensions.split()}
"""How the names of image files end, in lower case."""

_NO_IMAGES = {
    "camera RAW": ".3fr .ari .arw .bay .cap .cr2 .cr3 .crw .dcr .dcs .dng .drf .eip .erf .fff .gpr .iiq .k25 .kdc .mdc "
    ".mef .mos .mrw .nef .nrw .orf .ori .pef .ptx .pxn .r3d .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f",
    "texts and tables": ".txt .text .md .rst .csv .tsv .json .jsonl .ndjson .yaml .yml .toml .ini .cfg .xml .xmp .html "
    ".htm .css .js .log .svg .tex .rtf .pdf .doc .docx .odt .xls .xlsx .py .ipynb .sh .bat .parquet .npy .npz",
    "partial downloads": ".crdownload .opdownload .part .partial .filepart .download .tmp .temp .aria2",
}

OTHERS = {extension for extensions in _NO_IMAGES.values() for extension in extensions.split()}
"""How the names of files end that are no images whatever they begin with, in lower case."""

RAW = set(_NO_IMAGES["camera RAW"].split())
"""How the names of cameras' RAW files end. Many are TIFF files, whose first page is a thumbnail."""

NO_CAMERA_RAW = "camera RAW, of which only a preview could be read; convert it to JPEG, PNG or TIFF"
"""What is wrong with a camera's RAW file."""

HEAD = 32
"""As many first bytes tell a format."""

_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF.{4}WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]|II\0[*+]|MM[*+]\0",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c\x10(48@l|]\0{3}",  # then the size of one of the headers that there are
    "DIB": rb"(\x0c\0{3}.{4}|[(48@l|]\0{3}.{8})\x01\0",  # that size, and one plane
    "ICO": rb"\0\0\x01\0[^\0]\0.{3}\0",
    # Width, height and, but for black and white, the maximum; comments, which may be long, lie between.
    "PPM": rb"P(1\s+(#|\d+\s+(#|\d+\s+[01#]))|4\s+(#|\d+\s+(#|\d+\s))|[2356]\s+(#|\d+\s+(#|\d+\s+(#|\d+\s)))"
    rb"|[Ff]\s+\d+\s+\d+\s+-?\.?\d)",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "AVIF": rb".{4}ftyp(.{4})*?(avif|avis)",
    "HEIF": rb".{4}ftyp(.{4})*?(hei[cxms]|hev[cxms]|mif1|msf1)",
}
"""How files of each format begin. A later format is asked for where an earlier one does not fit."""

_RAW_MAGIC = re.compile(
    rb"II\*\0.{4}CR|IIU\0|II(RO|RS)|MMOR|II\x1a\0.{4}HEAP|FUJIFILMCCD-RAW|\0MRM|FOVb|.{4}ftypcrx ", re.DOTALL
)
"""How camera RAW begins where the first bytes tell it: CR2, RW2, ORF, CRW, RAF, MRW, X3F and CR3."""

_PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in _MAGIC.items()}


def format_of(head: bytes) -> str | None:
    """The format, one of FORMATS, of a file that begins with ``head``; None where the bytes do not tell, as of TGA."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(head[:HEAD])), None)


def extension_of(head: bytes) -> str | None:
    """How the name of a file that begins with ``head`` ends, such as ".jpg"; None where the bytes do not tell."""
    name = format_of(head)
    return None if name is None else _EXTENSIONS[name].partition(" ")[0]


def is_raw(name: str, head: bytes = b"") -> bool:
    """Whether a file is a camera's RAW file by its name, or by its first bytes where these alone tell it."""
    return PurePath(name).suffix.lower() in RAW or _RAW_MAGIC.match(head) is not None


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is an image, by its name or else by its first bytes.

    Args:
        name: the file's name.
        head: reads the first 32 bytes, or fewer; called where the name does not tell. What it raises is raised.
    """
    extension = PurePath(name).suffix.lower()
    return extension in EXTENSIONS or (extension not in OTHERS and format_of(head()) is not None)
