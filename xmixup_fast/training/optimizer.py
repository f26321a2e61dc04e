"""The optimiser: which parameters it trains, at which learning rates, and how the rates change from step to step.

A learning rate is a function of the step alone, so a checkpoint holds no state of a schedule. Frozen parameters are in
no group of the optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

from ..batches.sampler import run_steps
from ..models.network import Network
from ..runtime.device import upload
from ..settings.fields import Settings


def make_optimizer(network: Network, settings: Settings, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, over :func:`parameter_groups`.

    With ``cuda_graph``, one whose step a graph can hold (see :func:`is_capturable`).
    """
    groups = parameter_groups(network, settings, weight_decay)
    # fp16's scaler decides on the host whether there is a step.
    capturable = settings.cuda_graph and settings.amp != "fp16"
    if capturable:
        for group in groups:
            group["lr"] = torch.full((), settings.lr, device=group["params"][0].device)
    fused = capturable or None  # None: as torch chooses
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=fused, capturable=capturable)
    momentum = settings.momentum
    sgd = torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if capturable and momentum > 0:
        # Else the host would tell the kernel whether a step is a parameter's first. From zeros, all steps are alike.
        for group in sgd.param_groups:
            sgd.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for p in group["params"]})
    return sgd


def is_capturable(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a CUDA graph can hold the optimiser's step.

    That is so with torch's fused kernels, which read learning rates and AdamW's count of steps, float32[] each, from
    the device. SGD's other kernels take rates from the host.
    """
    return bool(optimizer.defaults["fused"])


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Gives each group of parameters its learning rate; the host does not wait."""
    if is_capturable(optimizer):
        own = [group["lr"] for group in optimizer.param_groups]
        torch._foreach_copy_(own, list(upload(torch.tensor(rates), own[0].device)))  # where a graph reads them
    else:
        for group, rate_of_group in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate_of_group


def parameter_groups(network: Network, settings: Settings, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of the trained parameters with the same learning rate and weight decay, as PyTorch's optimisers take them.

    ``lr_scale`` of a group is its learning rate in multiples of the setting ``lr``.

    timm numbers the layers and knows which parameters take no decay. A pretrained source head counts as the last layer.
    """
    body = network.body
    spared = body.no_weight_decay() if settings.no_norm_decay and hasattr(body, "no_weight_decay") else ()
    of_timm = param_groups_layer_decay(
        body,
        weight_decay=weight_decay,
        no_weight_decay_list=spared,
        weight_decay_exclude_1d=settings.no_norm_decay,
        layer_decay=settings.layer_decay or 1.0,
    )
    known = {id(p): (group["lr_scale"], group["weight_decay"]) for group in of_timm for p in group["params"]}
    groups: dict[tuple[bool, float, float], list[torch.nn.Parameter]] = {}
    for parameters, new in zip(network.parameter_groups(), (False, True), strict=True):
        for parameter in parameters:
            if parameter.requires_grad:
                of_source_head = 1.0, 0.0 if settings.no_norm_decay and parameter.ndim <= 1 else weight_decay
                scale, decay = known.get(id(parameter), of_source_head)
                key = (new, settings.head_lr_multiplier if new else scale, decay)
                groups.setdefault(key, []).append(parameter)
    return [{"params": p, "lr_scale": scale, "weight_decay": decay} for (_, scale, decay), p in groups.items()]


def freeze(network: Network, what: int | str | None) -> None:
    """Excludes from training all parameters but those of new heads ("backbone"), or those of the first layer groups.

    The groups are timm's coarse ones: the stem, then stages or blocks, and last the head, which cannot be frozen.

    Raises ValueError where the network has fewer groups.
    """
    if what is None:
        return
    frozen, _ = network.parameter_groups()
    if isinstance(what, int):
        body = network.body
        groups: dict[int, Any] = {}
        if hasattr(body, "group_matcher"):
            groups = group_parameters(body, body.group_matcher(coarse=True), return_values=True)
        most = max(len(groups) - 1, 0)
        if what > most:
            raise ValueError(
                f"freeze: expected backbone, or at most {most}, the layer groups of {network.model_name} before its "
                f"head, got {what}"
            )
        first = {id(parameter) for number in range(what) for parameter in groups[number]}
        frozen = [parameter for parameter in frozen if id(parameter) in first]
    for parameter in frozen:
        parameter.requires_grad_(False)


def warmup_steps(settings: Settings, images: int) -> int:
    """The number of warm-up steps, for a number of training images."""
    return round(settings.warmup_epochs * images / settings.batch_size)


def check_length(settings: Settings, images: int, source_phase_steps: int = 0) -> None:
    """Raises ValueError where warm-up is as long as the run, or as a phase of it, for a number of training images.

    ``source_phase_steps`` is the length of a phase before fine-tuning, if there is one.
    """
    steps, warmup = run_steps(settings, images), warmup_steps(settings, images)
    for phase, length in (("run", steps), ("phase before fine-tuning", source_phase_steps or steps)):
        if warmup and warmup >= length:
            raise ValueError(
                f"warmup_epochs: expected less than the {phase}, {length} steps of {settings.batch_size} images, "
                f"got {settings.warmup_epochs:g} epochs of {images} images, {warmup} steps"
            )


def rate(schedule: str, warmup: int, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0, in a phase of ``steps``, relative to the highest rate.

    It rises linearly over ``warmup`` steps, from 0 at step -1 to 1 at step ``warmup``, and follows the schedule from
    there: a quarter of a step schedule's steps have a tenth of the rate, and the last quarter a hundredth.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / (steps - warmup)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if schedule == "linear":
        return 1 - done
    if schedule == "step":
        return 1.0 if done < 1 / 2 else 0.1 if done < 3 / 4 else 0.01
    return 1.0
