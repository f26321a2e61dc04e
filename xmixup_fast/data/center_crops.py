"""Centre crops of images: the pass over a dataset in evaluation, selection and prediction."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .. import ops
from ..ops.image_format import ImageFormat, OutputBuffers
from ..ops.image_pool import Crops, ImagePool, Images, center_corners


def center_windows(sizes: Tensor, size: int, index: Tensor) -> Crops:
    """The middle ``size`` x ``size`` pixels of some images, not mirrored.

    Args:
        sizes: int32[n, 2], heights and widths of all images.
        size: height and width of the windows, in pixels.
        index: int64[B], positions of the images among all.
    """
    corner = center_corners(sizes[index], size)
    window = torch.cat([corner, torch.full_like(corner, size)], dim=1)
    return Crops(index, window, torch.zeros_like(index, dtype=torch.bool))


def _with_mirrored(sizes: Tensor, size: int, index: Tensor) -> Crops:
    """The centre windows of some images, then those of their mirror images.

    Where a width and ``size`` differ by an odd number, the centre of the mirror image is on the other side of the
    middle, so that an image and its mirror image give the same two crops.
    """
    index, window, flip = center_windows(sizes, size, index)
    mirrored = window.clone()
    mirrored[:, 1] = sizes[index, 1] - size - window[:, 1]
    return Crops(torch.cat([index, index]), torch.cat([window, mirrored]), torch.cat([flip, ~flip]))


def center_crop_batches(
    images: Images,
    form: ImageFormat,
    batch_size: int,
    positions: Tensor | None = None,
    buffers: OutputBuffers | None = None,
    *,
    flip: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Passes once over images, in batches of normalised centre crops.

    Args:
        images: the images, in memory or streamed.
        form: size, mean, std and dtype of the batches.
        batch_size: images in each batch; the last one may have fewer.
        positions: int64[n] on the images' device, which of them, in this order; all of them if not given.
        buffers: memory to write to, for several passes one after the other; memory of this pass alone if not given.
        flip: give the crops of the images' mirror images, too. Streamed images are decoded twice then.

    Yields:
        A batch, [B, 3, size, size] in channels_last, and its labels, int64[B]. With ``flip`` the batch has 2 B images:
        the crops, then those of the mirror images. All batches are in the same memory: each lasts until the next one is
        asked for.
    """
    if positions is None:
        positions = torch.arange(len(images), device=images.labels.device)
    indices = torch.split(positions.contiguous(), batch_size) if len(positions) else ()
    windows_of = _with_mirrored if flip else center_windows
    crops = (windows_of(images.sizes, form.size, index) for index in indices)
    buffers = buffers or OutputBuffers()
    for index, (pool, windows) in zip(indices, images.fetch(crops), strict=True):
        out = buffers.get("pass", len(windows.index), form, pool.device)
        yield plain_images(pool, windows, form, out), images.labels[index]


def plain_images(pool: ImagePool, crops: Crops, form: ImageFormat, out: Tensor) -> Tensor:
    """Windows of images, not mixed with any other: written to ``out``, [B, 3, height, width], which is returned."""
    return ops.mix(
        pool,
        crops,
        pool,
        crops,
        torch.ones(len(crops.index), dtype=torch.float32, device=pool.device),
        mean=form.mean,
        std=form.std,
        size=(out.shape[2], out.shape[3]),
        memory_format=torch.channels_last,
        out=out,
    )
