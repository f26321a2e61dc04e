"""XMixup in the Hugging Face Trainer: mixes in compute_loss, where batches are on the device. "# XMixup": what changes.

python docs/examples/huggingface_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from made_images import NORMALISE, RELATIVES, SIZE, SOURCE, TARGET, auxiliary, photos
from torch.utils.data import StackDataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from xmixup_fast import XMixup, dual_head_cross_entropy  # XMixup


class XMixupTrainer(Trainer):  # XMixup
    """The model's outputs are the target's classes and then the source's; evaluation is as before."""

    def __init__(self, *args, **kwargs) -> None:  # XMixup
        super().__init__(*args, **kwargs)  # XMixup
        self.model_accepts_loss_kwargs = False  # XMixup: the loss below is a mean
        self.xmixup = XMixup(auxiliary().to(self.args.device), RELATIVES, size=SIZE, **NORMALISE)  # XMixup

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):  # XMixup
        if not model.training:  # XMixup
            return super().compute_loss(model, inputs, return_outputs, **kwargs)  # XMixup
        images, mixed = self.xmixup(inputs["pixel_values"], inputs["labels"])  # XMixup: bytes and labels go in
        outputs = model(pixel_values=images)  # XMixup
        target, source = outputs.logits.split([len(TARGET), len(SOURCE)], dim=1)  # XMixup
        loss = dual_head_cross_entropy(target.contiguous(), source.contiguous(), *mixed)  # XMixup
        return (loss, outputs) if return_outputs else loss  # XMixup


def make_trainer(folder: str, steps: int) -> XMixupTrainer:
    images, labels = photos()
    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        num_labels=len(TARGET) + len(SOURCE),  # XMixup: both in one head
    )
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    return XMixupTrainer(  # XMixup
        model=ResNetForImageClassification(config),
        args=arguments,
        train_dataset=StackDataset(pixel_values=images, labels=labels),  # XMixup: bytes
    )


def main(steps: int = 40) -> list[float]:
    """Trains, and returns each step's loss."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, steps)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    losses = main()
    print(f"loss: {losses[0]:.3f} in the first step, {losses[-1]:.3f} in the last")
