"""Which weights are kept: of the best validation, the later of equals, or the last; however a run is interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interrupted_runs import assert_same, interrupted, run
from safetensors.torch import load_file
from small_runs import arguments
from torch import Tensor

from xmixup_fast.training.progress import RunState
from xmixup_fast.training.run import fit
from xmixup_fast.training.trainer import Trainer

ACCURACIES = {2: 90.0, 3: 50.0, 5: 60.0, 6: 55.0, 7: 60.0, 8: 40.0, 9: 55.0}
"""By step; epochs of 18 images in batches of 8 end after 3, 5, 7 and 9."""


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> dict[int, Tensor]:
    """Has validations find ACCURACIES; the weights of the head by the step after which they were looked at."""
    seen: dict[int, Tensor] = {}
    original = Trainer.evaluate

    def evaluate(self: Trainer, images: Any, **more: Any) -> Any:
        if self.steps_done in seen:
            return original(self, images, **more)  # at the end
        seen[self.steps_done] = self.network.body.get_classifier().weight.detach().clone()
        return SimpleNamespace(accuracy=ACCURACIES[self.steps_done])

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    return seen


def test_patience_stops_a_run_and_keeps_its_best_weights(
    data: Path, tmp_path: Path, validations: dict[int, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = arguments(data, tmp_path / "run", "finetune", steps=20, patience=2)
    result = fit(**settings)
    assert list(validations) == [3, 5, 7, 9]
    weights = load_file(result.folder / "model.safetensors")
    assert torch.equal(weights["fc.weight"], validations[7])  # as good as step 5, and later
    assert not torch.equal(validations[9], validations[7])
    assert torch.equal(result.network.body.fc.weight.cpu(), validations[7])
    summary = result.summary
    assert summary["kept"] == {"weights": "best", "step": 7} and summary["val_accuracy"] == 60
    assert (summary["best_val_accuracy"], summary["last_val_accuracy"]) == (60, 55)
    assert (summary["steps"], summary["images_seen"]) == (9, 72)
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["val_accuracy"] for line in lines] == [50, 60, 60, 55]

    monkeypatch.setattr(Trainer, "step", lambda _: pytest.fail("trained"))
    again = fit(**settings, resume="auto")
    assert again.summary["kept"] == summary["kept"]
    assert torch.equal(load_file(again.folder / "model.safetensors")["fc.weight"], validations[7])


@pytest.mark.parametrize("step", [4, 6])
@pytest.mark.parametrize("settings", [{"patience": 3}, {}, {"patience": 3, "keep": "last"}])
def test_best_weights_and_patience_survive_an_interruption(
    data: Path, tmp_path: Path, validations: dict[int, Tensor], step: int, settings: dict[str, Any]
) -> None:
    # Of 8 steps, so that patience does not come to its end; the best are the fifth and the seventh.
    settings = {"method": "finetune", **settings}
    whole = run(data, tmp_path / "whole", **settings)
    kept = {"weights": "last", "step": 8} if "keep" in settings else {"weights": "best", "step": 7}
    assert whole.summary["kept"] == kept and whole.summary["steps"] == 8
    best = [name for name in load_file(max((tmp_path / "whole/checkpoints").iterdir())) if name.startswith("best.")]
    assert bool(best) == ("keep" not in settings)
    validations.clear()
    interrupted(data, tmp_path / "run", step, **settings)
    again = run(data, tmp_path / "run", resume="auto", **settings)
    assert_same(whole, again)


def test_the_best_weights_are_none_from_before_fine_tuning(
    data: Path, tmp_path: Path, validations: dict[int, Tensor]
) -> None:
    settings = arguments(data, tmp_path / "run", "seqtrain", steps=4, patience=2)
    assert fit(**settings).summary["kept"] == {"weights": "best", "step": 5}
    assert list(validations) == [2, 5, 6]


@given(st.lists(st.sampled_from([0.0, 50.0, 75.0, 100.0]), min_size=1, max_size=8), st.sampled_from(["best", "last"]))
def test_the_later_of_equals_is_the_best_and_patience_counts_from_the_first(accuracies: list[float], keep: str) -> None:
    state, network = RunState(), torch.nn.Linear(1, 1, bias=False)
    for step, accuracy in enumerate(accuracies, start=1):
        network.load_state_dict({"weight": torch.tensor([[float(step)]])})
        trainer: Any = SimpleNamespace(final_network=network, steps_done=step)
        state.record_validation(accuracy, trainer, keep)
    best = max(accuracies)
    last = len(accuracies) - accuracies[::-1].index(best)
    assert (state.best_accuracy, state.best_step) == (best, last)
    assert state.waited == len(accuracies) - 1 - accuracies.index(best)
    network.load_state_dict({"weight": torch.tensor([[-1.0]])})
    assert state.best == ({"weight": torch.tensor([[float(last)]])} if keep == "best" else {})


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_best_weights_are_kept_unless_the_last_are_asked_for(
    data: Path, tmp_path: Path, validations: dict[int, Tensor], ema_decay: float | None
) -> None:
    """Also where validation looks at averaged weights: then the average of that step is kept."""
    weights = {}
    for keep in ("best", "last"):
        validations.clear()
        result = run(data, tmp_path / keep, "finetune", keep=keep, ema_decay=ema_decay)
        summary = result.summary
        assert summary["kept"] == {"weights": keep, "step": {"best": 7, "last": 8}[keep]}
        assert summary["val_accuracy"] == {"best": 60, "last": 40}[keep]
        assert (summary["best_val_accuracy"], summary["last_val_accuracy"]) == (60, 40)
        weights[keep] = load_file(result.folder / "model.safetensors")["fc.weight"]
        assert torch.equal(weights[keep], result.network.body.fc.weight)
        assert torch.equal(weights[keep], validations[summary["kept"]["step"]]) == (ema_decay is None)
    assert not torch.equal(weights["best"], weights["last"])
    # The best are those that a run of seven steps ends with.
    validations.clear()
    constant = {"schedule": "constant", "ema_decay": ema_decay}
    best = run(data, tmp_path / "eight", "finetune", **constant)
    validations.clear()
    seven = fit(**arguments(data, tmp_path / "seven", "finetune", steps=7, keep="last", **constant))
    for name, tensor in seven.network.state_dict().items():
        assert torch.equal(tensor, best.network.state_dict()[name]), name


def test_both_validation_accuracies_are_said_and_a_hint_where_they_differ_by_more_than_chance(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], validations: dict[int, Tensor]
) -> None:
    run(data, tmp_path / "run", "finetune")
    said = capsys.readouterr().out
    assert "validation: best 60.00 % after step 7, last 40.00 %; the best weights are kept\n" in said
    assert "validation fell" not in said  # six images tell no difference of a fifth
    for images, last, hinted in ((100, 51, False), (100, 49, True), (10000, 59.1, False), (10000, 58.9, True)):
        # Two standard errors: 200 * sqrt(0.545 * 0.455 / 100) = 9.96, and 200 * sqrt(0.595 * 0.405 / 10000) = 0.98.
        lines = RunState(val_accuracy=last, best_accuracy=60, best_step=7).validations(images, "best")
        assert len(lines) == 1 + hinted, (images, last)
        assert not hinted or f"validation fell by {60 - last:.2f} points" in lines[1]
    assert len(RunState(val_accuracy=100, best_accuracy=100, best_step=7).validations(1, "last")) == 1
