"""DELTA (Li, Xiong, Wang, Rao, Liu, Chen, Huan 2019, arXiv 1901.09229): important feature maps stay as they were."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batches.plan import StepPlan
from ..models.network import Network
from ..runtime.device import float32
from ..settings.fields import Settings
from .base import Batches
from .finetune import Finetune

MAPS = 4
"""Layers whose feature maps are compared, as in the authors' code."""
IMAGES, IMAGES_AT_ONCE, CHANNELS_AT_ONCE = 32, 8, 16
"""Images on which channels are zeroed; images at a time, and channels at a time, that go through the network."""
HEAD_ITERATIONS = 100
"""Iterations of L-BFGS for the head on frozen features."""


class Delta(Finetune):
    """CE(target logits, y_t) + delta_alpha * sum over maps b, channels c of a_bc |FM_bc - FM0_bc|^2 / (P_b S_b).

    FM are the network's feature maps at P_b positions, and FM0 those of a frozen copy of the network as it started, in
    evaluation mode; the sum is averaged over the batch. For any network of timm that names its stages
    (``feature_info``), the maps are the outputs of the last four stages; of a network of one resolution, such as a ViT,
    those of four blocks at equal distances, with all tokens. Weight decay goes on, as in all methods but L2-SP.

    S_b, the mean square of FM0_b over images, channels and positions, is not in the paper. It makes delta_alpha mean
    the same for any network: the mean squares of an EfficientNet-Lite0's four maps are 91, 62, 34 and 9.

    a_b = softmax(z_b / 5) over channels, with z_b the standardised loss on 32 random training images when a channel of
    the map is zeroed, as in the authors' code. That loss is of a head trained on the frozen features of all training
    images. Both are measured once, S_b on the same 32 images. This takes a forward pass over the training images, and
    for each channel one of 32 images through the layers after the map; the layers before it are shared by 16 channels.
    """

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        self.frozen = copy.deepcopy(network).eval().requires_grad_(False)
        self.layers = layers(network)
        device = next(network.parameters()).device
        self.weights = [torch.full((channels,), 1 / channels, device=device) for channels in self.layers.values()]
        """The channel weights a_b of each layer b, float32[C_b]."""
        self.squares = [torch.ones((), device=device) for _ in self.layers]
        """The mean square S_b of each layer b, a scalar."""
        self.state = {f"weights.{layer}": weights for layer, weights in zip(self.layers, self.weights, strict=True)}
        self.state |= {f"squares.{layer}": square for layer, square in zip(self.layers, self.squares, strict=True)}
        self.state |= {f"frozen.{name}": tensor for name, tensor in self.frozen.state_dict().items()}

    def measure(self, network: Network, batches: Batches) -> None:
        features, labels, images, image_labels = self._look(batches)
        head = _train_head(features, labels, len(network.classes), self.settings.weight_decay)
        with torch.no_grad(), outputs(self.frozen.body, self.layers) as maps0:
            self.frozen.body.forward_features(images)
        for layer, weights, square in zip(self.layers, self.weights, self.squares, strict=True):
            self._dimensions(layer, maps0[layer])  # raises ValueError for what is no map
            square.copy_(maps0[layer].square().mean())
            losses = torch.cat(
                [
                    self._losses_with_zeroed(layer, channels, head, images, image_labels)
                    for channels in torch.arange(len(weights)).split(CHANNELS_AT_ONCE)
                ]
            )
            weights.copy_(_channel_weights(losses))

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        with outputs(network.body, self.layers) as maps:
            logits = network(images[0])
        with torch.no_grad(), outputs(self.frozen.body, self.layers) as maps0:
            self.frozen.body.forward_features(images[0])
        distances = []
        for layer, weights, square in zip(self.layers, self.weights, self.squares, strict=True):
            _, positions = self._dimensions(layer, maps[layer])
            with float32(images[0].device):
                distance = (maps[layer].float() - maps0[layer].float()).square().mean(positions) @ weights
            distances.append(distance.mean() / square)
        penalty = self.settings.delta_alpha * torch.stack(distances).sum()
        return self.target_cross_entropy(logits, plan.label).mean() + penalty

    @torch.no_grad()
    def _look(self, batches: Batches) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frozen features and labels of all training images, and images and labels of some, chosen by the seed."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        features, labels = [], []
        some: list[tuple[float, Tensor, Tensor]] = []
        for images, label in batches():
            features.append(self.frozen.features(images))
            labels.append(label)
            keys = torch.rand(len(images), generator=generator).tolist()
            new = [(key, image.clone(), one) for key, image, one in zip(keys, images, label, strict=True)]
            some = sorted([*some, *new], key=lambda item: item[0])[:IMAGES]
        chosen, chosen_labels = [image for _, image, _ in some], [one for _, _, one in some]
        return torch.cat(features), torch.cat(labels), torch.stack(chosen), torch.stack(chosen_labels)

    @torch.no_grad()
    def _losses_with_zeroed(self, layer: str, channels: Tensor, head: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The loss with each of some channels of a layer zeroed, float64[channels]."""

        def repeat_with_zeros(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            """Repeats the images once for each channel, with that channel zeroed; later layers then see all of them."""
            channel, _ = self._dimensions(layer, output)
            repeated = output.repeat(len(channels), *[1] * (output.dim() - 1))
            for copy_, number in zip(repeated.chunk(len(channels)), channels.tolist(), strict=True):
                copy_.select(channel, number).zero_()
            return repeated

        total = torch.zeros(len(channels), dtype=torch.float64, device=images.device)
        handle = self.frozen.body.get_submodule(layer).register_forward_hook(repeat_with_zeros)
        try:
            for some, label in zip(images.split(IMAGES_AT_ONCE), labels.split(IMAGES_AT_ONCE), strict=True):
                logits = F.linear(self.frozen.features(some), head[:, :-1], head[:, -1]).double()
                losses = F.cross_entropy(logits, label.repeat(len(channels)), reduction="none")
                total += losses.view(len(channels), -1).sum(1)
        finally:
            handle.remove()
        return total / len(images)

    def _dimensions(self, layer: str, output: Any) -> tuple[int, tuple[int, ...]]:
        """The dimension of the channels in a layer's output, and the dimensions of the positions."""
        if not isinstance(output, Tensor) or output.dim() not in (3, 4):
            raise ValueError(f"model: delta cannot use the output of {self.frozen.model_name}'s {layer}")
        channels_first = output.dim() == 4 and getattr(self.frozen.body, "output_fmt", "NCHW") == "NCHW"
        channel, positions = (1, (2, 3)) if channels_first else (output.dim() - 1, tuple(range(1, output.dim() - 1)))
        if output.shape[channel] != self.layers[layer]:
            raise ValueError(
                f"model: delta expected {self.layers[layer]} channels of {self.frozen.model_name}'s {layer}, "
                f"got an output of shape {list(output.shape)}"
            )
        return channel, positions


def layers(network: Network) -> dict[str, int]:
    """The layers whose outputs are compared, by module name, with their number of channels.

    Raises ValueError for a network that names no stages.
    """
    info = getattr(network.body, "feature_info", None) or []
    stages = [dict(stage) for stage in getattr(info, "info", info)]  # a list, or timm's FeatureInfo
    modules = dict(network.body.named_modules())
    stages = [stage for stage in stages if stage["module"] in modules]
    if not stages:
        raise ValueError(f"model: delta needs feature maps, and timm names no stages of {network.model_name}")
    count = min(MAPS, len(stages))
    chosen = stages[-count:]
    if len({stage["reduction"] for stage in stages}) == 1:
        chosen = [stages[-(-(i + 1) * len(stages) // count) - 1] for i in range(count)]
    return {stage["module"]: stage["num_chs"] for stage in chosen}


@contextmanager
def outputs(body: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """A context that collects the outputs of modules, by name."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            found[name] = output

        return hook

    with ExitStack() as stack:
        for name in layers:
            stack.callback(body.get_submodule(name).register_forward_hook(keep(name)).remove)
        yield found


def _channel_weights(losses: Tensor) -> Tensor:
    """softmax(z / 5) of the standardised losses with each channel zeroed: float32[C] for float64[C]."""
    spread = losses.std(correction=0).clamp(min=torch.finfo(losses.dtype).tiny)
    return ((losses - losses.mean()) / spread / 5).softmax(0).float()


def _train_head(features: Tensor, labels: Tensor, classes: int, weight_decay: float) -> Tensor:
    """Logistic regression of features [N, D], by L-BFGS from zeros: float32[K, D + 1], the last column the bias.

    In float64: the optimum is flat where features hardly vary.
    """
    features = features.double()
    shape = (classes, features.shape[1] + 1)
    weights = torch.zeros(shape, dtype=torch.float64, device=features.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=HEAD_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = weight_decay / 2 * weights[:, :-1].square().sum()
        loss = F.cross_entropy(F.linear(features, weights[:, :-1], weights[:, -1]), labels) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach().float()
