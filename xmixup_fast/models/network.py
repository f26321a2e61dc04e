"""The network that is trained: a timm model with a target head and, for some methods, a source head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.image_format import ImageFormat
from . import classifiers

NOTHING_PRETRAINED = "this one has none"
"""Why a network of new weights has no pretrained classifier, for messages."""


class Network(nn.Module):
    """A timm model whose classifier is the target head, with an optional source head on the same features.

    ``network(images)`` computes target logits, float[B, K_t], of normalised images, float[B, 3, H, W].

    Most classifiers are a linear layer, which makes the target logits of the features. Others (two heads on two tokens,
    convolutions) get what the network makes before it pools; the source head gets features in any case.

    Args:
        body: the timm model.
        source_head: maps features to the logits of K_s source classes.
        source_matched: bool[K_s], the source classes whose row of the source head comes from the pretrained classifier.
        model_name: timm's name of the model.
        classes: names of the K_t target classes.
        mean: mean of each colour channel, for images in 0..1.
        std: standard deviation of each colour channel, for images in 0..1.
        classifier: the pretrained classifier, which the selection of source classes uses.
        target_matched: bool[K_t], the target classes whose row of the target head comes from the weights; None where
            all rows are new.
        model_arguments: further arguments with which timm makes the model.
        no_classifier: why there is no pretrained classifier, for messages; empty where there is one.
        classifier_classes: the class that each output of the pretrained classifier stands for; empty where unknown.
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
        target_matched: Tensor | None = None,
        model_arguments: Mapping[str, Any] | None = None,
        no_classifier: str = NOTHING_PRETRAINED,
        classifier_classes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.body: Any = body
        self.is_direct = classifiers.is_direct(body)
        """Whether target logits are what a linear layer makes of the features."""
        self.target_matched = target_matched
        self.no_classifier = no_classifier
        self.classifier_classes = list(classifier_classes)
        self.source_head = source_head
        self.source_matched = source_matched
        self.projector: nn.Linear | None = None
        """A head of a method's own, on the same features, which is trained and not saved with the network."""
        self.classifier_weight: Tensor | None
        self.classifier_bias: Tensor | None
        # Buffers that are not persistent, so that the pretrained classifier is neither trained nor saved.
        for name in ("weight", "bias"):
            parameter = getattr(classifier, name, None)
            tensor = None if parameter is None else parameter.detach()
            self.register_buffer(f"classifier_{name}", tensor, persistent=False)
        self.model_name = model_name
        self.model_arguments = dict(model_arguments or {})
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
        """Computes the logits of the target classes, float[B, K_t], from features, float[B, D].

        Raises ValueError for a network whose classifier is not a linear layer of the features.
        """
        if not self.is_direct:
            raise ValueError(
                f"network: {self.model_name} ends in {classifiers.kind(self.body)}, which needs more than "
                "features; take features_and_logits"
            )
        logits: Tensor = self.body.get_classifier()(features)
        return logits

    def features_and_logits(self, x: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Computes features, float[B, D], and the target logits of the first ``count`` images, float[count, K_t].

        ``x`` are normalised images, float[B, 3, H, W]; without ``count`` all of them get logits.
        """
        if self.is_direct:
            features = self.features(x)
            return features, self.target_logits(features if count is None else features[:count])
        maps = self.body.forward_features(x)
        features = self.body.forward_head(maps, pre_logits=True)
        return features, self.body.forward_head(maps if count is None else _first(maps, count))

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
        if self.is_direct:
            return self.target_logits(self.features(x))
        logits: Tensor = self.body.forward_head(self.body.forward_features(x))
        return logits

    @property
    def width(self) -> int:
        """D, the number of features of an image."""
        return classifiers.width(self.body)

    def target_heads(self) -> list[nn.Module]:
        """The modules of the target head: one mostly."""
        return classifiers.heads(self.body)

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The pretrained parameters, and the parameters of heads with new rows.

        A head is new unless all its rows come from the weights: those of the target head from a trained network of the
        same classes, those of the source head from the pretrained classifier.
        """
        new: list[nn.Parameter] = []
        if self.target_matched is None or not self.target_matched.all():
            new += [parameter for head in self.target_heads() for parameter in head.parameters()]
        if self.source_head is not None and not (self.source_matched is not None and self.source_matched.all()):
            new += self.source_head.parameters()
        if self.projector is not None:
            new += self.projector.parameters()
        ids = {id(parameter) for parameter in new}
        return [parameter for parameter in self.parameters() if id(parameter) not in ids], new


def _first(maps: Any, count: int) -> Any:
    """What a network makes of its first images, before it pools: a tensor, or several (CrossViT)."""
    if isinstance(maps, Tensor):
        return maps[:count]
    return type(maps)(_first(part, count) for part in maps)
