"""XMixup: fine-tuning with auxiliary samples at the price of plain fine-tuning, on fused C++/CUDA operators.

>>> import xmixup_fast
>>> result = xmixup_fast.fit("photos/", source="imagenet/")  # doctest: +SKIP
>>> images = xmixup_fast.mix(pool, crops, aux, aux_crops, lam, mean=mean, std=std, size=(224, 224))  # doctest: +SKIP

The names are imported when they are first used, so that importing the package needs neither torch nor the extension.
``import xmixup_fast.ops`` registers the operators as ``torch.ops.xmixup_fast``.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .commands.functions import compare, evaluate, predict, select
    from .commands.predict import Prediction
    from .commands.predictions import Predictions
    from .comparison.verdict import Verdict
    from .methods.l2sp import l2sp
    from .ops.augmentation import Augmentation
    from .ops.image_pool import Crops, ImagePool
    from .ops.mix_plan import MixPlan
    from .ops.mixed_labels import MixedLabels, joint_labels
    from .ops.operators import draw, dual_head_cross_entropy, mix, mix_plan
    from .ops.xmixup import XMixup
    from .report.results import EvaluationResult, SelectionResult
    from .runtime.extension import __version__, build_info, cpu_level, free_outputs
    from .settings.fields import Settings
    from .training.result import Result
    from .training.run import fit

# timm brings tqdm.auto, which warns, when it is imported, of a notebook without ipywidgets; its bars are text there.
warnings.filterwarnings("ignore", "IProgress not found")

# The same imports as above: tests/project/test_package.py compares them.
_LAZY = {
    "Augmentation": "ops.augmentation",
    "Crops": "ops.image_pool",
    "EvaluationResult": "report.results",
    "ImagePool": "ops.image_pool",
    "MixPlan": "ops.mix_plan",
    "MixedLabels": "ops.mixed_labels",
    "Prediction": "commands.predict",
    "Predictions": "commands.predictions",
    "Result": "training.result",
    "SelectionResult": "report.results",
    "Settings": "settings.fields",
    "Verdict": "comparison.verdict",
    "XMixup": "ops.xmixup",
    "__version__": "runtime.extension",
    "build_info": "runtime.extension",
    "compare": "commands.functions",
    "cpu_level": "runtime.extension",
    "draw": "ops.operators",
    "dual_head_cross_entropy": "ops.operators",
    "evaluate": "commands.functions",
    "fit": "training.run",
    "free_outputs": "runtime.extension",
    "joint_labels": "ops.mixed_labels",
    "l2sp": "methods.l2sp",
    "mix": "ops.operators",
    "mix_plan": "ops.operators",
    "predict": "commands.functions",
    "select": "commands.functions",
}

__all__ = [
    "Augmentation",
    "Crops",
    "EvaluationResult",
    "ImagePool",
    "MixPlan",
    "MixedLabels",
    "Prediction",
    "Predictions",
    "Result",
    "SelectionResult",
    "Settings",
    "Verdict",
    "XMixup",
    "__version__",
    "build_info",
    "compare",
    "cpu_level",
    "draw",
    "dual_head_cross_entropy",
    "evaluate",
    "fit",
    "free_outputs",
    "joint_labels",
    "l2sp",
    "mix",
    "mix_plan",
    "predict",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'xmixup_fast' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
