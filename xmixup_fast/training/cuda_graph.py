"""CUDA graphs: the forward and backward of a step, captured once and then replayed with one launch.

Only forward and backward are captured. Whatever the host decides from step to step stays outside: learning rates,
rifle's new heads, clipping, and whether fp16's loss scale skips a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batches.plan import StepPlan

WARMUP = 3
"""Steps of each kind that are run before one is captured, in which libraries choose kernels and take memory."""

Work = Callable[[tuple[Tensor, ...], StepPlan], Tensor]
"""Adds the gradients of a batch's loss to parameters that have none, and returns the loss."""


@dataclass
class _Kind:
    """The steps whose batches lie at the same addresses."""

    images: tuple[Tensor, ...]
    steps: int = 0
    """How many steps of this kind have been run."""
    plan: StepPlan | None = None
    """A copy of the plan, which the graph reads besides the batches."""
    replay: Callable[[], object] | None = None
    loss: Tensor | None = None
    """The loss, as a replay writes it."""
    gradients: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)
    """Parameters and their gradients, as a replay writes them."""


class CudaGraphRunner:
    """Does the work of a step; from the fourth step of a kind on, by replaying a graph that was captured once.

    A graph reads batches at fixed addresses: batches in another buffer (those of seqtrain's source phase) are steps of
    another kind, with a graph of their own. Plans are copied to fixed addresses. Nothing in the work may wait for the
    device, or depend on values in host memory that change.
    """

    def __init__(self, work: Work, parameters: Iterable[nn.Parameter]) -> None:
        self.work = work
        self.parameters = list(parameters)
        self._kinds: dict[tuple[int, ...], _Kind] = {}

    def __call__(self, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        kind = self._kinds.setdefault(tuple(batch.data_ptr() for batch in images), _Kind(images))
        kind.steps += 1
        if kind.steps <= WARMUP:
            return self._on_side_stream(lambda: self.work(images, plan))
        if kind.replay is None or kind.plan is None or kind.loss is None:
            kind.plan = copy.deepcopy(plan)
            kind.replay, kind.loss = self._capture(images, kind.plan)
            kind.gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
        torch._foreach_copy_(kind.plan.tensors(), plan.tensors())
        kind.replay()
        for parameter, gradient in kind.gradients:
            parameter.grad = gradient
        return kind.loss

    def _on_side_stream(self, work: Callable[[], Tensor]) -> Tensor:
        """Does work on a side stream: work has to be warmed up there before it is captured."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = work()
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _capture(self, images: tuple[Tensor, ...], plan: StepPlan) -> tuple[Callable[[], object], Tensor]:
        """A function that repeats the work on these tensors, and the loss that it writes; nothing is computed yet."""
        graph: Any = torch.cuda.CUDAGraph()
        # Threads that decode images may copy to the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = self.work(images, plan)
        return graph.replay, loss
