"""Whole steps on a GPU that is not there: its tensors have shapes and no values, and a CPU tensor among them fails.

What a host reads of a device's tensor fails as well; test_no_waits.py runs whole trainings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_gpu import (
    CUDA,
    SVD,
    HostWaits,
    Streamed,
    Waits,
    fake_gpu,
    trainer_on_gpu,
    values_that_are_not_there,
    without_the_scalers_read,
)
from torch import Tensor, nn
from transfer import STEPPING, Case

from xmixup_fast.batches import sampler as sampling
from xmixup_fast.batches.plan import StepPlan
from xmixup_fast.batches.render import Pools
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.methods import base
from xmixup_fast.ops.image_format import ImageFormat
from xmixup_fast.training.trainer import Trainer


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    with fake_gpu(monkeypatch) as waits:
        without_the_scalers_read(monkeypatch)
        waits.exceptions = SVD  # of bss
        yield waits


def devices(state: dict[str, Tensor]) -> set[tuple[str, torch.device]]:
    return {(name, tensor.device) for name, tensor in state.items()}


OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {"steps": 2},
    "bf16": {"amp": "bf16", "streamed": True, "steps": 2, "mix_probability": 0.5},
    "fp16": {"amp": "fp16", "grad_accum_steps": 2, "steps": 2, "ema_decay": 0.9, "lam_per": "batch"},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", STEPPING)
def test_no_step_mixes_devices_or_waits(waits: Waits, name: str, options: str) -> None:
    trainer, images = trainer_on_gpu(waits, name, **OPTIONS[options])
    while trainer.steps_done < trainer.steps:
        assert trainer.step().device == CUDA
    with waits.allowed():
        state = trainer.state_dict()
        host = {"random.cpu", "scaler.scale", "scaler._growth_tracker"}
        assert {key for key, device in devices(state) if device != CUDA} <= host
        again, _ = trainer_on_gpu(waits, name, **OPTIONS[options])
        again.load_state_dict({key: tensor.cpu() for key, tensor in state.items()}, trainer.steps - 1)
    assert again.step().device == CUDA
    assert devices(again.state_dict()) == devices(state)
    if not OPTIONS[options].get("streamed"):
        with pytest.raises(HostWaits, match="a copy to the host"):  # the results, once for all images
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
        *(("delta", place) for place in ("method.frozen.body.one.1.weight", "method.weights")),
        *(("bss", "regularizer.penalty.start"), ("cotuning", "method.relationship")),
    ],
)
def test_a_tensor_left_on_the_cpu_fails(waits: Waits, name: str, place: str) -> None:
    regularizer = "l2sp" if place.startswith("regularizer") else "none"
    trainer, _ = trainer_on_gpu(waits, name, ema_decay=0.9, regularizer=regularizer)
    with waits.allowed():
        left_on_the_cpu(trainer, place)
    with pytest.raises(RuntimeError, match=r"different devices|expected a tensor on|same device"):
        trainer.step()


@pytest.mark.parametrize("name", ["finetune", "mixup", "xcutmix"])
def test_random_numbers_left_on_the_cpu_fail(waits: Waits, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trainer_on_gpu(waits, name)
    monkeypatch.setattr(sampling, "upload", lambda tensor, device: tensor)
    with pytest.raises(RuntimeError, match=r"(?i)different devices|expected a tensor on|same device"):
        trainer.step()


def test_a_value_that_the_host_reads_fails(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trainer_on_gpu(waits, "finetune")
    original = base.render

    def reading(plan: StepPlan, pools: Pools, form: ImageFormat, out: Tensor) -> Tensor:
        assert plan.mix.target_crops.index.tolist()
        return original(plan, pools, form, out)

    monkeypatch.setattr(base, "render", reading)
    with pytest.raises(HostWaits):
        trainer.step()


def test_windows_of_streamed_images_are_drawn_on_the_cpu(waits: Waits) -> None:
    case = Case()
    with waits.allowed(), values_that_are_not_there():
        case.to(CUDA)
        streamed = Sampler(Streamed(case.target), case.index, case.settings, weights=[1] * 12)
    assert case.sampler.device == CUDA
    held = [value for value in vars(streamed).values() if isinstance(value, Tensor)]
    held += [*streamed.auxiliary[:4], *streamed.any_class[:4], *streamed.no_auxiliary[:4]]
    held.append(streamed.drawn_augmentation.turns)
    assert streamed.augmentation.turns.device == CUDA  # for rendering
    assert streamed.device.type == "cpu" and {tensor.device.type for tensor in held} == {"cpu"} and len(held) > 15


def test_plans_are_moved_with_all_their_tensors(waits: Waits) -> None:
    plan = Case().sampler.plan(0, second="partner")
    moved = plan.to(CUDA)
    assert {tensor.device for tensor in moved.tensors()} == {CUDA}
    assert len(moved.tensors()) == len(plan.tensors()) and moved.second == plan.second
    assert moved.to(CUDA) is moved and plan.to(torch.device("cpu")) is plan
