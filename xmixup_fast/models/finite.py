"""Outputs that are not finite: a network that gives nan or infinity has no answer, and none is made up."""

from __future__ import annotations

from torch import nn


class NotFinite(ValueError):
    """A network's outputs are not finite."""


def not_finite(network: nn.Module, what: str, images: str) -> NotFinite:
    """The error for a network whose outputs are not finite; it names a tensor of its weights that is not, either.

    Args:
        network: the network.
        what: is not finite: "outputs" or "features".
        images: for which images, such as "photos/1.jpg" or "3 of 12 images".
    """
    broken = not_finite_in(network)
    cause = "" if broken is None else f", as {broken.removeprefix('body.')} holds numbers that are not"
    return NotFinite(
        f"weights: the network's {what} for {images} are not finite{cause}; expected a network that was trained "
        "without overflow: train again, with a smaller learning rate, or take other weights"
    )


def not_finite_in(network: nn.Module) -> str | None:
    """The name of a tensor of a network's state that is not finite; None where all are."""
    state = network.state_dict().items()
    return next((name for name, tensor in state if tensor.is_floating_point() and not tensor.isfinite().all()), None)
