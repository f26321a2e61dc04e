"""Chooses the decoder of JPEG files."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import torch

from .decoder import Decoder, PillowDecoder, TorchcodecDecoder, TorchvisionDecoder
from .pillow import DEFAULT_READING, reason
from .reading import Reading


class _Library(NamedTuple):
    """A library that decodes JPEG files."""

    title: str
    module: str
    function: str
    """Something in the module that the decoder needs."""
    install: str


_LIBRARIES = {
    "dali": _Library("DALI", "nvidia.dali", "pipeline", "pip install nvidia-dali-cuda130 (Linux only)"),
    "torchcodec": _Library("torchcodec", "torchcodec.decoders", "decode_jpeg", "pip install 'torchcodec>=0.16'"),
    "torchvision": _Library("torchvision", "torchvision.io", "decode_jpeg", "pip install torchvision"),
}
"""The libraries, in the order in which ``auto`` looks for them. Pillow, which is always there, comes last."""


def make_decoder(
    name: str,
    short_side: int | None,
    device: torch.device,
    threads: int,
    log: Callable[[str], object],
    *,
    reading: Reading = DEFAULT_READING,
) -> Decoder:
    """Makes a decoder.

    Args:
        name: ``dali``, ``torchcodec``, ``torchvision`` or ``pillow``; ``auto`` for the first of these that is usable.
        short_side: short side of decoded images, in pixels; None where images keep their own size.
        device: where DALI decodes.
        threads: number of threads that decode.
        log: called with a line of text where ``auto`` does not find DALI, and by the decoder.
        reading: what images become where their files leave it open, and how large they may be.

    Raises ValueError for a library that is not installed.
    """
    faults: list[str] = []
    for choice in (*_LIBRARIES, "pillow") if name == "auto" else (name,):
        fault = _fault(_LIBRARIES[choice]) if choice in _LIBRARIES else None
        if fault is None:
            if faults:
                log(f"decoder: {choice}, since {'; '.join(faults)}")
            return _made(choice, device, short_side=short_side, threads=threads, log=log, reading=reading)
        faults.append(fault)
    raise ValueError(f"decoder: {faults[0]}; or use auto")


def check_decoder(name: str) -> None:
    """Raises ValueError for the name of a library that is not installed, or does not work here."""
    if name in _LIBRARIES and (fault := _fault(_LIBRARIES[name])):
        raise ValueError(f"decoder: {fault}; or use auto")


def _made(
    name: str,
    device: torch.device,
    *,
    short_side: int | None,
    threads: int,
    log: Callable[[str], object],
    reading: Reading,
) -> Decoder:
    if name == "dali":
        from .dali import DaliDecoder

        return DaliDecoder(short_side, threads, device, log, reading)
    kinds = {kind.name: kind for kind in (TorchcodecDecoder, TorchvisionDecoder, PillowDecoder)}
    return kinds[name](short_side, threads, log, reading)


def _fault(library: _Library) -> str | None:
    """Why a library cannot be used, and what to do; None where it can."""
    try:
        found = hasattr(import_module(library.module), library.function)
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and f"{library.module}.".startswith(f"{error.name}."):
            return f"{library.title} is not installed; {library.install}"
        return f"{library.title} does not work here ({reason(error)})"  # a shared library may be missing
    return None if found else f"{library.title} is installed without {library.function}; {library.install}"
