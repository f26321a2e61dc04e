"""Augmentation: random changes of the images of a pair, besides their place and mirroring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .arguments import as_flag, as_list, as_number, describe

RATIO_INTERVALS = 256
"""Intervals of the tables of aspect ratios. Interpolating them is off by 2e-7."""
TURN_INTERVALS = 1024
"""Intervals of the table of a turn's cosine and sine. Interpolating them is off by 5e-6."""
NOISE_LEVELS = 256
"""Values that noise has: one for each random byte."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Augmentation:
    """What happens to each image at random, besides its place and mirroring; nothing by default.

    Both images of a pair have random numbers of their own. :func:`xmixup_fast.draw` draws them, and
    :func:`xmixup_fast.mix_plan` renders them, in this order: resized crop, colours, erasing; then the images are mixed.

    Raises TypeError or ValueError for values that are not what they have to be.
    """

    scale: tuple[float, float] | None = None
    """Least and greatest area of a window, as a share of its image's, as torchvision's RandomResizedCrop draws it;
    windows of the output's own size if not given."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest aspect ratio, width over height, of such a window."""
    brightness: float = 0.0
    """The image is multiplied by a number from max(0, 1 - brightness) to 1 + brightness, as torchvision's ColorJitter
    does; likewise below. The steps come in random order."""
    contrast: float = 0.0
    """Contrast, likewise: about the mean grey of the window, as far as the pool's 8 x 8 mean colours tell it."""
    saturation: float = 0.0
    """Saturation, likewise."""
    hue: float = 0.0
    """Colours are turned about the grey axis by a number from -hue to hue of whole turns; at most 0.5."""
    jitter_probability: float = 1.0
    """The probability that an image's colours are changed at all."""
    erase: float = 0.0
    """The probability that a rectangle of an image is erased, as by torchvision's RandomErasing."""
    erase_scale: tuple[float, float] = (0.02, 0.33)
    """Least and greatest area of such a rectangle, as a share of the output's."""
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    """Least and greatest aspect ratio, height over width, of such a rectangle."""
    fill: Literal["mean", "noise"] | tuple[float, float, float] = "mean"
    """What a rectangle is filled with: the mean of each channel, normal noise of its mean and standard deviation, or
    R, G, B in 0..1."""
    antialias: bool = False
    """Filter an axis along which a window is larger than the output, as torchvision's antialias=True does, instead of
    interpolating between two pixels."""
    ratios: Tensor = field(init=False, repr=False)
    """float32[257]: quantiles of the square root of a window's aspect ratio."""
    erase_ratios: Tensor = field(init=False, repr=False)
    """float32[257]: likewise of an erased rectangle's."""
    turns: Tensor = field(init=False, repr=False)
    """float32[1025, 2]: cosine and sine of -1/2 to 1/2 of a turn."""
    noise_quantiles: Tensor = field(init=False, repr=False)
    """float32[256]: quantiles of the normal distribution, at the middles of 256 equal parts."""

    def __post_init__(self) -> None:
        def set_to(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        if self.scale is not None:
            set_to("scale", _as_range("scale", self.scale, 1.0))
        set_to("erase_scale", _as_range("erase_scale", self.erase_scale, 1.0))
        for name in ("ratio", "erase_ratio"):
            set_to(name, _as_range(name, getattr(self, name), math.inf))
        for name in ("brightness", "contrast", "saturation"):
            set_to(name, _as_share(name, getattr(self, name), math.inf))
        set_to("hue", _as_share("hue", self.hue, 0.5))
        for name in ("jitter_probability", "erase"):
            set_to(name, _as_share(name, getattr(self, name), 1.0))
        set_to("fill", _as_fill(self.fill))
        set_to("antialias", as_flag("antialias", self.antialias))
        set_to("ratios", _ratio_quantiles(self.ratio))
        set_to("erase_ratios", _ratio_quantiles(self.erase_ratio))
        angle = np.linspace(-math.pi, math.pi, TURN_INTERVALS + 1)
        set_to("turns", torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], axis=1)).float())
        middles = torch.from_numpy((np.arange(NOISE_LEVELS) + 0.5) / NOISE_LEVELS)
        set_to("noise_quantiles", torch.special.ndtri(middles).float())

    @classmethod
    def of(
        cls,
        *,
        crop: Literal["random", "resized"] = "random",
        scale: Sequence[float] | None = None,
        ratio: Sequence[float] | None = None,
        color_jitter: float | Sequence[float] | None = None,
        color_jitter_prob: float = 1.0,
        erase: float = 0.0,
        erase_fill: Literal["mean", "noise"] | Sequence[float] = "mean",
        antialias: bool = False,
    ) -> Augmentation:
        """The augmentation by the names that it has as settings of a run, and in timm's train.py.

        Args:
            crop: windows of the output's size (random), or of any size (resized).
            scale: least and greatest area of a resized crop, as a share of the image's; 0.08 and 1 if not given.
            ratio: least and greatest width over height of a resized crop; 3/4 and 4/3 if not given.
            color_jitter: brightness, contrast, saturation and perhaps hue; one number is that of the first three.
            color_jitter_prob: the probability that an image's colours are changed.
            erase: the probability that a rectangle of an image is erased.
            erase_fill: see :attr:`fill`.
            antialias: see :attr:`antialias`.

        Raises TypeError or ValueError, which names the argument.
        """
        if crop not in ("random", "resized"):
            raise ValueError(f"crop: expected random or resized, got {describe(crop)}")
        given: dict[str, Any] = {"erase": erase, "fill": erase_fill, "antialias": antialias}
        if crop == "resized":
            given |= {"scale": (0.08, 1.0) if scale is None else scale}
            given |= {} if ratio is None else {"ratio": ratio}
        elif scale is not None or ratio is not None:
            raise ValueError(f"{'ratio' if scale is None else 'scale'}: expected nothing with crop random")
        return cls(**given, **_jitter(color_jitter), jitter_probability=color_jitter_prob)

    @property
    def jitters(self) -> bool:
        """Whether colours are changed."""
        return self.jitter_probability > 0 and any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def needs_means(self) -> bool:
        """Whether contrast is changed, for which :func:`xmixup_fast.draw` needs the images' mean colours."""
        return self.contrast > 0 and self.jitter_probability > 0

    def draw_arguments(self) -> dict[str, Any]:
        """The tables and settings that the operator ``draw`` takes."""
        steps = [self.brightness, self.contrast, self.saturation, self.hue, self.jitter_probability]
        return {
            "ratios": None if self.scale is None else self.ratios,
            "turns": self.turns if self.jitters and self.hue > 0 else None,
            "erase_ratios": self.erase_ratios if self.erase > 0 else None,
            "scale": [] if self.scale is None else list(self.scale),
            "jitter": steps if self.jitters else [],
            "erase": [self.erase, *self.erase_scale] if self.erase > 0 else [],
        }

    def to(self, device: torch.device | str) -> Augmentation:
        """The same augmentation with its tables on another device, or itself where they are there already."""
        if self.turns.device == torch.device(device):
            return self
        moved = replace(self)
        for name in ("ratios", "erase_ratios", "turns", "noise_quantiles"):
            object.__setattr__(moved, name, getattr(self, name).to(device))
        return moved


