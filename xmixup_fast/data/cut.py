"""Cuts validation and test images from the training images of a dataset that lacks them.

Where an image goes follows from its content and the seed, as far as each class has to have its share: names, order and
place of the files do not matter, and one image more or less in a class moves at most one other image across each
border.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ..settings.fields import Settings
from .contents import Contents
from .dataset import SPLITS, Dataset, Sample, by_name
from .duplicates import Duplicates, Given, copy_of, two_labels

UNUSED, OUT = "unused", "out"
"""What becomes of images in no split: they are not among the shots, or they are left out."""


@dataclass(frozen=True)
class Cut:
    """Where each image of a dataset goes."""

    dataset: Dataset
    """The dataset with the splits that were cut."""
    apart: Mapping[str, str]
    """UNUSED or OUT, for images in no split, by name."""
    notes: Mapping[str, str]
    """What is to be said of an image, by its name: that it is a copy, or has two labels."""
    duplicates: Duplicates


def cut(dataset: Dataset, contents: Contents, settings: Settings, groups: Mapping[str, str] | None = None) -> Cut:
    """Cuts the splits that a dataset lacks, and takes ``shots`` training images of each class.

    Images without a content, which cannot be read, are in no split. ``groups``, by the names of images, go into one
    split each.

    Raises ValueError for a class with too few images, for duplicates where the setting ``duplicates`` is "error".
    """
    given = Given(dataset, contents)
    duplicates = Duplicates.of(given)
    if settings.duplicates == "error":
        duplicates.refuse()
    by_order = settings.split_by == "order"
    dropped = given.dropped() if settings.duplicates == "drop" else {} if by_order else given.unclear()
    rest = dataset.with_splits({name: _without(getattr(dataset, name), contents, dropped) for name in SPLITS})
    done = cut_by_order(rest, settings) if by_order else cut_by_content(rest, contents, given, settings, groups or {})
    used = {sample.image.name for split in SPLITS for sample in getattr(done, split)}
    unused = {sample.image.name for sample in rest.train if sample.image.name not in used}
    apart = dict.fromkeys(dropped, OUT) | dict.fromkeys(unused, UNUSED)
    return Cut(done, apart, {**_notes(given), **dropped}, duplicates)


def cut_by_content(
    dataset: Dataset, contents: Contents, given: Given, settings: Settings, groups: Mapping[str, str]
) -> Dataset:
    """Cuts by the images' contents.

    Of each class, the distinct contents are sorted by a number that follows from content and seed: the first ones are
    for test, the last ones for validation. So validation is the same whether or not test images are put aside. Copies
    go where the first one goes, but do not count as further shots. A content with two labels, or one in a split that
    the dataset has, stays in train; ``given`` holds the images that are left out, too, which tell of both. With
    ``groups`` the same is done with groups, in the order that follows from their names and the seed.

    Raises ValueError, which names all of them, for classes with too few images to cut from; for one whose images are
    in too few groups; and for one with fewer training images than ``shots``.
    """
    cuts = {"val": not dataset.val, "test": not dataset.test, "keeps_test": settings.test != "none"}
    needs = Needs(**cuts, folds=settings.val_fold is not None)
    of_class: dict[str, list[str]] = {}
    short = []
    for name, samples in _by_class(dataset):
        digests = dict.fromkeys(contents[one.image.name].digest for one in samples)
        units = [one for one in digests if given.splits(one) == {"train"} and len(given.labels(one)) == 1]
        if not digests or len(units) < needs.least:
            short.append(f"{name} ({len(units)})")
        else:
            of_class[name] = units
    if short:
        # Images that are equal to others may be why.
        raise ValueError("\n  ".join([needs.message(short), *Duplicates.of(given).lines(settings.duplicates)]))
    if groups:
        place = _places_of_groups(of_class, _joined(dataset.train, contents, groups), needs, settings)
    else:
        place = {}
        for first, units in enumerate(of_class.values()):
            place |= _places(units, needs, first, settings)
    if settings.fold_of is not None:
        most = max(sum(place[one] != "test" for one in units) for units in of_class.values())
        _check_folds(needs, most, settings.fold_of[1])
    if settings.shots is not None:
        for name, units in of_class.items():
            place |= _beyond_shots([one for one in units if place[one] == "train"], name, settings)
    rest = "train" if settings.shots is None else UNUSED
    splits: dict[str, list[Sample]] = {split: [] for split in (*SPLITS, UNUSED)}
    seen: set[str] = set()
    for sample in dataset.train:
        digest = contents[sample.image.name].digest
        goes = place.get(digest, rest)
        splits[rest if goes == "train" and digest in seen else goes].append(sample)
        seen.add(digest)
    return dataset.with_splits({**splits, "val": dataset.val + splits["val"], "test": dataset.test + splits["test"]})


@dataclass(frozen=True)
class Needs:
    """Which splits have to be cut."""

    val: bool
    test: bool
    keeps_test: bool
    """Whether images are put aside for test, if they have to be cut."""
    folds: bool = False
    """Whether the validation images are a part of a cross-validation."""

    @property
    def least(self) -> int:
        """How many distinct images a class has to have; 0 where nothing is cut."""
        cuts = self.val + (self.test and self.keeps_test)
        return cuts and 1 + cuts

    def message(self, short: Sequence[str]) -> str:
        """The message on classes with too few images."""
        cut = " and ".join(["test"] * (self.test and self.keeps_test) + ["validation"] * self.val) or "nothing"
        ways = ["add images"]
        if self.test and self.keeps_test:
            ways.append("use --no-test, which needs one image less")
        if self.val and not self.folds:
            ways.append("give validation images of your own (a folder val beside train)")
        several = "es" if len(short) > 1 else ""
        return (
            f"class{several} {', '.join(short)}: expected at least {max(self.least, 1)} different training images each,"
            f" to cut {cut} from; {', or '.join(ways)}"
        )


def _places(units: Sequence[str], needs: Needs, first: int, settings: Settings) -> dict[str, str]:
    """The split of each of a class's contents, given by their digests; ``first`` is :func:`deal`'s."""
    seed = settings.seed
    ordered = sorted(units, key=lambda digest: (_draw("split", seed, digest), digest))
    count = len(ordered)
    tested = _share(settings.test_fraction, count, count - 1 - needs.val) if needs.test else 0
    validated = _share(settings.val_fraction, count - tested, count - tested - 1) if needs.val else 0
    in_fold: list[str] = []
    if settings.fold_of is not None and needs.val:
        part, parts = settings.fold_of
        dealt = deal(ordered[tested:] if needs.keeps_test else ordered, parts, seed, first)
        validated, in_fold = 0, [digest for digest, fold in dealt.items() if fold == part]
    place = dict.fromkeys(ordered, "train")
    if needs.keeps_test:
        place |= dict.fromkeys(ordered[:tested], "test")
    return place | dict.fromkeys([*ordered[count - validated :], *in_fold], "val")


def _beyond_shots(train: Sequence[str], class_name: str, settings: Settings) -> dict[str, str]:
    """UNUSED for those of a class's training contents that are not among the shots."""
    shots = settings.shots or 0
    ordered = sorted(train, key=lambda digest: (_draw("shots", settings.seed, digest), digest))
    _check_shots(shots, len(ordered), class_name)
    return dict.fromkeys(ordered[shots:], UNUSED)


