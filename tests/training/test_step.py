"""What a training step can be besides a plain one: in 16 bits, averaged, compiled, replayed from a graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import run
from torch import Tensor, nn
from transfer import ANY_NORM, STEPPING, Case, tiny_case

from xmixup_fast.batches.plan import StepPlan
from xmixup_fast.data.center_crops import center_crop_batches
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash
from xmixup_fast.training import cuda_graph as graphs
from xmixup_fast.training.resolve import resolved
from xmixup_fast.training.trainer import Trainer

# --- 16 bits ---


@pytest.mark.parametrize(
    ("name", "amp"), [*((name, "bf16") for name in STEPPING), *((name, "fp16") for name in ("xmixup", "delta", "bss"))]
)
def test_a_step_in_16_bits_is_nearly_one_in_float32(name: str, amp: str) -> None:
    """The loss to a part in 100. Evaluation is in float32."""
    exact, rounded = (Case(amp=setting, steps=4).trainer(name) for setting in (None, amp))
    for trainer in (exact, rounded):
        case_images, _ = next_batch(trainer)
        assert {images.dtype for images in case_images} == {trainer.loss.dtype}
        assert all(images.is_contiguous(memory_format=torch.channels_last) for images in case_images)
    losses = [trainer.step() for trainer in (exact, rounded)]
    assert {loss.dtype for loss in losses} == {torch.float32}
    torch.testing.assert_close(losses[1], losses[0], rtol=0.01, atol=0)
    assert not torch.equal(losses[1], losses[0])
    assert {p.dtype for p in rounded.network.parameters()} == {torch.float32}
    assert rounded.evaluate(rounded.images).accuracy == 100 * sum_correct(rounded) / 12


def next_batch(trainer: Trainer) -> tuple[tuple[Tensor, ...], StepPlan]:
    """What the next step looks at, which is not made then."""
    plan, pools = next(trainer._batches)
    return trainer.method.images(plan, pools, trainer.form, trainer.buffers), plan


def sum_correct(trainer: Trainer) -> int:
    """How many of the training images the network knows, in float32."""
    form = trainer.network.image_format(trainer.form.size)
    images = torch.cat([batch.clone() for batch, _ in center_crop_batches(trainer.images, form, 5)])
    assert images.dtype == torch.float32
    network = trainer.network.eval()
    return int((network(images).argmax(1) == trainer.sampler.labels).sum())


def test_the_network_computes_in_16_bits_and_the_loss_in_32() -> None:
    trainer = Case(amp="bf16").trainer("xmixup")
    seen: dict[str, torch.dtype] = {}
    for name, module in trainer.network.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output.dtype}))
    trainer.step()
    assert seen["body.conv1.0"] == torch.bfloat16
    assert seen["body.fc"] == seen["source_head"] == torch.bfloat16
    assert {p.grad.dtype for p in trainer.network.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("name", STEPPING)
def test_a_loss_is_computed_in_float32_whatever_the_network_does(name: str) -> None:
    """A network that ignores autocast has the same loss within it as without."""

    def ignoring(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return torch.autocast("cpu", enabled=False)(function)

    case = Case(cotuning_weight=100.0, regularizer="l2sp", l2sp_alpha=100.0, bss_eta=100.0)
    trainer = case.trainer(name)
    case.disturb()
    others = [getattr(trainer.method, name, None) for name in ("frozen", "keys")]
    networks = [case.network, *(network for network in others if network is not None)]
    for owner, names in (
        *((network, ("features", "target_logits", "source_logits")) for network in networks),
        *((network.body, ("forward_features",)) for network in networks),
    ):
        for each in names:
            setattr(owner, each, ignoring(getattr(owner, each)))
    images, plan = next_batch(trainer)
    state = {name: tensor.clone() for name, tensor in trainer.method.state_dict().items()}
    torch.manual_seed(0)  # for stochnorm
    plain = trainer.loss(images, plan)
    trainer.method.load_state_dict(state)
    trainer.loss.dtype = torch.bfloat16
    torch.manual_seed(0)
    torch.testing.assert_close(trainer.loss(images, plan), plain, rtol=1e-6, atol=0)


def test_singular_values_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU there is no SVD of 16 bits; on a CPU autocast would convert by itself."""
    original = torch.linalg.svdvals

    def checked(features: Tensor) -> Tensor:
        assert features.dtype == torch.float32
        return original(features)

    monkeypatch.setattr(torch.linalg, "svdvals", checked)
    Case(amp="bf16").trainer("bss").step()


def test_a_step_whose_gradients_overflow_is_skipped_and_counted() -> None:
    trainer = Case(amp="fp16", steps=6).trainer("finetune")
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**40})
    before = copy.deepcopy(list(trainer.network.parameters()))
    rate = trainer.optimizer.param_groups[0]["lr"]
    assert trainer.step().isfinite()
    assert all(map(torch.equal, before, trainer.network.parameters()))
    assert trainer.steps_done == 1 and trainer.optimizer.param_groups[0]["lr"] < rate
    assert trainer.scaler.get_scale() == 2.0**39 and not trainer.optimizer.state
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 1024.0})
    trainer.step()
    assert not all(map(torch.equal, before, trainer.network.parameters()))


