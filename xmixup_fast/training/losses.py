"""The losses and durations of steps, brought to the host without a wait for the GPU.

On a GPU the host queues steps ahead of their computation, and must not read a value of the step that it has just
queued. So each loss is copied to a slot of a ring in pinned memory, behind an event, and is read when the event has
passed, some steps later. The few reads that do wait are those before a checkpoint and at the end of an epoch, and one
where the host is a whole ring ahead. On a CPU a step is done when its function returns, and its loss is read at once.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..runtime import distributed

SLOTS = 64
"""Losses that can be on their way from a GPU at once."""
AGREEMENT_SECONDS = 0.5
"""About how often processes on GPUs agree on signals and checkpoints, which their hosts wait for."""


class StepLoss(NamedTuple):
    """What is known of a step once it is done."""

    step: int
    """The number of the step, counted from 1."""
    loss: float
    """Its loss, summed over the processes."""
    seconds: float
    """Its duration: of its work on the GPU, or of the call on a CPU."""


@dataclass
class _Slot:
    """Room for a loss on its way to the host."""

    value: Tensor
    """float64[], in pinned memory."""
    begin: torch.cuda.Event = field(default_factory=lambda: torch.cuda.Event(enable_timing=True))
    end: torch.cuda.Event = field(default_factory=lambda: torch.cuda.Event(enable_timing=True))
    step: int = 0


class StepLosses:
    """Collects the losses of the steps on a device, whose processes all read the same ones after the same step.

    Call :meth:`begin` before a step and :meth:`end` after it.

    Args:
        device: where the losses are computed.
        slots: how many of them can be on their way from a GPU at once.
    """

    def __init__(self, device: torch.device, slots: int = SLOTS) -> None:
        self._device = device
        self._started = 0.0
        self._pending: deque[_Slot] = deque()
        self._free: deque[_Slot] = deque()
        if device.type == "cuda":
            values = torch.zeros(slots, dtype=torch.float64).pin_memory()
            self._free.extend(_Slot(value) for value in values.unbind())

    def begin(self) -> None:
        """Marks the begin of a step."""
        if self._device.type == "cuda":
            self._free[0].begin.record(torch.cuda.current_stream(self._device))
        else:
            self._started = time.perf_counter()

    def end(self, step: int, loss: Tensor) -> list[StepLoss]:
        """Marks the end of a step, and takes its loss, this process's part of it as a scalar on the device.

        Returns the losses that are read now: on a CPU this one; on a GPU none, or the oldest where no slot is left for
        the next step, for which the host then waits.
        """
        if self._device.type != "cuda":
            (value,) = distributed.all_reduce_sum(float(loss))
            return [StepLoss(step, value, time.perf_counter() - self._started)]
        slot = self._free.popleft()
        slot.step = step
        slot.value.copy_(distributed.sum_on_device(loss.double()), non_blocking=True)
        slot.end.record(torch.cuda.current_stream(self._device))
        self._pending.append(slot)
        return [] if self._free else [self._oldest()]

    def unfinished(self) -> int:
        """How many of the last steps the device has not done yet."""
        done = 0
        for slot in self._pending:
            if not slot.end.query():
                break
            done += 1
        return len(self._pending) - done

    def read(self, left: int = 0) -> list[StepLoss]:
        """Reads all losses but the last ``left``. Waits for those of steps that are not done yet."""
        return [self._oldest() for _ in range(len(self._pending) - left)]

    def _oldest(self) -> StepLoss:
        slot = self._pending.popleft()
        if not slot.end.query():
            slot.end.synchronize()
        self._free.append(slot)
        return StepLoss(slot.step, float(slot.value), slot.begin.elapsed_time(slot.end) / 1000)


def agreement_interval(device: torch.device, step_seconds: float) -> int:
    """How many steps there are between two agreements of the processes on ``device``, from how long a step takes.

    One where asking costs the device nothing: in a single process, and on a CPU, whose steps are done when they return.
    """
    if distributed.world_size() == 1 or device.type == "cpu" or step_seconds <= 0:
        return 1
    return min(max(int(AGREEMENT_SECONDS / step_seconds), 1), SLOTS)
