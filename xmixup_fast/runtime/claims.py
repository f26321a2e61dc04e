"""Folders that one process at a time owns, by a lock that the system releases when the process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"
"""The file in an owned folder that is locked, and that tells whose the folder is."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of file systems that have no locks."""


@contextmanager
def claimed(folder: Path) -> Iterator[str | None]:
    """Context in which this process owns a folder, which is made where it is not there.

    Folders that were made, and are empty at the end, are removed. Yields a line for the user where the file system has
    no locks, so that nothing keeps another process out; None everywhere else.

    Raises FileExistsError, which says whose the folder is, where it is another one's, in this process or elsewhere; and
    OSError where the folder cannot be made or written to.
    """
    place = folder.absolute()  # which stays the same where the working folder changes meanwhile
    made = [path for path in (place, *place.parents) if not path.exists()]
    descriptor, warning = _locked(folder)
    try:
        yield warning
    finally:
        # Removed while it is locked: who has opened it meanwhile finds that it is no longer the folder's.
        (place / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        for path in made:
            with suppress(OSError):  # not empty, or another process's by now
                path.rmdir()


def _locked(folder: Path) -> tuple[int, str | None]:
    """The descriptor of the folder's locked file, and a line for the user where there are no locks. Raises OSError."""
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the owner before has just removed the folder
            continue
        warning = None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise FileExistsError(
                f"output: {folder} is in use by {owner}; name another folder, or wait for its end"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            warning = f"output: {folder}: its file system has no locks ({error.strerror}): start no other run there"
        if _is_at(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _owner().encode())
            return descriptor, warning
        os.close(descriptor)  # the owner before has removed the file between our opening and locking it


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _owner() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
