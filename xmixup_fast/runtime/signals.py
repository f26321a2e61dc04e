"""Interruption: SIGINT and SIGTERM end a run after its step, not within."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop (Ctrl-C, SIGTERM), and has saved where it is."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        """The signal's."""


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
