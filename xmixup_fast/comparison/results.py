"""The file of results, one JSON object per line, to which several processes may add lines at the same time.

Any of them may die at any time: an incomplete last line is ignored and overwritten, and no lock outlives its process.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from ..settings.fields import Settings
from ..settings.identity import NOT_HASHED

APPEND_BYTE = 0
"""The byte of the lock file that a process locks while it adds a line. Byte 1 + KEY is the claim of a run."""


class Results:
    """The lines of the file, and claims of processes on runs whose lines are still to be added.

    Claims and locks are POSIX record locks on single bytes of one lock file. The system releases a process's locks when
    it ends, however it ends, so there are no stale ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path.with_suffix(".work")
        """The folder of runs that are not finished, of logs of failed runs, and of the lock file."""

    def lines(self) -> list[dict[str, Any]]:
        """All complete lines; a last line without its end, as a dying process leaves it, is ignored.

        Raises ValueError, with the line's number, for a line that is not a JSON object.
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
        """Adds a line, in place of an incomplete last one, and returns once it is on disk."""
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, APPEND_BYTE)
        try:
            with self.path.open("ab+") as file:
                file.seek(0)
                text = file.read()
                file.truncate(text.rfind(b"\n") + 1)
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, APPEND_BYTE)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Context that claims a run by its key, a hexadecimal number, and yields whether the claim succeeded.

        It fails where another process holds the claim.
        """
        position = 1 + int(key, 16)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, position)

    @cached_property
    def _lock(self) -> int:
        # Closing any descriptor of a file releases all of a process's locks on it, so this one stays open to the end.
        self.work.mkdir(parents=True, exist_ok=True)
        return os.open(self.work / "lock", os.O_RDWR | os.O_CREAT, 0o644)


def check_data(lines: Iterable[Mapping[str, Any]], keys: Container[str]) -> None:
    """Raises ValueError where runs with these keys were made on different images of one target.

    Lines of runs that recorded no fingerprint of their images are not looked at.
    """
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        if line["key"] in keys and line.get("data"):
            counts.setdefault(line["target"], Counter())[line["data"]] += 1
    for target, found in counts.items():
        if len(found) > 1:
            each = ", ".join(f"{data} in {count}" for data, count in found.most_common())
            raise ValueError(
                f"results: the images of target {target} have changed between its runs (fingerprint {each}), so their "
                "accuracies cannot be compared; make all of them anew with another --results"
            )


def now() -> str:
    """The time at which a line is added, in UTC: text that sorts by time."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def changed_settings(settings: Settings) -> dict[str, Any]:
    """The settings that matter and are not the defaults, for the reader of a line; folders are left out."""
    defaults = {item.name: item.default for item in fields(Settings)}
    values = {
        name: value for name, value in asdict(settings).items() if value != defaults[name] and name not in NOT_HASHED
    }
    return {name: json.loads(without_folders(json.dumps(value))) for name, value in values.items()}


def without_folders(text: str) -> str:
    """The text with the last parts alone of the absolute paths in it."""
    return re.sub(r"(?<![\w.{}~/-])/(?:[^\s/:\"']+/)*(?=[^\s/:\"'])", "", text)
