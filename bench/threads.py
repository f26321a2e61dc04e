"""Threads for the sides that work image by image."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import torch
from conftest import CORES, THREADS


def image_threads() -> ThreadPoolExecutor:
    """As many threads as the operators have, each free to run on any core and with torch's loops on itself alone."""

    def alone() -> None:
        os.sched_setaffinity(0, CORES)  # OMP_PROC_BIND binds the main thread, whose cores they would inherit
        torch.set_num_threads(1)

    return ThreadPoolExecutor(THREADS, initializer=alone)
