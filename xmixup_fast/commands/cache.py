"""List what the cache keeps, or remove it.

xmixup cache
    lists decoded images, what selections saw, and images that were fetched; the longest unused comes first

xmixup cache --remove pools/1a2b3c4d-0123456789abcdef
    removes what the list calls so; all removes everything

xmixup cache --cache-size 20GiB
    removes decoded images, the longest unused first, until no more is left; fetched images are not counted, and stay

Runs make again what they need. A run that goes on keeps what it uses, and its disk space is free when it ends.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cli import exit_status, parse_options
from ..runtime.files import default_cache
from ..settings.values import format_bytes, parse_bytes

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which cache, and what to do with it."""

    remove: list[str] | None = None
    """What to remove, by the names in the list, or all."""
    cache_size: str | None = None
    """Upper size, such as 20GiB, to shrink the cache to."""
    cache: str | None = None
    """Folder of the cache; $XMIXUP_CACHE or ~/.cache/xmixup_fast if not given."""


def run(options: Options) -> None:
    """Lists or removes. Raises ValueError for unknown names and wrong sizes, and OSError where removing fails."""
    from ..data.cache_entries import entries, shrink, total, when

    folder = Path(options.cache or default_cache())
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cache: expected a folder, got the file {folder}")
    if options.remove is not None:
        if options.cache_size is not None:
            raise ValueError("expected one of --remove and --cache-size, got both")
        _remove(folder, options.remove)
    elif options.cache_size is not None:
        try:
            limit = parse_bytes(options.cache_size)
        except ValueError as error:
            raise ValueError(f"cache_size: {error}") from None
        for entry in shrink(folder, limit):
            print(f"removed {entry.name}, {format_bytes(entry.bytes)} ({entry.about})")
    found = entries(folder)
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        print(f"{entry.name:{width}}  {format_bytes(entry.bytes):>10}  used {when(entry.used)}  {entry.about}")
    print(f"{folder}: {format_bytes(total(found))}")


def _remove(folder: Path, names: Sequence[str]) -> None:
    from ..data.cache_entries import entries

    found = {entry.name: entry for entry in entries(folder)}
    if unknown := [name for name in names if name != ALL and name not in found]:
        way = f"xmixup cache lists what there is, and {ALL} stands for it"
        raise ValueError(f"remove: {folder} has no {unknown[0]}; {way}")
    chosen = found.values() if ALL in names else [found[name] for name in dict.fromkeys(names)]
    busy = [entry.name for entry in chosen if not entry.remove()]
    if busy:
        raise OSError(f"remove: {', '.join(busy)}: a process is writing to it; try again when it has ended")


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup cache") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""
    metavars = {"remove": "NAME", "cache_size": "SIZE", "cache": "DIR"}

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        run(parse_options(Options, given, prog, __doc__, metavars=metavars))

    return exit_status(work)
