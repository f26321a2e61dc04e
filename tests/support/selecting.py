"""Networks that see colours, and selection with them."""

from __future__ import annotations

from typing import Any

import torch
from made import SOURCE
from torch import Tensor, nn

from xmixup_fast.data.dataset import Dataset
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.models.network import Network
from xmixup_fast.selection.choice import Selection
from xmixup_fast.selection.selector import AuxiliarySelector
from xmixup_fast.settings.fields import Settings


class Pixels(nn.Module):
    """A body whose features are the images' mean colours, so that the source head alone decides."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.classifier = nn.Linear(3, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.scale * x.mean((2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
        return x

    def get_classifier(self) -> nn.Linear:
        return self.classifier


def colour_network(matched: list[bool], classifier: nn.Linear | None = None) -> Network:
    """Source classes 0, 1 and 2 are red, green and blue; further ones see nothing."""
    head = nn.Linear(3, len(matched), bias=False)
    with torch.no_grad():
        head.weight.copy_(5 * torch.eye(len(matched), 3))
    return Network(
        *(Pixels(), head, torch.tensor(matched)),
        **{"model_name": "pixels", "classes": ["a", "b"], "mean": [0] * 3, "std": [1] * 3, "classifier": classifier},
    )


def other_classifier() -> nn.Linear:
    """Outputs that are none of the source's classes: dark, red, green, blue, white."""
    outputs = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    layer = nn.Linear(3, 5)
    with torch.no_grad():
        layer.weight.copy_(20 * outputs)
        layer.bias.copy_(-10 * outputs.square().sum(1))
    return layer


def settings_for(how: str, **others: Any) -> Settings:
    common = {"target": "t", "source": "s", "model": "m", "image_size": 32, "batch_size": 4, "device": "cpu"}
    return Settings(**{**common, "selection": how, "top_images": 5, **others})


def pixel_network(known: int = 4, classifier: nn.Linear | None = None) -> Network:
    """Its source head sees which source class's colour is nearest; the first ``known`` count as pretrained."""
    network = colour_network([i < known for i in range(4)], classifier)
    colours = torch.tensor([SOURCE[name] for name in sorted(SOURCE)]) / 255
    network.source_head = nn.Linear(3, 4)
    with torch.no_grad():
        network.source_head.weight.copy_(20 * colours)
        network.source_head.bias.copy_(-10 * colours.square().sum(1))
    return network


class Chooser(AuxiliarySelector):
    """A selector with what it says and finds bad, the target's images included."""

    def __init__(self, settings: Settings, network: Network | None = None) -> None:
        self.said: list[str] = []
        decoder = make_decoder(settings.decoder, settings.short_side, torch.device("cpu"), 2, self.said.append)
        super().__init__(settings, network or pixel_network(), decoder, self.said.append, [])

    def choose(self, data: tuple[Dataset, Dataset]) -> Selection:
        return self.select(self.stream(data[0].train, "target images", self.bad), *data)


def choose(settings: Settings, data: tuple[Dataset, Dataset], network: Network | None = None) -> Selection:
    chooser = Chooser(settings, network)
    selection = chooser.choose(data)
    assert not chooser.bad
    return selection


STRATEGIES: dict[str, dict[str, Any]] = {
    "prediction": {"how": "prediction"},
    "feature": {"how": "feature", "top_k": 2},
    "assignment by prediction": {"how": "assignment"},
    "assignment by feature": {"how": "assignment", "similarity": "feature"},
    "sample": {"how": "sample"},
    "prediction of other classes": {"how": "prediction", "top_k": 2},
}
NETWORKS = {"prediction of other classes": lambda: pixel_network(0, other_classifier())}
"""Of the strategies that need another network than `pixel_network`."""
