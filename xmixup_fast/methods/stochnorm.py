"""StochNorm (Kou, You, Long, Wang 2020, NeurIPS 33): batch normalisation that often keeps its moving statistics."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ..batches.plan import StepPlan
from ..models.network import Network
from ..settings.fields import Settings
from .finetune import Finetune


class Stochnorm(Finetune):
    """CE(target logits, y_t), where batch normalisation of channel c computes

    s_c (x - mu_c) / sqrt(v_c + eps) + (1 - s_c) (x - m_c) / sqrt(w_c + eps), times its weight plus its bias.

    mu, v are mean and variance of the batch; m, w the moving ones as they were before it, which go on moving in all
    channels. s_c is 1 with probability stochnorm_p, drawn anew for each channel, layer and forward pass. Evaluation
    takes the moving statistics, as ever; at their start these are the pretrained ones.
    """

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        if not any(_is_trained(module) for module in network.modules()):
            raise ValueError(
                f"model: stochnorm changes how batch normalisation trains, and {network.model_name} trains none; take "
                "a network with batch normalisation that is not frozen, or another method"
            )

    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        with StochasticNormalization(self.settings.stochnorm_p):
            return super().loss(network, images, plan)


def _is_trained(module: torch.nn.Module) -> bool:
    """Whether a module is batch normalisation with moving statistics, and not frozen."""
    if not isinstance(module, _BatchNorm) or not module.track_running_stats:
        return False
    return not module.affine or module.weight.requires_grad


class StochasticNormalization(TorchFunctionMode):
    """A context in which batch normalisation in training mode takes the batch's statistics with probability ``p``.

    No module changes: whatever calls :func:`torch.nn.functional.batch_norm` is reached, timm's own layers, too.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        given = signature(F.batch_norm).bind(*args, **(kwargs or {})).arguments
        mean, variance = given["running_mean"], given["running_var"]
        if not given.get("training") or mean is None or variance is None:
            return F.batch_norm(**given)
        # Copies, as the backward of the first call would read the statistics that the second one has changed.
        moving = {"running_mean": mean.clone(), "running_var": variance.clone(), "training": False}
        by_moving, by_batch = F.batch_norm(**{**given, **moving}), F.batch_norm(**given)
        chosen = torch.empty_like(mean).bernoulli_(self.p).bool()
        return torch.where(chosen.view(-1, *[1] * (by_batch.dim() - 2)), by_batch, by_moving)
