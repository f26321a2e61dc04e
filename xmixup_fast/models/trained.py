"""Trained networks in files: their weights, classes and preprocessing."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..runtime.device import own_defaults
from ..runtime.tensor_files import write_tensors
from ..settings.fields import Settings
from . import architecture as architectures
from . import classifiers
from .architecture import Architecture
from .fitting import load_weights
from .network import Network
from .weights import read_weights, trained_file


def save(
    network: Network,
    path: Path,
    image_size: int,
    resize: int | str | None = None,
    temperature: float | None = None,
    *,
    no_temperature: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> None:
    """Writes the network with its target head as a safetensors file, with timm's names of tensors.

    Both ``timm.create_model(model, num_classes=K_t, checkpoint_path=path)`` and the setting ``weights`` read the file.
    The source head is left out. The file's metadata hold model, what :meth:`Preprocessing.metadata` gives, and, where
    they are given, temperature, no_temperature and model_args, further arguments of ``timm.create_model`` (as a JSON
    object).

    Args:
        network: of K_t target classes.
        path: of the file.
        image_size: height and width of the images that the network is for, in pixels.
        resize: short side of images before they are cropped, in pixels, or "full" for images of their own size; 8/7 of
            the image size, training's default, if not given.
        temperature: what logits are to be divided by for calibrated probabilities.
        no_temperature: why there is none, in words.
        reading: the settings background, bit_range and max_pixels, of which those are stored that are not the defaults.
    """
    metadata = {
        "format": "pt",  # without which transformers does not read a file
        **({} if temperature is None else {"temperature": str(temperature)}),
        **({} if no_temperature is None else {"no_temperature": no_temperature}),
        "model": network.model_name,
        **({"model_args": json.dumps(network.model_arguments)} if network.model_arguments else {}),
        **Preprocessing.of(network, image_size, resize, reading).metadata(),
    }
    write_tensors(path, network.body.state_dict(), metadata)


def load_network(path: str | os.PathLike[str]) -> tuple[Network, int]:
    """Loads a trained network from a run folder or from a file that :func:`save` wrote.

    Returns the network, in evaluation mode and without a source head, and its image size in pixels.

    Raises FileNotFoundError where there is no such file, and ValueError for a file that :func:`save` has not written.
    """
    file = trained_file(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {TRAINED}")
    if file.suffix != ".safetensors":
        raise ValueError(f"{os.fspath(path)}: {TRAINED}")
    weights = read_weights(file)
    metadata = weights.metadata
    missing = [name for name in ("model", "classes", "mean", "std", "image_size") if name not in metadata]
    if missing:
        raise ValueError(f"{file}: {TRAINED}; its metadata lack {', '.join(missing)}")
    model, image_size = metadata["model"], int(metadata["image_size"])
    if not timm.is_model(model):
        raise ValueError(f"{file}: timm has no {model!r}, which the metadata name")
    arguments: dict[str, Any] = json.loads(metadata.get("model_args", "{}"))
    classes, mean, std = (json.loads(metadata[name]) for name in ("classes", "mean", "std"))
    with torch.random.fork_rng(devices=[]), own_defaults():
        body = architectures.create(Architecture(model, arguments), image_size).float()  # whatever the default dtype is
        load_weights(body, weights, str(file), model)
    outputs = len(classifiers.output_layers(body)[0].weight)
    if outputs != len(classes):
        raise ValueError(f"{file}: the metadata name {len(classes)} classes, and the network has {outputs} outputs")
    network = Network(
        body, None, None, model_name=model, model_arguments=arguments, classes=classes, mean=mean, std=std
    )
    return network.eval(), image_size


TRAINED = "expected a run folder that holds model.safetensors, or such a file"

INTERPOLATION = "bilinear, antialiased"
"""How torchvision resizes uint8 images."""


def default_resize(image_size: int) -> int:
    """Short side of images before they are cropped, in pixels, where training is not told otherwise."""
    return round(image_size * 8 / 7)


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it: it is resized, cropped in its middle and normalised."""

    classes: list[str]
    """The class that each output of the network stands for."""
    image_size: int
    """Height and width of the crop, in pixels."""
    resize: int | None
    """Short side of the image before it is cropped, in pixels; None where images keep their own size."""
    mean: Sequence[float]
    """Mean of each colour channel, for images in 0..1."""
    std: Sequence[float]
    """Standard deviation of each colour channel, for images in 0..1."""
    reading: dict[str, Any] = field(default_factory=dict)
    """What was not as usual in reading images: the settings background, bit_range and max_pixels, by name."""

    @classmethod
    def of(
        cls,
        network: Network,
        image_size: int,
        resize: int | str | None,
        reading: Mapping[str, Any] | None = None,
    ) -> Preprocessing:
        """A network's preprocessing; ``resize`` and ``reading`` are what :func:`save` takes."""
        short_side = default_resize(image_size) if resize is None else None if resize == "full" else int(resize)
        unusual = {name: value for name, value in (reading or {}).items() if value != getattr(Settings, name)}
        return cls(network.classes, image_size, short_side, network.mean, network.std, unusual)

    def steps(self, as_bytes: bool = False) -> list[str]:
        """What has to be done to an image file, in this order, to make the input of the network.

        ``as_bytes``: of a program that takes bytes, and normalises them itself.
        """
        size = self.image_size
        background = self.reading.get("background", Settings.background)
        is_full = self.reading.get("bit_range", Settings.bit_range) == "full"
        samples = "the upper byte" if is_full else "the upper 8 of the 8, 10, 12, 14 or 16 bits in use"
        to_rgb = f"what is transparent on {background}, the first page or frame, {samples} of 16-bit samples"
        resize = f"resize the short side to {self.resize} pixels, {INTERPOLATION}, as uint8"
        return [
            "turn the image upright as its EXIF orientation says",
            f"convert it to RGB: {to_rgb}",
            "keep the middle 16 short sides of an image that is longer",
            *([] if self.resize is None else [resize]),
            f"crop the middle {size} x {size} pixels, half pixels rounded to even numbers",
            *([] if as_bytes else ["divide by 255, subtract mean, and divide by std"]),
        ]

    def metadata(self, as_bytes: bool = False) -> dict[str, str]:
        """All values and the :meth:`steps` as texts, under the names that :func:`save` uses; lists are JSON."""
        return {
            "classes": json.dumps(self.classes),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "image_size": str(self.image_size),
            "resize": "full" if self.resize is None else str(self.resize),
            "interpolation": INTERPOLATION,
            **{name: str(value) for name, value in self.reading.items()},
            "steps": json.dumps(self.steps(as_bytes)),
        }


