"""The formats of images, and how a file is told to be an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}
"""How the names of image files end, in lower case."""


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is an image, by its name or else by its first bytes.

    Args:
        name: the file's name.
        head: reads the first 32 bytes, or fewer; called where the name does not tell.
    """
    return PurePath(name).suffix.lower() in EXTENSIONS
