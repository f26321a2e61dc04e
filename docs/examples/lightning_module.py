"""XMixup in a LightningModule, with two heads: batches are mixed once they are on the device. "# XMixup": what changes.

python docs/examples/lightning_module.py
"""

from __future__ import annotations

import lightning
import timm
import torch
from made_images import NORMALISE, RELATIVES, SIZE, SOURCE, TARGET, auxiliary, photos
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from xmixup_fast import XMixup, dual_head_cross_entropy  # XMixup
from xmixup_fast.integrations.lightning import XMixupCallback  # XMixup


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model("test_resnet", num_classes=0)
        self.target_head = torch.nn.Linear(self.network.num_features, len(TARGET))
        self.source_head = torch.nn.Linear(self.network.num_features, len(SOURCE))  # XMixup
        self.losses: list[float] = []

    def training_step(self, batch, batch_idx: int) -> Tensor:
        images, labels = batch
        features = self.network(images)
        loss = dual_head_cross_entropy(self.target_head(features), self.source_head(features), *labels)  # XMixup
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def main(steps: int = 40) -> list[float]:
    """Trains, and returns each step's loss."""
    lightning.seed_everything(0, verbose=False)
    module = Classifier()
    trainer = lightning.Trainer(
        max_steps=steps,
        callbacks=[XMixupCallback(XMixup(auxiliary(), RELATIVES, size=SIZE, **NORMALISE))],  # XMixup: takes bytes
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(*photos()), batch_size=16, shuffle=True))
    return module.losses


if __name__ == "__main__":
    losses = main()
    print(f"loss: {losses[0]:.3f} in the first step, {losses[-1]:.3f} in the last")
