"""Calls of CUDA kernels with one wrong value, each in a process of its own, several at a time.

A device-side assert ends a process's CUDA context. The processes are forked from one that has imported torch and has
not touched CUDA: what takes a new process seconds is done once.

python forked_calls.py cuda
    prints a JSON line for each of kernel_calls.FAULTS: what the process printed, and its exit status
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulation
import pytest
import torch
from kernel_calls import FAULTS, call

from xmixup_fast.cli import exit_status

AT_ONCE = 8
BROKEN = 99
"""Exit status of a process that ended with another error than those that a command reports."""


def main(kind: str) -> None:
    if kind == "cuda_emulation":
        emulation.load()
        patch = pytest.MonkeyPatch()
        emulation.use(patch)
        library = torch.ops.xmixup_fast_cuda_emulation
        patch.setattr(torch.ops.xmixup_fast, "device_assert", library.device_assert)
    device = torch.device("cuda" if kind == "cuda" else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        for begin in range(0, len(FAULTS), AT_ONCE):
            numbers = range(begin, min(begin + AT_ONCE, len(FAULTS)))
            processes = {number: forked(number, device, Path(folder, str(number))) for number in numbers}
            for number, process in processes.items():
                _, status = os.waitpid(process, 0)
                printed = Path(folder, str(number)).read_text(errors="replace")
                ended = {"status": os.waitstatus_to_exitcode(status), "printed": printed}
                print(json.dumps({"fault": FAULTS[number], **ended}), flush=True)


def forked(number: int, device: torch.device, printed: Path) -> int:
    """Starts a process that makes a call as a command does, with what it prints in a file; returns its id."""
    process = os.fork()
    if process:
        return process
    name, change, *_ = FAULTS[number]

    def work() -> None:
        call(name, device, change)
        if device.type == "cuda":
            torch.cuda.synchronize()

    status = BROKEN
    try:
        file = os.open(printed, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):  # the driver prints a kernel's assertion there as well
            os.dup2(file, stream)
        status = exit_status(work)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # nothing of the parent's is to be ended here


def read(lines: str) -> Iterator[tuple[tuple[Any, ...], int, str]]:
    """Fault, exit status and printed text of each process, out of what :func:`main` prints."""
    for line in map(json.loads, lines.splitlines()):
        yield tuple(line["fault"]), line["status"], line["printed"]


if __name__ == "__main__":
    main(sys.argv[1])
