"""XMixup as torchvision's reference recipe has ``v2.MixUp``: in the loader's collate function."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

from ..ops.mixed_labels import joint_labels
from ..ops.xmixup import XMixup


class XMixupCollate:
    """Collates samples of bytes and a label into mixed images and soft labels, for one head of K_t + K_s outputs.

    Transforms end in ``v2.PILToTensor()``, and images have one size: the crop's, or a larger one. Validate with a
    loader of its own, and take ``logits[:, :K_t]``.

    Args:
        xmixup: on the CPU, where batches are collated.
        target_classes: K_t.
        source_classes: K_s.

    Raises ValueError for an ``xmixup`` on another device.
    """

    def __init__(self, xmixup: XMixup, target_classes: int, source_classes: int) -> None:
        if xmixup.aux.device.type != "cpu":
            raise ValueError(f"xmixup: expected one on the CPU, where batches are collated, got {xmixup.aux.device}")
        self.xmixup = xmixup
        self.classes = (target_classes, source_classes)

    def __call__(self, samples: list[Any]) -> tuple[Tensor, Tensor]:
        """Images, float[B, 3, H, W], and soft labels, float32[B, K_t + K_s]. Raises as :class:`XMixup` does."""
        images, labels = default_collate(samples)
        mixed_images, mixed = self.xmixup(images, labels)
        return mixed_images, joint_labels(mixed, *self.classes)
