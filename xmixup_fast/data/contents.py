"""The contents of images: sizes and hashes of their bytes, which tell images apart wherever they are kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ..runtime.files import write_text, writing_to_cache
from ..runtime.progress import progress
from .dataset import BadFile, Content, Dataset, Image, Sample
from .decoding.decoder import ordered_map

AT_A_TIME = 32
"""How many images a thread reads in one go."""
Contents = Mapping[str, Content]
"""Contents of images, by their names."""


def read_contents(
    dataset: Dataset, samples: Sequence[Sample], cache: Path | None, threads: int
) -> tuple[dict[str, Content], list[BadFile]]:
    """Reads images, each once, and hashes their bytes.

    The cache keeps the hashes of a dataset, with size and times of each file: files that have not been written to since
    then are not read again.

    Args:
        dataset: the dataset of the images.
        samples: the images.
        cache: folder of the cache; None to read all images.
        threads: number of threads that read.

    Returns the content of each image by its name, and the images that cannot be read.

    Raises OSError where the cache cannot be written.
    """
    path = _cache_file(cache, dataset) if cache else None
    known = _read(path) if path else {}
    images = list({sample.image.name: sample.image for sample in samples}.values())
    contents: dict[str, Content] = {}
    bad: list[BadFile] = []
    changed = False
    with ThreadPoolExecutor(threads) as workers:
        chunks = ordered_map(workers, _hash_all, _chunks(images, known, dataset), 4 * threads)
        for chunk in progress(chunks, len(images), "reading images", count=len):
            for image, stamp, result in chunk:
                if isinstance(result, BadFile):
                    bad.append(result)
                    continue
                contents[image.name] = result
                entry: list[str | int] = [stamp, *result]
                changed = changed or known.get(dataset.name_of(image)) != entry
                known[dataset.name_of(image)] = entry
    if path and changed:
        with writing_to_cache(path.parent):
            write_text(path, json.dumps(known))
    return contents, bad


_Known = dict[str, list[str | int]]
"""Stamp, size and hash of images, by their names below the dataset's root."""
_Work = list[tuple[Image, "list[str | int] | None"]]


def _chunks(images: Sequence[Image], known: _Known, dataset: Dataset) -> Iterator[_Work]:
    rest = iter(images)
    while chunk := list(islice(rest, AT_A_TIME)):
        yield [(image, known.get(dataset.name_of(image))) for image in chunk]


def _hash_all(work: _Work) -> list[tuple[Image, str, Content | BadFile]]:
    """The stamp and the content of each image, which is read where its stamp has changed."""
    return [(image, *_hash(image, entry)) for image, entry in work]


def _hash(image: Image, entry: list[str | int] | None) -> tuple[str, Content | BadFile]:
    try:
        stamp = image.stamp()
        if entry and entry[0] == stamp:
            return stamp, Content(int(entry[1]), str(entry[2]))
        return stamp, image.content()
    except OSError as error:
        return "", BadFile(image.name, error.strerror or str(error))


def _cache_file(cache: Path, dataset: Dataset) -> Path:
    key = hashlib.blake2b(os.path.realpath(dataset.root).encode(errors="surrogateescape"), digest_size=16)
    return cache / "hashes" / f"{key.hexdigest()}.json"


def _read(path: Path) -> _Known:
    """What the cache holds; nothing where it is missing or damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


@dataclass(frozen=True)
class Unchanged(Image):
    """An image that cannot be read any more once its bytes are not those that were hashed."""

    image: Image
    digest: str

    @property
    def name(self) -> str:
        return self.image.name

    def open(self) -> BinaryIO:
        return self.image.open()

    def read(self) -> bytes:
        data = self.image.read()
        # The content of some images is not that of their bytes, such as of pixels that are encoded for each reading.
        if type(self.image).content is Image.content and Content.of(data).digest != self.digest:
            raise OSError("has been changed since this run began")
        return data

    def stamp(self) -> str:
        return self.image.stamp()
