"""CUDA graphs: the forward and backward of a step, captured once and then replayed with one launch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..batches.plan import Draw
from ..ops.image_pool import Crops

WARMUP = 3
"""Steps of each kind that are run before one is captured, in which libraries choose kernels and take memory."""

Work = Callable[[tuple[Tensor, ...], Draw], Tensor]
"""Adds the gradients of a batch's loss to the parameters, which have none before; returns the loss."""


@dataclass
class _Kind:
    """The steps whose batches lie at the same place."""

    inputs: tuple[Tensor, ...]
    steps: int = 0
    """How many have been run."""
    draw: Draw | None = None
    """What the graph reads besides the batches."""
    replay: Callable[[], object] | None = None
    loss: Tensor | None = None
    """What a replay writes."""
    gradients: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)
    """What a replay writes, too."""


class CudaGraphRunner:
    """Does some work on batches and draws, from the fourth step on by replaying what was captured of it.

    Batches are read where they are: what is rendered into another buffer (in seqtrain's first phase, or where xmixup
    pastes rectangles) is work of another kind, with a graph of its own. Draws are copied. Nothing in the work may wait
    for the device, or depend on values in host memory that change.
    """

    def __init__(self, work: Work, parameters: Iterable[nn.Parameter]) -> None:
        self.work = work
        self.parameters = list(parameters)
        self._kinds: dict[tuple[int, ...], _Kind] = {}

    def __call__(self, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        kind = self._kinds.setdefault(tuple(batch.data_ptr() for batch in inputs), _Kind(inputs))
        kind.steps += 1
        if kind.steps <= WARMUP:
            return self._on_side_stream(lambda: self.work(inputs, draw))
        if kind.replay is None or kind.draw is None or kind.loss is None:
            kind.draw = copy.deepcopy(draw)
            kind.replay, kind.loss = self._capture(inputs, kind.draw)
            kind.gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
        torch._foreach_copy_(tensors(kind.draw), tensors(draw))
        kind.replay()
        for parameter, gradient in kind.gradients:
            parameter.grad = gradient
        return kind.loss

    def _on_side_stream(self, work: Callable[[], Tensor]) -> Tensor:
        """Does it on another stream, as what is to be captured has to be warmed up."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = work()
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _capture(self, inputs: tuple[Tensor, ...], draw: Draw) -> tuple[Callable[[], object], Tensor]:
        """How to do the work on these very tensors again, and where its loss will be. Nothing is computed yet."""
        graph: Any = torch.cuda.CUDAGraph()
        # Threads that decode images may copy to the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = self.work(inputs, draw)
        return graph.replay, loss


def tensors(draw: Draw) -> list[Tensor]:
    """All tensors of a draw, in a fixed order."""
    found: list[Tensor] = []
    for each in fields(draw):
        value = getattr(draw, each.name)
        found += value if isinstance(value, Crops) else [value] if isinstance(value, Tensor) else []
    return found
