"""What a layout of a remote source is: class tars, shards with an index, Parquet.

Each layout has a file with a function

    layout(files: RemoteFiles, paths: list[str], folder: SourceFolder, options: Options, log: Log) -> Layout

which :func:`.open_remote` calls with the files that it found. It may keep files of its own in ``folder.path``, such as
an index, for later runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ..catalog import Log
from ..dataset import BadFile
from .cache import SourceFolder


class Layout(ABC):
    """How the images of a remote source lie in its files."""

    classes: list[str]
    """Sorted class names."""
    counts: list[int] | None = None
    """Images of each class; None where they are not known."""
    size: int | None = None
    """Bytes of all that would be read for all images; None where that is not known."""
    bad: Sequence[BadFile] = ()
    """What cannot be used and is of no class, such as rows without a label."""

    @abstractmethod
    def fetch(self, labels: Sequence[int], limit: int | None, folder: SourceFolder, log: Log) -> None:
        """Fetches images of classes into a folder, and calls its ``complete`` for each of them.

        Args:
            labels: positions in ``classes``.
            limit: how many images of each class, the first ones in the source's order, bad files among them; None for
                all.
            folder: gets the images; what is there of a class is not fetched again.
            log: gets lines for the user.

        Raises OSError or ValueError, with a message for the user, for what cannot be fetched.
        """


@dataclass(frozen=True)
class Options:
    """What a source cannot tell itself, and what the user allows."""

    classes: Sequence[str] | None = None
    """Names of all classes of an archive, which is then fetched when images are; and of integer labels."""
    anyway: bool = False
    """Whether to fetch however much has to be read for few images."""
    tried: Sequence[str] = ()
    """Names of classes to try where a folder cannot be listed (HTTP status 403 or 404, or a page without links): if the
    first one is there as NAME.tar, these are the classes. One whose tar is missing is an error when it is fetched."""
