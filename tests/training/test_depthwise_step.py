"""Steps of networks with depthwise convolutions on the CPU: their weights' gradients come from our operator."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transfer import STEPPING, Case

from xmixup_fast.training import trainer as trainers
from xmixup_fast.training.trainer import Trainer

MODEL, LAYERS = "tf_efficientnet_lite0", 9
"""A network, and how many of its depthwise convolutions have kernels of 5 x 5; the others have 3 x 3."""


def made_trainer(name: str = "finetune", **settings: Any) -> Trainer:
    case = Case(MODEL, 64, **{"batch_size": 3, "steps": 2, "seqtrain_share": 0.5} | settings)
    return case.to(torch.device("cpu")).trainer(name)


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in trainer.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", STEPPING)
def test_steps_of_every_method_are_those_of_torch_but_for_rounding(name: str, depthwise_calls: list[int]) -> None:
    """The first losses are equal to the bit, and so are all gradients but those of these weights."""
    fast, plain = made_trainer(name), made_trainer(name)
    plain.loss.fast_depthwise = False  # type: ignore[assignment]
    expected = plain.step()
    assert depthwise_calls == []
    assert torch.equal(fast.step(), expected)
    assert len(depthwise_calls) >= LAYERS and len(depthwise_calls) % LAYERS == 0
    others = gradients(plain)
    for parameter, gradient in gradients(fast).items():
        if gradient.shape[1:] == (1, 5, 5):
            difference = (gradient - others[parameter]).norm()
            assert 0 < difference < 1e-4 * others[parameter].norm(), parameter
        else:
            assert torch.equal(gradient, others[parameter]), parameter
    depthwise_calls.clear()
    assert fast.step().isfinite() and len(depthwise_calls) >= LAYERS


def test_a_batch_in_parts_adds_their_gradients(depthwise_calls: list[int]) -> None:
    trainer = made_trainer(batch_size=4, grad_accum_steps=2)
    trainer.step()
    assert len(depthwise_calls) == 2 * LAYERS


def test_frozen_weights_get_no_gradient(depthwise_calls: list[int]) -> None:
    case = Case(MODEL, 64, batch_size=3, steps=2).to(torch.device("cpu"))
    frozen = [p for p in case.network.parameters() if p.shape[1:] == (1, 5, 5)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    case.trainer("finetune").step()
    assert depthwise_calls == [] and len(frozen) == LAYERS


@pytest.mark.parametrize(("model", "settings"), [(MODEL, {"amp": "bf16"}), ("test_resnet", {})])
def test_other_steps_are_left_to_torch(model: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps in 16 bits, and those of networks without such layers: they do not enter the mode at all."""

    class Entered(Exception):
        pass

    def enter(self: Any) -> None:
        raise Entered

    case = Case(model, 64, batch_size=3, steps=1, **settings).to(torch.device("cpu"))
    monkeypatch.setattr(trainers.FastDepthwise, "__enter__", enter)
    case.trainer("finetune").step()
    with pytest.raises(Entered):
        made_trainer().step()


def test_compiled_steps_are_left_to_torch(depthwise_calls: list[int]) -> None:
    compiled, plain = made_trainer(), made_trainer()
    compiled.loss.compile(backend="eager", dynamic=False, fullgraph=True)
    torch.testing.assert_close(compiled.step(), plain.step(), rtol=1e-5, atol=0)
    assert len(depthwise_calls) == LAYERS  # those of the plain step
    torch.compiler.reset()


def test_a_resumed_run_goes_on_to_the_same_bits() -> None:
    whole, first, rest = (made_trainer(steps=3) for _ in range(3))
    whole.step()
    first.step()
    rest.load_state_dict(first.state_dict(), 1)
    assert torch.equal(rest.step(), whole.step()) and torch.equal(rest.step(), whole.step())


def test_gradients_lie_as_several_processes_exchange_them(tmp_path: Path, depthwise_calls: list[int]) -> None:
    """DistributedDataParallel warns, and copies, where a gradient has other strides than its parameter."""
    trainer = made_trainer()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        trainer.loss = DistributedDataParallel(trainer.loss, forward_sync_buffers=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trainer.step()
    finally:
        torch.distributed.destroy_process_group()
    assert len(depthwise_calls) == LAYERS
    for layer in trainer.network.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.grad is not None and layer.weight.grad.stride() == layer.weight.stride()
