"""The labels of mixed images, and soft labels made of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import as_int64, as_integer, as_number


class MixedLabels(NamedTuple):
    """What :func:`xmixup_fast.dual_head_cross_entropy` takes after the logits of both heads."""

    target: Tensor
    """int64[B]: target classes, as they were given."""
    source: Tensor
    """int64[B]: the auxiliary images' labels."""
    lam: Tensor
    """float32[B] in 0..1: weight of the target image and of its label."""


def joint_labels(mixed: MixedLabels, target_classes: int, source_classes: int, source_weight: float = 1.0) -> Tensor:
    """Soft labels for a network with one head, whose outputs are the target's classes and then the source's.

    The cross entropy with them is the loss of two heads that share one softmax. The first ``target_classes`` outputs
    alone are the network's answer for a target image.

    Args:
        mixed: labels and weights of B samples.
        target_classes: how many outputs the head has for the target's classes.
        source_classes: how many for the source's.
        source_weight: factor of the source labels' weights.

    Returns:
        float32[B, target_classes + source_classes]: ``lam`` at the target's class, ``source_weight * (1 - lam)`` at the
        source's, 0 elsewhere.

    Raises:
        ValueError, TypeError: labels are not B integers, a number of classes is no positive integer, or the weight is
            not finite.
        RuntimeError: a label is outside of its part of the head; on a GPU, as a device-side assert.
    """
    target, source, lam = mixed
    weight = as_number("source_weight", source_weight)
    parts = []
    for name, labels, w, classes in (
        ("target", target, lam, target_classes),
        ("source", source, weight * (1 - lam), source_classes),
    ):
        index = as_int64(f"mixed.{name}", labels, lam.shape, lam.device, ", a class for each image")
        outputs = lam.new_zeros(len(lam), as_integer(f"{name}_classes", classes, 1, 2**31))
        parts.append(outputs.scatter_(1, index[:, None], w[:, None]))
    return torch.cat(parts, dim=1)


torch.serialization.add_safe_globals([MixedLabels])  # for torch.load, which takes no other classes by default