def _jitter(color_jitter: Any) -> dict[str, Any]:
    """Brightness, contrast, saturation and hue by their names."""
    if color_jitter is None:
        return {}
    if isinstance(color_jitter, Sequence | Tensor | np.ndarray) and not isinstance(color_jitter, str):
        values = as_list("color_jitter", color_jitter, "numbers")
    else:
        values = [as_number("color_jitter", color_jitter)]
    if len(values) not in (1, 3, 4):
        raise ValueError(f"color_jitter: expected 1, 3 or 4 numbers, got {describe(color_jitter)}")
    values = values * 3 if len(values) == 1 else values
    names = ("brightness", "contrast", "saturation", "hue")
    return dict(zip(names, values, strict=False))


def as_augmentation(value: Any) -> Augmentation:
    """The augmentation, or one that changes nothing for None. Raises TypeError for another value."""
    if value is None:
        return _NONE
    if not isinstance(value, Augmentation):
        raise TypeError(f"augmentation: expected an Augmentation or None, got {describe(value)}")
    return value


def _ratio_quantiles(ratio: tuple[float, float]) -> Tensor:
    """Quantiles of the square root of an aspect ratio whose logarithm is uniform: float32[257]."""
    halves = np.linspace(math.log(ratio[0]) / 2, math.log(ratio[1]) / 2, RATIO_INTERVALS + 1)
    return torch.from_numpy(np.exp(halves)).float()


def _as_range(name: str, values: Any, most: float) -> tuple[float, float]:
    """Two positive numbers, the first no greater than the second, which is no greater than ``most``."""
    expected = "a positive number and one no less" + ("" if math.isinf(most) else f", up to {most:g}")
    numbers = [as_number(f"{name}[{i}]", value) for i, value in enumerate(as_list(name, values, expected))]
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] <= most:
        raise ValueError(f"{name}: expected {expected}, got {describe(values)}")
    return numbers[0], numbers[1]


def _as_share(name: str, value: Any, most: float) -> float:
    """A number from 0 to ``most``."""
    number = as_number(name, value)
    if not 0 <= number <= most:
        expected = "0 or a positive number" if math.isinf(most) else f"a number from 0 to {most:g}"
        raise ValueError(f"{name}: expected {expected}, got {number:g}")
    return number


def _as_fill(fill: Any) -> Any:
    if isinstance(fill, str):
        if fill not in ("mean", "noise"):
            raise ValueError(f"fill: expected mean, noise or R, G, B, got {fill!r}")
        return fill
    values: Sequence[Any] = as_list("fill", fill, "mean, noise or R, G, B")
    if len(values) != 3:
        raise ValueError(f"fill: expected mean, noise or R, G, B, got {describe(fill)}")
    return tuple(_as_share(f"fill[{c}]", value, 1.0) for c, value in enumerate(values))


_NONE = Augmentation()

torch.serialization.add_safe_globals([Augmentation])  # for torch.load, which takes no other classes by default
