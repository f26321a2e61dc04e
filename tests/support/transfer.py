"""A small transfer task with random images and a random network, for the tests of methods; and arithmetic in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xmixup_fast.batches.plan import StepPlan
from xmixup_fast.batches.render import Pools, render, render_auxiliary
from xmixup_fast.batches.sampler import Sampler
from xmixup_fast.data.center_crops import center_crop_batches, plain_images
from xmixup_fast.methods import METHODS, REGULARIZERS, Method
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.ops.image_format import ImageFormat, OutputBuffers
from xmixup_fast.ops.image_pool import Crops, ImagePool, Images
from xmixup_fast.runtime.device import DTYPES
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.trainer import StepParts, Trainer

Array = NDArray[np.float64]
STEPPING = [name for name, method in METHODS.items() if method.takes_steps]
"""The methods that train in steps."""
ANY_NORM = [name for name in STEPPING if name != "stochnorm"]
"""Those of them that train networks without batch normalisation, too."""


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
        common = {"target": "t", "model": model, "image_size": size, "batch_size": 6, "steps": 12}
        self.settings = Settings(**{**common, **settings})
        offsets, members = torch.tensor([0, 2, 4, 6]), torch.tensor([0, 4, 1, 5, 3, 7])
        self.index = AuxiliaryIndex(self.aux.labels, self.aux.sizes, offsets, members)
        self.images: Images = self.target
        """The training images, which a test may replace by streamed ones."""
        self.sampler = Sampler(self.target, self.index, self.settings)
        self.network: Network = build(model, "none", list("abc"), source_classes=list("wxyz"))
        self.network.source_matched = torch.ones(4, dtype=torch.bool)
        self.network.mean = self.network.std = (0.5,) * 3

    def to(self, device: torch.device) -> Case:
        """Brings all to a device, the network in channels_last, as a run does."""
        self.target, self.aux = self.target.to(device), self.aux.to(device)
        self.images = self.target
        self.network = self.network.to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload]
        self.sampler = Sampler(self.target, self.index, self.settings)
        return self

    @property
    def form(self) -> ImageFormat:
        """The format of a step's batches."""
        return self.network.image_format(self.settings.crop_size, DTYPES[self.settings.amp])

    @property
    def pools(self) -> Pools:
        return Pools(self.target, self.aux)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A pass over the target's images, in float32."""
        return center_crop_batches(self.target, self.form._replace(dtype=torch.float32), batch_size)

    def plan(self, name: str, step: int) -> StepPlan:
        """A method's plan of a step."""
        return METHODS[name](self.settings, self.network).plan(self.sampler, step)

    def mixed(self, plan: StepPlan) -> Tensor:
        """The images of a plan, mixed."""
        return render(plan, self.pools, self.form, self.output(plan))

    def target_images(self, plan: StepPlan) -> Tensor:
        """The target images of a plan, as cropped there, not mixed."""
        return self.alone(plan.mix.target_crops)

    def partner_images(self, plan: StepPlan) -> Tensor:
        """The partners of a plan, as cropped there, not mixed."""
        return self.alone(plan.mix.aux_crops)

    def alone(self, crops: Crops) -> Tensor:
        """Windows of target images, not mixed."""
        return plain_images(self.target, crops, self.form, self.buffer(len(crops.index)))

    def auxiliary_images(self, plan: StepPlan) -> Tensor:
        """The auxiliary images of a plan, as cropped there."""
        return render_auxiliary(plan, self.pools, self.form, self.output(plan))

    def output(self, plan: StepPlan) -> Tensor:
        return self.buffer(len(plan))

    def buffer(self, batch: int) -> Tensor:
        return OutputBuffers().get("test", batch, self.form, self.target.device)

    def method(self, name: str) -> Method:
        method = METHODS[name](self.settings, self.network)
        method.measure(self.network, lambda: self.batches(5))
        return method

    def parts(self, method: Method) -> StepParts:
        regularizer = REGULARIZERS.get(self.settings.regularizer)
        return StepParts(
            network=self.network,
            method=method,
            regularizer=regularizer(self.settings, self.network) if regularizer else None,
            sampler=self.sampler,
            images=self.images,
            auxiliary=self.aux,
        )

    def trainer(self, name: str) -> Trainer:
        return Trainer(self.parts(self.method(name)), self.settings)

    def loss_of(self, method: Method, plan: StepPlan) -> Tensor:
        """A method's loss for its own images of a plan."""
        return method.loss(self.network, method.images(plan, self.pools, self.form, OutputBuffers()), plan)

    def loss(self, name: str, plan: StepPlan) -> Tensor:
        self.network.train()
        return self.loss_of(self.method(name), plan)

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


def without_replays(trainer: Trainer) -> Trainer:
    """A trainer with ``cuda_graph``, which from now on does each step's work call by call, with the same optimiser."""
    runner: Any = trainer.backward
    trainer.backward = runner.work
    return trainer


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
