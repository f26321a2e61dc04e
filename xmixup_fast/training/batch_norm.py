"""Batch normalisation of one value per channel, which torch refuses to train: found before an image is decoded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.network import Network
from ..settings.fields import Settings


def check_smallest_part(settings: Settings, network: Network, contents: int, world_size: int) -> None:
    """Checks that the network can be trained on the smallest part of a batch that goes through it at once.

    Args:
        settings: batch size, its parts and the image size.
        network: on its device, its parameters frozen as the settings say; it is left as it is.
        contents: how many batches go through the network as one: 2 where auxiliary images come beside target images.
        world_size: number of processes that share a batch.

    Raises ValueError where a part would have no image; and where it would have one, of which batch normalisation in
    training mode sees a single value per channel.
    """
    share, parts = settings.batch_size // world_size, settings.grad_accum_steps or 1
    if 0 < share < parts:
        raise ValueError(
            f"grad_accum_steps: expected at most {share}, the images of a batch that each of {world_size} processes "
            f"gets, got {parts}"
        )
    if share // parts * contents != 1:
        return
    layer = _layer_with_one_value(network, settings.crop_size)
    if layer is None:
        return
    if share > 1:
        fault = (
            f"grad_accum_steps: expected at most {share // 2}, so that each part of a batch has two images, got {parts}"
        )
    else:
        each = f" for each of {world_size} processes" * (world_size > 1)
        fault = f"batch_size: expected at least 2 images{each}, got {settings.batch_size}"
    raise ValueError(
        f"{fault}; batch normalisation in {layer} of {network.model_name} sees one value per channel of one image of "
        f"{settings.crop_size} pixels, a larger image_size may give it more"
    )


def check_renewal(network: Network) -> None:
    """Raises ValueError for a network without batch normalisation, whose statistics could be measured anew."""
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise ValueError(
            f"renew_batch_norm: expected a network with batch normalisation, and {network.model_name} has none; leave "
            "it out"
        )


def _layer_with_one_value(network: Network, image_size: int) -> str | None:
    """The first batch normalisation that trains on one value per channel of one image; None where none does."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training and inputs[0].numel() == inputs[0].shape[1]:
                found.append(name)

        return hook

    device = next(network.parameters()).device
    image = torch.zeros(1, 3, image_size, image_size, dtype=torch.float32, device=device)
    # The forward writes its statistics to copies, and draws its dropout from a copy of the generator.
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    was_training = network.training
    with ExitStack() as stack:
        stack.callback(network.train, was_training)
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        for name, module in network.body.named_modules():
            if isinstance(module, _BatchNorm):
                stack.callback(module.register_forward_pre_hook(look(name)).remove)
        try:
            torch.func.functional_call(network.train(), buffers, (image,))
        except ValueError:  # torch's own refusal, which names no layer
            if not found:
                raise
    return found[0] if found else None
