"""A GPU that does nothing before somebody waits for it: a stand-in for torch.cuda on the CPU, for tests of streams.

Its tensors have values. An operation on them is queued on a stream, and changes them when the queue is run. That is
only where the host reads a value of that stream, or where a stream that is run waits for it. So whatever was queued and
not waited for reads as zeros. It is GPU 1, while GPU 0 is the current device of threads that have chosen none.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU = torch.device("cuda:1")
Work = Callable[[], object]


class Event:
    """A place in the queue of a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.position = stream, stream.queued


class Stream:
    """Work in its order. ``capture`` takes the work in place of the queue, while a graph is captured."""

    def __init__(self, device: torch.device, number: int) -> None:
        self.device = device
        self.cuda_stream = number
        """0 is the device's default stream."""
        self.queue: deque[Work] = deque()
        self.queued = self.done = 0
        self.capture: list[Work] | None = None
        self.lock = threading.RLock()

    def put(self, work: Work) -> None:
        if self.capture is not None:
            self.capture.append(work)
            return
        with self.lock:
            self.queue.append(work)
            self.queued += 1

    def run(self, position: int) -> None:
        """Does the first ``position`` pieces of all work."""
        with self.lock:
            while self.done < position:
                self.done += 1
                self.queue.popleft()()

    def synchronize(self) -> None:
        self.run(self.queued)

    def record_event(self) -> Event:
        return Event(self)

    def wait_event(self, event: Event) -> None:
        self.put(lambda: event.stream.run(event.position))

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())


class Memory:
    """Memory of the GPU. It is a fault to free it while a stream uses it that the allocator does not know of."""

    def __init__(self, gpu: LateGPU, stream: Stream) -> None:
        self.gpu = gpu
        self.known, self.used = {stream}, {stream}

    def __del__(self) -> None:
        if self.used - self.known:
            self.gpu.faults.append("memory is freed while another stream uses it")


class LateTensor(Tensor):
    """A tensor on the GPU. ``contents`` has the values as of the work that has been done."""

    contents: Tensor
    memory: Memory
    __torch_function__ = torch._C._disabled_torch_function_impl

    device = GPU  # for Python alone: torch's own code would make it the current device, which is not there

    @staticmethod
    def __new__(cls, real: Tensor, memory: Memory) -> LateTensor:
        places = {"strides": real.stride(), "storage_offset": real.storage_offset()}
        made: LateTensor = Tensor._make_wrapper_subclass(cls, real.shape, **places, dtype=real.dtype, device="meta")
        made.contents, made.memory = real, memory
        return made

    def record_stream(self, stream: Stream) -> None:
        self.memory.known.add(stream)

    def data_ptr(self) -> int:
        return self.contents.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        memory = next(tensor.memory for tensor in given if isinstance(tensor, LateTensor))
        return memory.gpu.dispatch(func, args, kwargs or {}, given)


class Graph:
    """What torch.cuda.CUDAGraph and torch.cuda.graph make."""

    def __init__(self, gpu: LateGPU) -> None:
        self.gpu, self.work = gpu, list[Work]()

    def replay(self) -> None:
        stream = self.gpu.current_stream(GPU)
        for work in self.work:
            stream.put(work)


