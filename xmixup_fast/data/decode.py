"""Decoding image files into an ImagePool, with torchvision."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ..pool import ImagePool
from .dataset import Sample

AHEAD = 64
"""Images that are decoded before they are asked for, so that decoding goes on while the network works."""


def decode(samples: Sequence[Sample], short_side: int, what: str) -> ImagePool:
    """Decodes image files into a pool on the CPU with their labels, in order, with progress on a terminal.

    Images become RGB, are turned upright as their EXIF data say, and are resized (bilinear, antialiased) so that their
    short side has ``short_side`` pixels. ``what`` names them in the progress bar.

    Raises ValueError, which lists every file that cannot be decoded.
    """
    from tqdm import tqdm

    images: list[Tensor] = []
    bad: list[str] = []
    results = decoded(samples, short_side)
    # disable=None: no bar where stderr is not a terminal.
    for result in tqdm(results, f"decoding {what}", len(samples), unit=" images", leave=False, disable=None):
        if isinstance(result, Tensor):
            images.append(result)
        else:
            bad.append(result)
    if bad:
        raise ValueError(f"{len(bad)} of {len(samples)} {what} cannot be decoded:\n  " + "\n  ".join(bad))
    return ImagePool.from_images(images, [sample.label for sample in samples])


def decoded(samples: Iterable[Sample], short_side: int) -> Iterator[Tensor | str]:
    """Images in order, each uint8[H, W, 3], or its name and what is wrong with it; a bounded number is decoded ahead.

    They are made as :func:`decode` makes them.
    """
    ahead: deque[Future[Tensor | str]] = deque()
    with ThreadPoolExecutor(torch.get_num_threads()) as workers:
        for sample in samples:
            ahead.append(workers.submit(_decode_file, sample, short_side))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _decode_file(sample: Sample, short_side: int) -> Tensor | str:
    """One image, uint8[H, W, 3], or its name and what is wrong with it."""
    import numpy as np
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2.functional import resize, to_dtype

    try:
        encoded = torch.from_numpy(np.frombuffer(bytearray(sample.image.read()), dtype=np.uint8))
        image: Tensor = decode_image(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
    except (RuntimeError, ValueError, OSError) as error:
        return f"{sample.image.name}: {str(error).splitlines()[0]}"
    image = to_dtype(image, torch.uint8, scale=True)  # a 16-bit PNG comes as uint16
    image = resize(image, [short_side], antialias=True)
    return image.permute(1, 2, 0)
