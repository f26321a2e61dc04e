"""Networks whose features are mean colours, and a selector that records what it logs."""

from __future__ import annotations

from typing import Any

import torch
from made import SOURCE
from torch import Tensor, nn

from xmixup_fast.data.catalog import LocalCatalog
from xmixup_fast.data.dataset import Dataset
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.models.network import Network
from xmixup_fast.selection.choice import Selection
from xmixup_fast.selection.selector import AuxiliarySelector
from xmixup_fast.settings.fields import Settings


class Pixels(nn.Module):
    """In place of a timm model: features are an image's mean colour, so predictions depend on the source head alone."""

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
    """A network whose source head has red, green and blue as classes 0, 1 and 2; logits of further ones are zero.

    ``matched`` tells for each source class whether its row counts as one of the pretrained classifier.
    """
    head = nn.Linear(3, len(matched), bias=False)
    with torch.no_grad():
        head.weight.copy_(5 * torch.eye(len(matched), 3))
    return Network(
        Pixels(),
        head,
        torch.tensor(matched),
        model_name="pixels",
        classes=["a", "b"],
        mean=[0] * 3,
        std=[1] * 3,
        classifier=classifier,
    )


def other_classifier() -> nn.Linear:
    """A pretrained classifier without any of the source's classes: its outputs are dark, red, green, blue, white."""
    outputs = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    layer = nn.Linear(3, 5)
    with torch.no_grad():
        layer.weight.copy_(20 * outputs)
        layer.bias.copy_(-10 * outputs.square().sum(1))
    return layer


def settings_for(selection: str, **changes: Any) -> Settings:
    small = {"target": "t", "source": "s", "model": "m", "image_size": 32, "batch_size": 4, "device": "cpu"}
    values = small | {"selection": selection, "top_images": 5} | changes
    return Settings(**values)


def pixel_network(known: int = 4, classifier: nn.Linear | None = None) -> Network:
    """A network that predicts the source class of the nearest colour; the first ``known`` classes count as pretrained.

    With classes c as colours in 0..1, logit c of a colour x is 20 c·x - 10 |c|², which is largest for the nearest c.
    """
    network = colour_network([i < known for i in range(4)], classifier)
    colours = torch.tensor([SOURCE[name] for name in sorted(SOURCE)]) / 255
    network.source_head = nn.Linear(3, 4)
    with torch.no_grad():
        network.source_head.weight.copy_(20 * colours)
        network.source_head.bias.copy_(-10 * colours.square().sum(1))
    return network


class RecordingSelector(AuxiliarySelector):
    """A selector that keeps its log lines in ``logged`` and all bad images, the target's included, in ``bad``."""

    def __init__(self, settings: Settings, network: Network | None = None) -> None:
        self.logged: list[str] = []
        decoder = make_decoder(settings.decoder, settings.short_side, torch.device("cpu"), 2, self.logged.append)
        super().__init__(settings, network or pixel_network(), decoder, self.logged.append, [])

    def choose(self, data: tuple[Dataset, Dataset]) -> Selection:
        """Selects source classes or images for a pair of target and source."""
        target, source = data
        images = self.stream(target.train, "target images", self.bad)
        return self.select(images, target, LocalCatalog("source", source))


def choose(settings: Settings, data: tuple[Dataset, Dataset], network: Network | None = None) -> Selection:
    """Selects for a pair of target and source all of whose images can be decoded."""
    selector = RecordingSelector(settings, network)
    selection = selector.choose(data)
    assert not selector.bad
    return selection


STRATEGIES: dict[str, dict[str, Any]] = {
    "prediction": {"selection": "prediction"},
    "feature": {"selection": "feature", "top_k": 2},
    "transport": {"selection": "transport"},
    "assignment by prediction": {"selection": "assignment"},
    "assignment by feature": {"selection": "assignment", "similarity": "feature"},
    "sample": {"selection": "sample"},
    "prediction of other classes": {"selection": "prediction", "top_k": 2},
}
NETWORKS = {"prediction of other classes": lambda: pixel_network(0, other_classifier())}
"""The networks of strategies that need another one than :func:`pixel_network`."""
