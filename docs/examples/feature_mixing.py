"""Manifold XMixup: the two images of each pair go through the first layers apart, and are mixed as feature maps.

"# XMixup": what changes.

python docs/examples/feature_mixing.py
"""

from __future__ import annotations

import timm
import torch
from made_images import NORMALISE, RELATIVES, SIZE, SOURCE, TARGET, auxiliary, photos
from torch.utils.data import DataLoader, TensorDataset

from xmixup_fast import XMixup, dual_head_cross_entropy  # XMixup


def main(steps: int = 40) -> list[float]:
    """Trains, and returns each step's loss."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0).to(device)
    first_layers = torch.nn.Sequential(network.conv1, network.bn1, network.act1, network.maxpool, network.layer1)
    last_layers = torch.nn.Sequential(network.layer2, network.layer3, network.layer4, network.global_pool)
    target_head = torch.nn.Linear(network.num_features, len(TARGET), device=device)
    source_head = torch.nn.Linear(network.num_features, len(SOURCE), device=device)  # XMixup
    parameters = [p for module in (network, target_head, source_head) for p in module.parameters()]  # XMixup
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9)
    xmixup = XMixup(auxiliary().to(device), RELATIVES, size=SIZE, **NORMALISE)  # XMixup

    losses: list[float] = []
    while len(losses) < steps:
        for images, labels in DataLoader(TensorDataset(*photos()), batch_size=16, shuffle=True):
            target, aux, mixed = xmixup.pairs(images.to(device), labels.to(device))  # XMixup
            maps, aux_maps = first_layers(torch.cat([target, aux])).chunk(2)  # XMixup
            lam = mixed.lam.view(-1, 1, 1, 1)  # XMixup
            features = last_layers(lam * maps + (1 - lam) * aux_maps)  # XMixup
            loss = dual_head_cross_entropy(target_head(features), source_head(features), *mixed)  # XMixup
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[:steps]


if __name__ == "__main__":
    losses = main()
    print(f"loss: {losses[0]:.3f} in the first step, {losses[-1]:.3f} in the last")
