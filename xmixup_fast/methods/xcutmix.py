"""XMixup with CutMix's rectangle (Yun et al. 2019, arXiv 1905.04899) in place of a blend: our own combination."""

from __future__ import annotations

from torch import Tensor

from ..batches.plan import Draw
from ..batches.render import Renderer
from .xmixup import XMixup


class XCutmix(XMixup):
    """lam CE(target logits, y_t) + source_weight (1 - lam) CE(source logits, y_s), with 1 - lam the rectangle's area.

    The rectangle shows the auxiliary image. See :class:`~xmixup_fast.methods.cutmix.Cutmix` for its area.
    """

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return (render.xcutmix(draw),)

    def weights(self, draw: Draw) -> Tensor:
        return draw.rectangles(self.settings.image_size)[1]
