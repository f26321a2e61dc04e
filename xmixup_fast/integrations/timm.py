"""XMixup in timm's training loop: the stand-in for ``timm.data.FastCollateMixup``, its Mixup of prefetching loaders."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.data.mixup import FastCollateMixup
from torch import Tensor
from torch.utils.data import default_collate

from ..ops.mixed_labels import MixedLabels, joint_labels
from ..ops.xmixup import XMixup


class XMixupCollate(FastCollateMixup):
    """Collates samples into mixed images and soft labels, for one head of K_t + K_s outputs.

    ``create_loader(..., collate_fn=XMixupCollate(...))`` takes it, with the prefetcher, which is timm's default and
    normalises images: so the mean and std of ``xmixup`` are not used. ``loader.mixup_enabled = False`` ends the mixing,
    as ``--mixup-off-epoch`` of timm's train.py does. The loss is ``SoftTargetCrossEntropy``; to predict, take
    ``logits[:, :K_t]``.

    Args:
        xmixup: on the CPU, where batches are collated.
        target_classes: K_t.
        source_classes: K_s.

    Raises ValueError for an ``xmixup`` on another device.
    """

    def __init__(self, xmixup: XMixup, target_classes: int, source_classes: int) -> None:
        super().__init__(num_classes=target_classes + source_classes)  # type: ignore[no-untyped-call]
        if xmixup.aux.device.type != "cpu":
            raise ValueError(f"xmixup: expected one on the CPU, where batches are collated, got {xmixup.aux.device}")
        self.xmixup = copy.copy(xmixup)
        self.xmixup.mean, self.xmixup.std = (0.0,) * 3, (1 / 255,) * 3
        self.classes = (target_classes, source_classes)

    def __call__(self, batch: list[Any], _: Any = None) -> tuple[Tensor, Tensor]:
        """Images in 0..255, float[B, 3, H, W], and soft labels, float32[B, K_t + K_s].

        Raises TypeError for images that are no bytes, as loaders without prefetcher have them.
        """
        images, labels = default_collate(batch)
        if images.dtype != torch.uint8:
            raise TypeError(f"batch: expected images of bytes, got {images.dtype}; create_loader needs its prefetcher")
        if self.mixup_enabled:
            images, mixed = self.xmixup(images, labels)
        else:
            images = self.xmixup.plain(images)
            mixed = MixedLabels(labels, torch.zeros_like(labels), torch.ones(len(labels)))
        return images, joint_labels(mixed, *self.classes)
