"""CUDA graphs: forward, backward, clipping and the optimiser's step, captured once and then replayed with one launch.

Whatever the host decides from step to step stays outside: mixing, learning rates, rifle's new heads, bituning's key
encoder, and the averaged weights, whose decay changes. So does all after backward with fp16, as the host reads whether
its loss scale skips a step. All of that, and a checkpoint that is loaded, writes to parameters, buffers, scale,
learning rates and the optimiser's state where they are, so that a graph that has read them once remains right.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..batches.plan import StepPlan

WARMUP = 3
"""Steps of each kind that are run before one is captured, in which libraries choose kernels and take memory."""

Work = Callable[[tuple[Tensor, ...], StepPlan], Tensor]
"""Adds the gradients of a batch's loss to parameters that have none, may update these, and returns the loss."""


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

    Everything runs on the parameters' device. Warm-ups and captures have one side stream, and all graphs one pool of
    memory: replays follow each other on the caller's stream, and what one has left is used before the next.
    """

    def __init__(self, work: Work, parameters: Iterable[nn.Parameter]) -> None:
        self.work = work
        self.parameters = list(parameters)
        self.device = self.parameters[0].device
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

    @cached_property
    def _side_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    @cached_property
    def _pool(self) -> Any:
        """What torch knows the memory of all graphs by."""
        return torch.cuda.graph_pool_handle()

    def _on_side_stream(self, work: Callable[[], Tensor]) -> Tensor:
        """Does work on the side stream: work has to be warmed up there before it is captured."""
        caller = torch.cuda.current_stream(self.device)
        self._side_stream.wait_stream(caller)
        with torch.cuda.stream(self._side_stream):
            result = work()
        caller.wait_stream(self._side_stream)
        return result

    def _capture(self, images: tuple[Tensor, ...], plan: StepPlan) -> tuple[Callable[[], object], Tensor]:
        """A function that repeats the work on these tensors, and the loss that it writes; nothing is computed yet."""
        graph: Any = torch.cuda.CUDAGraph()
        # Without a stream, torch captures on one of the device that was current when it captured first. Threads that
        # decode images may copy to the device meanwhile.
        capturing = torch.cuda.graph(
            graph, pool=self._pool, stream=self._side_stream, capture_error_mode="thread_local"
        )
        with torch.cuda.device(self.device), capturing:
            loss = self.work(images, plan)
        return graph.replay, loss
