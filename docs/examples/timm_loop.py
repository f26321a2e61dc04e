"""XMixup in timm's training loop, in place of timm.data.FastCollateMixup: soft labels. "# XMixup": what changes.

python docs/examples/timm_loop.py
"""

from __future__ import annotations

import timm
import torch
from made_images import NORMALISE, RELATIVES, SIZE, SOURCE, TARGET, Photos, auxiliary
from timm.data import create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import random_seed

from xmixup_fast import XMixup  # XMixup
from xmixup_fast.integrations.timm import XMixupCollate  # XMixup


def main(steps: int = 40) -> list[float]:
    """Trains, and returns each step's loss."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    random_seed(0)
    classes = len(TARGET) + len(SOURCE)  # XMixup: both in one head
    model = timm.create_model("test_resnet", num_classes=classes).to(device)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.02, momentum=0.9)
    loss_fn = SoftTargetCrossEntropy()
    xmixup = XMixup(auxiliary(), RELATIVES, size=SIZE, **NORMALISE)  # XMixup
    loader = create_loader(
        Photos(),
        (3, *SIZE),
        batch_size=16,
        is_training=True,
        num_workers=0,
        device=device,
        collate_fn=XMixupCollate(xmixup, len(TARGET), len(SOURCE)),  # XMixup
    )

    losses: list[float] = []
    while len(losses) < steps:
        for input, target in loader:
            loss = loss_fn(model(input), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[:steps]  # to predict: model(input)[:, : len(TARGET)]


if __name__ == "__main__":
    losses = main()
    print(f"loss: {losses[0]:.3f} in the first step, {losses[-1]:.3f} in the last")
