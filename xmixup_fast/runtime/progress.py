"""Progress of long passes: a bar on a terminal or in a notebook, else a line of text now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import auto

from . import distributed

T = TypeVar("T")

LINE_SECONDS = 30.0
"""From one line to the next in a log that is no terminal, however long a step takes."""


class Progress:
    """A progress bar by tqdm; where stderr is neither a terminal nor a notebook's, lines on stderr in its place.

    Only the first process shows anything. Use it in a ``with`` statement, so that the bar goes away at its end.

    Args:
        total: the number of items; None where it is unknown.
        title: what is done, such as "decoding train images".
        unit: what the items are; B for bytes, of which large numbers are shown as MB.
        done: the number of items that were done before.
        hidden: show neither bar nor lines.
    """

    def __init__(
        self, total: int | None, title: str, *, unit: str = "images", done: int = 0, hidden: bool = False
    ) -> None:
        hidden = hidden or distributed.rank() > 0
        # By its name: outside of a notebook, tqdm.notebook would import IPython in vain.
        is_notebook = any(base.__module__ == "tqdm.notebook" for base in auto.tqdm.__mro__)
        has_bar = is_notebook or sys.stderr.isatty()
        self._bar = auto.tqdm(
            total=total,
            desc=title,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            initial=done,
            leave=False,
            disable=hidden or not has_bar,
        )
        self._title, self._unit, self._total = title, unit, total
        self._shown: dict[str, str] = {}
        self._before = self.done = done
        self._started = self._last_line = time.monotonic()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._lines = None if hidden or has_bar else threading.Thread(target=self._print_lines, daemon=True)

    def __enter__(self) -> Progress:
        if self._lines:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._lines:
            self._lines.join()
        self._bar.close()

    def update(self, count: int = 1, **shown: str) -> None:
        """Counts items that are done, by any thread; ``shown`` is what stands beside the bar, such as loss="0.123"."""
        with self._lock:
            self.done += count
            self._shown = shown
            if shown:
                self._bar.set_postfix(shown, refresh=False)
            self._bar.update(count)

    def write(self, text: str) -> None:
        """Prints a line on stdout, above the bar. A line of text about the progress then waits again."""
        self._last_line = time.monotonic()
        if self._bar.disable:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)

    def time_left(self) -> str:
        """The time left at the average pace so far, such as 01:23; empty where that is unknown, and at the end."""
        done = self.done - self._before
        if self._total is None or self.done >= self._total or not done:
            return ""
        seconds = (self._total - self.done) * (time.monotonic() - self._started) / done
        return str(auto.tqdm.format_interval(seconds))

    def _print_lines(self) -> None:
        """Prints lines until the pass ends: in a thread of its own, as one step may take minutes."""
        while not self._ended.wait(max(0.0, self._last_line + LINE_SECONDS - time.monotonic())):
            if time.monotonic() - self._last_line >= LINE_SECONDS:
                self._last_line = time.monotonic()
                print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        of, left = "" if self._total is None else f" of {self._amount(self._total)}", self.time_left()
        parts = [f"{name} {value}" for name, value in self._shown.items()] + ([f"{left} left"] if left else [])
        unit = "" if self._unit == "B" else f" {self._unit}"
        return ", ".join([f"{self._title}: {self._amount(self.done)}{of}{unit}", *parts])

    def _amount(self, count: int) -> str:
        return str(auto.tqdm.format_sizeof(count, "B")) if self._unit == "B" else str(count)


def progress(
    items: Iterable[T], total: int | None, title: str, *, count: Callable[[T], int] = lambda item: 1, **more: Any
) -> Iterator[T]:
    """Yields the items, with the :class:`Progress` of those that are done, whose arguments the others are.

    ``count`` tells how many an item counts for, such as the images of a batch.
    """
    with Progress(total, title, **more) as bar:
        for item in items:
            yield item
            bar.update(count(item))
