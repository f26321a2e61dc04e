"""Evaluations have batches of their own size, and images that are not tested on are not decoded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made import TARGET, write_folder
from small_runs import arguments, flags, run
from transfer import Case

from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash
from xmixup_fast.train import main
from xmixup_fast.training import trainer
from xmixup_fast.training.resolve import resolved

SIZES = [
    ({"batch_size": 6}, 24),
    ({"batch_size": 6, "grad_accum_steps": 2}, 12),
    ({"batch_size": 7, "grad_accum_steps": 2}, 16),
    ({"batch_size": 6, "eval_batch_size": 5}, 5),
    ({"batch_size": 6, "eval_batch_size": 1, "grad_accum_steps": 3}, 1),
]
"""Settings, and how many images are evaluated at a time."""


@pytest.mark.parametrize(("settings", "expected"), SIZES)
def test_the_size_of_evaluations(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], expected: int) -> None:
    asked: list[int] = []
    original = trainer.evaluate_network

    def evaluate(network: Any, images: Any, form: Any, batch_size: int, *rest: Any, **options: Any) -> Any:
        asked.append(batch_size)
        return original(network, images, form, batch_size, *rest, **options)

    monkeypatch.setattr(trainer, "evaluate_network", evaluate)
    case = Case(**settings)
    case.trainer("finetune").evaluate(case.target)
    assert asked == [expected]


def test_the_size_changes_no_figure_beyond_rounding(data: Path, tmp_path: Path) -> None:
    results = [run(data, tmp_path / f"{size}", eval_batch_size=size) for size in (1, 3, 1000)]
    first = results[0].evaluation
    assert first is not None
    for other in results[1:]:
        assert other.evaluation is not None
        assert torch.equal(first.predicted, other.evaluation.predicted)
        assert torch.allclose(first.losses, other.evaluation.losses, rtol=1e-4, atol=1e-5)
        assert results[0].summary["val_accuracy"] == other.summary["val_accuracy"]


def test_the_size_makes_no_other_run() -> None:
    hashes = {run_hash(Settings(target="t", eval_batch_size=size)) for size in (None, 1, 64)}
    assert len(hashes) == 1
    with pytest.raises(ValueError, match="eval_batch_size: expected a positive number, got 0"):
        Settings(target="t", eval_batch_size=0)


@pytest.mark.parametrize("test", ["none", "hold", "run"])
def test_images_that_are_not_tested_on_are_not_decoded(data: Path, tmp_path: Path, capsys: Any, test: str) -> None:
    """Here they cannot be decoded; with a folder test beside train and val."""
    for name in ("train", "val", "test"):
        write_folder(tmp_path / "target" / name, TARGET, 4)
    for path in (tmp_path / "target" / "test").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60] + path.parent.name.encode())
    line = flags(arguments(data, tmp_path / "run", "finetune", target=str(tmp_path / "target"), test=test, steps=2))
    assert main(line) == (2 if test == "run" else 0)
    said = capsys.readouterr()
    assert ("target/test/blue/000.png: image file is truncated" in said.err) == (test == "run"), said.err


LACKING: dict[str, tuple[dict[str, Any], Callable[[pytest.MonkeyPatch], None], str]] = {
    "decoder": (
        {"decoder": "torchcodec"},
        lambda patch: patch.setitem(sys.modules, "torchcodec.decoders", None),
        "decoder: torchcodec is not installed; pip install 'torchcodec>=0.16'; or use auto",
    ),
    "near duplicates": (
        {"near_duplicates": True},
        lambda patch: patch.setitem(sys.modules, "imagehash", None),
        "near_duplicates: needs the package imagehash: ",
    ),
    "a CUDA graph": (
        {"cuda_graph": True},
        lambda patch: patch.setattr("torch.cuda.is_available", lambda: False),
        "cuda_graph: expected a GPU: ",
    ),
    "a compiler": (
        {"compile": True},
        lambda patch: patch.setenv("CXX", "absent-c++ -O2"),
        "compile: needs a C++ compiler (absent-c++ -O2); install what is missing, or leave compile out",
    ),
    "headers": (
        {"compile": True},
        lambda patch: patch.setattr("sysconfig.get_path", lambda name: "/absent"),
        "compile: needs Python's headers (/absent/Python.h); install what is missing, or leave compile out",
    ),
    "loggers": (
        {"loggers": "wandb"},
        lambda patch: patch.setattr("xmixup_fast.training.loggers.find_spec", lambda name: None),
        "loggers: wandb is not installed; pip install wandb",
    ),
}
"""Settings, what the machine is made to lack, and what is said."""


@pytest.mark.parametrize("name", LACKING)
def test_what_the_machine_lacks_is_told_before_an_image_is_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    settings, spoil, expected = LACKING[name]
    spoil(monkeypatch)
    with pytest.raises(ValueError) as error:
        resolved(Settings(target="/absent", **settings))
    assert str(error.value).startswith(expected)
