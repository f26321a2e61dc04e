"""Class names as people read them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from timm.data.imagenet_info import ImageNetInfo

VARIANTS = ("imagenet-1k", "imagenet-12k", "imagenet-21k-goog", "imagenet-21k-miil", "imagenet-22k", "imagenet-22k-ms")
"""timm's names of ImageNet's lists of classes."""

_imagenet = cache(ImageNetInfo)


def readable_name(class_name: str) -> str:
    """Puts the meaning before the WordNet id of an ImageNet class, "strawberry (n07745940)"; keeps other names."""
    imagenet = _imagenet()
    if class_name not in imagenet.label_names():
        return class_name
    return f"{imagenet.label_name_to_description(class_name).split(',')[0]} ({class_name})"


def given_classes(given: str, outputs: int | None) -> list[str]:
    """The classes of a classifier's outputs, as ``weights_classes`` names them.

    Args:
        given: a variant of ImageNet that timm knows, such as imagenet-1k; or a file with a name for each output, in
            their order: one a line, a JSON list, or a JSON object of names by number, as Hugging Face's id2label.
        outputs: their number; None where the weights have no classifier.

    Raises FileNotFoundError where there is no such file, and ValueError for another content or number of names.
    """
    if outputs is None:
        raise ValueError(f"weights_classes: expected nothing, as the weights have no classifier, got {given}")
    if given in VARIANTS:
        names = list(ImageNetInfo(given).label_names())
    elif Path(given).is_file():
        names = _names_in(Path(given))
    else:
        raise FileNotFoundError(
            f"weights_classes: {given}: no such file; expected a file of names, one a line, or {', '.join(VARIANTS)}"
        )
    if len(names) != outputs or len(set(names)) < len(names):
        repeated = sorted(name for name in set(names) if names.count(name) > 1)
        what = f"{repeated[0]} twice" if repeated else f"{len(names)} names"
        raise ValueError(
            f"weights_classes: {given}: expected a name for each of the classifier's {outputs} outputs, got {what}"
        )
    return names


def _names_in(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] not in ("[", "{"):
            return [line.strip() for line in text.splitlines() if line.strip()]
        read = json.loads(text)
    except (UnicodeError, ValueError) as error:
        raise ValueError(f"weights_classes: {file}: neither a list of names nor JSON ({error})") from error
    names: list[Any] = [read.get(str(number)) for number in range(len(read))] if isinstance(read, dict) else read
    names = [name[0] if isinstance(name, list) and name else name for name in names]  # WordNet's id, then words
    if not all(isinstance(name, str) for name in names):
        expected = "expected a list of names, or one by number from 0 on"
        raise ValueError(f"weights_classes: {file}: {expected}, got {text.strip():.60}")
    return names


@cache
def ids_of_words() -> dict[str, str]:
    """WordNet ids of ImageNet's 1,000 classes by the words that stand for them, such as "tench, Tinca tinca".

    Words that stand for two classes are left out.
    """
    imagenet = _imagenet()
    names = imagenet.label_names()
    words = [imagenet.label_name_to_description(name) for name in names]
    return {text: name for text, name in zip(words, names, strict=True) if words.count(text) == 1}
