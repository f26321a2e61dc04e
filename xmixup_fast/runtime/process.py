"""A command as a process: with few passes of the garbage collector, and an end that no interrupt changes."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

GARBAGE_THRESHOLD = 10_000
"""Objects more than before, after which Python looks for garbage. By default it is 700 in Python 3.11: with the many
objects of torch's modules, and some for each image, the passes took a sixth of the time to a run's first step."""


def run_process(command: Callable[[], int]) -> NoReturn:
    """Does a command's work, and ends the process with the status that it returns."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    status = command()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt in Python's own last moments
    sys.exit(status)
