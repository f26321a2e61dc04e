"""XMixup with CutMix's rectangle (Yun et al. 2019, arXiv 1905.04899) in place of a blend: our own combination."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import ops
from ..models import Network
from ..rendering import Renderer
from ..sampling import Draw, rectangles
from .base import Method, mixed_titles


class XCutmix(Method):
    """lam CE(target logits, y_t) + source_weight (1 - lam) CE(source logits, y_s), with 1 - lam the rectangle's area.

    The rectangle shows the auxiliary image. See :class:`~xmixup_fast.methods.cutmix.Cutmix` for its area.
    """

    uses_source = True

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return (render.xcutmix(draw),)

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        (images,) = inputs
        assert draw.aux_label is not None
        features = network.features(images)
        return ops.dual_head_cross_entropy(
            *(network.target_logits(features), network.source_logits(features)),
            *(draw.label, draw.aux_label, rectangles(draw, images.shape[-1])[1]),
            source_weight=self.settings.source_weight,
            label_smoothing=self.settings.label_smoothing,
        )

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        assert draw.aux_label is not None
        names = [target_classes[label] for label in draw.label.tolist()]
        lam = rectangles(draw, self.settings.image_size)[1]
        return [mixed_titles(lam, names, [source_classes[label] for label in draw.aux_label.tolist()])]
