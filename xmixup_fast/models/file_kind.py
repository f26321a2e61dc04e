"""Tells by its first bytes what a file is that was given for weights and holds none that can be read."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

INCOMPLETE = "it is cut short; copy or download it again"

_TEXTS = (
    (rb"version https://git-lfs", "it is a pointer of Git LFS; get the file itself: git lfs pull"),
    (rb"(?i)<(!doctype|html)", "it is a web page; download the file itself"),
)
_STARTS = (
    (rb"\x08.[\x12\x1a\x22\x3a\x42]", "it is an ONNX file; take the weights that it was exported from"),
    (rb"\x89HDF", "it is an HDF5 file, as Keras writes them; take weights of PyTorch"),
    (rb"GGUF", "it is a GGUF file; take weights of PyTorch"),
    (rb"\x93NUMPY", "it is one array of NumPy; take a state dict, or the .npz of JAX"),
    (rb"\x1f\x8b", "it is compressed; unpack it with gunzip or tar"),
    (rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "it is compressed; unpack it"),
    (rb"\x89PNG|\xff\xd8\xff|%PDF", "it is no weights file but an image or a document; name the weights"),
)
"""Patterns of a file's first bytes, and what to do with such a file."""


def is_safetensors(file: Path) -> bool:
    """Whether a file begins as safetensors files do: the header's length, 8 bytes, and then JSON."""
    with file.open("rb") as opened:
        start = opened.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**32


def foreign(file: Path) -> str | None:
    """What a file is, and what to do with it, where it can be no file of ``torch.save``; None where it may be one."""
    with file.open("rb") as opened:
        start = opened.read(512)
    if not start:
        return "it is empty; copy or download it again"
    if start.startswith(b"PK\x03\x04"):
        return _archive(file)
    found = next((what for pattern, what in _STARTS if re.match(pattern, start, re.DOTALL)), None)
    if start[257:262] == b"ustar":
        return "it is a tar archive; unpack it, and name the weights in it"
    if found is None and not re.search(rb"[\x00-\x08\x0e-\x1f]", start):
        found = next((what for pattern, what in _TEXTS if re.match(pattern, start.lstrip())), None)
        found = found or "it is a text, which holds no weights; name the weights file"
    return found


def _archive(file: Path) -> str | None:
    """The same for a ZIP archive, as which ``torch.save`` and others write."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return INCOMPLETE
    if any(name.endswith(".npy") for name in names):
        return "it is an .npz file of NumPy; give it this suffix"
    how = "where you trust it, make a state dict of it: torch.save("
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return f'it is an exported program (torch.export); {how}torch.export.load("{file.name}").state_dict, "w.pth")'
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        return f'it is a TorchScript program; {how}torch.jit.load("{file.name}").state_dict(), "w.pth")'
    if not any(name.endswith("data.pkl") for name in names):
        return "it is a ZIP archive; unpack it, and name the weights in it"
    return None
