"""Photos as people have them, of every kind that programs read in different ways, and how a foreign program opens them.

python tests/support/awkward_photos.py FOLDER
    writes them to a new folder
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held."""


def picture(height: int, width: int, seed: int) -> PIL.Image.Image:
    """Soft shapes of many colours under fine noise, so that another pixel or another rotation is another picture."""
    random = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(random.integers(256, size=(3, 4, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC), dtype=np.int16)
    return PIL.Image.fromarray((soft + random.integers(-25, 26, soft.shape)).clip(0, 255).astype(np.uint8))


def write(folder: Path) -> list[Path]:
    """Writes the photos to a new folder. Returns their paths."""
    folder.mkdir(parents=True)
    for orientation in range(1, 9):
        exif = PIL.Image.Exif()
        exif[ORIENTATION] = orientation
        picture(61, 90, orientation).save(folder / f"exif-{orientation}.jpg", exif=exif, quality=95)
        if orientation in (5, 6):
            for format in ("png", "webp", "tif"):
                picture(61, 90, orientation).save(folder / f"exif-{orientation}.{format}", exif=exif)
    plain = picture(70, 53, 10)
    grey = np.asarray(plain.convert("L"))
    alpha = PIL.Image.fromarray(np.tile(np.linspace(0, 255, 53, dtype=np.uint8), (70, 1)))
    palette = plain.quantize(16)
    made: dict[str, tuple[PIL.Image.Image, dict[str, Any]]] = {
        "cmyk.jpg": (plain.convert("CMYK"), {"quality": 95}),
        "grey.jpg": (plain.convert("L"), {"quality": 95}),
        "grey-16.png": (PIL.Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "grey-16.tif": (PIL.Image.fromarray(grey.astype(np.uint16) * 200 + 7), {}),
        "bilevel.png": (plain.convert("1"), {}),
        "palette.png": (palette, {}),
        "palette-transparent.png": (palette, {"transparency": 3}),
        "palette.gif": (palette, {}),
        "alpha.png": (PIL.Image.merge("RGBA", [*plain.split(), alpha]), {}),
        "grey-alpha.png": (PIL.Image.merge("LA", [plain.convert("L"), alpha]), {}),
        "tall.jpg": (picture(310, 41, 11), {"quality": 95}),
        "wide.png": (picture(41, 310, 12), {}),
        "long.png": (picture(13, 251, 15), {}),
        "smaller.png": (picture(21, 18, 13), {}),
        "tiny.png": (picture(5, 7, 14), {}),
        **{f"odd-{width}.png": (picture(50, width, width), {}) for width in range(56, 64)},
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return sorted(folder.iterdir())


def opened_as_told(path: Path, steps: list[str]) -> PIL.Image.Image:
    """A photo as a program opens it that does what the first three steps of the metadata say, with Pillow alone."""
    upright, to_rgb, longest = steps[:3]
    assert "EXIF" in upright and "transparent on white" in to_rgb and "upper byte of 16-bit samples" in to_rgb
    assert longest == "keep the middle 16 short sides of an image that is longer"
    image: PIL.Image.Image = PIL.ImageOps.exif_transpose(PIL.Image.open(path))
    if image.mode.startswith("I"):
        image = PIL.Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image.convert("RGBA"))
    width, height = (min(side, 16 * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.convert("RGB").crop((left, top, left + width, top + height))


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")
