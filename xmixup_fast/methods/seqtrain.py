"""Sequential training (Cui, Song, Sun, Howard, Belongie 2018, arXiv 1806.06193): first the source, then the target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batches.plan import StepPlan
from ..batches.render import Pools, render_auxiliary
from ..batches.sampler import Sampler
from ..models.network import Network
from ..ops.image_format import ImageFormat, OutputBuffers
from ..settings.fields import Settings
from .base import forget
from .finetune import Finetune


class Seqtrain(Finetune):
    """CE(source logits, y_s) on the union of all A_j in a first phase, then CE(target logits, y_t).

    The source phase comes on top, so that all methods see as many target images: it has seqtrain_share times the steps
    of fine-tuning. Half of them by default: as with XMixup's mixed images, the network then sees more of the target
    than of the source, and a run still costs less than one of co-training. Images are drawn uniformly from the union.
    The second phase begins with a new optimiser, and each phase has a schedule of its own.
    """

    uses_source = True
    has_unused_parameters = True

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        self.in_source_phase = True

    def source_phase_steps(self, steps: int) -> int:
        return max(1, round(self.settings.seqtrain_share * steps))

    def plan(self, sampler: Sampler, step: int) -> StepPlan:
        first = self.source_phase_steps(sampler.steps)
        return sampler.plan(step, any_class=True) if step < first else sampler.plan(step - first)

    def before_step(self, network: Network, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        first = self.source_phase_steps(steps)
        self.in_source_phase = step < first
        if step == first:
            forget(optimizer, list(optimizer.state))

    def images(self, plan: StepPlan, pools: Pools, form: ImageFormat, buffers: OutputBuffers) -> tuple[Tensor, ...]:
        if not self.in_source_phase:
            return super().images(plan, pools, form, buffers)
        out = buffers.get("auxiliary", len(plan), form, plan.lam.device)
        return (render_auxiliary(plan, pools, form, out),)

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        if not self.in_source_phase:
            return super().loss(network, images, plan)
        return self.cross_entropy(network.source_logits(network.features(images[0])), plan.second_classes).mean()

    def titles(self, plan: StepPlan, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        if not self.in_source_phase:
            return super().titles(plan, target_classes, source_classes)
        return [[source_classes[label] for label in plan.second_classes.tolist()]]
