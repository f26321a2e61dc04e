"""The share of second images in an average batch, which is computed from the settings and shown beside batch.png."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..methods import METHODS
from ..ops.lam import mixing_quantiles
from ..settings.fields import Settings

NEARLY_ONE = 0.995
"""Weights above this one are printed as 1.00 in the titles of batch.png."""


class MixingShare(NamedTuple):
    """Means over all samples of a run; the second image is the auxiliary image, or the partner within the batch."""

    second: float
    """The mean weight of the second image, which with boxes is the mean area of the box, as a share of the image."""
    nearly_unmixed: float
    """The share of samples in which the weight of the target image is above NEARLY_ONE."""


def expected_auxiliary_share(settings: Settings, *, box: bool) -> MixingShare:
    """Expected shares of a method that mixes all samples as the settings say, with boxes or as blends.

    The distribution of the drawn weights is that of :func:`xmixup_fast.ops.draw`, which interpolates a table of
    quantiles. With boxes, the mean over all positions of a box is taken, of which a part may lie outside of the image
    (:func:`xmixup_fast.ops.reference.cutmix_boxes`). Samples that are not mixed count with weight 1.
    """
    quantiles = mixing_quantiles(settings.alpha, settings.fold, settings.lam).double().numpy()
    share = _box_share(quantiles, settings.crop_size) if box else _blend_share(quantiles)
    mixed = settings.mix_probability * (1 - settings.unmixed_share)
    return MixingShare(mixed * share.second, 1 - mixed * (1 - share.nearly_unmixed))


def batch_note(settings: Settings) -> str | None:
    """A sentence on the mixing of an average batch, for readers of batch.png; None for methods that do not mix."""
    method = METHODS[settings.method]
    if method.second is None:
        return None
    share = expected_auxiliary_share(settings, box=method.box)
    drawn = [f"alpha {settings.alpha:g}"] + ["folded"] * settings.fold
    options = drawn if settings.lam is None else [f"lam {settings.lam:g}"]
    options += [f"mix_probability {settings.mix_probability:g}"] * (settings.mix_probability < 1)
    options += [f"unmixed_share {settings.unmixed_share:g}"] * (settings.unmixed_share > 0)
    return (
        f"{method.second.capitalize()} images make up {100 * share.second:.1f} % of an average batch; "
        f"{100 * share.nearly_unmixed:.1f} % of the samples have a weight above {NEARLY_ONE}, shown as 1.00 "
        f"({', '.join(options)})."
    )


def _blend_share(quantiles: NDArray[np.float64]) -> MixingShare:
    """Shares for weights from a table of quantiles, float64[Q + 1], which is linearly interpolated."""
    mean = float((quantiles[:-1] + quantiles[1:]).mean() / 2)
    return MixingShare(1 - mean, 1 - float(_cumulative(quantiles, np.array(NEARLY_ONE))))


def _box_share(quantiles: NDArray[np.float64], size: int) -> MixingShare:
    """As :func:`_blend_share`, for boxes in images of size x size pixels.

    A box has s x s pixels before it is cut off, where s is sqrt(1 - lam) size, rounded. Its middle is equally likely to
    be at any pixel, vertically and horizontally independent of each other.
    """
    sides = np.arange(size + 1)
    # The box has at most s pixels a side where lam is at least 1 - ((s + 1/2) / size)^2.
    at_most = 1 - _cumulative(quantiles, 1 - ((sides[:-1] + 0.5) / size) ** 2)
    probabilities = np.diff(at_most, prepend=0.0, append=1.0)
    middles = np.arange(size)
    second = nearly_unmixed = 0.0
    for side, probability in zip(sides.tolist(), probabilities.tolist(), strict=True):
        begins = middles - side // 2
        extents = np.sort(np.minimum(begins + side, size) - np.maximum(begins, 0))
        second += probability * (extents.mean() / size) ** 2
        # For each height of the box, the number of widths with which its area leaves a weight above NEARLY_ONE.
        limits = (1 - NEARLY_ONE) * size**2 / np.maximum(extents, 1)
        nearly_unmixed += probability * np.searchsorted(extents, limits).mean() / size
    return MixingShare(float(second), float(nearly_unmixed))


def _cumulative(quantiles: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability of weights up to each of some values strictly between 0 and 1."""
    return np.interp(values, quantiles, np.linspace(0, 1, len(quantiles)))