def _joined(samples: Sequence[Sample], contents: Contents, groups: Mapping[str, str]) -> dict[str, str]:
    """The group of each content. Groups that share a content are one, which has the first of their names."""
    parent = {groups[sample.image.name]: groups[sample.image.name] for sample in samples}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    first: dict[str, str] = {}
    for sample in samples:
        group = groups[sample.image.name]
        one, other = sorted((root(group), root(first.setdefault(contents[sample.image.name].digest, group))))
        parent[other] = one
    return {digest: root(group) for digest, group in first.items()}


def _places_of_groups(
    of_class: Mapping[str, Sequence[str]], group_of: Mapping[str, str], needs: Needs, settings: Settings
) -> dict[str, str]:
    """The split of each content of the classes, where each group goes into one.

    Groups of a content that has to stay in train, which is in no class here, stay there, too. Raises ValueError.
    """
    free = {digest for digests in of_class.values() for digest in digests}
    fixed = {group for digest, group in group_of.items() if digest not in free}
    counts: dict[str, Counter[str]] = {}
    for name, digests in of_class.items():
        for digest in digests:
            counts.setdefault(group_of[digest], Counter())[name] += 1
    hashed = {group: blake2b(group.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest() for group in counts}
    order = sorted(counts.keys() - fixed, key=lambda group: (_draw("group", settings.seed, hashed[group]), group))
    sizes = {name: len(digests) for name, digests in of_class.items()}
    split: dict[str, str] = {}
    for cuts, one, fraction in (
        (needs.test, "test", settings.test_fraction),
        (needs.val, "val", settings.val_fraction),
    ):
        if not cuts:
            continue
        rest = [group for group in (order if one == "test" else reversed(order)) if group not in split]
        # A group for train has to be left and, for test, one for validation, too, which is none of the fixed ones.
        for_val = int(one == "test" and needs.val)
        left = Counter(name for group in counts if group not in split for name in counts[group])
        able = Counter(name for group in rest for name in counts[group])
        most = {name: min(left[name] - 1, able[name]) - for_val for name in of_class}
        for before in split:
            for name, count in counts[before].items():
                sizes[name] -= count
        quota = {name: _share(fraction, size, size - 1 - for_val) for name, size in sizes.items()}
        is_kept = one == "val" or needs.keeps_test
        split |= dict.fromkeys(_filled(rest, counts, quota, Counter(most), needs_all=is_kept), one)
    kept = {group: one for group, one in split.items() if one == "val" or needs.keeps_test}
    return {digest: kept.get(group_of[digest], "train") for digest in free}


def _filled(
    order: Sequence[str],
    counts: Mapping[str, Counter[str]],
    quota: Mapping[str, int],
    most: Counter[str],
    *,
    needs_all: bool,
) -> list[str]:
    """Chooses groups so that each class gets about its quota of images, and at least one.

    Args:
        order: the groups, in the order in which they are tried.
        counts: how many images of each class a group has.
        quota: images of each class.
        most: groups of each class that may be chosen.
        needs_all: whether a class that gets none is an error.

    Raises ValueError, with the class.
    """
    got: Counter[str] = Counter()
    chosen: list[str] = []

    def choose(group: str) -> None:
        chosen.append(group)
        got.update(counts[group])
        most.subtract(counts[group].keys())

    for group in order:
        fits = all(got[name] + count <= quota[name] and most[name] > 0 for name, count in counts[group].items())
        if fits:
            choose(group)
    for name in (one for one in quota if not got[one]):
        able = [group for group in order if name in counts[group] and all(most[one] > 0 for one in counts[group])]
        if not able and not needs_all:
            continue
        if not able:
            found = sum(name in of_group for of_group in counts.values())
            raise ValueError(
                f"groups: the images of class {name} are in {found} groups, of which none can be spared for each "
                "split: add images of others, or group less"
            )
        choose(min(able, key=lambda group: sum(max(got[n] + c - quota[n], 0) for n, c in counts[group].items())))
    return chosen


def deal(units: Sequence[str], parts: int, seed: int, first: int) -> dict[str, int]:
    """Deals a class's contents, given by their digests, to the parts of a cross-validation, counted from 0.

    In the order of the seed's draw, each part gets the contents that follow those of the part before, so that one image
    more or less moves at most one other across each border. ``first`` is the part that begins, another one for each
    class: so the parts that get an image more differ.
    """
    ordered = sorted(units, key=lambda digest: (_draw("fold", seed, digest), digest))
    return {digest: (position * parts // len(ordered) + first) % parts for position, digest in enumerate(ordered)}


def _check_folds(needs: Needs, most: int, parts: int) -> None:
    """Raises ValueError for parts of a target with validation images, or where some may be empty.

    ``most`` is the number of different images of the largest class that are dealt.
    """
    if not needs.val:
        raise ValueError(
            "val_fold: expected a target without validation images of its own, got one that has a validation split; "
            "name its training images alone, such as its folder train"
        )
    if parts > most:
        raise ValueError(
            f"val_fold: expected at most {most} parts, as no class has more different images, got {parts}; use {most} "
            f"parts (in a comparison --folds {most}), or add images"
        )


def _share(fraction: float, count: int, most: int) -> int:
    """A fraction of a number of images, rounded: at least one, where there may be one, and not more than ``most``."""
    return min(max(math.floor(fraction * count + 0.5), 1), max(most, 0))


def _draw(use: str, seed: int, digest: str) -> int:
    """A number that looks random, and follows from its use, the seed and an image's content alone."""
    key = f"xmixup {use} {seed}".encode()
    return int.from_bytes(blake2b(bytes.fromhex(digest), digest_size=8, key=key).digest(), "big")


def cut_by_order(dataset: Dataset, settings: Settings) -> Dataset:
    """Cuts by the positions of the images among those of their class, sorted by name.

    An image more or less in a class deals all of its images anew. Raises as :func:`cut_by_content` does.
    """
    shuffle = random.Random(settings.seed).shuffle
    missing = [(name, fraction) for name, fraction in _fractions(settings) if not getattr(dataset, name)]
    splits: dict[str, list[Sample]] = {"train": [], "val": list(dataset.val), "test": list(dataset.test)}
    for name, images in _by_class(dataset):
        if len(images) < 1 + len(missing):
            needs = Needs(val=not dataset.val, test=not dataset.test, keeps_test=True)
            raise ValueError(needs.message([f"{name} ({len(images)})"]))
        shuffle(images)
        for split, fraction in missing:
            count = min(max(round(fraction * len(images)), 1), len(images) - 1)
            splits[split] += images[:count]
            del images[:count]
        if settings.shots is not None:
            _check_shots(settings.shots, len(images), name)
        splits["train"] += images[: settings.shots]
    return dataset.with_splits({name: by_name(samples) for name, samples in splits.items()})


def _by_class(dataset: Dataset) -> Iterable[tuple[str, list[Sample]]]:
    """The name of each class with its training images."""
    samples: list[list[Sample]] = [[] for _ in dataset.classes]
    for sample in dataset.train:
        samples[sample.label].append(sample)
    return zip(dataset.classes, samples, strict=True)


def _fractions(settings: Settings) -> list[tuple[str, float]]:
    return [("test", settings.test_fraction), ("val", settings.val_fraction)]


def _check_shots(shots: int, images: int, class_name: str) -> None:
    if images < shots:
        raise ValueError(f"shots: expected at most {images}, the training images of class {class_name}, got {shots}")


def _without(samples: Sequence[Sample], contents: Contents, dropped: Mapping[str, str]) -> list[Sample]:
    """The samples that can be read and are not dropped."""
    return [one for one in samples if one.image.name in contents and one.image.name not in dropped]


def _notes(given: Given) -> dict[str, str]:
    """Says of each image with copies, by name, what it is a copy of or that it has two labels."""
    notes: dict[str, str] = {}
    for digest, samples in given.groups.items():
        if len(labels := given.labels(digest)) > 1:
            notes |= {sample.image.name: two_labels(labels) for sample in samples}
        else:
            first, *copies = samples
            notes |= {copy.image.name: copy_of(given.dataset.name_of(first.image)) for copy in copies}
    return notes
