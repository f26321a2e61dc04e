"""What tar files hold that cannot be used, and where they are damaged, as tarfile does not tell."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Literal


def check_end(tar: tarfile.TarFile) -> None:
    """Raises ReadError where a tar file that was read does not end: tarfile takes a damaged header for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a header nor the end at byte {tar.offset}")


def unusable(member: tarfile.TarInfo) -> str | None:
    """Why a member cannot be used; None for a plain file inside of the archive."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads out of the archive"
    if member.isdir():
        return "a folder, not a file"
    if not member.isreg() or member.issparse():
        return "a link or special member, not a plain file"
    return None


def as_source(path: Path | Literal[False]) -> str:
    """What messages say of archives and class tars, which are sources where a URL names them.

    Args:
        path: of the file or folder; False where a URL names it already.
    """
    where = f"file://{path.absolute()}" if path else "name it by its URL"
    return f"class tars and archives of class folders can be a --source: {where}"
