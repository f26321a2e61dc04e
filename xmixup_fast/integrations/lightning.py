"""XMixup in PyTorch Lightning: a callback that mixes training batches once they are on the device."""

from __future__ import annotations

from typing import Any

import torch

from ..ops.mixed_labels import joint_labels
from ..ops.xmixup import XMixup

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise ImportError("xmixup_fast.integrations.lightning needs lightning: pip install lightning") from error


class XMixupCallback(Callback):
    """Replaces each training batch ``[bytes, labels]`` by mixed images and their labels.

    Batches of bytes in validation, test and prediction become centre crops, normalised alike; other batches stay. What
    ``training_step`` gets in place of the labels is

    - with ``classes``, soft labels, float32[B, K_t + K_s], for one head: ``F.cross_entropy(self(images), labels)``;
    - without, :class:`MixedLabels` for two heads:
      ``dual_head_cross_entropy(target_logits, source_logits, *labels)``.

    Args:
        xmixup: moves to the module's device.
        classes: K_t and K_s, the numbers of target classes and source classes.
    """

    def __init__(self, xmixup: XMixup, classes: tuple[int, int] | None = None) -> None:
        self.xmixup = xmixup
        self.classes = classes

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Mixes the batch in place. Raises TypeError for a batch that is no list of images and labels."""
        _check(batch)
        self.xmixup = self.xmixup.to(batch[0].device)
        images, mixed = self.xmixup(batch[0], batch[1])
        batch[:] = images, mixed if self.classes is None else joint_labels(mixed, *self.classes)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Crops and normalises a batch of bytes in place. Raises TypeError for such a batch that is no list."""
        images = batch[0] if isinstance(batch, list | tuple) else batch
        if isinstance(images, torch.Tensor) and images.dtype == torch.uint8:
            _check(batch)
            self.xmixup = self.xmixup.to(images.device)
            batch[0] = self.xmixup.plain(images)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start


def _check(batch: Any) -> None:
    if not isinstance(batch, list) or not batch or not isinstance(batch[0], torch.Tensor):
        raise TypeError(
            f"batch: expected a list of images and labels, which can be changed in place, got {type(batch).__name__}; "
            "a DataLoader makes one of samples that are pairs"
        )
