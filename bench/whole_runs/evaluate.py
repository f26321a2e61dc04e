"""The test accuracy of what a side has saved, and whether all sides trained as the recipe says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from whole_runs.recipe import Recipe


def read_state(file: Path, names: dict[str, str], key: str | None) -> dict[str, Tensor]:
    """The tensors of a file under timm's names; see :func:`whole_runs.recipe.saved`."""
    state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    state = state if key is None else state[key]
    return {
        new + name.removeprefix(old): tensor
        for old, new in names.items()
        for name, tensor in state.items()
        if name.startswith(old)
    }


def held_out(folder: Path, recipe: Recipe, mean: Any, std: Any) -> DataLoader:
    """The test images, resized and cropped at the centre, with Pillow and torchvision."""
    steps = [v2.Resize(recipe.resize), v2.CenterCrop(recipe.image_size), v2.ToImage()]
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    return DataLoader(ImageFolder(folder, v2.Compose([*steps, *finish])), 50)


def accuracy(network: torch.nn.Module, images: DataLoader) -> float:
    """Percent of the images whose class has the highest logit."""
    network.eval()
    correct = 0
    with torch.inference_mode():
        for pixels, labels in images:
            correct += int((network(pixels).argmax(1) == labels).sum())
    return 100 * correct / len(images.dataset)  # type: ignore[arg-type]


def evaluate(recipe: Recipe, test: Path, saved: dict[str, Any]) -> float:
    """The test accuracy of a saved model, in percent; ``saved`` is its mark.

    Raises RuntimeError where its tensors are not the network's, and ValueError where any but the new head's is as it
    was at the start.
    """
    network = timm.create_model(recipe.model, pretrained=True, num_classes=recipe.classes)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = read_state(Path(saved["file"]), saved["names"], saved["key"])
    check_learnt(start, state)
    network.load_state_dict(state)
    config = network.pretrained_cfg
    return accuracy(network, held_out(test, recipe, config["mean"], config["std"]))


def check_learnt(start: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Raises ValueError where a tensor of a trained state dict is missing, not finite, or as it was at the start."""
    for name, before in start.items():
        if name not in state:
            raise ValueError(f"saved model: expected a tensor {name}, got {sorted(state)[:3]} and others")
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"saved model: {name}: expected finite numbers")
        if torch.equal(before, state[name]):
            raise ValueError(f"saved model: {name}: expected other values than at the start of training")


def check_steps(recipe: Recipe, images: int, steps: dict[str, Any]) -> None:
    """Raises ValueError where the optimiser's steps, a mark, are not those of the recipe for so many images."""
    expected = recipe.epochs * images // recipe.batch_size
    if len(steps["ends"]) != expected:
        raise ValueError(f"steps: expected {expected}, got {len(steps['ends'])}")
    how = [["SGD", recipe.momentum, True, recipe.weight_decay]]
    if steps["how"] != how:
        raise ValueError(f"optimiser: expected {how} (class, momentum, Nesterov, weight decay), got {steps['how']}")
    for step, rates in enumerate(steps["rates"]):
        rate = recipe.lr * (1 + math.cos(math.pi * step / expected)) / 2
        if len(rates) != 1 or not math.isclose(rates[0], rate, rel_tol=1e-3, abs_tol=1e-9):
            raise ValueError(f"learning rate of step {step} of {expected}: expected {rate:.3g}, got {rates}")
