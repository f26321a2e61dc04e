"""Resolving settings: filling in the defaults that depend on other settings, on the machine, or on the time."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import sys
import sysconfig
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from ..data.decoding.choose import check_decoder
from ..data.near_duplicates import check_package
from ..models.architecture import image_size
from ..runtime import distributed
from ..runtime.device import usable_device
from ..runtime.files import default_cache
from ..runtime.gpu import why_no_gpu
from ..settings.fields import Settings
from . import loggers


def resolved(settings: Settings) -> Settings:
    """The settings with ``image_size``, ``resize``, ``device``, ``threads``, ``cache`` and ``output`` filled in.

    Raises ValueError for a missing output, for a device that is not usable, for ``cuda_graph`` in several processes,
    for a network that cannot be found or whose size is not known, and for what settings need and the machine lacks,
    before any image is read: a logger, a decoder, a compiler, a GPU.
    """
    if settings.resume == "auto" and settings.output is None:
        raise ValueError("resume: auto goes on with the run of the folder output, got no output")
    loggers.logger_names(settings)  # raises ValueError for a logger that is not installed
    if settings.cuda_graph and distributed.world_size() > 1:
        raise ValueError(f"cuda_graph: expected one process, got {distributed.world_size()}")
    device = usable_device(settings.device)
    _check_machine(settings, device)
    name = distributed.broadcast_object(run_name(settings.method, settings))
    settings = with_image_size(settings)
    return replace(
        settings,
        resize=settings.resize or settings.short_side,
        device=device,
        threads=torch.get_num_threads(),
        cache=settings.cache or str(default_cache()),
        output=settings.output or str(Path("runs", name)),
    )


def with_image_size(settings: Settings) -> Settings:
    """The settings with the network's own image size where none is given. Raises ValueError as :func:`image_size`."""
    return settings if settings.image_size else replace(settings, image_size=image_size(settings.model))


def _check_machine(settings: Settings, device: str) -> None:
    """Raises ValueError where the machine lacks what the settings need."""
    check_decoder(settings.decoder)
    if settings.near_duplicates:
        check_package()
    if settings.cuda_graph and device == "cpu":
        raise ValueError(f"cuda_graph: expected a GPU: {why_no_gpu()}; leave cuda_graph out")
    if settings.compile and (missing := _missing_for_compile(device)):
        raise ValueError(f"compile: needs {' and '.join(missing)}; install what is missing, or leave compile out")


def _missing_for_compile(device: str) -> list[str]:
    """What torch.compile needs, and the machine lacks."""
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # as torch chooses it
    header = Path(sysconfig.get_path("include"), "Python.h")
    missing = [] if shutil.which(shlex.split(command)[0]) else [f"a C++ compiler ({command})"]
    missing += [] if header.is_file() else [f"Python's headers ({header})"]
    return missing + (["the package triton"] if device != "cpu" and find_spec("triton") is None else [])


NAME_LENGTH = 40
"""Letters of a target's name in that of a run: file systems take 255 bytes for a name, and a letter up to four."""


def run_name(title: str, settings: Settings) -> str:
    """A name for a run folder: TIME-TITLE-TARGET-sSEED-RANDOM; the title is a method or a command.

    The random digits tell runs apart that start in one second, on one machine or several.
    """
    target = re.sub(r"[^\w.-]+", "-", Path(settings.target).resolve().name)[:NAME_LENGTH]
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{title}-{target}-s{settings.seed}-{secrets.token_hex(4)}"
