"""List sources of auxiliary images that go by a name, with their sizes and licences.

xmixup sources
    all of them; those whose images are in the cache are marked

xmixup train photos/ --source mini-imagenet
    fetches the images of the chosen classes alone
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cli import exit_status, parse_options
from ..runtime.files import default_cache, readable_bytes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where to look for what was fetched before."""

    cache: str | None = None
    """Folder of the cache; $XMIXUP_CACHE or ~/.cache/xmixup_fast if not given."""


def run(options: Options) -> None:
    """Prints the table."""
    from ..data.registry import DEFAULT, fetched_sources, named_sources

    here = fetched_sources(Path(options.cache or default_cache()))
    for name, source in named_sources().items():
        notes = ["the default"] * (name == DEFAULT) + ["in the cache"] * (name in here)
        size = "size not stated" if source.bytes is None else readable_bytes(source.bytes)
        print(f"{name} ({', '.join(notes)})" if notes else name)
        print(f"  {source.classes:,} classes, {source.images:,} images, {source.pixels}, {size}")
        print(f"  licence: {source.licence}")
        print(f"  access: {'accept the terms on its page, and log in with hf auth login' if source.terms else 'open'}")
        print(f"  page: {source.page}")
    print("Of images that can be fetched in parts, only those of the chosen classes are; a .tgz is fetched whole.")


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup sources") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""
    return exit_status(
        lambda: run(parse_options(Options, sys.argv[1:] if arguments is None else arguments, prog, __doc__))
    )