def load(path: str | os.PathLike[str]) -> tuple[Network, Preprocessing]:
    """Loads a trained network, in evaluation mode, and the preprocessing that it needs.

    Where the metadata lack ``resize``, the short side is 8/7 of the image size, the default of training.

    Raises what :func:`load_network` raises.
    """
    network, image_size = load_network(path)
    with safe_open(trained_file(path), "pt") as file:
        metadata = file.metadata()
    reading: dict[str, Any] = {name: metadata[name] for name in ("background", "bit_range") if name in metadata}
    if "max_pixels" in metadata:
        reading["max_pixels"] = int(metadata["max_pixels"])
    return network, Preprocessing.of(network, image_size, metadata.get("resize"), reading)


def temperature_of(path: str | os.PathLike[str]) -> float | None:
    """The temperature of a trained network, by which its logits are divided for calibrated probabilities.

    None where training has found none. ``path`` is what :func:`load` has taken.
    """
    with safe_open(trained_file(path), "pt") as file:
        metadata = file.metadata()
    return float(metadata["temperature"]) if "temperature" in metadata else None


def needed_temperature(path: str | os.PathLike[str]) -> float:
    """The same, where it is asked for. Raises ValueError, which says why and what to do, for a network without one."""
    temperature = temperature_of(path)
    if temperature is None:
        with safe_open(trained_file(path), "pt") as file:
            why = file.metadata().get("no_temperature", "nothing tells why; training fits one at its end")
        raise ValueError(
            f"calibrated: {os.fspath(path)} has no temperature: {why}; train again, with other or more validation "
            "images (--val-fraction), or leave --calibrated out"
        )
    return temperature


class Calibrated(nn.Module):
    """A network whose logits are divided by a temperature."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images) / self.temperature
        return logits


class InHalf(nn.Module):
    """A network that computes in float16, between images and logits in float32."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = copy.deepcopy(body).half()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images.half()).float()
        return logits


class WithPreprocessing(nn.Module):
    """A network that takes crops as bytes, uint8[B, H, W, 3], and normalises them."""

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.scale: Tensor
        self.bias: Tensor
        means, stds = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
        self.register_buffer("scale", (1 / (255 * stds)).float().view(3, 1, 1), persistent=False)
        self.register_buffer("bias", (-means / stds).float().view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images.permute(0, 3, 1, 2).float() * self.scale + self.bias)
        return logits