class LateGPU:
    """The functions of torch.cuda. ``faults`` are what a GPU would not forgive, ``reads`` count copies to the host."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.reads = 0
        self.streams: list[Stream] = []
        """All but the default ones."""
        self.graphs: list[dict[str, Any]] = []
        """How each graph was captured: its pool, stream and mode."""
        self.pools = 0
        self.defaults = {index: Stream(torch.device("cuda", index), 0) for index in range(2)}
        self.thread = threading.local()

    # --- as in torch.cuda ---

    def current_device(self) -> int:
        return int(getattr(self.thread, "device", 0))

    def current_stream(self, device: torch.device | None = None) -> Stream:
        index = self.current_device() if device is None or device.index is None else device.index
        stream: Stream = getattr(self.thread, f"stream{index}", self.defaults[index])
        return stream

    def set_stream(self, stream: Stream) -> None:
        setattr(self.thread, f"stream{stream.device.index}", stream)
        self.thread.device = stream.device.index

    def new_stream(self, device: torch.device | None = None) -> Stream:
        index = self.current_device() if device is None or device.index is None else device.index
        self.streams.append(Stream(torch.device("cuda", index), len(self.streams) + 1))
        return self.streams[-1]

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, device = self.current_stream(stream.device), self.current_device()
        self.set_stream(stream)
        yield
        self.set_stream(before)
        self.thread.device = device

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before = self.current_device()
        self.thread.device = before if device.index is None else device.index
        yield
        self.thread.device = before

    def graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    @contextlib.contextmanager
    def graph(self, graph: Graph, **options: Any) -> Iterator[None]:
        stream = options["stream"] or self.new_stream()
        self.graphs.append({**options, "stream": stream, "device": self.current_device()})
        for one in (stream, *self.defaults.values()):
            one.synchronize()
        with self.stream(stream):
            stream.capture = graph.work
            yield
            stream.capture = None

    # --- tensors ---

    def tensor(self, values: Tensor) -> LateTensor:
        """A copy of a CPU tensor, there at once."""
        return LateTensor(values.clone(), Memory(self, self.current_stream(GPU)))

    def upload(self, source: Tensor, non_blocking: bool) -> LateTensor:
        """Queues a copy of a CPU tensor."""
        if not (non_blocking and getattr(source, "pinned", False)):
            raise AssertionError("a copy for which the host waits: from pageable memory, or not non_blocking")
        made, stream = self.tensor(torch.zeros_like(source)), self.current_stream(GPU)
        real = made.contents
        stream.put(lambda: real.copy_(source))
        return made

    def dispatch(self, func: Any, args: Any, kwargs: dict[str, Any], given: list[Tensor]) -> Any:
        """Queues an operation on tensors of the GPU, or does it where the host wants the result."""
        stream = self.current_stream(GPU)
        memories = [tensor.memory for tensor in given if isinstance(tensor, LateTensor)]
        real_args, real_kwargs = tree_map(_real, args), tree_map(_real, kwargs)
        if func.is_view:
            return tree_map(lambda one: LateTensor(one, memories[0]), func(*real_args, **real_kwargs))
        for memory in memories:
            memory.used.add(stream)
        to_cpu = func is aten._to_copy.default and torch.device(kwargs.get("device", GPU)).type == "cpu"
        if to_cpu or func is aten._local_scalar_dense.default:
            self.reads += 1
            stream.synchronize()
            return func(*real_args, **real_kwargs)
        if any(tensor.dim() and not isinstance(tensor, LateTensor) for tensor in given):
            raise AssertionError(f"{func}: a CPU tensor")
        if func._schema.is_mutable:
            stream.put(lambda: func(*real_args, **real_kwargs))
            return args[0] if func._schema.returns else None
        template = func(*real_args, **real_kwargs)  # its shape is right, its values may be too early
        made = tree_map(lambda one: LateTensor(torch.zeros_like(one), Memory(self, stream)), template)
        places = [one.contents for one in tree_leaves(made)]

        def work() -> None:
            for place, result in zip(places, tree_leaves(func(*real_args, **real_kwargs)), strict=True):
                place.copy_(result)

        stream.put(work)
        return made

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Puts this GPU into the place of torch.cuda."""
        functions = ("current_device", "current_stream", "set_stream", "stream", "device", "graph", "graph_pool_handle")
        for name in functions:
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "Stream", self.new_stream)
        patch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        original_to, original_empty = Tensor.to, torch.empty

        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            on_gpu = args and isinstance(args[0], torch.device) and args[0].type == "cuda"
            if on_gpu:
                late = isinstance(tensor, LateTensor)
                return tensor if late else self.upload(tensor, kwargs.get("non_blocking", False))
            return original_to(tensor, *args, **kwargs)

        def empty(*args: Any, device: torch.device | None = None, **kwargs: Any) -> Tensor:
            if device is None or torch.device(device).type == "cpu":
                return original_empty(*args, **kwargs)
            return self.tensor(torch.zeros(*args, **kwargs))

        patch.setattr(Tensor, "to", to)
        patch.setattr(torch, "empty", empty)
        patch.setattr(Tensor, "pin_memory", _pinned)


def _pinned(tensor: Tensor) -> Tensor:
    copy: Any = tensor.clone()
    copy.pinned = True
    return copy


def _real(value: Any) -> Any:
    """A tensor's values; and the CPU in place of the GPU, where an operation names it."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.contents if isinstance(value, LateTensor) else value
