"""A cache on disk for the results of passes over the images of a source dataset.

The key of an entry is a hash of all that its values depend on, so a changed image, network or setting makes a new
entry, and the cache may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..data import image_cache
from ..data.dataset import BadFile, Sample, stamp_or_reason
from ..models.network import Network
from ..runtime import distributed
from ..runtime.files import writing_to_cache
from ..runtime.tensor_files import write_tensors

FORMAT = 2
"""Part of every key. Raise it with each change of the code that makes a pass compute other values. The format
of the cache of images, which changes with their pixels, is a part, too."""


class PassResult(NamedTuple):
    """The result of one pass over images."""

    tensors: dict[str, Tensor]
    bad: list[BadFile]
    """The images that could not be decoded."""


def cached(
    cache: Path, key: str, compute: Callable[[], PassResult], all_unreadable: Callable[[Sequence[BadFile]], bool]
) -> PassResult:
    """Returns the cached result of a pass, or computes it and writes it to the cache.

    The entry is the file selection/KEY.safetensors in the folder ``cache``. It is not used where it is damaged, nor
    where ``all_unreadable``, called with the bad images of the entry, returns False: an image that has become readable
    belongs into the result, and its time stamp need not have changed. With torch.distributed, either all processes
    compute or none does, and rank 0 writes the file.

    Raises OSError where the cache cannot be written.
    """
    path = cache / "selection" / f"{key}.safetensors"
    result = _load(path)
    (usable,) = distributed.all_reduce_min(result is not None and all_unreadable(result.bad))
    if result is not None and usable:
        return result
    result = compute()
    if distributed.rank() == 0:
        with writing_to_cache(path.parent):
            write_tensors(path, result.tensors, {"bad": json.dumps(result.bad)})
    return result


def _load(path: Path) -> PassResult | None:
    """Reads an entry of the cache; None where the file is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            bad = [BadFile(*item) for item in json.loads(file.metadata()["bad"])]
        return PassResult(load_file(path), bad)
    except (OSError, SafetensorError):
        return None


def cache_key(network: Network, samples: Iterable[Iterable[Sample]], parameters: Iterable[object]) -> str:
    """A hash of the network's pretrained weights, of lists of images, and of further parameters.

    The weights are those of the backbone and of the pretrained classifier: a pass over the source uses neither the
    target head nor the source head. An image contributes its name, its stamp (for a file: size and time of the last
    change) and its label.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(text: object) -> None:
        digest.update(f"{text}\0".encode())

    head = {id(tensor) for part in network.target_heads() for tensor in part.state_dict(keep_vars=True).values()}
    body = network.body.state_dict(keep_vars=True).items()
    for name, tensor in chain(body, network.named_buffers(recurse=False)):
        if id(tensor) not in head:
            add((name, tensor.dtype, tuple(tensor.shape)))
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for images in samples:
        add("images")
        for sample in images:
            add(sample.image.name)
            add(stamp_or_reason(sample.image))
            add(sample.label)
    for parameter in (FORMAT, image_cache.FORMAT, network.model_name, *parameters):
        add(parameter)
    return digest.hexdigest()
