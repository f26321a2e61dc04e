"""XMixup: fine-tuning with auxiliary samples at the price of plain fine-tuning, on fused C++/CUDA operators.

>>> import xmixup_fast
>>> result = xmixup_fast.fit(target="photos/", source="imagenet/", model="resnet50")  # doctest: +SKIP
>>> images = xmixup_fast.mix(pool, crops, aux, aux_crops, lam, mean=mean, std=std, size=(224, 224))  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

import torch as _torch  # noqa: F401  (loads the libraries that the extension is linked with)

try:
    from ._C import __version__, build_info, cpu_level
except ModuleNotFoundError as error:
    raise ImportError(
        "xmixup_fast: the native extension is missing for this Python; in the project's folder run: pip install ."
    ) from error

from .features import mix_features
from .ops.image_pool import Crops, ImagePool
from .ops.operators import DrawOutput, draw, dual_head_cross_entropy, mix

if TYPE_CHECKING:
    from .ops.lam import cutmix_boxes
    from .ops.xmixup import MixedLabels, XMixup, joint_labels
    from .settings.fields import Settings
    from .training.run import Result, fit

# Imported when first used: they need timm or SciPy, which take a second.
_LAZY = {
    "MixedLabels": "ops.xmixup",
    "Result": "training.run",
    "Settings": "settings.fields",
    "XMixup": "ops.xmixup",
    "cutmix_boxes": "ops.lam",
    "fit": "training.run",
    "joint_labels": "ops.xmixup",
}

__all__ = [
    "Crops",
    "DrawOutput",
    "ImagePool",
    "MixedLabels",
    "Result",
    "Settings",
    "XMixup",
    "__version__",
    "build_info",
    "cpu_level",
    "cutmix_boxes",
    "draw",
    "dual_head_cross_entropy",
    "fit",
    "joint_labels",
    "mix",
    "mix_features",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'xmixup_fast' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
