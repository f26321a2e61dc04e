"""The network that is trained: a timm model with a target head and, for some methods, a source head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.image_format import ImageFormat


class Network(nn.Module):
    """A timm model whose classifier is the target head, with an optional source head on the same features.

    ``network(images)`` computes target logits, float[B, K_t], of normalised images, float[B, 3, H, W].

    Args:
        body: the timm model.
        source_head: maps features to the logits of K_s source classes.
        source_matched: bool[K_s], the source classes whose row of the source head comes from the pretrained classifier.
        model_name: timm's name of the model.
        classes: names of the K_t target classes.
        mean: mean of each colour channel, for images in 0..1.
        std: standard deviation of each colour channel, for images in 0..1.
        classifier: the pretrained classifier, which the selection of source classes uses.
    """

    def __init__(
        self,
        body: Any,
        source_head: nn.Linear | None,
        source_matched: Tensor | None,
        *,
        model_name: str,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        classifier: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.body: Any = body
        self.source_head = source_head
        self.source_matched = source_matched
        self.classifier_weight: Tensor | None
        self.classifier_bias: Tensor | None
        # Buffers that are not persistent, so that the pretrained classifier is neither trained nor saved.
        for name in ("weight", "bias"):
            parameter = getattr(classifier, name, None)
            tensor = None if parameter is None else parameter.detach()
            self.register_buffer(f"classifier_{name}", tensor, persistent=False)
        self.model_name = model_name
        self.classes = list(classes)
        self.mean = tuple(mean)
        self.std = tuple(std)

    def to_device(self, device: torch.device | str) -> Network:
        """Moves the network to a device and into channels_last, the memory format of all batches. Returns itself."""
        return self.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def image_format(self, size: int, dtype: torch.dtype = torch.float32) -> ImageFormat:
        """The format of the images that the network takes, at a size in pixels."""
        return ImageFormat(size, self.mean, self.std, dtype)

    def train(self, mode: bool = True) -> Network:
        """Sets the mode, but leaves frozen batch normalisation in evaluation mode, so that its statistics stay."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Computes the input of the classifier, float[B, D], from normalised images, float[B, 3, H, W]."""
        features: Tensor = self.body.forward_head(self.body.forward_features(x), pre_logits=True)
        return features

    def target_logits(self, features: Tensor) -> Tensor:
        """Computes the logits of the target classes, float[B, K_t], from features, float[B, D]."""
        logits: Tensor = self.body.get_classifier()(features)
        return logits

    def source_logits(self, features: Tensor) -> Tensor:
        """Computes the logits of the source classes, float[B, K_s], from features, float[B, D].

        Raises ValueError for a network without a source head.
        """
        if self.source_head is None:
            raise ValueError("network: has no source head; build it with source_classes")
        logits: Tensor = self.source_head(features)
        return logits

    def known_source_logits(self, features: Tensor) -> Tensor:
        """As :meth:`source_logits`, with -inf for classes that are not outputs of the pretrained classifier."""
        logits = self.source_logits(features)
        assert self.source_matched is not None
        return logits.masked_fill(~self.source_matched.to(logits.device), -torch.inf)

    def classifier_logits(self, features: Tensor) -> Tensor:
        """Computes all K outputs of the pretrained classifier, float[B, K], from features, float[B, D].

        Raises ValueError for a network without a pretrained classifier.
        """
        if self.classifier_weight is None:
            raise ValueError("network: has no pretrained classifier; build it with source_classes and other weights")
        return F.linear(features, self.classifier_weight, self.classifier_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.target_logits(self.features(x))

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The pretrained parameters, and the parameters of heads with new rows.

        The target head is always new. The source head is new unless all its rows come from the pretrained classifier.
        """
        new = list(self.body.get_classifier().parameters())
        if self.source_head is not None and not (self.source_matched is not None and self.source_matched.all()):
            new += self.source_head.parameters()
        ids = {id(parameter) for parameter in new}
        return [parameter for parameter in self.parameters() if id(parameter) not in ids], new
