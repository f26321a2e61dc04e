"""Class names as people read them."""

from __future__ import annotations

from functools import cache

from timm.data.imagenet_info import ImageNetInfo

_imagenet = cache(ImageNetInfo)


def readable_name(class_name: str) -> str:
    """Puts the meaning before the WordNet id of an ImageNet class, "strawberry (n07745940)"; keeps other names."""
    imagenet = _imagenet()
    if class_name not in imagenet.label_names():
        return class_name
    return f"{imagenet.label_name_to_description(class_name).split(',')[0]} ({class_name})"


@cache
def ids_of_words() -> dict[str, str]:
    """WordNet ids of ImageNet's 1,000 classes by the words that stand for them, such as "tench, Tinca tinca".

    Words that stand for two classes are left out.
    """
    imagenet = _imagenet()
    names = imagenet.label_names()
    words = [imagenet.label_name_to_description(name) for name in names]
    return {text: name for text, name in zip(words, names, strict=True) if words.count(text) == 1}
