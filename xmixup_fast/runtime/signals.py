"""Interruption: Ctrl-C ends a command with a line at any moment; SIGINT and SIGTERM end training after its step.

Nothing here needs more than a few small modules, so that an interrupt is a line while all others are imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

STOPPED = "stopped"
"""What a command says that was interrupted, where there is no more to say."""
INTERRUPTED = 128 + signal.SIGINT
"""Its exit status."""

unfinished: set[Path] = set()
"""Files and folders that are there for the time of the work, and go where the process ends at once."""
made_folders: set[Path] = set()
"""Folders that were made for what is to be written, and go with them where they are still empty."""
_interrupts: list[int] = []
"""The interrupts that have come since :func:`interruptible` began."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop (Ctrl-C, SIGTERM), and has saved where it is."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        """The signal's."""


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Has SIGINT end a command with one line; the function given tells whether SIGINT has come.

    It raises KeyboardInterrupt, so that what is half-written is removed on the way out. While a module is imported, it
    ends the process at once: there, libraries swallow the exception, print it, or make another one of it. The same goes
    for a destructor or a callback, whose exceptions Python prints and forgets.

    Nothing changes in a thread other than the main one, where SIGINT is ignored, as in the background of a shell, and
    where a program has a handler of its own.
    """
    handler = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or handler is not signal.default_int_handler:
        yield lambda: handler is _interrupt and bool(_interrupts)
        return
    _interrupts.clear()
    hook = sys.unraisablehook

    def end_or_show(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _end_at_once()
        hook(unraisable)

    sys.unraisablehook = end_or_show
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield lambda: bool(_interrupts)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = hook


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end_at_once()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_at_once() -> NoReturn:
    """Ends the process with a line, without what Python does at its end."""
    for path in unfinished:
        if path.is_dir():
            from shutil import rmtree

            rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for path in sorted(made_folders, reverse=True):  # those within a folder before it
        with suppress(OSError):  # not empty
            path.rmdir()
    try:
        os.write(2, f"{STOPPED}\n".encode())
    finally:  # also where nobody reads it
        os._exit(INTERRUPTED)


@contextmanager
def catching_signals() -> Iterator[Callable[[], int | None]]:
    """Keeps SIGINT and SIGTERM from ending the process for a while; the function given tells which has come.

    A second signal does what it does by default. Only the main thread can catch signals; in others nothing changes.
    """
    caught: list[int] = []
    handled = (signal.SIGINT, signal.SIGTERM)

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.signal(number, remember) for number in handled}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
