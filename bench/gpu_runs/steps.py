"""Times of training steps, taken in turn: our methods, and mixup as users write it; ResNet-50 and a small network.

A row of sides is measured by itself, so that one that fails takes no other along. Each row has `finetune`, whose time
the others are compared with.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from step_sides import make_trainer

from .lines import Figures, main

ROWS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "methods": {
        "finetune": ("finetune", {}),
        "xmixup": ("xmixup", {}),
        "xmixup, l2sp": ("xmixup", {"regularizer": "l2sp"}),
        "cotrain": ("cotrain", {}),
    },
    "libraries": {"finetune": ("finetune", {}), "torchvision": ("torchvision", {}), "timm": ("timm", {})},
    "CUDA graphs": {
        "finetune": ("finetune", {}),
        "finetune, graph": ("finetune", {"cuda_graph": True}),
        "xmixup, graph": ("xmixup", {"cuda_graph": True}),
    },
}
"""By name of a row: the sides by their names, each as a side of step_sides.py and its settings."""


@dataclass(frozen=True)
class Workload:
    """A network, and what a step of it looks at."""

    model: str
    size: int
    batch: int
    amp: str | None
    warm_up: int
    """Steps of each side before any is timed."""
    rounds: int
    """Blocks of steps of each side."""
    block: int
    """Steps of a block, between whose ends nothing waits for the device."""
    workers: int
    """Processes of a DataLoader, for the sides that have one."""


def workloads(device: torch.device) -> dict[str, Workload]:
    if device.type == "cuda":
        large = Workload("resnet50", 224, 64, "bf16", warm_up=12, rounds=12, block=8, workers=8)
        small = Workload("test_resnet", 64, 32, None, warm_up=12, rounds=20, block=20, workers=8)
    else:
        large = Workload("resnet50", 32, 2, "bf16", warm_up=1, rounds=1, block=1, workers=1)
        small = Workload("test_resnet", 32, 2, None, warm_up=1, rounds=2, block=1, workers=1)
    return {"ResNet-50": large, "small network": small}


def measure_all(figures: Figures, asked: argparse.Namespace) -> None:
    device = torch.device(asked.device)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):  # as in a run
        for name, workload in workloads(device).items():
            for row, sides in ROWS.items():
                if row == "CUDA graphs" and device.type != "cuda":
                    continue
                figures.measure(
                    f"{name}: {row}", lambda sides=sides, workload=workload: measured(sides, workload, device)
                )


def measured(sides: dict[str, tuple[str, dict[str, Any]]], workload: Workload, device: torch.device) -> dict[str, Any]:
    """Median seconds of a step of each side, and these in multiples of `finetune`."""
    steps = {}
    for name, (side, settings) in sides.items():
        trainer = make_trainer(
            side,
            workload.model,
            workload.size,
            workload.batch,
            device=device,
            workers=workload.workers,
            amp=workload.amp,
            **settings,
        )
        for _ in range(workload.warm_up):
            loss = trainer.step()
        assert torch.isfinite(loss), f"{name}: expected a finite loss, got {float(loss)}"
        steps[name] = trainer.step
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(workload.rounds):
        for name, step in steps.items():
            seconds[name].append(seconds_of(step, workload.block, device))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    over = {name: value / medians["finetune"] for name, value in medians.items()}
    at = {"model": workload.model, "size": workload.size, "batch": workload.batch, "amp": workload.amp}
    return {**at, "seconds": medians, "over_finetune": over}


def seconds_of(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds of one of so many steps, from an idle device to an idle device."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    main(measure_all)
