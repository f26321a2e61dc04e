"""XMixup as torchvision's reference recipe has v2.MixUp: in the loader's collate function. "# XMixup": what changes.

python docs/examples/torchvision_collate.py
"""

from __future__ import annotations

import torch
from made_images import NORMALISE, RELATIVES, SIZE, SOURCE, TARGET, Photos, auxiliary
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.transforms import v2

from xmixup_fast import XMixup  # XMixup
from xmixup_fast.integrations.torchvision import XMixupCollate  # XMixup

PRESET = [
    v2.RandomResizedCrop(SIZE, scale=(0.5, 1)),
    v2.RandomHorizontalFlip(),
    v2.PILToTensor(),  # XMixup: ends here, in bytes
]


def make_loader(workers: int = 0) -> DataLoader:
    xmixup = XMixup(auxiliary(), RELATIVES, size=SIZE, **NORMALISE)  # XMixup: on the CPU, where batches are collated
    collate_fn = XMixupCollate(xmixup, len(TARGET), len(SOURCE))  # XMixup
    dataset = Photos(v2.Compose(PRESET))
    return DataLoader(dataset, batch_size=16, shuffle=True, num_workers=workers, collate_fn=collate_fn)


def main(steps: int = 30) -> list[float]:
    """Trains, and returns each step's loss."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    loader = make_loader()
    model = resnet18(num_classes=len(TARGET) + len(SOURCE)).to(device)  # XMixup: both in one head
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)

    losses: list[float] = []
    while len(losses) < steps:
        for images, target in loader:
            images, target = images.to(device), target.to(device)
            loss = criterion(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[:steps]  # to predict: model(images)[:, : len(TARGET)]


if __name__ == "__main__":
    losses = main()
    print(f"loss: {losses[0]:.3f} in the first step, {losses[-1]:.3f} in the last")
