"""Which decoder decodes JPEG files."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch

from .decoder import Decoder, TorchvisionDecoder


def make_decoder(
    name: str, short_side: int | None, device: torch.device, threads: int, log: Callable[[str], object]
) -> Decoder:
    """The decoder named ``dali`` or ``torchvision``; for ``auto`` DALI, or torchvision where DALI is not installed,
    which ``log`` is told of.

    Raises ValueError where DALI is asked for and not installed.
    """
    if name != "torchvision" and _has_dali():
        from .dali import DaliDecoder

        return DaliDecoder(short_side, threads, device)
    how = "pip install nvidia-dali-cuda130 (Linux only)"
    if name == "dali":
        raise ValueError(f"decoder: DALI is not installed; {how}, or use torchvision")
    if name == "auto":
        log(f"decoder: torchvision, since DALI is not installed; {how}")
    return TorchvisionDecoder(short_side, threads)


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False
