"""Files that one process at a time has locked. The system releases a lock when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .files import check_writable
from .signals import made_folders, unfinished

LOCK = ".lock"
"""The file in a claimed folder that is locked, and that tells whose the folder is."""
FULL = {errno.ENOSPC, errno.EDQUOT}
"""Errors of file systems without room."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of file systems that have no locks."""


@contextmanager
def claimed(folder: Path) -> Iterator[str | None]:
    """Context in which this process owns a folder, which is made where it is not there.

    Folders that were made, and are empty at the end, are removed. Yields a line for the user where the file system has
    no locks, so that nothing keeps another process out; None everywhere else.

    Raises FileExistsError, which says whose the folder is, where it is another one's, in this process or elsewhere; and
    OSError where the folder cannot be made or written to. That of a full disk gets the folder's name if it has none.
    """
    place = folder.absolute()  # which stays the same where the working folder changes meanwhile
    made = [path for path in (place, *place.parents) if not path.exists()]
    made_folders.update(made)
    descriptor, warning = None, None
    try:
        descriptor = lock_file(place / LOCK, wait=False)
    except BlockingIOError:
        _remove_empty(made)
        raise FileExistsError(
            f"output: {folder} is in use by {_owner_of(place)}; name another folder, or wait for its end"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warning = f"output: {folder}: its file system has no locks ({error.strerror}): start no other run there"
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    unfinished.add(place / LOCK)
    (place / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}, since {started}\n")
    try:
        yield warning
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        raise OSError(f"output: {folder}: {error.strerror}") from error
    finally:
        # Removed while it is locked: who has opened it meanwhile finds that it is no longer the folder's.
        (place / LOCK).unlink(missing_ok=True)
        unfinished.discard(place / LOCK)
        if descriptor is not None:
            os.close(descriptor)
        _remove_empty(made)


@contextmanager
def owned_output(folder: Path | None, log: Callable[[str], object]) -> Iterator[None]:
    """Context in which this process owns the folder that a command writes to, which no other one can use meanwhile.

    ``folder`` is None for a command that writes nothing, or leaves it to another process. ``log`` gets a line where the
    file system has no locks. Raises as :func:`claimed` does, and OSError where the folder cannot be written to.
    """
    if folder is None:
        yield
        return
    check_writable(folder)
    with claimed(folder) as warning:
        if warning is not None:
            log(warning)
        yield


def _remove_empty(folders: Iterable[Path]) -> None:
    for path in folders:
        made_folders.discard(path)
        with suppress(OSError):  # not empty, or another process's by now
            path.rmdir()


def _owner_of(folder: Path) -> str:
    with suppress(OSError):  # it has just ended
        if text := (folder / LOCK).read_text(errors="replace").strip():
            return text
    return "another process"


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Context in which this process has locked a file. Raises as :func:`lock_file` does."""
    descriptor = lock_file(path, wait=wait)
    try:
        yield
    finally:
        os.close(descriptor)


def lock_file(path: Path, *, wait: bool) -> int:
    """The descriptor of a file that is locked until it is closed. File and folder are made where they are not there.

    Raises BlockingIOError where another one has the lock, unless this shall ``wait`` for it, and OSError where the file
    cannot be made or its file system has no locks.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the owner before has just removed the folder
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:  # the owner before has removed the file between our opening and locking it
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
