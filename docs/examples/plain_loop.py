"""XMixup in a plain PyTorch loop, with two heads. "# XMixup": what changes.

python docs/examples/plain_loop.py
"""

from __future__ import annotations

import timm
import torch
from made_images import NORMALISE, RELATIVES, SIZE, SOURCE, TARGET, auxiliary, photos
from torch.utils.data import DataLoader, TensorDataset

from xmixup_fast import ImagePool, XMixup, dual_head_cross_entropy  # XMixup


def main(steps: int = 40) -> list[float]:
    """Trains, and returns each step's loss."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    images, labels = photos()
    network = timm.create_model("test_resnet", num_classes=0).to(device)
    target_head = torch.nn.Linear(network.num_features, len(TARGET), device=device)
    source_head = torch.nn.Linear(network.num_features, len(SOURCE), device=device)  # XMixup
    parameters = [p for module in (network, target_head, source_head) for p in module.parameters()]  # XMixup
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9)
    pool = ImagePool.from_dense(images).to(device)  # XMixup: all photos, decoded once
    aux = auxiliary().to(device)  # XMixup
    xmixup = XMixup(aux, RELATIVES, size=SIZE, **NORMALISE, target=pool)  # XMixup

    loader = DataLoader(TensorDataset(torch.arange(len(labels)), labels), batch_size=16, shuffle=True)
    losses: list[float] = []
    epoch = 0
    while len(losses) < steps:
        for index, batch_labels in loader:
            index, batch_labels = index.to(device), batch_labels.to(device)
            batch, mixed = xmixup(index, batch_labels, sample=index, epoch=epoch)  # XMixup
            features = network(batch)
            loss = dual_head_cross_entropy(target_head(features), source_head(features), *mixed)  # XMixup
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        epoch += 1
    return losses[:steps]


if __name__ == "__main__":
    losses = main()
    print(f"loss: {losses[0]:.3f} in the first step, {losses[-1]:.3f} in the last")
