"""A small transfer task with random images and a random network, for the tests of methods; and arithmetic in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xmixup_fast.batches.plan import Draw
from xmixup_fast.batches.render import Renderer
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.methods import METHODS, Method
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.ops.image_pool import ImagePool
from xmixup_fast.runtime.device import DTYPES
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.trainer import Trainer

Array = NDArray[np.float64]


class Case:
    """Twelve target images in 3 classes and eight auxiliary images in 4, all of which the pretrained classifier knows.

    Auxiliary images 2 and 6 are of no target class.
    """

    def __init__(self, model: str = "test_resnet", size: int = 32, **settings: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        target, aux = (
            torch.randint(0, 256, (n, size + 4, size + 8, 3), generator=generator, dtype=torch.uint8) for n in (12, 8)
        )
        self.target = ImagePool.from_dense(target, torch.arange(12) % 3)
        self.aux = ImagePool.from_dense(aux, torch.arange(8) % 4)
        self.settings = Settings(
            **{"target": "t", "model": model, "image_size": size, "batch_size": 6, "steps": 12, **settings}
        )
        offsets, members = torch.tensor([0, 2, 4, 6]), torch.tensor([0, 4, 1, 5, 3, 7])
        index = AuxiliaryIndex(self.aux.labels, self.aux.sizes, offsets, members)
        self.sampler = Sampler(self.target.labels, self.target.sizes, index, self.settings)
        self.renderer = Renderer(self.target, self.aux, (0.5,) * 3, (0.5,) * 3, size, DTYPES[self.settings.amp])
        self.network: Network = build(model, "none", list("abc"), source_classes=list("wxyz"))
        self.network.source_matched = torch.ones(4, dtype=torch.bool)

    def to(self, device: torch.device) -> Case:
        """Brings all to a device, the network in channels_last, as a run does."""
        self.target, self.aux = self.target.to(device), self.aux.to(device)
        self.network = self.network.to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload]
        self.sampler = Sampler(self.target.labels, self.target.sizes, self.sampler.aux, self.settings)
        render = self.renderer
        self.renderer = Renderer(self.target, self.aux, render.mean, render.std, render.size, render.dtype)
        return self

    def method(self, name: str) -> Method:
        method = METHODS[name](self.settings, self.network)
        method.prepare(self.network, lambda: self.renderer.batches(self.target, 5))
        return method

    def trainer(self, name: str) -> Trainer:
        return Trainer(self.network, self.method(name), self.sampler, self.renderer, self.settings)

    def loss(self, name: str, draw: Draw) -> Tensor:
        self.network.train()
        method = self.method(name)
        return method.loss(self.network, method.inputs(draw, self.renderer), draw)

    def disturb(self) -> None:
        """Moves all weights, as training does."""
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def cross_entropy(logits: Array, labels: Tensor) -> Array:
    return -log_softmax(logits)[np.arange(len(labels)), labels.numpy()]


class Tiny(nn.Module):
    """Two 1 x 1 convolutions and a mean, after each of which a stage ends."""

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Linear(5, 3)
        self.first, self.second = nn.Identity(), nn.Identity()
        self.output_fmt = "NHWC" if channels_last else "NCHW"
        self.order = (0, 2, 3, 1) if channels_last else (0, 1, 2, 3)
        self.back = (0, 3, 1, 2) if channels_last else (0, 1, 2, 3)
        self.feature_info = [
            {"module": "first", "num_chs": 4, "reduction": 1},
            {"module": "second", "num_chs": 5, "reduction": 2},
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.first(self.one(x).relu().permute(self.order)).permute(self.back)
        return self.second(self.two(x).tanh().permute(self.order)).permute(self.back)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x.mean((2, 3))

    def get_classifier(self) -> nn.Linear:
        return self.fc


def tiny_case(channels_last: bool = False, **settings: Any) -> Case:
    case = Case(**settings)
    torch.manual_seed(3)
    options: dict[str, Any] = {"model_name": "tiny", "classes": "abc", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    case.network = Network(Tiny(channels_last), None, None, **options)
    return case
