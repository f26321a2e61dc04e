"""Classifiers of timm's networks: one linear layer mostly, but also 1x1 convolutions, several heads, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead  # type: ignore[attr-defined]
from torch import Tensor, nn


def heads(body: Any) -> list[nn.Module]:
    """The modules that make up a timm model's classifier: one mostly, none, or several (LeViT, CrossViT, VOLO)."""
    return [head for head in places(body) if next(head.parameters(), None) is not None]


def places(body: Any) -> list[nn.Module]:
    """The modules where a timm model has its classifier, those without parameters, as with num_classes=0, included."""
    return _flat([body.get_classifier(), getattr(body, "aux_head", None)])


def _flat(classifier: Any) -> list[nn.Module]:
    if isinstance(classifier, (tuple, list, nn.ModuleList)):
        return [head for part in classifier for head in _flat(part)]
    if isinstance(getattr(classifier, "head_dist", None), nn.Module):  # RepViT keeps both heads in one module
        return _flat((classifier.head, classifier.head_dist))
    layer = classifier.fc if isinstance(classifier, ClassifierHead) else classifier
    return [layer] if isinstance(layer, nn.Module) else []


def linear(body: Any) -> nn.Linear | None:
    """The classifier as a linear layer of its own weights; None unless it is one such layer, or a 1x1 convolution."""
    modules = heads(body)
    if len(modules) != 1:
        return None
    (layer,) = modules
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        like_convolution = nn.Linear(layer.in_channels, layer.out_channels, layer.bias is not None, device="meta")
        like_convolution.weight = nn.Parameter(layer.weight.detach().flatten(1))
        if layer.bias is not None:
            like_convolution.bias = nn.Parameter(layer.bias.detach())
        return like_convolution
    return layer if isinstance(layer, nn.Linear) else None


def check_linear(what: str, body: Any, model: str) -> None:
    """Raises ValueError, which names ``what`` needs it, unless :func:`linear` gives the classifier of a network."""
    if linear(body) is None:
        raise ValueError(
            f"{what} needs a classifier of one layer, and {model} ends in {kind(body)}; take another network, or do "
            "without"
        )


def is_direct(body: Any) -> bool:
    """Whether the classifier is a linear layer, so that logits are what it makes of the features."""
    return isinstance(body.get_classifier(), nn.Linear) and len(heads(body)) == 1


def kind(body: Any) -> str:
    """The classifier in words, for messages."""
    modules = heads(body)
    return f"{len(modules)} heads" if len(modules) > 1 else f"a {type(modules[0]).__name__}"


def width(body: Any) -> int:
    """The number of features that the classifier, or each head, gets for an image."""
    layer = linear(body)
    return int(body.head_hidden_size if layer is None else layer.in_features)


def output_layers(body: Any) -> list[nn.Linear | nn.Conv2d]:
    """The last layer of each head, which has a row for each class."""
    last = []
    for head in heads(body):
        layers = [module for module in head.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        last += layers[-1:]
    return last


def names(body: Any, modules: Sequence[nn.Module]) -> list[str]:
    """The names, in the model's state dict, of the tensors of some of its modules."""
    tensors = {id(tensor) for module in modules for tensor in module.state_dict(keep_vars=True).values()}
    return [name for name, tensor in body.state_dict(keep_vars=True).items() if id(tensor) in tensors]


def reset(body: Any, classes: int) -> None:
    """Puts a new classifier for a number of classes on a timm model, with as many heads as it has.

    RepViT and iFormer would lose the second one, and timm could not load the network's file.
    """
    distilled = getattr(body.get_classifier(), "distillation", False)
    body.reset_classifier(classes, **({"distillation": True} if distilled else {}))


def replace(body: Any, classes: Sequence[str], former_classes: Sequence[str] | None) -> Tensor:
    """Puts a new classifier for K classes on a timm model, which keeps the rows of classes that it had before.

    ``former_classes`` are the classes of the outputs so far, None where nothing is to be kept. Beside rows that are
    kept, new ones start as the mean of the former rows: random ones could outvote classes that are known.

    Returns bool[K]: the classes whose rows were kept.
    """
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()} if former_classes else {}
    reset(body, len(classes))
    rows = {name: row for row, name in enumerate(former_classes or [])}
    kept = torch.tensor([name in rows for name in classes], dtype=torch.bool)
    if not kept.any():
        return kept
    chosen = torch.tensor([rows[name] for name in classes if name in rows])
    with_rows = set(names(body, output_layers(body)))
    state = body.state_dict()
    for name in names(body, heads(body)):
        if name in with_rows:
            state[name][kept] = before[name][chosen]
            state[name][~kept] = before[name].mean(0)
        else:
            state[name].copy_(before[name])
    return kept
