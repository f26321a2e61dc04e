"""The file of results, a JSON line each, that several processes may add to, and any may die at any time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

APPENDING = 0
"""The lock of whoever adds a line; those of runs are numbered by their keys."""


class Results:
    """Lines of a file, and claims on what is to be added.

    Locks are ranges of bytes in one lock file (POSIX record locks): the system lets go of a process's locks when it
    ends, however it ends, so that there are no stale ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path.with_suffix(".work")
        """Folder of runs that are not finished, and of the logs of failed ones."""

    def lines(self) -> list[dict[str, Any]]:
        """All lines; one that was not written to its end, as a dying process leaves it, is passed over.

        Raises ValueError, with the line's number, for what is no JSON object.
        """
        text = self.path.read_bytes() if self.path.exists() else b""
        lines = []
        for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append(None)
            if not isinstance(lines[-1], dict):
                raise ValueError(f"{self.path}: line {number} is no JSON object")
        return lines

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line, which is on disk afterwards, and removes one that was not written to its end."""
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, APPENDING)
        try:
            with self.path.open("ab+") as file:
                file.seek(0)
                text = file.read()
                file.truncate(text.rfind(b"\n") + 1)
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, APPENDING)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether nobody else has claimed what the key names; it is then this process's as long as the block lasts."""
        place = 1 + int(key, 16)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, place)

    @cached_property
    def _lock(self) -> int:
        # Closing any descriptor of the lock file would let go of all locks: so there is one, until the process ends.
        self.work.mkdir(parents=True, exist_ok=True)
        return os.open(self.work / "lock", os.O_RDWR | os.O_CREAT, 0o644)
