"""Small runs: their settings, as arguments and as flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmixup_fast.training.run import Result, fit

TIMES = ("train_seconds", "seconds_per_step", "selection_seconds")


def arguments(data: Path, output: Path, method: str = "xmixup", **settings: Any) -> dict[str, Any]:
    """A run of a few steps; without a report, which takes longer than they do."""
    return {
        **{"target": str(data / "target"), "source": str(data / "source"), "model": "test_resnet"},
        **{"weights": str(data / "weights.safetensors"), "method": method, "steps": 5, "batch_size": 8},
        **{"image_size": 32, "device": "cpu", "report": False, "output": str(output), **settings},
    }


def run(data: Path, output: Path, method: str = "xmixup", **settings: Any) -> Result:
    return fit(**arguments(data, output, method, **settings))


def flags(values: dict[str, Any]) -> list[str]:
    given = {name.replace("_", "-"): value for name, value in values.items()}
    switches = [f"--{'' if on else 'no-'}{name}" for name, on in given.items() if isinstance(on, bool)]
    others = [(f"--{name}", str(value)) for name, value in given.items() if not isinstance(value, bool)]
    return [*switches, *(part for pair in others for part in pair)]


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in TIMES}
