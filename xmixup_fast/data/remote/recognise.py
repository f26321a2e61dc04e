"""What lies at a URL: which kind of source, and which of the files there belong to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..catalog import Log
from ..formats import EXTENSIONS
from ..layout import some
from . import archive, class_tars
from .files import RemoteFiles
from .layout import Options
from .parts import all_parts, parts_of

EXPECTED = (
    "a folder of class tars (n01440764.tar), a pattern such as a-{000..012}.tar, one large tar of class tars (.tar, or "
    ".tar.001 and more), tar shards with index.parquet beside them, Parquet files, or "
    "a .tgz of class folders"
)
"""What can lie at a URL, as messages list it."""
_PEEKED = 3
"""As many first members tell class tars from shards."""


def recognise(files: RemoteFiles, options: Options, log: Log) -> tuple[str, list[str], str]:
    """What lies at a URL: its kind, the paths of its files, and a text that changes with its version.

    A line says what lies there and is left out, and that the folder data is taken, which most repositories have.
    Raises ValueError, with what is expected, for anything else.
    """
    is_folder = not any(mark in files.path for mark in "*[{") and not re.search(r"\.\w{2,7}$", files.path)
    paths = _listed(files, options.tried, log) if is_folder else files.find()
    if is_folder and files.protocol == "hf" and not any(map(_may_be_used, paths)):
        paths = _below(files, paths, log)
    kind, used, key = _sorted_out(files, paths, is_folder)
    taken = {*used, *(path for path in paths if kind == "shards" and path.lower().endswith(".tar"))}
    if left := [files.name(path) for path in paths if path not in taken and (_may_be_used(path) or _is_image(path))]:
        log(f"{files.url}: takes {kind}; {some(left)} left out: name another kind by a pattern")
    return kind, used, key


def _sorted_out(files: RemoteFiles, paths: Sequence[str], is_folder: bool) -> tuple[str, list[str], str]:
    """What ``recognise`` returns, of some files: of shards, the index and, where they were named, the shards."""
    tables = [path for path in paths if path.lower().endswith(".parquet")]
    tars = [path for path in paths if path.lower().endswith(".tar")]
    parts = parts_of(paths)
    if len(paths) == 1 and paths[0].lower().endswith(archive.ARCHIVES):
        return "archive", list(paths), _version(files, paths)
    index = [path for path in tables if files.name(path) == "index.parquet"] if tars else []
    beside = f"{tars[0].rpartition('/')[0]}/index.parquet" if tars else ""
    if not index and tars and not is_folder and _exists(files, beside):
        index = [beside]
    if index:
        return "shards", [*index, *([] if is_folder else tars)], _version(files, index)
    if tars:
        kind = _kind_of_tars(files, tars)
        return kind, tars, _version(files, tars) if kind == "one large tar" else ""
    if parts and not tables:
        parts = all_parts(parts, lambda path: _exists(files, path))
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


def _may_be_used(path: str) -> bool:
    """Whether a file's name is that of a source, or of a part of one."""
    return path.lower().endswith((".parquet", ".tar", *archive.ARCHIVES)) or bool(parts_of([path]))


def _is_image(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in EXTENSIONS


def _below(files: RemoteFiles, paths: list[str], log: Log) -> list[str]:
    """The files of a repository's folder data, where there is one; else those that were found. Raises ValueError where
    other folders are there, which may be what is meant."""
    folders = files.folders()
    data = next((path for path in folders if files.name(path) == "data"), None)
    if data is not None:
        log(f"{files.url}: takes the files in its folder data")
        return files.find(data)
    if folders:
        shown = some(files.name(path) for path in folders)
        raise ValueError(f"{files.url}: expected {EXPECTED}, got folders: name one of {shown}: {files.url}/FOLDER")
    return paths


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
