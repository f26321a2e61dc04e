"""Images that look nearly alike, such as one photo at two sizes or qualities, found by a perceptual hash."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise

import PIL.Image
from torch import Tensor

from ..runtime.progress import progress
from .contents import Contents
from .dataset import SPLITS, Dataset, Sample
from .decoding.decoder import Decoder
from .duplicates import EXAMPLES, counted
from .layout import some

SHORT_SIDE = 64
"""Short side at which images are hashed, in pixels; the hash itself looks at 32."""
MOST_BITS = 4
"""Images whose hashes differ in so many of 64 bits, at most, are taken for nearly equal."""


def check_package() -> None:
    """Raises ValueError where the package imagehash is not installed."""
    if find_spec("imagehash") is None:
        raise ValueError("near_duplicates: needs the package imagehash: pip install 'xmixup_fast[near-duplicates]'")


def near_duplicates(dataset: Dataset, contents: Contents, decoder: Decoder) -> list[str]:
    """Lines of text on images that look nearly alike, and have not the same bytes.

    Args:
        dataset: the images, in their splits.
        contents: the images' contents, by name.
        decoder: decodes the images to a short side of SHORT_SIDE pixels.

    Raises ValueError where the package imagehash is not installed.
    """
    check_package()
    import imagehash

    split = {one.image.name: name for name in SPLITS for one in getattr(dataset, name)}
    samples: list[Sample] = []
    hashes: list[int] = []
    by_name = sorted(dataset.samples, key=lambda one: one.image.name, reverse=True)
    distinct = dict(reversed({contents[one.image.name].digest: one for one in by_name}.items()))
    pairs = zip(distinct.values(), decoder.decode(one.image for one in distinct.values()), strict=True)
    for sample, pixels in progress(pairs, len(distinct), "looking for near duplicates"):
        if isinstance(pixels, Tensor):
            samples.append(sample)
            hashes.append(int(str(imagehash.phash(PIL.Image.fromarray(pixels.numpy()))), 16))
    near = [(samples[i], samples[j]) for i, j in near_pairs(hashes)]
    if not near:
        return [f"near duplicates: none among {len(samples)} images"]
    names = [" ~ ".join(dataset.name_of(one.image) for one in pair) for pair in near]
    splits = sum(split[one.image.name] != split[other.image.name] for one, other in near)
    labels = sum(one.label != other.label for one, other in near)
    title = counted(near, "pair")
    return [
        f"near duplicates: {title} among {len(samples)} images, {splits} in two splits, {labels} with two labels "
        f"({some(sorted(names), EXAMPLES)}); nothing is done about them"
    ]


def near_pairs(hashes: Sequence[int]) -> list[tuple[int, int]]:
    """Positions of all pairs of 64-bit hashes that differ in MOST_BITS bits at most, each once, in order.

    Of MOST_BITS + 1 parts of two such hashes at least one is equal, so only hashes with an equal part are compared.
    """
    parts = MOST_BITS + 1
    edges = [64 * part // parts for part in range(parts + 1)]
    found = set()
    for low, high in pairwise(edges):
        groups: dict[int, list[int]] = {}
        for position, value in enumerate(hashes):
            groups.setdefault(value >> low & (1 << high - low) - 1, []).append(position)
        for group in groups.values():
            for place, i in enumerate(group):
                found |= {(i, j) for j in group[place + 1 :] if (hashes[i] ^ hashes[j]).bit_count() <= MOST_BITS}
    return sorted(found)
