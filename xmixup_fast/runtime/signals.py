"""Interruption: Ctrl-C, SIGTERM and SIGHUP end a command with a line at any moment, and training after its step.

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
HANDLED: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
"""Ctrl-C, a request to end, and the end of the terminal, with what they do in Python."""

unfinished: set[Path] = set()
"""Files and folders that are there for the time of the work, and go where the process ends at once."""
made_folders: set[Path] = set()
"""Folders that were made for what is to be written, and go with them where they are still empty."""
_interrupts: list[int] = []
"""The signals that have come since :func:`interruptible` began."""


class Interrupted(KeyboardInterrupt):
    """A command was asked to stop by a signal, Ctrl-C among them; a run that trains has saved where it is."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        """The signal's."""


@contextmanager
def interruptible() -> Iterator[Callable[[], int]]:
    """Has signals end a command with one line; the function given tells the first one's number, 0 before it comes.

    They raise KeyboardInterrupt, so that what is half-written is removed on the way out. While a module is imported,
    they end the process at once: there, libraries swallow the exception, print it, or make another one of it. The same
    goes for a destructor or a callback, whose exceptions Python prints and forgets.

    Nothing changes in a thread other than the main one, in torchrun's processes but for Ctrl-C, for a signal that is
    ignored, as Ctrl-C in the background of a shell and the terminal's end with nohup, and where a program has a handler
    of its own.
    """
    is_main = threading.current_thread() is threading.main_thread()
    # One of torchrun's processes may wait for another that has ended: only the default ends it then.
    handled = [signal.SIGINT] if int(os.environ.get("WORLD_SIZE", "1")) > 1 else list(HANDLED)
    numbers = [number for number in handled if is_main and signal.getsignal(number) == HANDLED[number]]
    if not numbers:
        yield _first
        return
    _interrupts.clear()
    hook = sys.unraisablehook

    def end_or_show(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _end_at_once()
        hook(unraisable)

    sys.unraisablehook = end_or_show
    for number in numbers:
        signal.signal(number, _interrupt)
    try:
        yield _first
    finally:
        for number in numbers:
            signal.signal(number, HANDLED[number])
        sys.unraisablehook = hook


def _first() -> int:
    is_ours = any(signal.getsignal(number) is _interrupt for number in HANDLED)
    return _interrupts[0] if is_ours and _interrupts else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end_at_once()
        frame = frame.f_back
    raise Interrupted(STOPPED, number)


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
        os._exit(128 + (_interrupts or [signal.SIGINT])[0])


@contextmanager
def catching_signals() -> Iterator[Callable[[], int | None]]:
    """Keeps signals from ending the process for a while; the function given tells which has come.

    A second signal does what it does by default. Only the main thread can catch signals; in others nothing changes, nor
    for signals that are ignored.
    """
    caught: list[int] = []
    handled = [number for number in HANDLED if signal.getsignal(number) != signal.SIG_IGN]

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, HANDLED[signal.Signals(number)])

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.signal(number, remember) for number in handled}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
