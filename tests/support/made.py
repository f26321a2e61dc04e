"""Writes what tests run on: image folders whose classes differ in colour, and plans of comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import yaml

Colour = tuple[int, int, int]
TARGET: dict[str, Colour] = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 40, 30)}
SOURCE: dict[str, Colour] = {
    "grass": (60, 180, 40),
    "rose": (200, 20, 60),
    "sky": (90, 120, 250),
    "snow": (250, 250, 250),
}


def write_folder(
    folder: Path, classes: Mapping[str, Colour], count: int, size: tuple[int, int] = (36, 40), seed: int = 0
) -> Path:
    """Writes ``count`` noisy images, of ``size`` (height, width) pixels, for each class. Returns the folder."""
    generator = torch.Generator().manual_seed(seed)
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = torch.randint(-30, 31, (3, *size), generator=generator)
            pixels = (torch.tensor(colour).view(3, 1, 1) + noise).clamp(0, 255).to(torch.uint8)
            PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / name / f"{i:03d}.png")
    return folder


def write_plan(folder: Path, plan: Mapping[str, Any]) -> str:
    """Writes the plan of a comparison as a YAML file, and returns the file's path."""
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return str(folder / "plan.yaml")
