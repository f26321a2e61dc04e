"""CutMix within the batch (Yun, Han, Oh, Chun, Choe, Yoo 2019, arXiv 1905.04899): a rectangle of the partner's."""

from __future__ import annotations

from torch import Tensor

from ..batches.plan import Draw
from ..batches.render import Renderer
from .mixup import Mixup


class Cutmix(Mixup):
    """lam CE(target logits, y_t) + (1 - lam) CE(target logits, y of the partner), with 1 - lam the rectangle's area.

    The area is drawn as XMixup's weights are; the paper draws it uniformly (alpha 1, no folding). What of a rectangle
    lies outside of the image is cut off, and lam is that of the rest.
    """

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return (render.cutmix(draw),)

    def weights(self, draw: Draw) -> Tensor:
        return draw.rectangles(self.settings.image_size)[1]
