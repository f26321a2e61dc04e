"""Small runs, and their settings as keyword arguments and as flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmixup_fast.training.run import Result, fit

DURATIONS = ("train_seconds", "seconds_per_step", "selection_seconds")
"""Entries of summary.json that differ from run to run."""


def arguments(data: Path, output: Path, method: str = "xmixup", **settings: Any) -> dict[str, Any]:
    """Keyword arguments of fit for a run of five steps; without a report, which takes longer than the steps."""
    small = {
        "target": str(data / "target"),
        "source": str(data / "source"),
        "model": "test_resnet",
        "weights": str(data / "weights.safetensors"),
        "method": method,
        "steps": 5,
        "batch_size": 8,
        "image_size": 32,
        "device": "cpu",
        "report": False,
        "output": str(output),
    }
    return small | settings


def run(data: Path, output: Path, method: str = "xmixup", **settings: Any) -> Result:
    return fit(**arguments(data, output, method, **settings))


def flags(settings: dict[str, Any]) -> list[str]:
    """The command line that gives these settings."""
    values = {name.replace("_", "-"): value for name, value in settings.items()}
    switches = [f"--{'' if on else 'no-'}{name}" for name, on in values.items() if isinstance(on, bool)]
    pairs = [(f"--{name}", str(value)) for name, value in values.items() if not isinstance(value, bool)]
    return [*switches, *(word for pair in pairs for word in pair)]


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in DURATIONS}
