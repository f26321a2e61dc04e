"""The optimiser's step in a CUDA graph, on the stand-ins of no_gpu.py: a replay repeats the captured calls on the same
tensors, and a capture changes none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import no_gpu
import pytest
import torch
from torch import nn
from transfer import Case, Tiny, without_replays

from xmixup_fast.commands.find_lr import sweep
from xmixup_fast.models.network import Network
from xmixup_fast.training.cuda_graph import WARMUP
from xmixup_fast.training.trainer import Trainer

STEPS = 14
ROUNDING = {"rel": 1e-5, "abs": 1e-6}
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"warmup_epochs": 1.0},
    "without momentum": {"momentum": 0.0, "schedule": "step"},
    "clipped": {"clip_grad": 0.1, "amp": "bf16", "ema_decay": 0.9},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.1, "no_norm_decay": True},
    "regularised": {"regularizer": "l2sp", "head_lr_multiplier": 3.0, "schedule": "linear"},
}


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu.stand_in(monkeypatch)


def case(**settings: Any) -> Case:
    """With a network without normalisation, which rounding does not lead elsewhere. The target head is not new, and so
    of the other layers' group of parameters, of which it alone has no gradient in seqtrain's first phase."""
    made = Case(**{"steps": STEPS, "seqtrain_share": 0.5, "rifle_periods": 2, "lr": 0.02, **settings})
    torch.manual_seed(3)
    options: dict[str, Any] = {"model_name": "tiny", "classes": "abc", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    made.network = Network(Tiny(channels_last=False), nn.Linear(5, 4), torch.zeros(4, dtype=torch.bool), **options)
    made.network.target_matched = torch.ones(3, dtype=torch.bool)
    return made


def replayed(name: str, **settings: Any) -> Trainer:
    return case(cuda_graph=True, **settings).trainer(name)


def called(name: str, **settings: Any) -> Trainer:
    return without_replays(replayed(name, **settings))


def plain(name: str, **settings: Any) -> Trainer:
    return case(**settings).trainer(name)


def losses(trainer: Trainer, steps: int = STEPS * 2) -> list[float]:
    """Those of the next steps, until the run's end."""
    return [float(trainer.step()) for _ in range(min(steps, trainer.steps - trainer.steps_done))]


def assert_same(one: Trainer, other: Trainer, **tolerance: float) -> None:
    for key, tensor in other.state_dict().items():
        if key in one.state_dict() or tensor.any():  # a parameter without gradients has no momentum, or zeros
            torch.testing.assert_close(one.state_dict()[key], tensor, **(tolerance or {"rtol": 0, "atol": 0}))


def optimizer_steps(trainer: Trainer) -> list[int]:
    """The steps of the run in which the host calls the optimiser, as they come."""
    seen: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: seen.append(trainer.steps_done))
    return seen


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["xmixup", "rifle", "seqtrain", "bituning"])
def test_a_replay_updates_weights_as_the_calls_do(name: str, settings: str) -> None:
    """With rates that change, new heads and a new optimiser; and much as with the optimiser of a run without graphs."""
    graph, calls, without = (make(name, **SETTINGS[settings]) for make in (replayed, called, plain))
    on_host = optimizer_steps(graph)
    found = losses(graph)
    assert found == losses(calls) and found == pytest.approx(losses(without), **ROUNDING)
    assert_same(graph, calls)
    assert_same(graph, without, rtol=1e-4, atol=1e-5)
    first = graph.source_phase_steps
    assert on_host == [start + step for start in ([0, first] if first else [0]) for step in range(WARMUP + 1)]


@pytest.mark.parametrize(
    ("make", "settings", "expected"),
    [
        (replayed, {}, range(WARMUP + 1)),  # then the graph
        (replayed, {"amp": "bf16"}, range(WARMUP + 1)),
        (replayed, {"amp": "fp16"}, range(STEPS)),
        (replayed, {"amp": "fp16", "optimizer": "adamw", "lr": 1e-4}, range(STEPS)),
        (plain, {}, range(STEPS)),
    ],
)
def test_what_the_host_decides_stays_outside(
    make: Callable[..., Trainer], settings: dict[str, Any], expected: range
) -> None:
    trainer, same = make("finetune", **settings), plain("finetune", **settings)
    on_host = optimizer_steps(trainer)
    found = losses(trainer)
    assert on_host == list(expected)
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert {isinstance(rate, float) for rate in rates} == {len(expected) == STEPS}
    if len(expected) == STEPS:  # the very optimiser of a run without graphs
        assert found == losses(same)
        assert_same(trainer, same)


@pytest.mark.parametrize("settings", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["finetune", "rifle", "seqtrain"])
def test_nothing_moves_what_an_update_reads(name: str, settings: str) -> None:
    """Neither new rates, new heads or a new optimiser, nor a checkpoint that is loaded."""
    trainer = replayed(name, **SETTINGS[settings])

    def addresses() -> dict[str, int]:
        rates = {str(i): group["lr"].data_ptr() for i, group in enumerate(trainer.optimizer.param_groups)}
        return rates | {key: tensor.data_ptr() for key, tensor in trainer.state_dict().items() if "scaler" not in key}

    trainer.step()
    known = addresses()
    while trainer.steps_done < trainer.steps:
        trainer.step()
        assert known.items() <= addresses().items()
        known = addresses()
    trainer.load_state_dict({key: tensor.clone() for key, tensor in trainer.state_dict().items()}, 3)
    assert addresses() == known


@pytest.mark.parametrize("settings", ["sgd", "adamw", "clipped"])
@pytest.mark.parametrize("name", ["xmixup", "rifle", "seqtrain"])
def test_a_run_goes_on_with_the_same_bits(name: str, settings: str) -> None:
    """In another process, before which nothing is captured; and where a graph is."""
    for step in (1, 9):
        whole, other = (replayed(name, **SETTINGS[settings]) for _ in range(2))
        losses(whole, step)
        state = {key: tensor.clone() for key, tensor in whole.state_dict().items()}
        rest = losses(whole)
        for resumed in (other, whole):
            resumed.load_state_dict(state, step)
            assert losses(resumed) == rest
            assert_same(resumed, whole)


@pytest.mark.parametrize("settings", ["sgd", "without momentum", "adamw"])
@pytest.mark.parametrize(("first", "second"), [(plain, replayed), (replayed, plain)])
def test_a_checkpoint_serves_runs_with_and_without_graphs(
    settings: str, first: Callable[..., Trainer], second: Callable[..., Trainer]
) -> None:
    whole, rest = (make("seqtrain", **SETTINGS[settings]) for make in (first, second))
    losses(whole, 10)
    rest.load_state_dict({key: tensor.clone() for key, tensor in whole.state_dict().items()}, 10)
    assert losses(rest) == pytest.approx(losses(whole), **ROUNDING)
    assert_same(rest, whole, rtol=1e-4, atol=1e-5)
    states = [{k: (v.dtype, v.shape) for k, v in trainer.state_dict().items()} for trainer in (whole, rest)]
    assert states[0].items() <= states[1].items() or states[1].items() <= states[0].items()


@pytest.mark.parametrize("settings", ["sgd", "adamw"])
def test_a_range_tests_rates_reach_the_graph(settings: str) -> None:
    swept = [sweep(make("finetune", **SETTINGS[settings]), STEPS) for make in (replayed, called, plain)]
    assert swept[0] == swept[1] and swept[0].losses == pytest.approx(swept[2].losses, **ROUNDING)
    assert swept[0].rates == swept[2].rates
