"""DELTA against its formula in NumPy on a network made by hand, and on networks of timm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transfer import Array, Case, Tiny, array, cross_entropy, log_softmax, tiny_case

from xmixup_fast.methods import METHODS
from xmixup_fast.methods.delta import IMAGES, Delta, layers
from xmixup_fast.models.build import build


def tiny_maps(weights: dict[str, Array], images: Array, zero: tuple[int, int] | None = None) -> list[Array]:
    """The maps of both stages, [B, C, H, W], with one channel of one stage zeroed."""
    maps = []
    x = images
    for stage, (name, function) in enumerate({"one": lambda y: np.maximum(y, 0), "two": np.tanh}.items()):
        kernel = weights[f"body.{name}.weight"][:, :, 0, 0]
        x = function(np.einsum("oc,bchw->bohw", kernel, x) + weights[f"body.{name}.bias"][:, None, None])
        if zero is not None and zero[0] == stage:
            x = x.copy()
            x[:, zero[1]] = 0
        maps.append(x)
    return maps


@pytest.mark.parametrize("channels_last", [False, True])
def test_delta_is_its_formula(channels_last: bool) -> None:
    case = tiny_case(channels_last, delta_alpha=7.0, weight_decay=0.01)
    start = {name: array(weight).copy() for name, weight in case.network.named_parameters()}
    method = case.method("delta")
    assert isinstance(method, Delta)

    # The head minimises the regularised loss on frozen features, so the loss with each channel zeroed follows.
    images, labels = (torch.cat(list(part)) for part in zip(*((a.clone(), b) for a, b in case.batches(5)), strict=True))
    pixels = array(images)
    features = tiny_maps(start, pixels)[1].mean((2, 3))
    head = fitted_head(features, labels, 0.01)
    weights = []
    for stage, channels in enumerate((4, 5)):
        losses = []
        for channel in range(channels):
            zeroed = tiny_maps(start, pixels, (stage, channel))[1].mean((2, 3))
            losses.append(cross_entropy(zeroed @ head[:, :-1].T + head[:, -1], labels).mean())
        standard = (np.array(losses) - np.mean(losses)) / np.std(losses)
        weights.append(np.exp(standard / 5) / np.exp(standard / 5).sum())
        np.testing.assert_allclose(array(method.weights[stage]), weights[stage], rtol=1e-4)

    squares = [(map0**2).mean() for map0 in tiny_maps(start, pixels)]

    case.disturb()
    now = {name: array(weight) for name, weight in case.network.named_parameters()}
    plan = case.plan("delta", 0)
    inputs = (case.target_images(plan),)
    pixels = array(inputs[0])
    maps, maps0 = tiny_maps(now, pixels), tiny_maps(start, pixels)
    penalty = 0.0
    for a, square, x, x0 in zip(weights, squares, maps, maps0, strict=True):
        for b in range(len(x)):
            for c in range(x.shape[1]):
                penalty += a[c] * ((x[b, c] - x0[b, c]) ** 2).sum() / 32**2 / len(x) / square
    logits = maps[1].mean((2, 3)) @ now["body.fc.weight"].T + now["body.fc.bias"]
    expected = cross_entropy(logits, plan.label).mean() + 7 * penalty
    assert penalty > 0.001
    assert method.loss(case.network, inputs, plan).item() == pytest.approx(expected, rel=1e-4)


def fitted_head(features: Array, labels: Tensor, weight_decay: float) -> Array:
    """Regularised logistic regression by Newton's method: float64[K, D + 1]."""
    inputs = np.column_stack([features, np.ones(len(features))])
    targets = np.eye(3)[labels.numpy()]
    decay = np.tile([*[weight_decay] * features.shape[1], 0.0], 3)
    head = np.zeros((3, inputs.shape[1]))
    for _ in range(50):
        chances = np.exp(log_softmax(inputs @ head.T))
        gradient = ((chances - targets).T @ inputs / len(inputs)).ravel() + decay * head.ravel()
        spread = np.einsum("nk,kl->nkl", chances, np.eye(3)) - np.einsum("nk,nl->nkl", chances, chances)
        hessian = np.einsum("nkl,nd,ne->kdle", spread, inputs, inputs).reshape(len(decay), -1) / len(inputs)
        # All biases may rise together: the smallest step of those that solve the system.
        head -= np.linalg.lstsq(hessian + np.diag(decay), gradient, rcond=1e-12)[0].reshape(head.shape)
    return head


