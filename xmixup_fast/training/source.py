"""The source of a run: a dataset that is there, or one that is elsewhere, of which the chosen classes are fetched."""

from __future__ import annotations

import difflib
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence

import timm

from ..data.bad_files import first_lines
from ..data.catalog import Catalog, JoinedCatalog, LocalCatalog
from ..data.dataset import Dataset
from ..data.layout import some
from ..data.registry import DEFAULT, NamedSource, fetched_sources, named_sources
from ..data.remote.catalog import open_remote
from ..data.remote.files import NoNetwork
from ..data.remote.layout import Options
from ..data.sources import read_dataset
from ..data.understood import found
from ..models.build import imagenet_classes
from ..models.class_names import ids_of_words
from ..runtime import distributed
from ..selection.choice import Selection
from ..settings.fields import Settings
from ..settings.values import public_url
from .ways import ways

ACCEPT = "XMIXUP_ACCEPT"
"""Environment variable with names of sources, between commas, that are downloaded without asking."""


ENLARGED = 1.5
"""Images that are enlarged by more are said to be."""


def read_source(settings: Settings, log: Callable[[str], object]) -> Catalog:
    """The catalog of the settings' source, or of the default source; says what was found.

    Raises ValueError and OSError, with a message for the user, for a source that cannot be used, reached or downloaded
    without asking; where there is no network, the message names what works without one.
    """
    given = settings.source or DEFAULT
    names = [given] if isinstance(given, str) else given
    elsewhere = [name for name in names if is_elsewhere(name)]
    if not elsewhere:
        return _local(names, settings, log)
    if settings.source is None:
        log(f"source: {DEFAULT}, the default; --source takes a folder, or another name that xmixup sources lists")
    try:
        parts = [_remote(name, settings, log) if name in elsewhere else _local([name], settings, log) for name in names]
    except NoNetwork as error:
        raise ValueError(f"source: {error}\n{ways(settings)}") from error
    return parts[0] if len(parts) == 1 else JoinedCatalog(", ".join(map(public_url, names)), parts)


class WantedClasses(LocalCatalog):
    """ImageNet's classes, as a pretrained classifier has them, without images: to see which ones a source should have.

    Args:
        classes: their WordNet ids.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__("ImageNet's classes", Dataset(sorted(classes), [], [], []))

    @classmethod
    def of(cls, settings: Settings) -> WantedClasses:
        """The classes of the settings' network. Raises ValueError for a selection that looks at source images."""
        if settings.compared != "prediction" or settings.selection_file is not None:
            raise ValueError(f"source: selection {settings.selection} needs a source to choose from, got none")
        config = None if ":" in settings.model else timm.get_pretrained_cfg(settings.model)
        return cls((config and imagenet_classes(config.num_classes)) or imagenet_classes(1000) or [])

    def where(self, selection: Selection, settings: Settings) -> list[str]:
        """Lines that tell which named sources have the classes that were selected, and the command that fetches."""
        wanted = {self.classes[label] for row in selection.chosen for label in row}
        lines = [f"wanted: {len(wanted)} of {self.name}; of these have"]
        for name, source in named_sources().items():
            listed = str(len(wanted & set(source.ids))) if source.ids else "?"
            lines.append(f"  {'all' if source.classes == len(self.classes) else listed:>4}  {name}")
        command = f"xmixup train {shlex.quote(settings.target)} --source"
        return [*lines, f"to fetch them: {command} NAME; {command} FOLDER takes these classes as class folders"]


def is_elsewhere(name: str) -> bool:
    """Whether a source's name means one of the registry, or a URL. What is there by that name comes first."""
    return not os.path.exists(name) and (name in named_sources() or "://" in name)


def fetch_chosen(selection: Selection, source: Catalog, settings: Settings, log: Callable[[str], object]) -> Dataset:
    """The source with the images of the classes that a selection chose, which are fetched where they are elsewhere."""
    if source.local is not None:
        return source.local
    labels = sorted({label for row in selection.chosen for label in row})
    dataset = source.fetch(labels, settings.source_images, log)
    there = {sample.label for sample in dataset.train}
    if missing := [source.classes[label] for label in labels if label not in there]:
        message = (
            f"source: {source.name}: has no usable image of the chosen {some(missing)}; another --selection or source "
            "may do without"
        )
        reasons = first_lines([f"{file.name}: {file.reason}" for file in dataset.bad])
        raise ValueError("\n  ".join([message, *reasons]))
    return dataset


def _local(names: list[str], settings: Settings, log: Callable[[str], object]) -> Catalog:
    name = ", ".join(names)
    try:
        source = read_dataset(names, settings.classes, settings.image_field)
    except FileNotFoundError as error:
        near = [close for one in names for close in difflib.get_close_matches(one, named_sources(), n=1, cutoff=0.7)]
        raise FileNotFoundError(f"{error}; did you mean {near[0]}?" if near else str(error)) from error
    log(f"{name}: {len(source.classes)} source classes, {len(source.samples)} images")
    for line in found(source.findings):
        log(line)
    return LocalCatalog(name, source)


def _remote(name: str, settings: Settings, log: Callable[[str], object]) -> Catalog:
    """The catalog of a source that is elsewhere. Size and terms are said, and asked for, before an image is fetched."""
    named = named_sources().get(name)
    if named is not None and name not in fetched_sources(settings.cache_folder):
        for line in named.lines():
            log(line)
        _ask(named, settings)
    classes = (named.ids or None) if named else None
    options = Options(classes, settings.fetch_anyway, imagenet_classes(1000) or ())
    url, name = (named.url, name) if named else (name, public_url(name))
    catalog = open_remote(url, settings.cache_folder, log, name=name, options=options)
    if named is not None and named.names == "words":
        renamed = ids_of_words()
        unknown = [one for one in catalog.classes if one not in renamed]
        if unknown:
            log(f"{name}: {len(unknown)} classes are no single class of ImageNet by these words ({some(unknown)})")
        catalog = JoinedCatalog(name, [catalog], renamed)
    log(f"{name}: {len(catalog.classes)} source classes, of which those that are chosen are fetched")
    factor = (settings.short_side or 0) / ((named and named.short_side) or math.inf)
    if named is not None and factor > ENLARGED:
        log(f"{name}: its images, {named.short_side} pixels on the short side, are enlarged {factor:.1f} times")
    return catalog


def _ask(source: NamedSource, settings: Settings) -> None:
    """Asks before a download that the user has not asked for by name, or whose terms have to be accepted.

    Raises ValueError where the user declines, or cannot be asked.
    """
    accepted = [name.strip() for name in os.environ.get(ACCEPT, "").split(",")]
    if settings.yes or source.name in accepted or not (source.terms or settings.source is None):
        return
    if distributed.world_size() == 1 and sys.stdin is not None and sys.stdin.isatty():
        try:
            answer = input(f"Download images from {source.name}? [Y/n] ").strip().lower()
        except EOFError:
            answer = "no"
        if answer in ("", "y", "yes"):
            return
        raise ValueError(f"source: {source.name} was declined\n{ways(settings)}")
    message = f"source: {source.name} would be downloaded; --yes, or {ACCEPT}={source.name}, accepts"
    raise ValueError(f"{message}\n{ways(settings)}")
