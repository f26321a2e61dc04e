"""Thirty pictures as they come from a phone: HEIC, turned JPEG files, a screenshot, a copy, and what computers leave.

python tests/support/phone_photos.py FOLDER
    writes them to a new folder
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pillow_heif
from numpy.typing import NDArray

CLASSES = {"beach": (225, 200, 140), "forest": (40, 110, 50), "night": (25, 25, 60)}
SIZES = ((302, 403), (403, 302), (360, 640))
"""Heights and widths, in pixels."""
ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held."""


def picture(colour: tuple[int, int, int], size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A noisy picture with soft shapes: uint8[H, W, 3]."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 18, (8, 8, 3))
    shapes = PIL.Image.fromarray((coarse + 128).clip(0, 255).astype(np.uint8)).resize(size[::-1], PIL.Image.BICUBIC)
    pixels = np.asarray(shapes, dtype=np.float32) - 128 + colour + random.normal(0, 6, (*size, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def write(folder: Path) -> Path:
    """Writes the pictures, ten of each class. Returns the folder."""
    pillow_heif.register_heif_opener()
    for label, (name, colour) in enumerate(CLASSES.items()):
        (folder / name / "2025 trip").mkdir(parents=True)
        for i in range(10):
            seed = 10 * label + i
            image = PIL.Image.fromarray(picture(colour, SIZES[i % 3], seed))
            place = folder / name / "2025 trip" if i in (3, 4) else folder / name
            if (label, i) == (1, 9):
                alpha = PIL.Image.new("L", image.size, 255)
                image.putalpha(alpha)
                image.save(place / "Screenshot 2025-07-01 at 10.00.00.png")
            elif (label, i) == (2, 9):
                shutil.copyfile(folder / name / "IMG_0020.HEIC", folder / name / "IMG_0020 (1).HEIC")
            elif i % 2 == 0:
                image.save(place / f"IMG_{seed:04d}.HEIC", quality=80)
            else:
                exif = PIL.Image.Exif()
                exif[ORIENTATION] = (1, 6, 3, 8)[i % 4]
                exif[0x010F] = "A phone"
                image.save(place / f"IMG_{seed:04d}.{'JPG' if i % 3 else 'jpeg'}", quality=85, exif=exif)
        (folder / name / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return folder


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
