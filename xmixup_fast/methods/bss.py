"""Batch Spectral Shrinkage (Chen, Wang, Fu, Long, Wang 2019, NeurIPS 32): small singular values of features shrink."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from ..batches.plan import StepPlan, part_bounds
from ..models.network import Network
from ..runtime.distributed import world_size
from ..settings.fields import Settings
from .finetune import Finetune


class BSS(Finetune):
    """CE(target logits, y_t) + bss_eta * the sum of the bss_k smallest squared singular values of the features [B, D].

    The features are those of all processes together; with --grad-accum-steps, of one micro-batch at a time.
    Directions with small singular values transfer badly, as the paper finds.
    """

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        values = min(settings.batch_size, network.width)
        if settings.bss_k > values:
            raise ValueError(f"bss_k: expected at most {values}, the singular values of a batch, got {settings.bss_k}")

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        features, logits = network.features_and_logits(images[0])
        together = features.float()
        if world_size() > 1:
            together = _of_all_processes(together, self._longest(plan.micro_batch))
        values: Tensor = torch.linalg.svdvals(together)  # in descending order; waits for a GPU
        values = values[: min(self.settings.batch_size, features.shape[1])]
        penalty = self.settings.bss_eta * values[-self.settings.bss_k :].square().sum()
        return self.target_cross_entropy(logits, plan.label).mean() + penalty

    def _longest(self, micro_batch: int) -> int:
        """The most samples that a process has in a micro-batch of a step, which none has to ask the others for."""
        processes, micro_batches = world_size(), self.settings.grad_accum_steps or 1
        shares = [part_bounds(self.settings.batch_size, rank, processes) for rank in range(processes)]
        parts = [part_bounds(end - begin, micro_batch, micro_batches) for begin, end in shares]
        return max(end - begin for begin, end in parts)


def _of_all_processes(features: Tensor, longest: int) -> Tensor:
    """The features of all processes, float[N, D].

    Parts are padded with rows of zeros to the length of the longest; these add no singular value but zeros.
    """
    padded = F.pad(features, (0, 0, 0, longest - len(features)))
    return torch.cat(all_gather(padded))
