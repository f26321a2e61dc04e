"""Makes photos for which the verdict of ``xmixup compare photos/`` is known beforehand, of a dataset with labels.

    python docs/known_truth.py TARGET DIR [--images 20] [--seed 0]

TARGET is any dataset that ``xmixup train`` takes, with more than 20 images in each class. DIR gets three folders:

    photos      20 images of each class, as they are labelled
    source      all other images of the same classes
    shuffled    the images of photos, with their labels shuffled: no method can learn them

The first command should say that the photos cannot tell, the second that auxiliary images help, as much of each blend
is theirs, and fine-tuning is long:

    xmixup compare DIR/shuffled --source SOURCE
    xmixup compare DIR/photos --source DIR/source --alpha 1 --no-fold --top-k 1 --steps 600 --lr 0.02

With 400 photos of cifar20 (docs/small-images.yaml has it, its network and settings) the second says +11.8 points (+5.4
to +18.1); 200 of cifar10 gain 5.5, and cannot tell. With the defaults, xmixup gains nothing there: see docs/results.md.

Photographs of docs/comparison.yaml go with its network: add --model tf_efficientnet_lite0 --weights pip --image-size 96
--batch-size 32, and mini_imagenet as SOURCE.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xmixup_fast.data.dataset import Dataset, Sample, by_name
from xmixup_fast.data.sources import read_dataset


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--images", type=int, default=20, help="photos of each class (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.images < 2:
        parser.error(f"argument --images: expected 2 or more, got {options.images}")
    if options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"argument DIR: expected an empty folder or none, got {options.folder}")
    generator = np.random.default_rng(options.seed)
    try:
        dataset = read_dataset(options.target)
        photos, source = divided(dataset, options.images, generator)
    except (ValueError, OSError) as error:
        parser.error(f"argument TARGET: {error}")
    labels = [photo.label for photo in photos]
    shuffled = [dataset.classes[labels[i]] for i in generator.permutation(len(labels))]
    write(options.folder / "photos", photos, [dataset.classes[label] for label in labels])
    write(options.folder / "source", source, [dataset.classes[sample.label] for sample in source])
    write(options.folder / "shuffled", photos, shuffled)


def divided(dataset: Dataset, count: int, generator: np.random.Generator) -> tuple[list[Sample], list[Sample]]:
    """``count`` random images of each class, and the other ones. Raises ValueError for a class without others."""
    photos, others = [], []
    for label, name in enumerate(dataset.classes):
        own = by_name(sample for sample in dataset.samples if sample.label == label)
        if len(own) <= count:
            raise ValueError(f"expected more than {count} images in each class, got {len(own)} of {name}")
        drawn = {int(i) for i in generator.permutation(len(own))[:count]}
        photos += [sample for i, sample in enumerate(own) if i in drawn]
        others += [sample for i, sample in enumerate(own) if i not in drawn]
    return photos, others


def write(folder: Path, samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Copies images into class folders. They are numbered, as names of files tell the classes of some datasets."""
    for number, (sample, name) in enumerate(zip(samples, classes, strict=True)):
        file = folder / name / f"{number:05}{Path(sample.image.name).suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sample.image.read())
    print(f"{folder}: {len(samples)} images of {len(set(classes))} classes")


if __name__ == "__main__":
    main()
