"""The catalog of a remote source: what lies at a URL, and the images of the classes that are asked for."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.distributed import gather_objects, local_rank, local_rank_zero_first, rank
from ...settings.values import public_url
from ..catalog import Catalog, Log
from ..dataset import BadFile, Dataset, FileImage, Sample
from ..layout import some
from . import archive, class_tars, parquet, shards
from .cache import SourceFolder
from .files import NoNetwork, RemoteFiles
from .layout import Layout, Options
from .recognise import recognise

MakeLayout = Callable[[RemoteFiles, Sequence[str], SourceFolder, Options, Log], Layout]
LAYOUTS: dict[str, MakeLayout] = {
    "class tars": class_tars.layout,
    "one large tar": class_tars.large_layout,
    "shards": shards.layout,
    "Parquet": parquet.layout,
    "archive": archive.layout,
}
"""By kind: what makes the layout of the files that were found."""
_temporary: list[tempfile.TemporaryDirectory[str]] = []
"""Folders that stand in for a cache until the process ends."""


@dataclass
class RemoteCatalog(Catalog):
    """The catalog of a source that is elsewhere."""

    name: str
    layout: Layout
    folder: SourceFolder
    _fetched: set[str] = field(default_factory=set)
    """The classes that were asked for."""

    @property
    def classes(self) -> list[str]:  # type: ignore[override]
        return self.layout.classes

    @property
    def counts(self) -> list[int] | None:  # type: ignore[override]
        return self.layout.counts

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return self.layout.size

    def origins(self) -> list[dict[str, Any]]:
        """Where images were fetched from; ``key`` tells the version of the files or, for class tars, of those read."""
        described = self.folder.described()
        versions = {name: self.folder.held(name).state.get("version", (0, "")) for name in sorted(self._fetched)}
        key = described["key"] or "\n".join(
            f"{name}.tar {size} {version}" for name, (size, version) in versions.items()
        )
        return [{"url": described["url"], "kind": described["kind"], "key": key}]

    def fetch(self, labels: Sequence[int], limit: int | None, log: Log) -> Dataset:
        """The first images of some classes. What is there needs no network.

        Bad files are among the ``limit`` of each class: they are reported, and no further images are taken for them.
        With torchrun the first process of each machine fetches, and all processes have to call this.
        """
        labels = sorted(set(labels))
        self._fetched |= {self.classes[label] for label in labels}
        with local_rank_zero_first(), self.folder.locked(log):
            missing = [label for label in labels if not self._has(label, limit)]
            if missing:
                self.layout.fetch(missing, limit, self.folder, log)
        samples, bad = [], list(self.layout.bad)
        for label in labels:
            names, of_class = self.folder.held(self.classes[label]).first(limit)
            where = self.folder.class_folder(self.classes[label])
            samples += [Sample(FileImage(where / name), label) for name in names]
            bad += of_class
        return Dataset(self.classes, samples, [], [], bad, root=str(self.folder.images))

    def _has(self, label: int, limit: int | None) -> bool:
        """Whether the images of a class that are asked for are there: all of them, where there are no more."""
        count = self.counts[label] if self.counts else None
        asked = None if limit is None else limit if count is None else min(limit, count)
        return self.folder.held(self.classes[label]).is_enough(asked)


class _Offline(Layout):
    """What is known of a source that cannot be asked: by an earlier run, or by the first process of the machine."""

    def __init__(self, catalog: dict[str, Any], reason: str) -> None:
        self.classes, self.counts, self.size = (catalog[name] for name in ("classes", "counts", "size"))
        self.bad = [BadFile(*one) for one in catalog["bad"]]
        self._reason = reason

    def fetch(self, labels: Sequence[int], limit: int | None, folder: SourceFolder, log: Log) -> None:
        shown = some(self.classes[label] for label in labels)
        raise NoNetwork(f"{self._reason}, and not all images of {shown} were fetched before")


def is_remote(name: str) -> bool:
    """Whether a source's name is a URL, which :func:`open_remote` opens."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) is not None


def open_remote(
    url: str, cache_folder: Path | None, log: Log, *, name: str | None = None, options: Options | None = None
) -> Catalog:
    """The catalog of what lies at a URL. With torchrun, all processes have to call this.

    Args:
        url: of any filesystem that fsspec has, or a local path; a file, a folder or a pattern.
        cache_folder: keeps what is fetched; a temporary folder if not given.
        log: gets lines for the user.
        name: the source's name in messages; the URL, without query and password, if not given or a URL.
        options: what the source cannot tell itself.

    Raises NoNetwork where nothing answers and nothing was fetched before; ImportError, with the extra to install, where
    a package is missing; ValueError or OSError, with a message for the user, for what cannot be used.
    """
    shown = public_url(url)
    name = None if name is None or is_remote(name) else name  # a URL may hold secrets
    if cache_folder is None:
        own = ""
        if local_rank() == 0:
            _temporary.append(tempfile.TemporaryDirectory(prefix="xmixup-"))
            own = _temporary[-1].name
        cache_folder = Path(gather_objects(own)[rank() - local_rank()])  # ranks of one machine follow each other
    with local_rank_zero_first():
        if local_rank() == 0:
            layout, folder = _open(url, cache_folder, log, name, options or Options())
        else:
            layout, folder = _opened_before(
                shown, cache_folder, f"{shown}: the machine's first process did not fetch it"
            )
    return RemoteCatalog(name or shown, layout, folder)


def _open(url: str, cache: Path, log: Log, name: str | None, options: Options) -> tuple[Layout, SourceFolder]:
    """The layout at a URL and its folder in the cache; those of an earlier run where nothing answers."""
    shown = public_url(url)
    try:
        files = RemoteFiles(url)
        kind, paths, key = recognise(files, options, log)
        folder = SourceFolder.make(cache, name or files.name(files.path), f"{shown}\n{key}")
        with folder.locked(log):
            layout = LAYOUTS[kind](files, paths, folder, options, log)
        known: dict[str, Any] = {
            "classes": layout.classes,
            "counts": layout.counts,
            "size": layout.size,
            "bad": layout.bad,
        }
        folder.describe({"url": shown, "kind": kind, "key": key, **known})
    except NoNetwork as error:
        layout, folder = _opened_before(shown, cache, str(error))
        if (folder.path / parquet.WHOLE).is_dir():
            layout = parquet.layout(RemoteFiles(str(folder.path)), [], folder, options, log)
        used = time.strftime("%Y-%m-%d", time.localtime(folder.described()["used"]))
        log(f"{shown}: nothing answers; takes what was fetched before, on {used} or earlier: {folder.path}")
    return layout, folder


def _opened_before(shown: str, cache: Path, reason: str) -> tuple[Layout, SourceFolder]:
    """The newest folder of a URL. Raises NoNetwork with the reason where there is none."""
    folder = SourceFolder.newest(cache, shown)
    if folder is None:
        raise NoNetwork(reason)
    return _Offline(folder.described(), reason), folder
