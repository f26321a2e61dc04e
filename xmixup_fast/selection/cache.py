"""The cache of what passes over the source's images found."""

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

from ..data.dataset import BadFile, Sample, stamp_or_reason
from ..models.network import Network
from ..runtime import distributed
from ..runtime.files import writing_to_cache
from ..runtime.tensor_files import write_tensors

FORMAT = 1
"""To be raised whenever cached statistics are no longer what a pass would find."""


class PassResult(NamedTuple):
    """What a pass over images finds."""

    tensors: dict[str, Tensor]
    bad: list[BadFile]
    """The images that could not be decoded."""


def cached(
    cache: Path, key: str, compute: Callable[[], PassResult], all_unreadable: Callable[[Sequence[BadFile]], bool]
) -> PassResult:
    """What ``compute`` gives, or what it gave for the same key before: kept as selection/KEY.safetensors in the cache.

    It is computed anew where the file cannot be read, or where ``all_unreadable`` says that an image which was bad no
    longer is. Several processes that work together all compute, or none.

    Raises OSError where the cache cannot be written.
    """
    path = cache / "selection" / f"{key}.safetensors"
    found = _load(path)
    (usable,) = distributed.all_reduce_min(found is not None and all_unreadable(found.bad))
    if found is not None and usable:
        return found
    found = compute()
    if distributed.rank() == 0:
        with writing_to_cache(path.parent):
            write_tensors(path, found.tensors, {"bad": json.dumps(found.bad)})
    return found


def _load(path: Path) -> PassResult | None:
    """What a file of the cache holds; None where there is no whole one."""
    try:
        with safe_open(path, "pt") as file:
            bad = [BadFile(*item) for item in json.loads(file.metadata()["bad"])]
        return PassResult(load_file(path), bad)
    except (OSError, SafetensorError):
        return None


def cache_key(network: Network, samples: Iterable[Iterable[Sample]], parameters: Iterable[object]) -> str:
    """A hash of the weights, of names, stamps and labels of lists of images, and of what else matters.

    The weights are the backbone's and the pretrained classifier's; neither head is part of a pass over the source.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(text: object) -> None:
        digest.update(f"{text}\0".encode())

    head = {id(tensor) for tensor in network.body.get_classifier().state_dict(keep_vars=True).values()}
    body = network.body.state_dict(keep_vars=True).items()
    for name, tensor in chain(body, network.named_buffers(recurse=False)):
        if id(tensor) not in head:
            add((name, tensor.dtype, tuple(tensor.shape)))
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for images in samples:
        add("images")
        for image, label in images:
            add(image.name)
            add(stamp_or_reason(image))
            add(label)
    for parameter in (FORMAT, network.model_name, *parameters):
        add(parameter)
    return digest.hexdigest()
