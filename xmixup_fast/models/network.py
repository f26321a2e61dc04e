"""Network: a timm model with a target head and, for some methods, a source head."""

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

    ``forward(x)`` gives the target logits of normalised images, float[B, K_t] for float[B, 3, H, W].
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
        """The timm model; its classifier is the target head."""
        self.source_head = source_head
        self.source_matched = source_matched
        """bool[K_s]: the source classes whose row of the source head comes from the pretrained classifier."""
        self.classifier_weight: Tensor | None
        self.classifier_bias: Tensor | None
        # The pretrained classifier, for the selection; None where there is none. Neither trained nor saved.
        for name in ("weight", "bias"):
            parameter = getattr(classifier, name, None)
            self.register_buffer(f"classifier_{name}", None if parameter is None else parameter.detach(), False)
        self.model_name = model_name
        self.classes = list(classes)
        self.mean = tuple(mean)
        self.std = tuple(std)

    def to_device(self, device: torch.device | str) -> Network:
        """Moves the network to a device and into channels_last, as all batches are; returns it."""
        return self.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def image_format(self, size: int, dtype: torch.dtype = torch.float32) -> ImageFormat:
        """The format of the images that the network takes, at a size in pixels."""
        return ImageFormat(size, self.mean, self.std, dtype)

    def train(self, mode: bool = True) -> Network:
        """As of any module, but frozen batch normalisation stays in evaluation mode, so that its statistics stay."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """What the classifier sees of images, float[B, D]."""
        features: Tensor = self.body.forward_head(self.body.forward_features(x), pre_logits=True)
        return features

    def target_logits(self, features: Tensor) -> Tensor:
        """Logits of the target classes, float[B, K_t], for float[B, D]."""
        logits: Tensor = self.body.get_classifier()(features)
        return logits

    def source_logits(self, features: Tensor) -> Tensor:
        """Logits of the source classes, float[B, K_s], for float[B, D]. Raises ValueError without a source head."""
        if self.source_head is None:
            raise ValueError("network: has no source head; build it with source_classes")
        logits: Tensor = self.source_head(features)
        return logits

    def known_source_logits(self, features: Tensor) -> Tensor:
        """As :meth:`source_logits`, with -inf for classes that are no outputs of the pretrained classifier."""
        logits = self.source_logits(features)
        assert self.source_matched is not None
        return logits.masked_fill(~self.source_matched.to(logits.device), -torch.inf)

    def classifier_logits(self, features: Tensor) -> Tensor:
        """Logits of all outputs of the pretrained classifier, float[B, K], for float[B, D].

        Raises ValueError where there is no such classifier.
        """
        if self.classifier_weight is None:
            raise ValueError("network: has no pretrained classifier; build it with source_classes and other weights")
        return F.linear(features, self.classifier_weight, self.classifier_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.target_logits(self.features(x))

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The pretrained parameters, and those of new heads: the target's, and the source's unless it is pretrained."""
        new = list(self.body.get_classifier().parameters())
        if self.source_head is not None and not (self.source_matched is not None and self.source_matched.all()):
            new += self.source_head.parameters()
        ids = {id(parameter) for parameter in new}
        return [parameter for parameter in self.parameters() if id(parameter) not in ids], new
