"""Resolving settings: filling in the defaults that depend on other settings, on the machine, or on the time."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import replace
from pathlib import Path

import torch

from ..models.architecture import image_size
from ..runtime import distributed
from ..runtime.device import usable_device
from ..runtime.files import default_cache
from ..settings.fields import Settings
from . import loggers


def resolved(settings: Settings) -> Settings:
    """The settings with ``image_size``, ``resize``, ``device``, ``threads``, ``cache`` and ``output`` filled in.

    Raises ValueError for a missing output, a logger that is not installed, a device that is not usable,
    ``cuda_graph`` in several processes, and a network that cannot be found or whose size is not known.
    """
    if settings.resume == "auto" and settings.output is None:
        raise ValueError("resume: auto goes on with the run of the folder output, got no output")
    loggers.logger_names(settings)  # raises ValueError for a logger that is not installed
    if settings.cuda_graph and distributed.world_size() > 1:
        raise ValueError(f"cuda_graph: expected one process, got {distributed.world_size()}")
    name = distributed.broadcast_object(run_name(settings.method, settings))
    settings = with_image_size(settings)
    return replace(
        settings,
        resize=settings.resize or settings.short_side,
        device=usable_device(settings.device),
        threads=torch.get_num_threads(),
        cache=settings.cache or str(default_cache()),
        output=settings.output or str(Path("runs", name)),
    )


def with_image_size(settings: Settings) -> Settings:
    """The settings with the network's own image size where none is given. Raises ValueError as :func:`image_size`."""
    return settings if settings.image_size else replace(settings, image_size=image_size(settings.model))


def run_name(title: str, settings: Settings) -> str:
    """A name for a run folder: TIME-TITLE-TARGET-sSEED-RANDOM; the title is a method or a command.

    The random digits tell runs apart that start in one second, on one machine or several.
    """
    target = re.sub(r"[^\w.-]+", "-", Path(settings.target).resolve().name)
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{title}-{target}-s{settings.seed}-{secrets.token_hex(4)}"
