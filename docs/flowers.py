"""Two small pictures for docs/diagrams.py, a tulip and a daisy, computed, so that no photograph is needed.

Colours and masks are float64 from 0 to 1 on a fine grid of the unit square, y downwards; a pixel is its samples' mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float64]

SIDE = 160
"""Pixels of a picture's side."""
FINE = 3
"""Samples of a pixel along each axis, so that edges are smooth."""
LEVEL_STEP = 5
"""Distance of two neighbouring levels of a picture's colours, which are 0 to 255."""
GRID = (np.arange(SIDE * FINE) + 0.5) / (SIDE * FINE)
X, Y = GRID[None, :], GRID[:, None]


def colour(code: str) -> Pixels:
    """The red, green and blue of #rrggbb, float64[3]."""
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def ramp(begin: str, end: str, field: Pixels) -> Pixels:
    """A picture that goes from one colour, where the field is 0 or less, to another, where it is 1 or more."""
    share = np.clip(field, 0, 1)[..., None]
    return colour(begin) * (1 - share) + colour(end) * share


def paint(canvas: Pixels, mask: Pixels, layer: Pixels) -> None:
    """Covers the canvas with a colour, float64[3], or with a picture, as far as the mask says, from 0 to 1."""
    canvas += mask[..., None] * (layer - canvas)


def glow(x: float, y: float, radius: float) -> Pixels:
    """1 in the middle of a spot, falling smoothly to nearly 0 at twice its radius."""
    return np.exp(-((X - x) ** 2 + (Y - y) ** 2) / radius**2)


def disc(x: float, y: float, radius: float) -> Pixels:
    """1 inside of a circle, 0 outside."""
    return ((X - x) ** 2 + (Y - y) ** 2 < radius**2).astype(float)


def outline(percent: str) -> Pixels:
    """Points x, y of a closed curve, written in hundredths, as float64[N, 2]; a point given twice is a sharp corner."""
    return np.array(percent.split(), float).reshape(-1, 2) / 100


def mirrored(points: Pixels) -> Pixels:
    """Points reflected at the picture's vertical middle."""
    return points * (-1, 1) + (1, 0)


