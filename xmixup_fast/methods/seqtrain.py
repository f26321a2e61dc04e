"""Sequential training (Cui, Song, Sun, Howard, Belongie 2018, arXiv 1806.06193): first the source, then the target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batches.plan import Draw
from ..batches.render import Renderer
from ..batches.sampler import Sampler
from ..models.network import Network
from ..settings.fields import Settings
from .finetune import Finetune


class Seqtrain(Finetune):
    """CE(source logits, y_s) on the union of all A_j in a first phase, then CE(target logits, y_t).

    The first phase comes on top, so that all methods see as many target images: its steps are seqtrain_share of those
    of fine-tuning. Half of them by default: as with xmixup's mixed images, the network then sees more of the target
    than of the source, and a run still costs less than one of co-training. Images are drawn uniformly from the union.
    The second phase begins with a new optimiser, and each has a cosine of its own.
    """

    uses_source = True
    has_unused_parameters = True

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        self.first_phase = True

    def source_phase_steps(self, steps: int) -> int:
        return max(1, round(self.settings.seqtrain_share * steps))

    def draw(self, sampler: Sampler, step: int) -> Draw:
        first = self.source_phase_steps(sampler.steps)
        return sampler.draw(step, aux_of_any_class=True) if step < first else sampler.draw(step - first)

    def before_step(self, network: Network, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        first = self.source_phase_steps(steps)
        self.first_phase = step < first
        if step == first:
            optimizer.state.clear()

    def inputs(self, draw: Draw, render: Renderer) -> tuple[Tensor, ...]:
        return (render.aux(draw.aux_crops),) if self.first_phase else super().inputs(draw, render)

    def loss(self, network: Network, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        if not self.first_phase:
            return super().loss(network, inputs, draw)
        (images,) = inputs
        assert draw.aux_label is not None
        return self.cross_entropy(network.source_logits(network.features(images)), draw.aux_label).mean()

    def titles(self, draw: Draw, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        if not self.first_phase:
            return super().titles(draw, target_classes, source_classes)
        assert draw.aux_label is not None
        return [[source_classes[label] for label in draw.aux_label.tolist()]]
