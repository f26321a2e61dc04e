"""A machine with a GPU as the results of bench/gpu.py describe it; there is no such machine."""

from __future__ import annotations

from typing import Any

MACHINE: dict[str, Any] = {
    "device": "A GPU",
    "cuda": True,
    "cores": 16,
    "cuDNN": 91002,
    "date": "2026-11-30",
    "info": {"torch": "2.11.0", "torchvision": "0.26.0", "timm": "1.0.26", "Python": "3.12.3"},
}