def test_delta_zeroes_channels_on_some_images_of_all_classes_chosen_by_the_seed() -> None:
    case = tiny_case()
    many = [(torch.full((10, 3, 2, 2), float(i)), torch.arange(10) % 3) for i in range(20)]
    method = METHODS["delta"](case.settings, case.network)
    assert isinstance(method, Delta)
    features, labels, images, image_labels = method._look(lambda: many)
    assert features.shape == (200, 5) and len(labels) == 200
    assert images.shape == (IMAGES, 3, 2, 2) and set(image_labels.tolist()) == {0, 1, 2}
    assert len(images[:, 0, 0, 0].unique()) > 10
    again = METHODS["delta"](replace(case.settings, seed=1), case.network)
    assert isinstance(again, Delta) and not torch.equal(again._look(lambda: many)[2], images)


def test_delta_costs_nothing_where_nothing_has_moved() -> None:
    case = Case()
    method = case.method("delta")
    plan = case.plan("delta", 0)
    inputs = (case.target_images(plan),)
    loss = method.loss(case.network.eval(), inputs, plan)
    plain = case.method("finetune").loss(case.network, inputs, plan)
    torch.testing.assert_close(loss, plain, atol=1e-6, rtol=0)
    frozen = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    trainer = Case().trainer("delta")
    for _ in range(3):
        trainer.step()
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in trainer.method.state_dict().items())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("test_resnet", {"layer1": 32, "layer2": 48, "layer3": 192, "layer4": 96}),
        ("test_vit", {f"blocks.{i}": 64 for i in (1, 2, 4, 5)}),
        ("test_convnext", {"stages.0": 24, "stages.1": 32, "stages.2": 48, "stages.3": 64}),
        ("tf_efficientnet_lite0", {"blocks.1": 24, "blocks.2": 40, "blocks.4": 112, "blocks.6": 320}),
        ("swin_tiny_patch4_window7_224", {f"layers.{i}": 96 * 2**i for i in range(4)}),
    ],
)
def test_delta_compares_the_ends_of_the_last_four_stages(model: str, expected: dict[str, int]) -> None:
    assert layers(build(model, "none", ["a"])) == expected


def test_delta_says_before_training_that_maps_are_not_what_timm_says() -> None:
    case = tiny_case()
    case.network.body.feature_info[0]["num_chs"] = 7
    with pytest.raises(
        ValueError, match=r"delta expected 7 channels of tiny's first, got an output of shape \[12, 4, 32"
    ):
        case.method("delta")
    case.network.body.feature_info[0]["module"] = "fc"
    with pytest.raises(ValueError, match="delta cannot use the output of tiny's fc"):
        METHODS["delta"](case.settings, case.network)._dimensions("fc", torch.zeros(8, 3))  # type: ignore[attr-defined]


def test_delta_says_before_training_that_a_network_names_no_stages() -> None:
    case = tiny_case()
    case.network.body.feature_info = []
    with pytest.raises(ValueError, match="model: delta needs feature maps, and timm names no stages of tiny"):
        METHODS["delta"](case.settings, case.network)


class TwoBranches(Tiny):
    """As CrossViT, whose stages give the tokens of both branches."""

    def forward_features(self, x: Tensor) -> Tensor:
        self.pair(x)
        return super().forward_features(x)


class Pair(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_maps_that_are_no_tensors_are_refused_by_name() -> None:
    case = tiny_case()
    case.network.body.__class__ = TwoBranches
    case.network.body.pair = Pair()
    case.network.body.feature_info = [{"module": "pair", "num_chs": 3, "reduction": 1}]
    with pytest.raises(ValueError, match="model: delta cannot use the output of tiny's pair"):
        case.method("delta")
