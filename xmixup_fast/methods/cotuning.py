"""Co-Tuning (You, Kou, Long, Wang 2020, NeurIPS 33): the pretrained classifier goes on learning, with soft labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches.plan import StepPlan
from ..models.network import Network
from ..selection.statistics import class_means
from ..settings.fields import Settings
from .base import Batches, known_classes
from .finetune import Finetune


class Cotuning(Finetune):
    """CE(target logits, y_t) + cotuning_weight CE(source logits, P[y_t]).

    P[j] is the mean over the training images of class j of what the pretrained network predicts, a distribution over
    the classes of its classifier: the paper's direct way. Its other way, the inverse of a mapping learnt from source to
    target, and the calibration of predictions need held-out source images, and are left out. The source classes are
    those that the pretrained classifier knows: all of its own or, where a source is given, that source's.
    """

    uses_classifier = True

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        self.known = known_classes("cotuning", network)
        """int64: source classes that are outputs of the pretrained classifier."""
        self.relationship = torch.zeros(len(network.classes), len(self.known), device=self.known.device)
        """float32[K_t, known]: P, the relationship of target classes to known source classes."""
        self.state = {"relationship": self.relationship}

    def measure(self, network: Network, batches: Batches) -> None:
        means = class_means(network, batches(), len(self.relationship), network.known_source_logits).probabilities
        assert means is not None
        self.relationship.copy_(means[:, self.known.cpu()])

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        features, target_logits = network.features_and_logits(images[0])
        source_logits = network.source_logits(features)[:, self.known].float()
        target = self.target_cross_entropy(target_logits, plan.label).mean()
        source = F.cross_entropy(source_logits, self.relationship[plan.label])
        return target + self.settings.cotuning_weight * source
