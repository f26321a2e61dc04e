"""What commands write to: consoles of any encoding, pipes that nobody reads any more, and none at all."""

from __future__ import annotations

import io
import os
import sys

BROKEN_PIPE = 128 + 13
"""Exit status of a command whose output nobody reads any more, as of a process that SIGPIPE has ended."""
HARMLESS = ("backslashreplace", "namereplace", "xmlcharrefreplace", "replace", "ignore")
"""Ways of encoding a text that never fail, which a user may have chosen by PYTHONIOENCODING."""


def accept_any_text() -> None:
    """Has stdout and stderr take any text: escapes stand for letters that their encodings lack, as of file names.

    Where one of them was closed before the process began, what is written to it goes nowhere.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (open to the end)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors not in HARMLESS:
            stream.reconfigure(errors="backslashreplace")


def flush_fault() -> OSError | None:
    """Writes what stdout holds back. Returns why that fails; what is written to stdout then goes nowhere."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout.fileno())
        return error if isinstance(error, BrokenPipeError) else OSError(f"standard output: {error.strerror or error}")
    return None


def complain(text: str) -> None:
    """Writes a line to stderr, where somebody still reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # as in: xmixup ... 2>&1 | head
        _discard(sys.stderr.fileno())


def _discard(descriptor: int) -> None:
    """Has all that is written to a file descriptor go nowhere, as Python writes the rest when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
