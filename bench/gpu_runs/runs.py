"""Whole runs on made photographs, with images in memory and streamed: all of `fit`, as users call it."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import xmixup_fast
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save

from .lines import Figures, main


def measure_all(figures: Figures, asked: argparse.Namespace) -> None:
    for storage in ("resident", "stream"):
        figures.measure(storage, lambda storage=storage: run(asked.photos, storage, asked.device))


def run(photos: Path, storage: str, device: str) -> dict[str, Any]:
    """Seconds of a run, of its training, and the median of its steps. The network starts at random."""
    small = device == "cpu"
    model, size, batch, steps = ("test_resnet", 32, 8, 3) if small else ("resnet50", 224, 64, 100)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.safetensors")
        save(build(model, "none", sorted(path.name for path in (photos / "source").iterdir())), weights, size)
        started = time.perf_counter()
        result = xmixup_fast.fit(
            target=str(photos / "target"),
            source=str(photos / "source"),
            model=model,
            weights=str(weights),
            selection="random",
            storage=storage,
            amp="bf16",
            image_size=size,
            batch_size=batch,
            steps=steps,
            device=device,
            test="none",
            report=False,
            output=str(Path(folder, "run")),
        )
        seconds = time.perf_counter() - started
    summary = result.summary
    return {
        "model": model,
        "batch": batch,
        "steps": steps,
        "seconds": seconds,
        "training": summary["train_seconds"],
        "step": summary["seconds_per_step"],
        "images_per_second": batch / summary["seconds_per_step"],
    }


if __name__ == "__main__":
    main(measure_all)
