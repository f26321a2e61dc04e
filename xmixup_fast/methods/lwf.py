"""Learning without Forgetting (Li & Hoiem 2016, arXiv 1606.09282): what the pretrained classifier says is kept."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches.plan import StepPlan
from ..models.network import Network
from ..settings.fields import Settings
from .base import known_classes
from .finetune import Finetune


class LWF(Finetune):
    """CE(target logits, y_t) + lwf_weight KL(softmax(z0 / T) || softmax(z / T)), with T = lwf_temperature.

    z are the source logits of the target image, and z0 those of a frozen copy of the network as it started, in
    evaluation mode, for the same crop. The paper has the cross entropy in place of the divergence, which differs by the
    entropy of what the frozen copy says: the gradient is the same, and the divergence is zero at the start, but for
    batch normalisation. As in the paper, it is not multiplied by T^2. The source classes are those that the pretrained
    classifier knows, as in Co-Tuning. The paper first trains the new head alone, which ``head_init`` probe does.
    """

    uses_classifier = True

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        self.known = known_classes("lwf", network)
        """int64: source classes that are outputs of the pretrained classifier."""
        self.frozen = copy.deepcopy(network).eval().requires_grad_(False)
        self.state = {f"frozen.{name}": tensor for name, tensor in self.frozen.state_dict().items()}

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        features, target_logits = network.features_and_logits(images[0])
        now = self._log_probabilities(network, features)
        with torch.no_grad():
            before = self._log_probabilities(self.frozen, self.frozen.features(images[0]))
        distance = F.kl_div(now, before, log_target=True, reduction="batchmean")
        return self.target_cross_entropy(target_logits, plan.label).mean() + self.settings.lwf_weight * distance

    def _log_probabilities(self, network: Network, features: Tensor) -> Tensor:
        """Log-probabilities of the known source classes at the temperature, float32[B, known]."""
        logits = network.source_logits(features)[:, self.known].float()
        return (logits / self.settings.lwf_temperature).log_softmax(1)
