"""The images of a run: the splits of the target, in memory or streamed, and the auxiliary images, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..data.bad_files import refuse_bad_files, skipped, without
from ..data.dataset import SPLITS, BadFile, Dataset, Sample
from ..data.decoding.choose import make_decoder
from ..data.image_store import ImageStore, OverBudget
from ..data.streamed import StreamedImages
from ..ops.image_pool import ImagePool
from ..runtime import distributed
from ..runtime.device import free_memory
from ..selection.choice import Selection
from ..settings.fields import Settings
from ..settings.values import parse_bytes


def make_image_store(settings: Settings, log: Callable[[str], object]) -> ImageStore:
    """The store that decodes images as the settings say. Raises ValueError where the decoder is not installed."""
    device = torch.device(settings.device)
    decoder = make_decoder(settings.decoder, settings.short_side, device, torch.get_num_threads(), log)
    cache = settings.cache_folder
    if cache is None and distributed.world_size() > 1:
        log("cache: none: each process decodes all images, and keeps a copy of its own")
    budget = None
    if settings.storage != "resident":
        # The processes of a machine map the same file of the cache; without a cache each has a copy of its own.
        copies = distributed.local_world_size() if cache is None and device.type == "cpu" else 1
        free = 0.8 * free_memory(device) / copies
        budget = int(free) if settings.memory_budget is None else parse_bytes(settings.memory_budget)
        budget = int(distributed.all_reduce_min(budget)[0])  # so that all processes stream the same images
    return ImageStore(decoder, cache, budget, log, settings.image_size)


class SplitImages:
    """The images of a run: each split of the target in a pool or a stream, then auxiliary images in a pool.

    Test images are left alone where the run does not test.

    Raises ValueError where a class has no image that can be decoded, or where images exceed the memory budget.
    """

    def __init__(self, settings: Settings, target: Dataset, log: Callable[[str], object]) -> None:
        self.settings = settings
        self.target = target
        self.log = log
        self.listed = list(target.bad)
        self.store = make_image_store(settings, log)
        self.splits: dict[str, ImagePool | StreamedImages] = {
            name: self.store.images(self._samples(name), f"{name} images", settings.storage)
            for name in (SPLITS if settings.test == "run" else ("train", "val"))
        }
        """The images of each split: train, val and, where the run tests, test."""
        for name, images in self.splits.items():
            self._check_classes(images, self._samples(name), target.classes, f"{name} images")
        for name in ("train", "val"):
            self.splits[name] = self.splits[name].to(settings.device)

    @property
    def train(self) -> ImagePool | StreamedImages:
        """The training images."""
        return self.splits["train"]

    @property
    def val(self) -> ImagePool | StreamedImages:
        """The validation images."""
        return self.splits["val"]

    @property
    def test(self) -> ImagePool | StreamedImages:
        """The test images, on the CPU, of a run that tests."""
        return self.splits["test"]

    @property
    def bad(self) -> list[BadFile]:
        """The images that cannot be used, each once: listed by the readers, or found while decoding so far."""
        return list(dict.fromkeys(self.listed + self.store.bad))

    def auxiliary(self, selection: Selection, source: Dataset, held: Sequence[BadFile]) -> ImagePool:
        """The pool of the images that a selection chose, or of all if so set, without those in ``held``.

        Where they do not fit the memory budget, splits of the target are streamed instead, one after the other. Raises
        OverBudget, a ValueError, where that does not suffice or the setting ``storage`` forbids it.
        """
        self.listed += source.bad
        by_class = selection.kind == "class"
        wanted = source.train if by_class and self.settings.decode_source == "all" else selection.samples(source)
        samples = without(wanted, held)
        while True:
            try:
                pool = self.store.build(samples, "auxiliary images")
                break
            except OverBudget:
                if not self._make_room():
                    raise
        if by_class:
            self._check_classes(pool, samples, source.classes, "auxiliary images")
        return pool.to(self.settings.device)

    def check(self) -> None:
        """Logs how many images are skipped. Raises ValueError, which names them, where ``bad_files`` is "error".

        Raises ValueError, too, where a GPU decodes images during steps that are captured in a CUDA graph.
        """
        decoder = self.store.decoder
        if self.settings.cuda_graph and decoder.device.type == "cuda" and isinstance(self.train, StreamedImages):
            raise ValueError(
                "decoder: expected torchcodec, torchvision or pillow with cuda_graph and streamed training images, got "
                f"{decoder.name}: DALI may wait for the whole GPU, which is an error while a graph is captured there"
            )
        if bad := refuse_bad_files(self.bad, self.settings.bad_files):
            self.log(f"{skipped(bad)}; summary.json lists them")

    def _samples(self, name: str) -> list[Sample]:
        samples: list[Sample] = getattr(self.target, name)
        return samples

    def _make_room(self) -> bool:
        """Turns the pool of a split into a stream: test, then val, then train. False where no pool is left."""
        if self.settings.storage == "auto":
            for name, images in reversed(self.splits.items()):
                if isinstance(images, ImagePool):
                    stream = self.store.release(images, self._samples(name), f"{name} images")
                    self.splits[name] = stream.to(images.device)
                    return True
        return False

    def _check_classes(
        self, images: ImagePool | StreamedImages, samples: Sequence[Sample], classes: Sequence[str], title: str
    ) -> None:
        """Raises ValueError where a class of ``samples`` has none of ``images``; ``title`` says which images."""
        lost = sorted({sample.label for sample in samples} - set(images.labels.tolist()))
        if lost:
            refuse_bad_files(self.bad, self.settings.bad_files)
            names = "\n  ".join(f"{file.name}: {file.reason}" for file in self.bad)
            found = f"class {classes[lost[0]]}: none of its {title} can be decoded"
            raise ValueError(f"{found}; mend or remove these files, so that others are cut:\n  {names}")
