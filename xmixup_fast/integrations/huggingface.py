"""XMixup in the Hugging Face Trainer: a mixin that mixes in compute_loss, and a collator of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..ops.operators import dual_head_cross_entropy
from ..ops.xmixup import XMixup


class XMixupTrainerMixin:
    """Comes before the Trainer: ``class MyTrainer(XMixupTrainerMixin, transformers.Trainer)``.

    The model has one head, whose ``num_labels`` outputs are the K_t target classes, then the K_s source classes.
    Training batches are bytes. Bytes in evaluation become centre crops; predictions are of the target classes alone.

    Args:
        xmixup: moves to the trainer's device.
        target_classes: K_t.

    Raises TypeError for a class that is no Trainer.
    """

    def __init__(self, *args: Any, xmixup: XMixup, target_classes: int, **kwargs: Any) -> None:
        if not hasattr(super(), "compute_loss"):
            raise TypeError(f"{type(self).__name__}: expected the mixin to come before transformers.Trainer")
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # the loss below is a mean over the batch
        self.xmixup = xmixup
        self.target_classes = target_classes

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """The loss of both heads for a training batch of bytes; the model's own one in evaluation."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)  # type: ignore[misc]
        self.xmixup = self.xmixup.to(inputs["pixel_values"].device)
        images, mixed = self.xmixup(inputs["pixel_values"], inputs["labels"])
        outputs = model(pixel_values=images)
        target, source = outputs.logits.tensor_split([self.target_classes], dim=1)
        loss = dual_head_cross_entropy(target.contiguous(), source.contiguous(), *mixed)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, for centre crops of a batch of bytes; logits are those of the target classes."""
        inputs = self._prepare_inputs(inputs)  # type: ignore[attr-defined]
        if inputs["pixel_values"].dtype == torch.uint8:
            self.xmixup = self.xmixup.to(inputs["pixel_values"].device)
            inputs = {**inputs, "pixel_values": self.xmixup.plain(inputs["pixel_values"])}
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        return loss, logits[:, : self.target_classes] if isinstance(logits, Tensor) else logits, labels


class XMixupCollator:
    """Makes a batch of examples with a PIL image: ``pixel_values``, uint8[B, size, size, 3], and ``labels``, int64[B].

    Images are scaled and cut to a square; XMixup takes crops of it, so ``size`` is larger than these, such as 256 for
    224. ``TrainingArguments`` needs ``remove_unused_columns=False``.
    """

    def __init__(self, size: int, image: str = "image", label: str = "label") -> None:
        self.size, self.image, self.label = size, image, label

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch; without labels where examples have none. Raises KeyError for examples without an image."""
        if self.image not in examples[0]:
            advice = "name the column, and set remove_unused_columns=False"
            raise KeyError(f"image: expected a column {self.image}, got {', '.join(examples[0])}; {advice}")
        pictures = [one[self.image].convert("RGB") for one in examples]
        images = [ImageOps.fit(picture, (self.size, self.size), Image.Resampling.BILINEAR) for picture in pictures]
        batch = {"pixel_values": torch.from_numpy(np.stack([np.asarray(image) for image in images]))}
        if self.label in examples[0]:
            batch["labels"] = torch.tensor([int(one[self.label]) for one in examples])
        return batch
