"""config.json beside model.safetensors: all that timm and the Hugging Face Hub ask about a network.

With it, ``timm.create_model("local-dir:FOLDER", pretrained=True)`` makes the trained network, and so does ``hf-hub:ID``
once the folder is uploaded. timm's ``resolve_model_data_config`` and ``create_transform`` then prepare photos as
training did, but for two steps that timm has no names for: they are in ``preprocessing``, in words. timm resizes with
Pillow, whose pixels differ from torchvision's by one of 255 levels at most.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..runtime.files import write_json
from .network import Network
from .trained import Preprocessing

CONFIG = "config.json"
KEPT = ("fixed_input_size", "first_conv", "classifier", "license")
"""What holds of a trained network as of the weights that it began with, in timm's names."""
NO_RESIZE = "none: images keep their own size, so that timm's transforms cannot prepare them"
"""An interpolation that timm does not know: better an error than a photo that is resized where training did not."""


def write_config(network: Network, preprocessing: Preprocessing, folder: Path) -> None:
    """Writes config.json to the folder of a model.safetensors. Raises OSError where it cannot be written."""
    write_json(folder / CONFIG, timm_config(network, preprocessing))


def timm_config(network: Network, preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of config.json."""
    size, former = preprocessing.image_size, network.body.pretrained_cfg
    arguments = dict(network.model_arguments)
    if "img_size" in arguments and former.get("fixed_input_size"):
        arguments["img_size"] = size
    return {
        "architecture": network.model_name.partition(".")[0],  # behind the point timm names weights
        "num_classes": len(preprocessing.classes),
        "num_features": network.width,
        "label_names": preprocessing.classes,
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            **{name: former[name] for name in KEPT if former.get(name) is not None},
            "num_classes": len(preprocessing.classes),
            "input_size": [arguments.get("in_chans", 3), size, size],
            "interpolation": NO_RESIZE if preprocessing.resize is None else "bilinear",
            "crop_pct": crop_share(size, preprocessing.resize or size),
            "crop_mode": "center",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "preprocessing": preprocessing.steps(),
    }


def crop_share(size: int, short_side: int) -> float:
    """timm's crop_pct: the number by which it divides ``size``, and rounds down, for the short side to resize to."""
    share = size / short_side
    return share if math.floor(size / share) == short_side else math.nextafter(share, 0)