def test_gradients_are_unscaled_before_the_update() -> None:
    scaled, plain = (
        Case(amp=amp, lr=1e-3, momentum=0.0, weight_decay=0.0).trainer("finetune") for amp in ("fp16", None)
    )
    for trainer in (scaled, plain):
        trainer.step()
    gradients = [[p.grad for p in trainer.network.parameters() if p.grad is not None] for trainer in (scaled, plain)]
    norms = [torch.stack([gradient.norm() for gradient in of]).norm() for of in gradients]
    torch.testing.assert_close(norms[0], norms[1], rtol=0.05, atol=0)


def test_gradients_are_clipped_after_they_are_unscaled() -> None:
    trainer = Case(amp="fp16", clip_grad=0.01).trainer("xmixup")
    trainer.step()
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    assert torch.stack([gradient.norm() for gradient in gradients]).norm() == pytest.approx(0.01, rel=1e-4)
    assert trainer.optimizer.state  # the step was made


# --- averaged weights ---


def test_the_average_is_the_formula_once_for_each_update() -> None:
    trainer = Case(ema_decay=0.6, grad_accum_steps=2, steps=8).trainer("xmixup")
    expected: dict[str, Tensor] = {}
    for step in range(1, 9):
        trainer.step()
        decay = 0.0 if step == 1 else min(0.6, 1 - step ** (-2 / 3))
        for name, now in trainer.network.state_dict().items():
            if now.is_floating_point() and step > 1:
                expected[name] = decay * expected[name] + (1 - decay) * now.double()
            else:
                expected[name] = now.double()
    average = trainer.final_network.state_dict()
    assert average.keys() == expected.keys()
    for name, tensor in average.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(average[name], tensor) for name, tensor in trainer.network.state_dict().items())


def test_an_average_changes_no_step_and_is_what_is_measured() -> None:
    with_average, without = (Case(ema_decay=decay, lr=0.05).trainer("finetune") for decay in (0.99, None))
    for _ in range(3):
        assert torch.equal(with_average.step(), without.step())
    assert without.final_network is without.network and with_average.final_network is not with_average.network
    with torch.no_grad():
        with_average.final_network.body.get_classifier().bias.copy_(torch.tensor([0.0, 1e6, 0.0]))
    assert with_average.evaluate(with_average.images).accuracy == pytest.approx(100 / 3)  # always the second class
    assert with_average.network.training and not with_average.final_network.training


def test_the_averaged_weights_are_kept(data: Path, tmp_path: Path) -> None:
    plain = run(data, tmp_path / "plain")
    averaged = run(data, tmp_path / "averaged", ema_decay=0.9, grad_accum_steps=2)
    assert (plain.summary["ema_decay"], averaged.summary["ema_decay"]) == (None, 0.9)
    saved = load_file(tmp_path / "averaged" / "model.safetensors")
    states = [load_file(next((tmp_path / "averaged" / "checkpoints").iterdir()))]
    for name, tensor in saved.items():
        assert torch.equal(tensor, states[0][f"average.body.{name}"])
        assert torch.equal(tensor, averaged.network.body.state_dict()[name])
    assert any(not torch.equal(tensor, states[0][f"network.body.{name}"]) for name, tensor in saved.items())


@pytest.mark.parametrize("settings", [{"amp": "bf16"}, {"amp": "fp16"}, {"ema_decay": 0.9, "grad_accum_steps": 2}])
def test_weights_and_averages_are_channels_last(settings: dict[str, Any]) -> None:
    case = Case(**settings)
    case.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = case.trainer("xmixup")
    again = Case(**settings)
    again.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    resumed = again.trainer("xmixup")
    trainer.step()
    resumed.load_state_dict({name: tensor.contiguous() for name, tensor in trainer.state_dict().items()}, 1)
    for each in (trainer, resumed):
        each.step()
        convolutions = [p for p in (*each.network.parameters(), *each.final_network.parameters()) if p.dim() == 4]
        tensors = [*convolutions, *(p.grad for p in convolutions if p.grad is not None)]
        tensors += [values["momentum_buffer"] for p, values in each.optimizer.state.items() if p.dim() == 4]
        assert len(tensors) > 10
        assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors)


# --- compiled ---


@pytest.mark.parametrize("name", sorted(set(ANY_NORM) - {"delta", "cotuning", "lwf"}))
def test_the_loss_of_every_method_is_one_graph(name: str) -> None:
    def trainer() -> Trainer:
        case = tiny_case(steps=2, seqtrain_share=0.5, amp="bf16")
        case.network.source_head = nn.Linear(5, 4)
        nn.init.constant_(case.network.source_head.weight, 0.1)
        nn.init.zeros_(case.network.source_head.bias)
        return case.trainer(name)

    plain, compiled = trainer(), trainer()
    compiled.loss.compile(backend="eager", dynamic=False, fullgraph=True)
    while plain.steps_done < plain.steps:
        torch.testing.assert_close(compiled.step(), plain.step(), rtol=1e-6, atol=0)
    torch.compiler.reset()


