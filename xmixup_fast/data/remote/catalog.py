"""The catalog of a remote source: what lies at a URL, and the images of the classes that are asked for."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.distributed import gather_objects, local_rank, local_rank_zero_first, rank
from ...settings.values import public_url
from ..catalog import Catalog, Log
from ..dataset import BadFile, Dataset, FileImage, Sample
from ..formats import EXTENSIONS
from ..layout import some
from . import archive, class_tars, parquet, shards
from .cache import SourceFolder
from .files import NoNetwork, RemoteFiles
from .layout import Layout, Options

MakeLayout = Callable[[RemoteFiles, Sequence[str], SourceFolder, Options, Log], Layout]
LAYOUTS: dict[str, MakeLayout] = {
    "class tars": class_tars.layout,
    "one large tar": class_tars.large_layout,
    "shards": shards.layout,
    "Parquet": parquet.layout,
    "archive": archive.layout,
}
"""By kind: what makes the layout of the files that were found."""
EXPECTED = (
    "a folder of class tars (n01440764.tar), a pattern such as a-{000..012}.tar, one large tar of class tars (.tar, or "
    ".tar.001 and more), tar shards with index.parquet beside them, Parquet files, or "
    "a .tgz of class folders"
)
"""What can lie at a URL, as messages list it."""
_PART = re.compile(r"\.tar\.?(\d+|(?![bglx]z$)[a-z]{2})$", re.IGNORECASE)
"""How the parts of one large tar are named, as split does; not .tar.gz."""
_temporary: list[tempfile.TemporaryDirectory[str]] = []
"""Folders that stand in for a cache until the process ends."""
_PEEKED = 3
"""As many first members tell class tars from shards."""


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

    def origins(self) -> list[dict[str, Any]]:
        described = self.folder.described()
        return [{name: described[name] for name in ("url", "kind", "key")}]

    def fetch(self, labels: Sequence[int], limit: int | None, log: Log) -> Dataset:
        """The first images of some classes. What is there needs no network.

        Bad files are among the ``limit`` of each class: they are reported, and no further images are taken for them.
        With torchrun the first process of each machine fetches, and all processes have to call this.
        """
        labels = sorted(set(labels))
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
        kind, paths, key = _recognise(files, options, log)
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


def _recognise(files: RemoteFiles, options: Options, log: Log) -> tuple[str, list[str], str]:
    """What lies at a URL: its kind, the paths of its files, and a text that changes with its version.

    Raises ValueError, with what is expected, for anything else.
    """
    is_folder = not any(mark in files.path for mark in "*[{") and not re.search(r"\.\w{2,7}$", files.path)
    paths = _listed(files, options.tried, log) if is_folder else files.find()
    tables = [path for path in paths if path.lower().endswith(".parquet")]
    tars = [path for path in paths if path.lower().endswith(".tar")]
    parts = [path for path in paths if _PART.search(path)]
    if len(paths) == 1 and paths[0].lower().endswith(archive.ARCHIVES):
        return "archive", paths, _version(files, paths)
    index = [path for path in tables if files.name(path) == "index.parquet"] if tars else []
    beside = f"{tars[0].rpartition('/')[0]}/index.parquet" if tars else ""
    if not index and tars and not is_folder and _exists(files, beside):
        index = [beside]
    if index:
        return "shards", index, _version(files, index)
    if tars:
        kind = _kind_of_tars(files, tars)
        return kind, tars, _version(files, tars) if kind == "one large tar" else ""
    if parts and not tables:
        return "one large tar", parts, _version(files, parts)
    if tables:
        return "Parquet", tables, _version(files, tables)
    raise ValueError(_unknown(files, paths))


def _kind_of_tars(files: RemoteFiles, tars: Sequence[str]) -> str:
    """Whether tars without an index are class tars. Raises ValueError for shards."""
    members = class_tars.first_members(files, tars[0], _PEEKED)
    if any(member.lower().endswith((".cls", ".json")) for member in members):
        raise ValueError(
            f"{files.url}: {files.name(tars[0])} looks like a tar shard, and there is no index.parquet beside it: run "
            f"'xmixup index {files.url}', and put the index there; or download the shards and name their folder"
        )
    if members and members[0].lower().endswith(".tar"):
        if len(tars) > 1:
            raise ValueError(f"{files.url}: {files.name(tars[0])} holds class tars: name one such tar, got {len(tars)}")
        return "one large tar"
    return "class tars"


def _unknown(files: RemoteFiles, paths: Sequence[str]) -> str:
    """A message on files that cannot be taken for a source."""
    ends = sorted({Path(path).suffix.lower() for path in paths})
    found = f"{len(paths)} files ({some(ends)})" if paths else "no file"
    advice = ""
    if set(ends) & EXTENSIONS or not paths:
        advice = "; a folder of images has to be downloaded, or packed as a tar for each class"
    if any(end in (".tgz", ".gz", ".zip", ".xz", ".bz2", ".zst") for end in ends):
        advice = "; a compressed archive has no places to read from: download and unpack it, and name the folder"
    if len(paths) > 1 and all(path.lower().endswith(archive.ARCHIVES) for path in paths):
        advice = "; archives are sources of their own: name each"
    return f"{files.url}: expected {EXPECTED}, got {found}{advice}"


def _listed(files: RemoteFiles, tried: Sequence[str], log: Log) -> list[str]:
    """The files of a folder; where it cannot be listed, class tars of the names to try, if the first one is there."""
    refused, paths = None, []
    try:
        paths = files.find()
    except (FileNotFoundError, PermissionError) as error:
        refused = error
    if not paths and tried and _exists(files, files.join(f"{tried[0]}.tar")):
        log(f"{files.url}: cannot be listed; {tried[0]}.tar is there: takes {some(tried, 2)} for its classes")
        return [files.join(f"{name}.tar") for name in tried]
    if refused:
        raise refused
    return paths


def _exists(files: RemoteFiles, path: str) -> bool:
    """Whether a file is there. S3 refuses to tell that one is missing (status 403) to those who may not list."""
    try:
        files.info(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        return False
    return True


def _version(files: RemoteFiles, paths: Sequence[str]) -> str:
    """A text that changes when one of the files has changed."""
    return "\n".join(f"{info.path} {info.size} {info.version}" for info in files.infos(paths))
