"""What the names in a dataset mean: which of them are splits, and which folders are classes.

What people mean is taken and said as a guess; what could be meant in several ways is a fault, with the way out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as Names
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

from .dataset import FileImage

Classes = Literal["outer", "inner"]
"""Which folders are the classes, where folders lie in folders."""

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Names of splits, in lower case, and the split that each of them is. Beside a test, eval and evaluation are val."""

_WORD, _SET = "[A-Z]?[a-z]+|[A-Z]+(?![a-z])", "(set|data|images?)$"
"""Patterns of a word in a name such as TrainSet, and of what people write behind the name of a split."""

_EVAL = ("eval", "evaluation")

_MISSING = {
    *("", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "nat", "none", "null", "nil", r"\n"),
    *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    *("#value!", "#ref!", "#name?", "#null!", "#num!", "#div/0!"),
}
"""What programs write where a value is missing, in lower case: what pandas reads so, databases', and Excel's errors."""

_SEVERAL = re.compile(
    r"""
    .*[;|].*                                      # cat;dog
    | \s*\[ \s*(['"\d].*|.*,.*) \]\s*             # what Python, NumPy or JSON write for a list: ['cat' 'dog']
    | \s*[({] \s*(['"].*|[-+.\d]+\s*[,:].*) [)}]\s*  # for a tuple, a set or a mapping
    """,
    re.VERBOSE | re.DOTALL,
)

TABLES = {".csv", ".tsv", ".parquet"}
"""How the names of tables end, in lower case."""


PACKED = (".zip", ".7z", ".rar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst")
"""How the names of compressed files end, in lower case, whose images cannot be read where they lie."""


@dataclass
class Folder:
    """A folder, with what is of use in it."""

    path: Path
    images: list[FileImage] = field(default_factory=list)
    """The images directly in it, in sorted order."""
    folders: list[Folder] = field(default_factory=list)
    """The folders directly in it, in sorted order."""
    tables: list[Path] = field(default_factory=list)
    """The files directly in it that are named like tables."""
    count: int = 0
    """How many images, and files that cannot be used, it holds at any depth."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def holding(self) -> list[Folder]:
        """The folders directly in it that hold images."""
        return [folder for folder in self.folders if folder.count]

    def all_images(self) -> list[FileImage]:
        """The images at any depth."""
        return [*self.images, *(image for folder in self.folders for image in folder.all_images())]


@dataclass
class Layout:
    """How a folder was understood."""

    top: Folder
    """The folder in which the splits, or the classes, lie."""
    splits: dict[str, Folder]
    """The folder of each split."""
    classes: list[tuple[str, str, Folder]] = field(default_factory=list)
    """Split, class and folder of the images of one class; several folders may be of one class."""
    guesses: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def class_name(text: str) -> str:
    """The name of a class as all readers spell it: in Unicode's form NFC, without spaces around it."""
    return unicodedata.normalize("NFC", text).strip()