def test_a_compiled_run_is_nearly_a_plain_one_and_its_state_has_the_same_names() -> None:
    plain, compiled = (tiny_case(steps=3, compile=setting).trainer("finetune") for setting in (False, True))
    while plain.steps_done < plain.steps:
        torch.testing.assert_close(compiled.step(), plain.step(), rtol=1e-4, atol=1e-5)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    torch.compiler.reset()


# --- from a graph ---


class OnCPU(graphs.CudaGraphRunner):
    """Replays by doing the work again on the very tensors that a graph would read and write."""

    captured = 0
    network: nn.Module

    def _on_side_stream(self, work: Callable[[], Tensor]) -> Tensor:
        return work()

    def _capture(self, images: tuple[Tensor, ...], plan: StepPlan) -> tuple[Callable[[], object], Tensor]:
        self.captured += 1
        buffers = [buffer.clone() for buffer in images]
        state = copy.deepcopy(self.network.state_dict())
        loss = self.work(images, plan)
        self.network.load_state_dict(state)  # a capture computes nothing
        assert all(map(torch.equal, buffers, images))
        gradients = [p.grad for p in self.parameters]

        def replay() -> None:
            for parameter in self.parameters:
                parameter.grad = None
            loss.copy_(self.work(images, plan))
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                assert (parameter.grad is None) == (gradient is None)
                if gradient is not None and parameter.grad is not None:
                    gradient.copy_(parameter.grad)
                parameter.grad = None

        return replay, loss


@pytest.mark.parametrize("name", ["xmixup", "seqtrain", "cutmix", "rifle", "cotrain"])
def test_replayed_steps_are_those_that_are_not(name: str) -> None:
    """With a source phase, and a new head in between: each kind of step has a graph of its own."""
    settings = {"seed": 2, "steps": 14, "seqtrain_share": 0.5, "lr": 0.02}
    plain, replayed = (Case(**settings).trainer(name) for _ in range(2))
    work = OnCPU(replayed._backward, replayed.network.parameters())
    work.network = replayed.network
    replayed.backward = work
    while plain.steps_done < plain.steps:
        assert torch.equal(replayed.step(), plain.step())
    for key, tensor in plain.state_dict().items():
        assert torch.equal(replayed.state_dict()[key], tensor), key
    assert work.captured == (2 if name == "seqtrain" else 1)


def test_all_tensors_of_a_plan_are_copied() -> None:
    plan = Case().sampler.plan(0, second="partner", box=True)
    found = {id(tensor) for tensor in plan.tensors()}
    values = [getattr(plan, field.name) for field in fields(plan)]
    assert all(value is not None for value in values)
    for value in values:
        tensors = [value] if isinstance(value, Tensor) else value if isinstance(value, tuple) else []
        assert {id(tensor) for tensor in tensors} <= found


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"amp": "fp8"}, "amp: expected one of bf16, fp16, got 'fp8'"),
        ({"ema_decay": 1.0}, "ema_decay: expected a number between 0 and 1, got 1.0"),
        ({"compile": True, "method": "delta"}, "method: expected another method with compile, .* got delta"),
        ({"cuda_graph": True, "method": "bss"}, "method: expected another method with cuda_graph, .* got bss"),
        ({"cuda_graph": True, "grad_accum_steps": 2}, "grad_accum_steps: expected nothing with cuda_graph, got 2"),
        ({"cuda_graph": True, "device": "cpu"}, "device: expected auto or a CUDA device with cuda_graph, got cpu"),
    ],
)
def test_what_cannot_be_is_refused_before_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(target="t", model="m", **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto finds a GPU")
def test_a_graph_without_a_gpu_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"cuda_graph: expected a GPU: .*; leave cuda_graph out"):
        resolved(Settings(target="t", model="m", method="finetune", cuda_graph=True))


def test_only_what_changes_the_result_makes_another_run() -> None:
    plain = Settings(target="t", model="m", method="finetune")
    unchanged = {"source_head": "classifier", "head_init": "fresh", "keep_contrast": False, "renew_batch_norm": False}
    for same in (
        {"compile": True},
        {"deterministic": False},
        {"tf32": "convolutions"},
        unchanged,
    ):
        assert run_hash(plain) == run_hash(Settings(target="t", model="m", method="finetune", **same))
    others = [
        Settings(target="t", model="m", method="finetune", **one)
        for one in ({"amp": "bf16"}, {"ema_decay": 0.9}, {"tf32": "all"}, {"tf32": "none"}, {"lam": 0.0}, {"lam": 0.7})
    ]
    assert len({run_hash(settings) for settings in (plain, *others)}) == 7