def region(knots: Pixels) -> Pixels:
    """1 inside of a smooth closed curve (Catmull-Rom) through these points, 0 outside."""
    t = np.linspace(0, 1, 12, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (np.roll(knots, 1 - shift, 0)[:, None] for shift in range(4))
    curve = p1 + t / 2 * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    curve = curve[(p1 != p2).any((1, 2))].reshape(-1, 2)  # without the loop from a corner to itself
    inside = np.zeros((GRID.size, GRID.size), bool)
    for (x0, y0), (x1, y1) in zip(curve, np.roll(curve, -1, 0), strict=True):
        begin, end = np.searchsorted(GRID, sorted((y0, y1)))
        if begin < end:
            inside[begin:end] ^= x0 + (Y[begin:end] - y0) * (x1 - x0) / (y1 - y0) > X
    return inside.astype(float)


def rounded(levels: Pixels) -> NDArray[np.uint8]:
    """Levels from 0 to 255, rounded to multiples of LEVEL_STEP: PNG packs fewer levels into fewer bytes."""
    return (np.round(levels / LEVEL_STEP) * LEVEL_STEP).astype(np.uint8)


def to_pixels(canvas: Pixels) -> NDArray[np.uint8]:
    """The mean of each pixel's samples, uint8[SIDE, SIDE, 3]."""
    return rounded(canvas.reshape(SIDE, FINE, SIDE, FINE, 3).mean((1, 3)) * 255)


def tulip() -> NDArray[np.uint8]:
    """A red tulip in a meadow under a light sky."""
    canvas = ramp("#a9d5ee", "#fdf3d7", Y / 0.62 + 0 * X)
    paint(canvas, 0.8 * glow(0.86, 0.12, 0.22), colour("#fffbe6"))
    for height, tone in ((0.60, "#b5d59a"), (0.70, "#8fc07a"), (0.82, "#67a65c")):
        hill = height + 0.03 * np.sin(7 * X + 30 * height)
        paint(canvas, np.clip((Y - hill) / 0.05, 0, 1), colour(tone))
    stem = outline("48.5 50  51.5 50  51.2 75  50 110  46 110  48.2 75")
    paint(canvas, region(stem), ramp("#8fc95c", "#3f8a3a", (X - 0.475) / 0.04 + 0 * Y))
    left = outline("13 42  13 42  27 60  39 80  50 110  34 110  20 82  14 62")
    right = outline("85 50  85 50  72 64  60 82  47 110  66 110  78 84  84 68")
    paint(canvas, region(left), ramp("#a6d96b", "#2f7d3b", (X - 0.10 - (Y - 0.4) * 0.25) / 0.24))
    paint(canvas, region(right), ramp("#2c7437", "#93cd60", (X - 0.48 + (Y - 0.5) * 0.25) / 0.40))
    back = outline("40 11.5  40 11.5  33 26  38 50  56 50  53 26")
    for petal in (region(back), region(mirrored(back))):
        paint(canvas, petal, ramp("#e0526a", "#8d1238", (Y - 0.1) / 0.35 + 0 * X))
    side = outline("26 15  26 15  23.5 32  29 50  42 60  53 60  52 42  40 25")
    paint(canvas, region(side), ramp("#ff9a86", "#c11f4a", (X - 0.20) / 0.30 + (Y - 0.35) * 0.9))
    paint(canvas, region(mirrored(side)), ramp("#a3123f", "#f0667a", (X - 0.50) / 0.30 - (Y - 0.35) * 0.9))
    petal = region(outline("50 18.5  50 18.5  40 33  37 48  43 59  50 61.5  57 59  63 48  60 33"))
    paint(canvas, petal, ramp("#ff8f80", "#c2183f", (Y - 0.18) / 0.38 + 0 * X))
    paint(canvas, petal * 0.55 * np.exp(-(((X - 0.46) / 0.04) ** 2) - ((Y - 0.38) / 0.14) ** 2), colour("#ffd2c4"))
    paint(canvas, petal * 0.8 * glow(0.5, 0.64, 0.08), colour("#f7c04a"))
    return to_pixels(canvas)


def daisy() -> NDArray[np.uint8]:
    """A white daisy with a yellow middle in front of dark leaves."""
    x, y = 0.6, 0.57
    canvas = ramp("#0e4a52", "#0d2f2b", Y + 0.3 * (X - 0.5))
    for spot in ((0.10, 0.85, 0.22), (0.92, 0.20, 0.18), (0.85, 0.92, 0.25), (0.08, 0.12, 0.16)):
        paint(canvas, 0.55 * glow(*spot), colour("#2f8f6b"))
    stem = outline("58 57  62 57  68 110  64 110")
    paint(canvas, region(stem), ramp("#79b85a", "#2d6e3a", (X - x) / 0.08 + 0 * Y))
    for layer, tones in ((0.5, ("#8d9cc4", "#d3daee")), (0, ("#a9b3d6", "#ffffff"))):
        for petal_number in range(13):
            angle = 2 * np.pi * (petal_number + layer) / 13
            along = (X - x) * np.cos(angle) + (Y - y) * np.sin(angle)
            across = (Y - y) * np.cos(angle) - (X - x) * np.sin(angle)
            width = 0.068 * np.sqrt(np.clip(1 - ((along - 0.25) / 0.165) ** 2, 0, 1)) * (0.7 + 1.2 * along)
            petal = (np.abs(across) < width).astype(float)
            paint(canvas, petal, ramp(*tones, (along - 0.08) / 0.2 - 0.6 * (across / 0.07) ** 2))
    paint(canvas, disc(x, y, 0.135), ramp("#ffdf5a", "#d98a0b", np.hypot(X - x + 0.03, Y - y + 0.03) / 0.16))
    for floret in range(90):  # in the spiral of a sunflower's seeds
        radius, angle = 0.13 * np.sqrt((floret + 0.5) / 90), floret * np.pi * (3 - np.sqrt(5))
        centre = x + radius * np.cos(angle), y + radius * np.sin(angle)
        paint(canvas, 0.7 * disc(*centre, 0.0065), colour("#b96a08" if radius > 0.06 else "#fff0a0"))
    return to_pixels(canvas)
