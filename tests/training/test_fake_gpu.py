"""Whole steps on a GPU that is not there: its tensors have shapes and no values, and a CPU tensor among them fails.

What a host reads of a device's tensor fails as well, so these tests also show that no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from timm.utils import model_ema
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transfer import Case, Tiny

from xmixup_fast.batches.plan import StepPlan
from xmixup_fast.batches.render import Pools
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.methods import METHODS, base
from xmixup_fast.models.network import Network
from xmixup_fast.ops.image_format import ImageFormat
from xmixup_fast.ops.image_pool import Crops, ImagePool, Images
from xmixup_fast.training.trainer import Trainer

CUDA = torch.device("cuda:0")


class FakeGPU(TorchDispatchMode):
    """Within a FakeTensorMode: CPU tensors stay real, so that the host can use their values; others are fake."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, FakeTensor) or (isinstance(value, torch.device) and value.type == "cuda"):
                return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)


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


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU without values, of which PyTorch believes that it can do AMP."""
    generator, overwrites = torch.Generator, torch.__future__.get_overwrite_module_params_on_conversion()
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(model_ema.torch, "Generator", lambda device="cpu": generator())
    # Whether a step was skipped is read by the host: the scaler's own way of waiting for the device.
    monkeypatch.setattr(torch.amp.GradScaler, "_maybe_opt_step", lambda self, optimizer, *_: optimizer.step())
    # A checkpoint reads the scale.
    monkeypatch.setattr(torch.amp.GradScaler, "get_scale", lambda self: 65536.0)
    monkeypatch.setattr(torch.amp.GradScaler, "_get_growth_tracker", lambda self: 0)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with torch.autograd.set_multithreading_enabled(False), FakeTensorMode(allow_non_fake_inputs=True), FakeGPU():
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


class Streamed:
    """Images whose batches come to the device anew in each step."""

    def __init__(self, images: ImagePool) -> None:
        self.images = images
        self.sizes, self.labels = images.sizes, images.labels

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, crops: Iterable[Crops]) -> Iterator[tuple[ImagePool, Crops]]:
        for batch in crops:
            windows = torch.zeros(len(batch.index), 32, 32, 3, dtype=torch.uint8).to(CUDA)
            index = torch.arange(len(batch.index), device=CUDA)
            yield ImagePool.from_dense(windows, self.labels[batch.index]), Crops(index, batch.window, batch.flip)


def trainer_on_gpu(name: str, streamed: bool = False, **settings: Any) -> tuple[Trainer, Images]:
    """A trainer whose tensors are all on the GPU, and its training images."""
    case = Case(**{"steps": 4, "seqtrain_share": 0.5, **settings})
    body = Tiny(channels_last=False)
    body.one = nn.Sequential(body.one, nn.BatchNorm2d(4))
    options: dict[str, Any] = {"model_name": "tiny", "classes": "abc", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    case.network = Network(body, nn.Linear(5, 4), torch.ones(4, dtype=torch.bool), **options)
    with pytest.MonkeyPatch.context() as patch:
        # Before the first step values may be looked at, and there are none.
        patch.setattr(Tensor, "__bool__", lambda tensor: False)
        patch.setattr(Tensor, "unique", lambda tensor: tensor)
        case.to(CUDA)
    if streamed:
        case.images = Streamed(case.target)
    method = METHODS[name](case.settings, case.network)
    return Trainer(case.parts(method), case.settings), case.images


def devices(state: dict[str, Tensor]) -> set[tuple[str, torch.device]]:
    return {(name, tensor.device) for name, tensor in state.items()}


OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {"steps": 2},
    "bf16": {"amp": "bf16", "streamed": True, "steps": 2, "mix_probability": 0.5},
    "fp16": {"amp": "fp16", "grad_accum_steps": 2, "steps": 2, "ema_decay": 0.9, "lam_per": "batch"},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", METHODS)
def test_no_step_mixes_devices_or_waits(name: str, options: str) -> None:
    trainer, images = trainer_on_gpu(name, **OPTIONS[options])
    while trainer.steps_done < trainer.steps:
        assert trainer.step().device == CUDA
    state = trainer.state_dict()
    host = {"random.cpu", "scaler.scale", "scaler._growth_tracker"}
    assert {key for key, device in devices(state) if device != CUDA} <= host
    again, _ = trainer_on_gpu(name, **OPTIONS[options])
    again.load_state_dict({key: tensor.cpu() for key, tensor in state.items()}, trainer.steps - 1)
    assert again.step().device == CUDA
    assert devices(again.state_dict()) == devices(state)
    with pytest.raises(DataDependentOutputException):  # the accuracy, once for all images
        trainer.evaluate(images)


def left_on_the_cpu(trainer: Trainer, place: str) -> None:
    """Brings a tensor back to the CPU, as if the code had forgotten to move it."""
    holder, _, name = place.rpartition(".")
    owner: Any = trainer
    for part in filter(None, holder.split(".")):
        owner = getattr(owner, part)
    value = getattr(owner, name)
    moved: Any = [tensor.cpu() for tensor in value] if isinstance(value, list) else value.to("cpu")
    setattr(owner, name, nn.Parameter(moved.detach()) if isinstance(value, nn.Parameter) else moved)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        *(("finetune", f"sampler.{name}") for name in ("labels", "sizes", "unmixed")),
        *(("xmixup", place) for place in ("auxiliary", "images", "network.source_head.weight", "sampler.quantiles")),
        *(("delta", place) for place in ("method.frozen.body.one.0.weight", "method.weights")),
        *(("bss", "regularizer.penalty.start"), ("cotuning", "method.relationship")),
    ],
)
def test_a_tensor_left_on_the_cpu_fails(name: str, place: str) -> None:
    regularizer = "l2sp" if place.startswith("regularizer") else "none"
    trainer, _ = trainer_on_gpu(name, ema_decay=0.9, regularizer=regularizer)
    left_on_the_cpu(trainer, place)
    with pytest.raises(RuntimeError, match=r"different devices|expected a tensor on|same device"):
        trainer.step()


@pytest.mark.parametrize("name", ["finetune", "mixup", "xcutmix"])
def test_random_numbers_left_on_the_cpu_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trainer_on_gpu(name)
    monkeypatch.setattr(Sampler, "_to_device", lambda self, drawn: drawn)
    with pytest.raises(RuntimeError, match=r"(?i)different devices|expected a tensor on|same device"):
        trainer.step()


def test_a_value_that_the_host_reads_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trainer_on_gpu("finetune")
    original = base.render

    def reading(plan: StepPlan, pools: Pools, form: ImageFormat, out: Tensor) -> Tensor:
        assert plan.mix.target_crops.index.tolist()
        return original(plan, pools, form, out)

    monkeypatch.setattr(base, "render", reading)
    with pytest.raises(DataDependentOutputException):
        trainer.step()
