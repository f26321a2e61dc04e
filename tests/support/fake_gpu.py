"""A GPU that is not there: tensors with shapes and no values, events that pass late, and an error where a host waits.

All that has the host wait for a GPU raises :class:`HostWaits`: reading a value, results whose shape depends on values,
copies from or to memory that is not pinned, and synchronisation of an event, a stream or the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from timm.utils import model_ema
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transfer import Case, Tiny, without_replays

from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.methods import METHODS
from xmixup_fast.models.network import Network
from xmixup_fast.ops.augmentation import Augmentation
from xmixup_fast.ops.image_pool import Crops, ImagePool, Images
from xmixup_fast.runtime.device import upload
from xmixup_fast.training.trainer import Trainer

CUDA = torch.device("cuda:0")
SVD = {"linalg_svd", "_linalg_svd", "linalg_svdvals"}
READING = {"_local_scalar_dense", "equal", "is_nonzero", "allclose"}
SHAPED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
WAITING = SVD | READING | SHAPED_BY_VALUES
"""Operators whose kernels on a GPU have the host wait."""


class HostWaits(AssertionError):
    """The host waits for the GPU."""


class Waits:
    """Refuses waits, but where they are allowed, and has the GPU's events pass late."""

    def __init__(self, lag: int = 5) -> None:
        self.lag = lag
        self.clock = 0
        """Events that were recorded so far; each passes once ``lag`` later ones have been recorded."""
        self.are_allowed = False
        self.exceptions: set[str] = set()
        """Names of operators that may wait anywhere."""
        self._pinned: dict[int, Any] = {}

    def refuse(self, what: str) -> None:
        if not self.are_allowed and what not in self.exceptions:
            raise HostWaits(what)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        before, self.are_allowed = self.are_allowed, True
        try:
            yield
        finally:
            self.are_allowed = before

    def pin(self, tensor: Tensor) -> Tensor:
        """What Tensor.pin_memory() does."""
        pinned = tensor.clone()
        storage = pinned.untyped_storage()
        self._pinned[storage._cdata] = storage
        return pinned

    def refuse_pageable(self, tensor: Tensor, non_blocking: bool) -> None:
        """Refuses a copy between the GPU and a tensor on the CPU, unless it is pinned and the host goes on."""
        if tensor.numel() and not (non_blocking and tensor.untyped_storage()._cdata in self._pinned):
            self.refuse(f"a copy {'of memory that is not pinned' if non_blocking else 'that is waited for'}")


def event_type(waits: Waits) -> type:
    """A type in place of torch.cuda.Event."""

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            self.at: int | None = None

        def record(self, stream: Any = None) -> None:
            waits.clock += 1
            self.at = waits.clock

        def query(self) -> bool:
            return self.at is None or waits.clock >= self.at + waits.lag

        def synchronize(self) -> None:
            waits.refuse("Event.synchronize")
            waits.clock = max(waits.clock, (self.at or 0) + waits.lag)

        def elapsed_time(self, later: Event) -> float:
            assert self.query() and later.query(), "an event that has not passed"
            assert self.at is not None and later.at is not None and self.at < later.at
            return float(later.at - self.at)

    return Event


class Stream:
    """In place of the current stream."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def synchronize(self) -> None:
        self.waits.refuse("Stream.synchronize")


def patch_cuda(patch: pytest.MonkeyPatch, waits: Waits) -> None:
    """Replaces what the host says to a GPU besides its tensors' operators."""
    patch.setattr(torch.cuda, "Event", event_type(waits))
    patch.setattr(torch.cuda, "current_stream", lambda device=None: Stream(waits))
    patch.setattr(torch.cuda, "synchronize", lambda device=None: waits.refuse("synchronize"))
    patch.setattr(Tensor, "pin_memory", lambda tensor: waits.pin(tensor))


