"""Chooses the decoder of JPEG files."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch

from .decoder import Decoder, TorchvisionDecoder


def make_decoder(
    name: str, short_side: int | None, device: torch.device, threads: int, log: Callable[[str], object]
) -> Decoder:
    """Makes a decoder.

    Args:
        name: ``dali``, ``torchvision``, or ``auto``: DALI or, where it is not installed, torchvision.
        short_side: short side of decoded images, in pixels; None where images keep their own size.
        device: where DALI decodes.
        threads: number of threads that decode.
        log: called with a line of text where ``auto`` does not find DALI.

    Raises ValueError for ``dali`` where DALI is not installed.
    """
    if name != "torchvision" and _has_dali():
        from .dali import DaliDecoder

        return DaliDecoder(short_side, threads, device)
    command = "pip install nvidia-dali-cuda130 (Linux only)"
    if name == "dali":
        raise ValueError(f"decoder: DALI is not installed; {command}, or use torchvision")
    if name == "auto":
        log(f"decoder: torchvision, since DALI is not installed; {command}")
    return TorchvisionDecoder(short_side, threads)


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False
