"""Stand-ins for streams, graphs and checks of torch.cuda, with which tests that need a GPU run on the CPU.

What they show of a GPU is nothing: they show that the tests themselves run, and fail for wrong results.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Stream:
    """A stream that has done all of its work, and says that it is busy."""

    def __init__(self, device: Any = None) -> None:
        self.device = device

    def wait_stream(self, other: Stream) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return False


class Event:
    """An event that has passed when it is recorded."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.seconds = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.seconds = time.perf_counter()

    def elapsed_time(self, later: Event) -> float:
        return 1e3 * (later.seconds - self.seconds)


class Recorder(TorchDispatchMode):
    """Does and keeps all calls of operators, so that a graph can repeat them on the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[Any, tuple[Tensor, Tensor]] = {}
        """What calls read or write, each tensor with a copy of it before the first of these calls."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                key = (tensor.data_ptr(), tensor.shape, tensor.stride())
                if key not in self.before:
                    self.before[key] = (tensor.detach(), tensor.detach().clone())
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def undo(self) -> None:
        """Leaves all tensors as they were: while a graph is captured, a device computes nothing."""
        for tensor, value in self.before.values():
            if not torch.equal(tensor, value):
                tensor.copy_(value)


class Graph:
    """A graph whose replay repeats what was done while it was captured, and writes to the same results."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, captured in self.calls:
            for old, new in zip(tree_leaves(captured), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextmanager
def capture(graph: Graph, **options: Any) -> Iterator[None]:
    random = torch.get_rng_state()
    with Recorder() as recorder:
        yield
    graph.calls = recorder.calls
    recorder.undo()
    torch.set_rng_state(random)  # a capture draws no number, and each replay draws from the generator as it then is


STAND_INS: dict[str, Any] = {
    "Stream": Stream,
    "Event": Event,
    "CUDAGraph": Graph,
    "graph": capture,
    "graph_pool_handle": lambda: None,
    "current_stream": lambda device=None: Stream(),
    "stream": lambda stream: nullcontext(),
    "device": lambda device: nullcontext(),
    "synchronize": lambda device=None: None,
    "set_sync_debug_mode": lambda mode: None,
    "_sleep": lambda cycles: None,
}
"""By their names in torch.cuda."""


def stand_in(patch: pytest.MonkeyPatch) -> None:
    for name, value in STAND_INS.items():
        patch.setattr(torch.cuda, name, value)


DOCS = Path(__file__).resolve().parents[2] / "docs" / "cuda.md"


def unlisted(tests: Path, rehearsal: Path) -> set[str]:
    """Names of a file's tests that neither its rehearsal calls nor docs/cuda.md lists as never run, or both do."""
    named = set(re.findall(r"^def (test_\w+)", tests.read_text(), re.M))
    called = set(re.findall(rf"\b{tests.stem}\.(test_\w+)", rehearsal.read_text()))
    listed = set(re.findall(r"`(test_\w+)`", DOCS.read_text())) & named
    return (named - called) ^ listed