class FakeGPU(TorchDispatchMode):
    """Within a FakeTensorMode: CPU tensors stay real, so that the host can use their values; others are fake."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if any(isinstance(v, FakeTensor) or (isinstance(v, torch.device) and v.type == "cuda") for v in leaves):
            name = func._schema.name.split("::")[1]
            self._refuse_waits(name, args, kwargs)
            if name.startswith("_fused_"):  # an optimiser's step: there are no values to change, nor fake kernels
                assert all(leaf.device == CUDA for leaf in leaves if isinstance(leaf, Tensor)), f"{name}: a CPU tensor"
                return None
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)

    def _refuse_waits(self, name: str, args: Any, kwargs: Any) -> None:
        """Refuses an operator on tensors of the GPU, perhaps with some of the CPU, for which the host would wait."""
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_cpu = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        if name in WAITING and len(on_cpu) < len(tensors):
            self.waits.refuse(name)
        if name == "_to_copy":
            target = kwargs.get("device") or args[0].device
            if on_cpu and target.type == "cuda":
                self.waits.refuse_pageable(args[0], kwargs.get("non_blocking", False))
            elif not on_cpu and target.type == "cpu" and not kwargs.get("non_blocking", False):
                self.waits.refuse("a copy to the host")  # without a wait, torch pins its memory
        elif name == "copy_" and len(on_cpu) == 1:
            self.waits.refuse_pageable(on_cpu[0], args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        elif name in ("index", "index_put", "index_put_") and args[0].device.type == "cuda":
            for index in args[1]:
                if index is not None and index.device.type == "cpu":
                    self.waits.refuse("an index on the host")
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    self.waits.refuse("a mask as an index")


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """What loss.backward() does, one node after the other: autograd's engine wants a real device's streams."""
    order: dict[Any, None] = {}

    def visit(node: Any) -> None:
        if node is not None and node not in order:
            for following, _ in node.next_functions:
                visit(following)
            order[node] = None

    visit(loss.grad_fn)
    gradients: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    for node in reversed(order):
        given = gradients.pop(node, {})
        if hasattr(node, "variable"):
            parameter = node.variable
            parameter.grad = given[0] if parameter.grad is None else parameter.grad + given[0]
            continue
        inputs = [given.get(i) for i in range(len(node._input_metadata))]
        results = node.apply(*inputs) if hasattr(node, "apply") else node(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        # Of an operator's arguments, those that are no tensors come last, and have no edge.
        for (following, number), result in zip(node.next_functions, results, strict=False):
            if following is None or result is None:
                continue
            expected = following._input_metadata[number]
            assert result.device == expected.device == CUDA, f"{node.name()}: a gradient on {result.device}"
            result = result.sum_to_size(expected.shape).to(expected.dtype)
            known = gradients.setdefault(following, {})
            known[number] = known[number] + result if number in known else result


@contextmanager
def fake_gpu(patch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """A context with a GPU without values, of which PyTorch believes that it can do AMP."""
    waits = Waits()
    generator, overwrites = torch.Generator, torch.__future__.get_overwrite_module_params_on_conversion()
    patch.setattr(Tensor, "backward", backward)
    patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    patch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    patch.setattr(model_ema.torch, "Generator", lambda device="cpu": generator())
    # A checkpoint reads the scale.
    patch.setattr(torch.amp.GradScaler, "get_scale", lambda self: 65536.0)
    patch.setattr(torch.amp.GradScaler, "_get_growth_tracker", lambda self: 0)
    patch_cuda(patch, waits)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.autograd.set_multithreading_enabled(False), mode, FakeGPU(waits):
        yield waits
    torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def without_the_scalers_read(patch: pytest.MonkeyPatch) -> None:
    """Has fp16's loss scaler update the weights without reading whether a gradient overflowed, its own way to wait."""

    def update(self: Any, optimizer: torch.optim.Optimizer, *_: Any) -> Any:
        return optimizer.step()

    patch.setattr(torch.amp.GradScaler, "_maybe_opt_step", update)


class Streamed:
    """Images whose batches come to the GPU anew in each step. Their windows are asked for on the CPU."""

    def __init__(self, images: ImagePool) -> None:
        self.images = images
        self.sizes, self.labels = images.sizes, images.labels

    @property
    def means(self) -> Tensor:
        return self.images.means

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        for batch in crops:
            assert {tensor.device.type for tensor in batch} == {"cpu"}
            assert batch.window.tolist()  # what the decoder reads
            count = len(batch.index)
            windows = upload(torch.zeros(count, 32, 32, 3, dtype=torch.uint8), CUDA)
            offsets, sizes = torch.arange(count) * (32 * 32 * 3), torch.full((count, 2), 32, dtype=torch.int32)
            index = torch.cat([upload(batch.index, CUDA), self.labels])[:count]
            pool = ImagePool(windows.view(-1), upload(offsets, CUDA), upload(sizes, CUDA), self.labels[index])
            yield pool, Crops(index, upload(batch.window, CUDA), upload(batch.flip, CUDA))


@contextmanager
def values_that_are_not_there() -> Iterator[None]:
    """Before the first step values may be looked at, and there are none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "__bool__", lambda tensor: False)
        patch.setattr(Tensor, "unique", lambda tensor, **counted: (tensor, tensor[:3]) if counted else tensor)
        yield


def trainer_on_gpu(waits: Waits, name: str, streamed: bool = False, **settings: Any) -> tuple[Trainer, Images]:
    """A trainer whose tensors are all on the GPU, and its training images."""
    case = Case(**{"steps": 4, "seqtrain_share": 0.5, **settings})
    body = Tiny(channels_last=False)
    body.one = nn.Sequential(body.one, nn.BatchNorm2d(4))
    options: dict[str, Any] = {"model_name": "tiny", "classes": "abc", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    case.network = Network(body, nn.Linear(5, 4), torch.ones(4, dtype=torch.bool), **options)
    if Augmentation.of(**case.settings.augmentation).needs_means:
        case.index = case.index._replace(means=case.aux.means)
    on_host = Sampler(Streamed(case.target), case.index, case.settings)
    with waits.allowed():
        with values_that_are_not_there():
            case.to(CUDA)
        if streamed:
            case.images, case.sampler = Streamed(case.target), on_host
            on_host.augmentation = on_host.augmentation.to(CUDA)
        method = METHODS[name](case.settings, case.network)
        trainer = Trainer(case.parts(method), case.settings)
    if case.settings.cuda_graph:
        return without_replays(trainer), case.images
    for group in trainer.optimizer.param_groups:
        group["foreach"] = True  # PyTorch's choice for tensors of a GPU, among which it does not count fake ones
    return trainer, case.images
