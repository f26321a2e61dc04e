"""The images of a dataset as a pool, for a training loop of one's own: :meth:`ImagePool.from_folder`."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch

from ..ops.image_pool import ImagePool
from ..runtime.device import default_threads
from ..settings.fields import Settings
from ..settings.values import as_type
from .bad_files import refuse_bad_files, skipped
from .dataset import BadFile, Dataset, Sample
from .decoding.choose import make_decoder
from .image_store import ImageStore
from .layout import some
from .sources import read_dataset
from .understood import found


def folder_pool(
    name: str,
    resize: int | str,
    classes: Iterable[str] | None,
    *,
    split: str,
    bad_files: str,
    decoder: str,
    log: Callable[[str], object],
) -> ImagePool:
    """Makes the pool that :meth:`.ImagePool.from_folder` describes, and raises as it does."""
    as_type("split", split, Literal["train", "val", "test", "all"])
    as_type("bad_files", bad_files, typing.get_type_hints(Settings)["bad_files"])
    _check(resize, decoder)
    dataset = read_dataset(name, needs_train=False)
    for line in found(dataset.findings):
        log(line)
    names = dataset.classes if classes is None else list(classes)
    samples = _of_classes(name, dataset, dataset.samples if split == "all" else getattr(dataset, split), names)
    pool, bad = decoded_pool(samples, names, f"{split} images of {name}", resize=resize, decoder=decoder, log=log)
    if bad := refuse_bad_files([*dataset.bad, *bad], bad_files, "leaves them out"):
        log(f"{skipped(bad)}: {some([one.name for one in bad])}")
    empty = [names[label] for label in sorted(set(range(len(names))) - set(pool.labels.tolist()))]
    if empty:
        raise ValueError(f"classes: {name} has no {split} image of {some(empty)}")
    return pool


def decoded_pool(
    samples: Sequence[Sample],
    names: Sequence[str],
    title: str,
    *,
    resize: int | str,
    decoder: str,
    log: Callable[[str], object],
) -> tuple[ImagePool, list[BadFile]]:
    """The pool of images whose labels are positions in ``names``, and the images that cannot be decoded.

    Raises ValueError for a wrong ``resize`` or ``decoder``, and a decoder that is not installed.
    """
    _check(resize, decoder)
    short_side = None if resize == "full" else int(resize)
    decode = make_decoder(decoder, short_side, torch.device("cpu"), default_threads(), log)
    store = ImageStore(decode, None, None, log)
    return replace(store.build(samples, title), classes=tuple(names)), store.bad


def _check(resize: int | str, decoder: str) -> None:
    if as_type("resize", resize, int | Literal["full"]) != "full" and int(resize) < 1:
        raise ValueError(f"resize: expected a positive number of pixels, got {resize!r}")
    as_type("decoder", decoder, typing.get_type_hints(Settings)["decoder"])


def _of_classes(name: str, dataset: Dataset, samples: Sequence[Sample], names: Sequence[str]) -> list[Sample]:
    """The images of the named classes, each once, with positions in ``names`` as labels."""
    unknown = sorted(set(names) - set(dataset.classes))
    if unknown or len(set(names)) < len(names) or not names:
        got = f"{some(unknown)}, which it does not have" if unknown else f"{some(names)}, one of them twice"
        raise ValueError(f"classes: expected distinct classes of {name}, got {got if names else 'none'}")
    position = {one: i for i, one in enumerate(names)}
    return [
        sample._replace(label=position[dataset.classes[sample.label]])
        for sample in samples
        if dataset.classes[sample.label] in position
    ]
