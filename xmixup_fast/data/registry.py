"""Sources that go by a name, such as tiny-imagenet: what they are, where they are, and what their terms are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from ..runtime.files import readable_bytes
from .remote.cache import SourceFolder

REGISTRY = Path(__file__).with_name("registry.yaml")
DEFAULT = "tiny-imagenet"
"""The source of a method that needs one, where the settings name none."""


@dataclass(frozen=True, kw_only=True)
class NamedSource:
    """Facts of a source, as its page states them."""

    name: str
    url: str
    """Where the images are, as fsspec calls it."""
    classes: int
    names: str
    """How the files name classes: ids (WordNet's), or words."""
    images: int
    """Training images."""
    pixels: str
    """Size of the images, in words."""
    licence: str
    terms: bool
    """Whether terms have to be accepted on the page before a file is given."""
    page: str
    """Where all of this was read."""
    short_side: int | None = None
    """Of the images, in pixels, where it is the same for all."""
    bytes: int | None = None
    """Of the training images' files, where the page tells them."""
    ids: list[str] = field(default_factory=list)
    """WordNet ids of the classes, where the page lists them."""

    def lines(self) -> list[str]:
        """What a user has to know before anything is downloaded."""
        size = "of unstated size" if self.bytes is None else readable_bytes(self.bytes)
        accept = f"; its terms have to be accepted on {self.page}" if self.terms else ""
        return [
            f"{self.name}: {self.classes:,} classes, {self.images:,} images ({self.pixels}), {size} in all",
            f"{self.name}: licence: {self.licence} (from {self.page}){accept}",
        ]


@cache
def named_sources() -> dict[str, NamedSource]:
    """All sources of the registry, by their names."""
    entries = yaml.safe_load(REGISTRY.read_text(encoding="utf-8"))
    return {
        name: NamedSource(name=name, **{**entry, "ids": entry.get("ids", "").split()})
        for name, entry in entries.items()
    }


def fetched_sources(cache: Path | None) -> list[str]:
    """Names of sources of which images are in the cache."""
    if cache is None:
        return []
    folders = {name: SourceFolder.newest(cache, source.url) for name, source in named_sources().items()}
    return [name for name, folder in folders.items() if folder and any((folder.path / "lists").iterdir())]
