"""XMixup (Li et al. 2020, arXiv 2007.10252): each target image is mixed with an auxiliary one of the source.

A reconstruction from the paper's abstract.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import ops
from ..batches.plan import Draw
from ..batches.render import Renderer
from ..models.network import Network
from ..settings.fields import Settings
from .base import Method, mixed_titles
from .l2sp import Anchor


class XMixup(Method):
    """lam CE(target logits, y_t) + source_weight (1 - lam) CE(source logits, y_s): one forward for both datasets.

    Images are blended with the weights lam and 1 - lam or, in steps with rectangles, 1 - lam is the area of one that is
    pasted, less what of it lies outside of the image. Unless the setting ``anchor`` is off, pretrained weights are
    drawn to where they started, as by :class:`~.l2sp.L2SP`.
    """

    uses_source = True

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        self.anchor = Anchor(settings, network) if settings.anchor and settings.weights != "none" else None
        if self.anchor is not None:
            self.weight_decay = 0.0
            self.state = self.anchor.state

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return (render.xcutmix(draw) if draw.rectangle else render.xmixup(draw),)

    def weights(self, draw: Draw) -> Tensor:
        """Of the target images, float32[B]."""
        return draw.rectangles(self.settings.image_size)[1] if draw.rectangle else draw.lam

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        (images,) = inputs
        assert draw.aux_label is not None
        features = network.features(images)
        loss = ops.dual_head_cross_entropy(
            *(network.target_logits(features), network.source_logits(features)),
            *(draw.label, draw.aux_label, self.weights(draw)),
            source_weight=self.settings.source_weight,
            label_smoothing=self.settings.label_smoothing,
        )
        return loss if self.anchor is None else loss + self.anchor.penalty()

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        assert draw.aux_label is not None
        names = [target_classes[label] for label in draw.label.tolist()]
        return [mixed_titles(self.weights(draw), names, [source_classes[label] for label in draw.aux_label.tolist()])]
