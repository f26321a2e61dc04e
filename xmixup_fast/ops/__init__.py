"""The fused operators, image pools and XMixup: all that a training loop of one's own needs.

Importing it registers the operators as ``torch.ops.xmixup_fast``.
"""

from .image_pool import Crops, ImagePool, Images
from .operators import DrawOutput, draw, dual_head_cross_entropy, mix

__all__ = ["Crops", "DrawOutput", "ImagePool", "Images", "draw", "dual_head_cross_entropy", "mix"]