def look(text: str) -> str:
    """How a class's name looks to people: alike for 1, 01 and 1.0, for Cat and cat, with and without invisible signs.

    Letters that Unicode holds for variants of others, such as the wide ones of Asian fonts, are these others.
    """
    visible = (sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")
    name = " ".join("".join(visible).casefold().split())
    return str(Decimal(name).normalize()) if re.fullmatch(r"[-+]?\d+(\.\d+)?", name) else name


def is_missing(text: str) -> bool:
    """Whether a label is empty, or what programs write for a missing value."""
    return text.strip().casefold() in _MISSING


def why_missing(text: str) -> str:
    """What a message says of a label that is missing."""
    if not text.strip():
        return "expected a class, got an empty label: fill it in, or take the image out"
    return (
        f"expected a class, got {text.strip()!r}, which programs write where a value is missing: fill it in, take the "
        "image out or, if it is a class, rename the class"
    )


def several_labels(text: str) -> bool:
    """Whether a label looks like several: ``cat;dog``, ``cat|dog``, or a list such as ``['cat', 'dog']``."""
    return _SEVERAL.fullmatch(text) is not None


def joins_others(name: str, names: Names[str], signs: str) -> bool:
    """Whether a class is named by several others, with one of the signs between: ``cat,dog`` beside cat and dog."""
    for sign in signs:
        parts = {part.strip() for part in name.split(sign)}
        if len(parts) > 1 and parts <= names:
            return True
    return False


def why_several() -> str:
    """What a message says of labels that look like several."""
    return "expected one class for each image, got several, or a class whose name looks so, which is to be renamed,"


def why_no_class(text: str) -> str:
    """Why a label stands for no class, as it is missing or several; empty where it stands for one."""
    if is_missing(text):
        return why_missing(text)
    return f"{why_several()} {text.strip()!r}" if several_labels(text) else ""


def some(names: Iterable[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def name_splits(names: Iterable[str]) -> dict[str, str]:
    """The split (train, val or test) of each name that is a split's, whatever its case."""
    keys = {name: name.strip().casefold() for name in names}
    found = {name: SPLITS[key] for name, key in keys.items() if key in SPLITS}
    if any(split == "test" and keys[name] not in _EVAL for name, split in found.items()):
        found |= {name: "val" for name in found if keys[name] in _EVAL}
    return found


def split_faults(where: object, splits: Mapping[str, str], needs_train: bool = True) -> list[str]:
    """What is wrong with splits, given by their names: two names for one split, or no train where it is needed."""
    named = {split: [name for name in splits if splits[name] == split] for split in ("train", "val", "test")}
    faults = [
        f"{where}: {' and '.join(names)} are both a {split} split: join them, or take one out"
        for split, names in named.items()
        if len(names) > 1
    ]
    if needs_train and splits and not named["train"]:
        faults.append(f"{where}: has {' and '.join(splits)} but no train split: name one train")
    return faults


def split_guesses(where: object, splits: Mapping[str, str]) -> list[str]:
    """A line for each name whose split depends on the others' names."""
    return [
        f"{where}: {name} is taken for the {split} split"
        for name, split in splits.items()
        if name.strip().casefold() in _EVAL
    ]


def split_parts(stem: str) -> list[str]:
    """The parts of a name, cut at ``-``, ``_``, ``.`` and spaces, that are names of splits."""
    return [part for part in re.split(r"[-_. ]+", stem.casefold()) if part in SPLITS]


def understand(folder: Folder, classes: Classes | None, needs_train: bool = True) -> Layout:
    """Finds out which folders are splits and which are classes.

    Args:
        folder: what was given as the dataset.
        classes: ``outer``: folders directly in the dataset's, or in a split's, are classes, whatever is in them.
            ``inner``: where these hold folders, of two or more names, the inner ones are classes. Both take a folder
            that is named like a split beside others for no split.
        needs_train: whether splits without train are a fault.
    """
    layout = Layout(folder, {})
    while (inner := _only(layout.top)) and not name_splits([inner.name]):
        layout.top = inner
    if layout.top is not folder:
        layout.guesses.append(f"{folder.path}: all is in {layout.top.path}, which is taken instead")
    layout.splits = _unwrapped(_splits(layout, classes, needs_train), layout)
    if not layout.faults:
        is_cut = layout.splits.get("train") is not layout.top
        layout.faults += [fault for split in layout.splits.values() for fault in _unsorted(split, is_cut)]
        _find_classes(layout, classes)
        _say_what_is_left(layout)
    return layout


def _only(folder: Folder) -> Folder | None:
    """The only folder with images in a folder, if it holds folders and there are no images beside these."""
    if folder.images or len(folder.holding) != 1:
        return None
    (inner,) = folder.holding
    return inner if inner.holding and not inner.images else None


def _splits(layout: Layout, classes: Classes | None, needs_train: bool) -> dict[str, Folder]:
    """The folder of each split; the top is train where there are none."""
    top = layout.top
    folders = {folder.name: folder for folder in top.holding}
    exact = name_splits(folders)
    are_flat = len(exact) > 1 and all(folders[name].images and not folders[name].holding for name in exact)
    named = exact or named_in_part(folders)
    others = [name for name in folders if name not in named]
    unsorted = [name for name in named if folders[name].images] if are_flat or not exact else []
    if named and others and classes is None:
        layout.faults.append(
            f"{top.path}: expected splits alone, got {some(others)} with images beside {some(named)}: move what is no "
            "split elsewhere, or have all of them be classes with --classes outer"
        )
    elif unsorted and classes is None:
        layout.faults.append(
            f"{top.path}: expected class folders in {some(unsorted)}, got images: sort them, or have these folders be "
            "classes with --classes outer"
        )
    if not named or others or unsorted:
        return {"train": top}
    layout.faults += split_faults(top.path, named, needs_train)
    layout.guesses += split_guesses(top.path, named) if exact else _part_guesses(top.path, named)
    return {split: folders[name] for name, split in named.items()}


def _part_guesses(where: object, named: Mapping[str, str]) -> list[str]:
    return [f"{where}: {', '.join(f'{name} is taken for {split}' for name, split in named.items())}"]


def named_in_part(names: Iterable[str]) -> dict[str, str]:
    """The split of names such as training_set and test_set; none unless train and another split are among them."""
    parts = {name: split_parts(name) for name in names}
    splits = name_splits(part for found in parts.values() for part in found)
    named = {name: splits[found[0]] for name, found in parts.items() if len(found) == 1}
    is_cut = "train" in named.values() and len(set(named.values())) > 1
    return named if is_cut else {}


def _like_splits(names: Iterable[str]) -> dict[str, str]:
    """The split of each name, where all have a word for one in them, such as TrainSet and test2017; else none."""
    words = {name: [re.sub(_SET, "", word.casefold()) for word in re.findall(_WORD, name)] for name in names}
    found = {name: SPLITS[word] for name, parts in words.items() for word in parts if word in SPLITS}
    is_cut = len(found) == len(words) and "train" in found.values() and len(set(found.values())) > 1
    return found if is_cut else {}


def _unwrapped(splits: dict[str, Folder], layout: Layout) -> dict[str, Folder]:
    """The folders in which the classes of each split lie, where an archive has put a folder around them."""
    inner = {split: _only(folder) for split, folder in splits.items() if folder is not layout.top}
    classes = {name for split, folder in splits.items() if not inner.get(split) for name in map(_name, folder.holding)}
    found = {split: folder for split, folder in inner.items() if folder and folder.name not in classes}
    if not found:
        return splits
    layout.guesses += [
        f"{splits[s].path}: all is in {folder.path}, which is taken instead" for s, folder in found.items()
    ]
    return _unwrapped(splits | found, layout)


def _name(folder: Folder) -> str:
    return folder.name


def _unsorted(folder: Folder, is_split: bool) -> list[str]:
    """A message where the images of a split are in no class folders."""
    path = folder.path
    if [inner.name for inner in folder.holding] == ["images"] and folder.folders[0].images:
        if (path / "val_annotations.txt").exists():
            move = 'while read -r f c rest; do mkdir -p "$c" && mv "images/$f" "$c/"; done < val_annotations.txt'
            return [
                f"{path}: expected class folders, got tiny-imagenet's {path}/images; sort them: cd {path} && {move}"
            ]
        if is_split and name_splits([folder.name]).get(folder.name) != "train":
            return [
                f"{path}: its images, in {path}/images, have no classes: sort them into class folders, or move "
                f"{path} away"
            ]
    if is_split and folder.images:
        count = f"{len(folder.images)} images lie" if len(folder.images) > 1 else "an image lies"
        return [
            f"{path}: {count} directly in it, in no class folder, such as {folder.images[0].path.name}: move "
            f"{'each' if len(folder.images) > 1 else 'it'} into the folder of its class, or away"
        ]
    return []


def _find_classes(layout: Layout, classes: Classes | None) -> None:
    """Adds the class folders of all splits."""
    outer = [(split, folder) for split, top in layout.splits.items() for folder in top.holding]
    within: dict[str, set[str]] = {}
    for _, folder in outer:
        within.setdefault(class_name(folder.name), set()).update(class_name(inner.name) for inner in folder.holding)
    names = sorted(set().union(*within.values()))
    is_inner = classes == "inner" and len(names) > 1
    alike = _like_splits(within) if classes is None and layout.splits.get("train") is layout.top else {}
    if alike:
        layout.faults.append(
            f"{layout.top.path}: {some(alike)} look like splits: rename them {some(dict.fromkeys(alike.values()))}, "
            "each with a folder for each class; or have them be classes with --classes outer"
        )
    elif classes is None and len(within) > 1 and len(names) > 1:
        _judge(layout, within, names, any(folder.images for _, folder in outer))
    elif classes == "inner" and not is_inner:
        layout.guesses.append(
            f"{layout.top.path}: its folders hold no further classes, so these are not the inner ones"
        )
    for split, folder in outer:
        if not is_inner or not folder.holding:
            layout.classes.append((split, folder.name, folder))
            continue
        if folder.images:
            layout.faults.append(
                f"{folder.path}: {len(folder.images)} images lie beside its folders, which are classes with --classes "
                "inner: move them into one, or away"
            )
        layout.classes += ((split, inner.name, inner) for inner in folder.holding)
    if not outer:
        count = len(layout.top.images)
        found = f"; {count} image{'s' * (count > 1)} directly in it" if count else ""
        layout.faults.append(f"{layout.top.path}: expected folders of images, one for each class; found none{found}")


def _judge(layout: Layout, within: Mapping[str, set[str]], inner: Sequence[str], has_images: bool) -> None:
    """Adds a fault where class folders may be the outer or the inner ones, and a guess where the outer ones are likely.

    Args:
        layout: gets them.
        within: the names of the folders in each outer folder.
        inner: all these names, sorted.
        has_images: whether images lie directly in an outer folder.
    """
    path, outer = layout.top.path, list(within)
    is_split = len(name_splits(inner)) == len(inner)
    if is_split:
        layout.faults.append(
            f"{path}: {some(outer)} hold the splits {some(inner)}: move these outside, like {inner[0]}/{outer[0]}; or "
            "cut new ones with --classes outer"
        )
    elif all(found == set(inner) for found in within.values()):
        layout.faults.append(
            f"{path}: {some(outer)} all hold the folders {some(inner)}: expected --classes outer to learn "
            f"{some(outer, 2)}, or --classes inner to learn {some(inner, 2)}, which pools the images of {some(outer)}: "
            "where these are splits, rename them train, val and test"
        )
    elif not has_images:
        layout.guesses.append(
            f"{path}: classes are {some(outer)}, with all folders in these; --classes inner takes {some(inner)}"
        )


def _say_what_is_left(layout: Layout) -> None:
    """Adds a line on images beside class folders, and on folders without images."""
    top = layout.top
    if top.images and top.holding:
        count, names = len(top.images), some(Path(image.name).name for image in top.images)
        what = f"{count} images beside its folders are" if count > 1 else "1 image beside its folders is"
        layout.guesses.append(f"{top.path}: {what} in no class, and not used: {names}")
    for folder in (top, *(split for split in layout.splits.values() if split is not top)):
        empty = [inner.name for inner in folder.folders if not inner.count]
        if empty:
            layout.guesses.append(f"{folder.path}: no class or split, as without any image: {some(empty)}")
