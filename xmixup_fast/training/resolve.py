"""Settings with every default filled in that depends on others, on the machine or on the time."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import torch

from ..methods import METHODS
from ..runtime import distributed
from ..runtime.device import usable_device
from ..runtime.files import default_cache
from ..settings.fields import Settings
from . import loggers


def resolved(settings: Settings) -> Settings:
    """The settings with every default that depends on others, on the machine or on the time filled in."""
    if METHODS[settings.method].uses_source and settings.source is None:
        raise ValueError(f"source: {settings.method} needs a dataset of auxiliary images, got none")
    if settings.resume == "auto" and settings.output is None:
        raise ValueError("resume: auto goes on with the run of the folder output, got no output")
    loggers.chosen(settings)  # finds out what is not installed
    if settings.cuda_graph and distributed.world_size() > 1:
        raise ValueError(f"cuda_graph: expected one process, got {distributed.world_size()}")
    name = distributed.broadcast_object(run_name(settings.method, settings))
    return replace(
        settings,
        resize=settings.resize or settings.short_side,
        device=usable_device(settings.device),
        threads=torch.get_num_threads(),
        cache=settings.cache or str(default_cache()),
        output=settings.output or str(Path("runs", name)),
    )


def run_name(what: str, settings: Settings) -> str:
    """A name for a run folder: time, what is run, target, seed."""
    target = re.sub(r"[^\w.-]+", "-", Path(settings.target).resolve().name)
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{what}-{target}-s{settings.seed}"
