"""Write the index of tar shards, so that chosen classes can be fetched from them.

xmixup index shards/
    writes shards/index.parquet: class, shard, member, offset and size of each training image

xmixup index 'shards/imagenet-train-{0000..1023}.tar'
    of some shards in a folder

xmixup index 'https://example.org/shards/a-{000..012}.tar'
    of shards elsewhere, of which headers and labels are read: for many images, run it where the shards are

Serve or upload the index beside the shards: their folder is a source then, wherever it is, and a run fetches only the
images of the classes that it chooses. Write it anew when shards change.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..cli import exit_status, parse_options, require_one_process


@dataclass
class Options:
    """What to index, and where to."""

    shards: str
    """Uncompressed tar shards in WebDataset's format: a folder, a file or a pattern such as a-{000..012}.tar, here or
    wherever fsspec reaches."""
    output: str | None = None
    """File to write, if not index.parquet in the folder of the shards or, for shards elsewhere, in the current folder.
    Away from shards on this machine, it names their folder, and serves here alone."""
    image_field: str | None = None
    """Field of the images, such as input for 0001.input.jpg, where samples have several images."""
    bad_files: Literal["error", "skip"] = "error"
    """What to do where shards or samples cannot be used: stop and list them, or write an index without them."""


def run(options: Options) -> None:
    """Writes the index.

    Raises OSError and ValueError for shards that cannot be read, and ValueError for bad files, unless they are to be
    skipped, and for shards without training images.
    """
    from ..data.remote.indexing import index_shards

    require_one_process()
    output = Path(options.output) if options.output else None
    index_shards(options.shards, output, options.image_field, options.bad_files, print)


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup index") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        run(parse_options(Options, given, prog, __doc__, positional={"shards": "SHARDS"}, metavars={"output": "FILE"}))

    return exit_status(work)
