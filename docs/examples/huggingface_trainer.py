"""XMixup in the Hugging Face Trainer, with two heads in one layer. "# XMixup": what changes.

python docs/examples/huggingface_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from made_images import NORMALISE, RELATIVES, SIZE, SOURCE, TARGET, auxiliary, photos
from torch.utils.data import StackDataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from xmixup_fast import XMixup  # XMixup
from xmixup_fast.integrations.huggingface import XMixupTrainerMixin  # XMixup


class XMixupTrainer(XMixupTrainerMixin, Trainer):  # XMixup
    pass  # what your own trainer changes


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
        xmixup=XMixup(auxiliary(), RELATIVES, size=SIZE, **NORMALISE),  # XMixup
        target_classes=len(TARGET),  # XMixup
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
