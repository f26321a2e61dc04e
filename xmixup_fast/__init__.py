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

from .ops import Draws, draw, dual_head_cross_entropy, mix
from .pool import Crops, ImagePool

if TYPE_CHECKING:
    from .run import Result, fit
    from .sampling import rectangles
    from .settings import Settings
    from .xmixup import MixedLabels, XMixup, joint_labels

# Imported when first used: they need timm or SciPy, which take a second.
_LAZY = {
    "MixedLabels": "xmixup",
    "Result": "run",
    "Settings": "settings",
    "XMixup": "xmixup",
    "fit": "run",
    "joint_labels": "xmixup",
    "rectangles": "sampling",
}

__all__ = [
    "Crops",
    "Draws",
    "ImagePool",
    "MixedLabels",
    "Result",
    "Settings",
    "XMixup",
    "__version__",
    "build_info",
    "cpu_level",
    "draw",
    "dual_head_cross_entropy",
    "fit",
    "joint_labels",
    "mix",
    "rectangles",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'xmixup_fast' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
