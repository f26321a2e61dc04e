"""A run that is resumed with more epochs or steps goes on, and follows the schedule of its new length from there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import STEPS, assert_same, interrupted, stop_after
from safetensors.torch import load_file
from small_runs import arguments

from xmixup_fast.runtime.signals import Interrupted
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.yaml_file import read
from xmixup_fast.training.longer import shorter_settings
from xmixup_fast.training.optimizer import rate
from xmixup_fast.training.run import Result, fit
from xmixup_fast.training.trainer import Trainer

LONGER = 2 * STEPS


def run(data: Path, output: Path, method: str = "xmixup", **settings: Any) -> Result:
    return fit(**arguments(data, output, method, **{"steps": STEPS, **settings}))


def longer(data: Path, output: Path, method: str = "finetune", **settings: Any) -> Result:
    return run(data, output, method, **{"steps": LONGER, "resume": "auto", **settings})


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates of the steps that are taken."""
    seen: list[float] = []
    original = Trainer.step

    def step(self: Trainer) -> torch.Tensor:
        seen.append(self.lr)
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    return seen


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_a_finished_run_goes_on(
    data: Path, tmp_path: Path, rates: list[float], capsys: pytest.CaptureFixture[str], *, schedule: str
) -> None:
    run(data, tmp_path / "run", "finetune", schedule=schedule)
    capsys.readouterr()
    result = longer(data, tmp_path / "run", schedule=schedule)
    assert result.summary["steps"] == LONGER and len(rates) == LONGER
    lengths = [STEPS] * STEPS + [LONGER] * STEPS
    assert rates == pytest.approx([0.01 * rate(schedule, 0, step, length) for step, length in enumerate(lengths)])
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("longer: ")]
    assert f"steps {STEPS} became {LONGER}" in line and f"the schedule, {schedule}, now spans all" in line
    assert f"was {rates[STEPS - 1]:.2g} in step {STEPS} and is {rates[STEPS]:.2g} in the next one" in line
    lines = [json.loads(one) for one in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in lines][-1] == LONGER
    assert read(result.folder / "config.yaml").steps == LONGER


def test_epochs_go_on_likewise(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(data, tmp_path / "run", "finetune", steps=None, epochs=2)
    result = longer(data, tmp_path / "run", steps=None, epochs=3)
    assert result.summary["steps"] == -(-3 * result.summary["num_train"] // 8)
    assert "longer: epochs 2 became 3, " in capsys.readouterr().out


METHODS: dict[str, dict[str, Any]] = {
    "xmixup": {"storage": "stream"},
    "finetune": {"ema_decay": 0.9, "keep": "last"},
    "mixup": {"unmixed_share": 0.5},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_longer_run_is_resumed_to_the_same_bits(data: Path, tmp_path: Path, method: str) -> None:
    """Wherever it is interrupted, and whether or not the shorter one was."""
    settings = METHODS[method]
    for name in ("whole", "again"):
        interrupted(data, tmp_path / name, 5, method, **settings)
    whole = longer(data, tmp_path / "whole", method, **settings)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted, match=f"stopped after step 8 of {LONGER}"):
        stop_after(patch, 3)
        longer(data, tmp_path / "again", method, **settings)
    assert_same(whole, longer(data, tmp_path / "again", method, **settings))


@pytest.mark.parametrize("step", ["config", "training"])
def test_a_kill_while_a_run_is_made_longer_begins_nothing_anew(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    for name in ("whole", "killed"):
        run(data, tmp_path / name, "finetune")
    whole = longer(data, tmp_path / "whole")
    place = "RunFolder.config" if step == "config" else "Trainer.step"

    def killed(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(f"xmixup_fast.training.{'run_folder' if step == 'config' else 'trainer'}.{place}", killed)
        with pytest.raises(MemoryError):
            longer(data, tmp_path / "killed")
    assert read(tmp_path / "killed" / "config.yaml").steps == (STEPS if step == "config" else LONGER)
    assert_same(whole, longer(data, tmp_path / "killed"))


def test_as_if_it_was_longer_from_the_start_where_the_rate_is_constant(data: Path, tmp_path: Path) -> None:
    """Order, crops and mixing follow from seed and step, not from the length."""
    whole = run(data, tmp_path / "whole", steps=LONGER, schedule="constant", keep="last")
    run(data, tmp_path / "run", schedule="constant", keep="last")
    result = longer(data, tmp_path / "run", "xmixup", schedule="constant", keep="last")
    states = [load_file(one.folder / "model.safetensors") for one in (whole, result)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


REFUSED = {
    "shorter": ({"steps": STEPS - 1}, f"has steps {STEPS} (now {STEPS - 1}); name another output"),
    "something else, too": ({"steps": LONGER, "lr": 0.5}, "has lr 0.01 (now 0.5); name another output"),
    "epochs for steps": ({"steps": None, "epochs": 50}, "name another output"),
    "a smaller batch": ({"steps": LONGER, "batch_size": 4}, "has batch_size 8 (now 4); name another output"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_longer_run_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    settings, expected = REFUSED[name]
    interrupted(data, tmp_path / "run", 2, "finetune")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"^resume: ") as error:
        longer(data, tmp_path / "run", **settings)
    assert expected in str(error.value)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", ["rifle", "seqtrain"])
def test_methods_that_divide_a_run_by_its_length_are_refused(tmp_path: Path, method: str) -> None:
    settings = Settings(target="t", model="test_resnet", method=method, steps=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^resume: .* has steps 4 .now 5., and {method} divides a run by its length"):
        shorter_settings(settings, replace(settings, steps=5), tmp_path)
    assert shorter_settings(settings, settings, tmp_path) is None


def test_patience_that_has_ended_a_run_is_told(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lr": 1e-9, "patience": 1, "steps": None}
    run(data, tmp_path / "run", "finetune", epochs=4, **settings)
    with pytest.raises(ValueError, match=r"^resume: 1 validations in a row .* patience 1 has ended the run"):
        longer(data, tmp_path / "run", epochs=9, **settings)
    assert read(tmp_path / "run" / "config.yaml").epochs == 4
