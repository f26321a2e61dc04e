"""What a run's length amounts to on its data, said where a person would expect something else."""

from __future__ import annotations

from collections.abc import Iterator

from ..batches.sampler import run_steps
from ..settings.fields import Settings

FEW_STEPS = 20
"""A run of fewer steps hardly learns: a learning rate that falls along a cosine is low in most of them."""
MANY_EPOCHS = 1000
"""A run of more epochs than that is rarely meant."""


def amounts(settings: Settings, images: int) -> Iterator[str]:
    """Yields a line for each part of a run's length that is not what its settings look like.

    ``images`` are the training images of an epoch, counted by weight.
    """
    steps, batch_size = run_steps(settings, images), settings.batch_size
    epochs = steps * batch_size / images
    length = f"{steps} steps of {batch_size} images"
    if batch_size > images:
        yield (
            f"batch_size: {batch_size} is more than the {images} training images: a batch shows each of them about "
            f"{batch_size / images:.3g} times, and an epoch is {images / batch_size:.2g} of a step"
        )
    if settings.steps is not None and epochs < 1:
        yield f"steps: {length} show {steps * batch_size} of the {images} training images, less than an epoch"
    if settings.steps is None and steps < FEW_STEPS:
        yield (
            f"epochs: {settings.epochs} of {images} training images are {length} alone; a smaller batch_size or more "
            "epochs give more steps"
        )
    if epochs > MANY_EPOCHS:
        yield f"{'epochs' if settings.steps is None else 'steps'}: {length} show each training image {epochs:.0f} times"
    validations = -(-epochs // settings.val_interval)
    if settings.val_interval > max(epochs, 1):
        yield f"val_interval: {settings.val_interval} epochs, and the run has {epochs:.3g}: it validates at its end"
    if settings.patience is not None and settings.patience >= validations:
        yield f"patience: {settings.patience} validations, and the run has {validations:.0f}: it does not stop early"
