"""The catalog of a remote source: what lies at a URL, and the images of the classes that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtime.distributed import local_rank_zero_first
from ..catalog import Catalog, Log
from ..dataset import Dataset, FileImage, Sample
from .cache import SourceFolder
from .layout import Layout, Options


@dataclass
class RemoteCatalog(Catalog):
    """The catalog of a source that is elsewhere."""

    name: str
    layout: Layout
    folder: SourceFolder

    @property
    def classes(self) -> list[str]:  # type: ignore[override]
        return self.layout.classes

    @property
    def counts(self) -> list[int] | None:  # type: ignore[override]
        return self.layout.counts

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return self.layout.size

    def fetch(self, labels: Sequence[int], limit: int | None, log: Log) -> Dataset:
        with local_rank_zero_first(), self.folder.locked():
            missing = [i for i in labels if not self.folder.held(self.classes[i]).is_enough(limit)]
            if missing:
                self.layout.fetch(missing, limit, self.folder, log)
        samples, bad = [], []
        for label in sorted(set(labels)):
            held = self.folder.held(self.classes[label])
            where = self.folder.class_folder(self.classes[label])
            samples += [Sample(FileImage(where / name), label) for name, _ in held.files[:limit]]
            bad += held.bad
        return Dataset(self.classes, samples, [], [], bad, root=str(self.folder.images))


def open_remote(
    url: str, cache_folder: Path | None, log: Log, *, name: str | None = None, options: Options | None = None
) -> Catalog:
    """The catalog of what lies at a URL.

    Args:
        url: of any filesystem that fsspec has, or a local path.
        cache_folder: keeps what is fetched; a temporary folder if not given.
        log: gets lines for the user.
        name: the source's name in messages; the URL if not given.
        options: what the source cannot tell itself.

    Raises NoNetwork where nothing answers and nothing was fetched before; ImportError, with the extra to install, where
    a package is missing; ValueError or OSError, with a message for the user, for what cannot be used.
    """
    raise NotImplementedError
