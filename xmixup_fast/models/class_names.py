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
