"""Preprocessing: what happens to an image before a trained network sees it, as its weights file tells."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from safetensors import safe_open

from . import models
from .models import Network

INTERPOLATION = "bilinear, antialiased"
"""How images are resized: torchvision's resize of uint8 images."""


@dataclass(frozen=True)
class Preprocessing:
    """Short side resized to ``resize`` pixels, the middle ``image_size`` x ``image_size`` pixels, normalised."""

    classes: list[str]
    """What the network's outputs mean."""
    image_size: int
    resize: int | None
    """None where images keep their own size."""
    mean: Sequence[float]
    """Of each channel, for images in 0..1; so is ``std``."""
    std: Sequence[float]

    def metadata(self) -> dict[str, str]:
        """As texts, by the names that :func:`.models.save` uses; lists are JSON."""
        return {
            "classes": json.dumps(self.classes),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "image_size": str(self.image_size),
            "resize": "full" if self.resize is None else str(self.resize),
            "interpolation": INTERPOLATION,
        }


def load(path: str | os.PathLike[str]) -> tuple[Network, Preprocessing]:
    """A trained network in evaluation mode, and the preprocessing that belongs to it. Raises as :func:`load_network`.

    Where the file does not tell the short side, it is 8/7 of the image size, as training has it by default.
    """
    network, image_size = models.load_network(path)
    with safe_open(models.trained_file(path), "pt") as file:
        told = file.metadata().get("resize", str(round(image_size * 8 / 7)))
    resize = None if told == "full" else int(told)
    return network, Preprocessing(network.classes, image_size, resize, network.mean, network.std)
