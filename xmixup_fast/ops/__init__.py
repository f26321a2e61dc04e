"""The fused operators, image pools and XMixup: all that a training loop of one's own needs.

Importing it registers the operators as ``torch.ops.xmixup_fast``.
"""

from .augmentation import Augmentation
from .image_pool import Crops, ImagePool, Images
from .mix_plan import MixPlan
from .operators import draw, dual_head_cross_entropy, mix, mix_plan

__all__ = [
    "Augmentation",
    "Crops",
    "ImagePool",
    "Images",
    "MixPlan",
    "draw",
    "dual_head_cross_entropy",
    "mix",
    "mix_plan",
]
