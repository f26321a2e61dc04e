"""``draw`` in plain PyTorch: the definition of what it draws, to the bit.

Each floating-point operation is a tensor's, in float32, rounded by itself, in the same order as in csrc/core/draw*.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from .augmentation import Augmentation
from .image_pool import Crops
from .mix_plan import MixPlan

_WORD = 2**32 - 1
"""Mask of the 32 bits of a random word, which is an element of an int64 tensor."""

TRIES = 10
"""How often a rectangle of random area and aspect ratio is drawn, until one fits."""

LUMA = (0.2989, 0.587, 0.114)
"""Weights of R, G and B in grey, as torchvision has them."""

ORDERS = torch.tensor([*permutations(range(4))])
"""int64[24, 4]: the orders of brightness, contrast, saturation and hue (0 to 3)."""


class Key(NamedTuple):
    """What the random words of B samples depend on, besides their purpose."""

    seed: int
    sample: Tensor
    """int64[B]."""
    epoch: Tensor
    """int64[B]."""

    def words(self, purpose: int) -> Tensor:
        """Four random words of 32 bits for each sample: int64[B, 4]."""
        counter = (self.sample & _WORD, self.sample >> 32 & _WORD, self.epoch, torch.full_like(self.epoch, purpose))
        return philox(torch.stack(counter, dim=1), self.seed)


class Purposes(NamedTuple):
    """What the random words of an image are drawn for."""

    crop: int
    color: int
    factors: int
    window: int
    """Of the first of ten tries, as below."""
    erased: int


TARGET, AUX = Purposes(0, 4, 5, 16, 48), Purposes(2, 6, 7, 32, 64)
AUX_CHOICE, LAM_AND_CENTER, ERASING = 1, 3, 8


class Side(NamedTuple):
    """What is drawn of one image of each pair."""

    crops: Crops
    erased: Tensor
    """int32[B, 4]."""
    color: Tensor
    """float32[B, 3, 4], or float32[0, 3, 4]."""


def draw(
    seed: int,
    *,
    sample: Tensor,
    epoch: Tensor,
    label: Tensor,
    target_index: Tensor,
    target_sizes: Tensor,
    offsets: Tensor,
    members: Tensor,
    aux_sizes: Tensor,
    lam_quantiles: Tensor,
    size: tuple[int, int],
    flip: bool = True,
    box: bool = False,
    augmentation: Augmentation | None = None,
    target_means: Tensor | None = None,
    aux_means: Tensor | None = None,
    aux_labels: Tensor | None = None,
    partner: Tensor | None = None,
    mixed: Tensor | None = None,
    one_lam: bool = False,
) -> MixPlan:
    """Draws the same bits as :func:`xmixup_fast.draw`."""
    augmentation = augmentation or Augmentation()
    key = Key(seed, sample, epoch)

    def side(index: Tensor, sizes: Tensor, means: Tensor | None, purposes: Purposes, erase_word: Tensor) -> Side:
        extent = sizes[index].long()
        flips = (key.words(purposes.crop)[:, 2] < 2**31) & flip
        crops = Crops(index, windows(key, purposes, extent, size, augmentation), flips)
        erased = erased_rectangles(key, purposes, erase_word, size, augmentation)
        if not augmentation.jitters:
            return Side(crops, erased, erase_word.new_empty((0, 3, 4), dtype=torch.float32))
        mean = torch.zeros(len(index), 3, device=index.device)
        if means is not None and augmentation.contrast > 0:
            mean = window_means(means[index], extent, crops.window.long())
        return Side(crops, erased, color_matrices(key, purposes, mean, augmentation))

    erasing = key.words(ERASING)
    target = side(target_index, target_sizes, target_means, TARGET, erasing[:, 0])
    aux_label = torch.full_like(target_index, -1)
    if partner is not None:
        crops = Crops(*(tensor[partner] for tensor in target.crops))
        aux = Side(crops, target.erased[partner], target.color[partner] if augmentation.jitters else target.color)
        aux_label = label[partner]
    elif len(members):
        first, last = offsets[label], offsets[label + 1]
        aux_index = members[first + uniform_below(last - first, key.words(AUX_CHOICE)[:, 0])]
        aux = side(aux_index, aux_sizes, aux_means, AUX, erasing[:, 1])
        aux_label = aux_label if aux_labels is None else aux_labels[aux_index]
    else:
        aux = target._replace(erased=torch.zeros_like(target.erased))

    last_words = key.words(LAM_AND_CENTER)
    lam = quantiles(lam_quantiles, last_words[:1, 0].expand(len(sample)) if one_lam else last_words[:, 0])
    lam = lam if mixed is None else lam.where(mixed, 1.0)
    boxes = None
    if box:
        boxes, lam = cutmix_boxes(lam, centers(key), size)
    return MixPlan.of(
        target.crops,
        aux.crops,
        lam,
        aux_label=aux_label,
        box=boxes,
        target_erased=target.erased,
        aux_erased=aux.erased,
        noise=erasing[:, 2] | erasing[:, 3] << 32 if augmentation.erase > 0 else None,
        color=torch.stack([target.color, aux.color], dim=1),
    )


def windows(key: Key, purposes: Purposes, extent: Tensor, size: tuple[int, int], augmentation: Augmentation) -> Tensor:
    """Windows int32[B, 4] in images of these heights and widths, int64[B, 2]."""
    if augmentation.scale is None:
        sides = torch.tensor(size, device=extent.device).expand(len(extent), 2)
        return placed(extent, sides, key.words(purposes.crop)[:, :2]).int()
    window = middle_windows(extent, augmentation.ratios)
    taken = torch.zeros(len(extent), dtype=torch.bool, device=extent.device)
    for k in range(TRIES):
        words = key.words(purposes.window + k)
        width, height = random_sides(extent, augmentation.scale, augmentation.ratios, words)
        sides = torch.stack([height, width], dim=1)
        fits = ~taken & (sides >= 1).all(1) & (sides <= extent.float()).all(1)
        sides = sides.where(fits[:, None], 1.0).long()
        window = placed(extent, sides, words[:, 2:]).where(fits[:, None], window)
        taken |= fits
    return window.int()


def middle_windows(extent: Tensor, ratios: Tensor) -> Tensor:
    """The largest windows in the middle of images whose width over height is allowed, int64[B, 4]."""
    height, width = extent.float().unbind(1)
    least, most = ratios[0] * ratios[0], ratios[-1] * ratios[-1]
    ratio = width / height
    rows = (width / least).round().where(ratio < least, height).clamp(min=1).minimum(height)
    columns = (height * most).round().where(ratio > most, width).clamp(min=1).minimum(width)
    sides = torch.stack([rows, columns], dim=1).long()
    return torch.cat([(extent - sides) // 2, sides], dim=1)


def random_sides(extent: Tensor, scale: tuple[float, float], ratios: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """The root of a random area times the root of a random aspect ratio, and divided by it; rounded, float32[B]."""
    share = interpolate(scale[0], scale[1], uniform(words[:, 0]))
    side = square_root(extent.prod(1).float() * share)
    root = quantiles(ratios, words[:, 1])
    return (side * root).round(), (side / root).round()


def placed(extent: Tensor, sides: Tensor, words: Tensor) -> Tensor:
    """Rectangles of these sides at random places, int64[B, 4]."""
    return torch.cat([uniform_below(extent - sides + 1, words), sides], dim=1)


def erased_rectangles(
    key: Key, purposes: Purposes, erase_word: Tensor, size: tuple[int, int], augmentation: Augmentation
) -> Tensor:
    """Rectangles of the output that are erased, int32[B, 4]; zeros where none is."""
    erased = torch.zeros((len(erase_word), 4), dtype=torch.int64, device=erase_word.device)
    if augmentation.erase == 0:
        return erased.int()
    extent = torch.tensor(size, device=erased.device).expand(len(erased), 2)
    wanted = uniform(erase_word) < float32(augmentation.erase, erased)
    for k in range(TRIES):
        words = key.words(purposes.erased + k)
        height, width = random_sides(extent, augmentation.erase_scale, augmentation.erase_ratios, words)
        sides = torch.stack([height, width], dim=1)
        fits = wanted & (sides < extent.float()).all(1)
        sides = sides.where(fits[:, None], 1.0).long()
        erased = placed(extent, sides, words[:, 2:]).where(fits[:, None], erased)
        wanted = wanted & ~fits
    return erased.int()


def window_means(means: Tensor, extent: Tensor, window: Tensor) -> Tensor:
    """Mean R, G, B of windows int64[B, 4] in 0..255, out of the means of 8 x 8 cells: float32[B, 3]."""

    def weights(axis: int) -> Tensor:
        """How many eighths of a pixel of each cell are inside, int64[B, 8]."""
        begin, pixels = window[:, axis, None], extent[:, axis, None]
        end, cell = begin + window[:, axis + 2, None], torch.arange(8, device=window.device)
        first, last = (8 * begin).maximum(cell * pixels), (8 * end).minimum((cell + 1) * pixels)
        return (last - first).clamp(min=0)

    weight = (weights(0)[:, :, None] * weights(1)[:, None, :]).unsqueeze(-1)
    total = (weight * means.long()).sum((1, 2))
    return total.float() / (64 * window[:, 2] * window[:, 3]).float().unsqueeze(-1)


def color_matrices(key: Key, purposes: Purposes, mean: Tensor, augmentation: Augmentation) -> Tensor:
    """The matrices of images whose windows have this mean colour, float32[B, 3, 4]."""
    choice, words = key.words(purposes.color), key.words(purposes.factors)
    # What R, G, B and 1 become, and what the mean becomes.
    identity = torch.eye(3, 4, device=mean.device).expand(len(mean), 3, 4)
    columns = torch.cat([identity, mean.unsqueeze(-1)], dim=2)
    order = ORDERS.to(mean.device)[uniform_below(24, choice[:, 1])]
    for step in order.unbind(1):
        before = columns
        for number, (setting, change) in enumerate(
            (
                (augmentation.brightness, brightened),
                (augmentation.contrast, contrasted),
                (augmentation.saturation, saturated),
            )
        ):
            if setting > 0:
                factor = interpolate(max(0.0, 1 - setting), 1 + setting, uniform(words[:, number]))
                columns = change(before, factor[:, None, None]).where((step == number)[:, None, None], columns)
        if augmentation.hue > 0:
            turn = interpolate(-augmentation.hue, augmentation.hue, uniform(words[:, 3]))
            rotated = turned(before, rotation(augmentation.turns, turn))
            columns = rotated.where((step == 3)[:, None, None], columns)
    applied = uniform(choice[:, 0]) < float32(augmentation.jitter_probability, mean)
    return columns[:, :, :4].where(applied[:, None, None], identity)


def brightened(columns: Tensor, factor: Tensor) -> Tensor:
    """Colours float32[B, 3, 5] times a factor float32[B, 1, 1]; likewise below."""
    return factor * columns


def contrasted(columns: Tensor, factor: Tensor) -> Tensor:
    """Colours moved away from the mean grey: those that are places, and not directions, are the last two columns."""
    shift = (1 - factor) * luma(columns)[:, :, 4:]
    scaled = factor * columns
    return torch.cat([scaled[:, :, :3], scaled[:, :, 3:] + shift], dim=2)


def saturated(columns: Tensor, factor: Tensor) -> Tensor:
    """Colours moved away from the grey of each."""
    return factor * columns + (1 - factor) * luma(columns)


def turned(columns: Tensor, rotation: Tensor) -> Tensor:
    """Colours turned about the grey axis."""
    cosine, sine = rotation[:, None, None].unbind(-1)
    r, g, b = columns[:, :1], columns[:, 1:2], columns[:, 2:]
    grey = (1 - cosine) * (1 / 3) * ((r + g) + b)
    side = sine * 3**-0.5
    return cosine * columns + grey + side * torch.cat([b - g, r - b, g - r], dim=1)


def luma(columns: Tensor) -> Tensor:
    """Grey of colours float32[B, 3, n]: float32[B, 1, n]."""
    r, g, b = columns[:, :1], columns[:, 1:2], columns[:, 2:]
    return (LUMA[0] * r + LUMA[1] * g) + LUMA[2] * b


def rotation(turns: Tensor, turn: Tensor) -> Tensor:
    """Cosine and sine of a part of a turn, float32[B, 2]."""
    place = (turn + 0.5) * float32(len(turns) - 1, turn)
    interval = place.long().clamp(max=len(turns) - 2)
    left, right = turns[interval], turns[interval + 1]
    return left + (place - interval.float()).unsqueeze(-1) * (right - left)


def centers(key: Key) -> Tensor:
    """The middles of boxes, as fractions of height and width: float32[B, 2]."""
    return uniform(key.words(LAM_AND_CENTER)[:, 1:3])


def cutmix_boxes(lam: Tensor, center: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """CutMix's boxes (Yun et al. 2019, arXiv 1905.04899) and the weights that belong to them.

    The sides of a box are sqrt(1 - lam) of the image's, rounded. The part of a box outside of the image is cut off.

    Args:
        lam: float32[B] in 0..1, the weights that were drawn for the images which boxes are pasted into.
        center: float32[B, 2] in 0..1, the middles of the boxes, from the top and from the left.
        size: height and width of the images, in pixels.

    Returns:
        The boxes, int32[B, 4], and the final weights, float32[B]: the share of each image that its box leaves visible.
    """
    root = square_root(1 - lam)
    begins, extents = [], []
    for pixels, middle in zip(size, center.unbind(1), strict=True):
        side = (root * pixels).round().long()
        begin = (middle * pixels).long() - side // 2
        end = (begin + side).clamp(max=pixels)
        begins.append(begin.clamp(min=0))
        extents.append(end - begins[-1])
    # A tensor, as CUDA multiplies by a number's reciprocal instead of dividing by it.
    covered = (extents[0] * extents[1]).float() / float32(size[0] * size[1], lam)
    return torch.stack([*begins, *extents], dim=1).int(), 1 - covered


def quantiles(table: Tensor, words: Tensor) -> Tensor:
    """A table float32[Q + 1] at a uniform number times Q, interpolated."""
    position = (words >> 8) * (len(table) - 1)
    left, right = table[position >> 24], table[(position >> 24) + 1]
    return left + (position & 2**24 - 1).float() * 2**-24 * (right - left)


def interpolate(left: float, right: float, fraction: Tensor) -> Tensor:
    """From ``left`` to ``right``, both rounded to float32."""
    first, last = float32(left, fraction), float32(right, fraction)
    return first + fraction * (last - first)


def float32(number: float, like: Tensor) -> Tensor:
    """A number as a tensor where another one is."""
    return torch.tensor(number, dtype=torch.float32, device=like.device)


def square_root(x: Tensor) -> Tensor:
    """The float32 nearest to the root: float32's own ``sqrt`` is off by a unit in the last place at times."""
    return x.double().sqrt().float()


def uniform(words: Tensor) -> Tensor:
    """Elementwise, a uniform number in [0, 1) out of a random word, float32."""
    return (words >> 8).float() * 2**-24


def uniform_below(n: Tensor | int, words: Tensor) -> Tensor:
    """Elementwise, a whole number from 0 to n - 1 out of a random word, int64."""
    return n * words >> 32


def philox(counter: Tensor, key: int) -> Tensor:
    """Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405): words int64[n, 4] for counters int64[n, 4]."""
    a, b, c, d = counter.unbind(1)
    key_low, key_high = key & _WORD, key >> 32 & _WORD
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57  # modulo 2**64
        a, b = (second >> 32 & _WORD) ^ b ^ key_low, second & _WORD
        c, d = (first >> 32 & _WORD) ^ d ^ key_high, first & _WORD
        key_low, key_high = key_low + 0x9E3779B9 & _WORD, key_high + 0xBB67AE85 & _WORD
    return torch.stack([a, b, c, d], dim=1)
