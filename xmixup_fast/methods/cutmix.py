"""CutMix within the batch (Yun, Han, Oh, Chun, Choe, Yoo 2019, arXiv 1905.04899): a rectangle of the partner's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..models import Network
from ..rendering import Renderer
from ..sampling import Draw, Sampler, rectangles
from .base import Method, mixed_titles


class Cutmix(Method):
    """lam CE(target logits, y_t) + (1 - lam) CE(target logits, y of the partner), with 1 - lam the rectangle's area.

    The area is drawn as XMixup's weights are; the paper draws it uniformly (alpha 1, no folding). What of a rectangle
    lies outside of the image is cut off, and lam is that of the rest.
    """

    def draw(self, sampler: Sampler, step: int) -> Draw:
        return sampler.draw(step, partners=True)

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return (render.cutmix(draw),)

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        (images,) = inputs
        assert draw.partner_label is not None
        lam = rectangles(draw, images.shape[-1])[1]
        logits = network(images)
        own = self.cross_entropy(logits, draw.label)
        partner = self.cross_entropy(logits, draw.partner_label)
        return (lam * own + (1 - lam) * partner).mean()

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        assert draw.partner_label is not None
        own, partners = ([target_classes[i] for i in labels.tolist()] for labels in (draw.label, draw.partner_label))
        lam = rectangles(draw, self.settings.image_size)[1]
        return [mixed_titles(lam, own, partners)]
