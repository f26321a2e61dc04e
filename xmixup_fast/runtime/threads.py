"""Requests in threads that do not keep a process from ending: Ctrl-C waits for no server."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")

IN_FLIGHT = 8
"""Requests at a time."""
_LAST_SECONDS = 2.0
"""How long threads are waited for at an error. Those whose server is silent are left behind, and write nothing more."""


def in_flight(call: Callable[[A], T], items: Iterable[A], ended: threading.Event | None = None) -> Iterator[T]:
    """What ``call`` returns for each item, as it comes, a few items at a time. Raises what ``call`` raises.

    At the end, also by an error, ``ended`` is set, which ``call`` has to look at before it writes what it has read.
    """
    ended = ended or threading.Event()
    todo, lock = iter(items), threading.Lock()
    # A few results wait, so that memory is bounded where the caller is slower.
    done: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(IN_FLIGHT)

    def put(result: list[T], error: BaseException | None) -> None:
        while not ended.is_set():
            try:
                return done.put((result, error), timeout=0.1)
            except queue.Full:
                pass

    def work() -> None:
        try:
            while not ended.is_set():
                with lock:
                    item = list(islice(todo, 1))
                if not item:
                    return put([], None)
                put([call(item[0])], None)
        except BaseException as error:
            put([], error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(IN_FLIGHT)]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            result, error = done.get()
            if error is not None:
                raise error
            running -= not result
            yield from result
    finally:
        ended.set()
        deadline = time.monotonic() + _LAST_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(deadline - time.monotonic(), 0))


def within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns. Raises TimeoutError where it takes longer; it then goes on in a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return future.result()
