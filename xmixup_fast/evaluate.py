"""Evaluate a trained network on labelled images.

xmixup evaluate runs/NAME
    on the run's own test images: prints accuracy and a line for each class, writes evaluation.json and confusion.png

xmixup evaluate runs/NAME/model.safetensors --target other-photos/ --split all
    on any dataset that xmixup train takes; its classes have to be the network's, or some of them
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .cli import exit_status, parse_options, require_one_process
from .runtime.files import write_json
from .settings.fields import Settings
from .settings.yaml_file import read

if TYPE_CHECKING:
    from .data.dataset import BadFile, Sample
    from .evaluation import Evaluation
    from .models.trained import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to evaluate, and how."""

    model: str
    """A run folder, or the model.safetensors of one."""
    target: str | None = None
    """Images, as xmixup train takes them; the run's own, split as there, if not given."""
    split: Literal["test", "val", "train", "all"] | None = None
    """Which images; test if not given, or all where a dataset has no test split of its own."""
    classes: Literal["outer", "inner"] | None = None
    """Which folders are the classes, where all class folders hold the same folders; as in training, if not given."""
    image_field: str | None = None
    """Field of the images in tar shards, where samples have several; as in training, if not given."""
    output: str | None = None
    """Folder to write to; runs/TIME-evaluate-TARGET-sSEED if not given."""
    resize: int | Literal["full"] | None = None
    """Short side at which images are cropped, in pixels, or full for their own size; as in training, if not given."""
    batch_size: int = 64
    """Images at a time."""
    decoder: Literal["auto", "dali", "torchvision"] = "auto"
    """What decodes JPEG files; auto takes DALI where it is installed."""
    bad_files: Literal["error", "skip"] = "error"
    """What to do where images cannot be decoded: stop, or evaluate without them."""
    storage: Literal["auto", "resident", "stream"] = "auto"
    """Where the images are: in memory (resident), decoded batch by batch (stream), or in memory if they fit the memory
    budget (auto)."""
    memory_budget: str | None = None
    """Memory for images, such as 4GiB; 80 % of what is free on the device if not given."""
    cache: str | None = None
    """Folder that keeps decoded images for later runs, or none; $XMIXUP_CACHE or ~/.cache/xmixup_fast if not given."""
    device: str = "auto"
    """cpu, cuda or cuda:1; auto takes a GPU where there is one."""
    threads: int | None = None
    """CPU threads; PyTorch's default if not given."""


def run(options: Options, log: Callable[[str], object] = print) -> Evaluation:
    """Evaluates as the options say, and writes evaluation.json and confusion.png; ``log`` gets lines for the user.

    Raises ValueError and OSError, with a message for the user, for what cannot be used.
    """
    from .data.bad_files import list_bad, refuse_bad_files, skipped, to_json, without
    from .evaluation import evaluate_network
    from .models.trained import load
    from .report import figures
    from .runtime.device import reproducible
    from .training.images import make_image_store
    from .training.resolve import run_name

    require_one_process()
    network, preprocessing = load(options.model)
    settings, is_own = _settings(options, network.model_name, preprocessing)
    folder = Path(options.output or Path("runs", run_name("evaluate", settings)))
    if (folder / "evaluation.json").exists():
        raise FileExistsError(f"output: {folder} already holds an evaluation; name another folder, or remove it")
    split, samples, bad = _samples(settings, is_own, options.split, network.classes)
    with reproducible(settings.seed, settings.threads):
        builder = make_image_store(settings, log)
        images = builder.images(samples, f"{split} images", settings.storage).to(settings.device)
        bad = refuse_bad_files(bad + builder.bad, settings.bad_files, "evaluates without them")
        if not len(images):
            raise ValueError(f"target: {settings.target}: none of its images can be decoded\n{list_bad(bad)}")
        network.to_device(settings.device)
        form = network.image_format(preprocessing.image_size)
        evaluation = evaluate_network(network, images, form, settings.batch_size)
    evaluation = replace(evaluation, names=[sample.image.name for sample in without(samples, bad)])

    folder.mkdir(parents=True, exist_ok=True)
    figures.save(figures.confusion_matrix(evaluation), folder / "confusion.png")
    description = {"model": options.model, "target": settings.target, "split": split}
    write_json(folder / "evaluation.json", {**description, **evaluation.to_json(), "bad_files": to_json(bad)})
    log("\n".join(evaluation.lines()))
    if bad:
        log(f"{skipped(bad)}; evaluation.json lists them")
    log(
        f"{split}: {evaluation.accuracy:.2f} % of {len(evaluation)} images, mean of the classes "
        f"{evaluation.balanced_accuracy:.2f} %, loss {evaluation.loss:.4f}"
    )
    log(f"evaluation.json and confusion.png in {folder}")
    return evaluation


def _settings(options: Options, model: str, preprocessing: Preprocessing) -> tuple[Settings, bool]:
    """The settings of the evaluation, and whether the target is the run's own, to be split as there."""
    from .runtime.device import usable_device

    config = Path(options.model, "config.yaml")
    names = ("batch_size", "decoder", "bad_files", "storage", "memory_budget", "cache", "threads")
    given = {name: getattr(options, name) for name in names} | {
        "device": usable_device(options.device),
        "image_size": preprocessing.image_size,
        "resize": options.resize or preprocessing.resize or "full",
        "grad_accum_steps": None,
    }
    for name in ("target", "classes", "image_field"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    if config.is_file():
        settings = read(config, **given)
        return settings, settings.target == read(config).target
    if options.target is None:
        raise ValueError(f"target: expected a dataset, since {options.model} is no run folder; got none")
    return Settings(model=model, **given), False


def _samples(
    settings: Settings, is_own: bool, part: str | None, classes: Sequence[str]
) -> tuple[str, list[Sample], list[BadFile]]:
    """The name of the split, its images with the network's labels, and what cannot be used.

    Raises ValueError where the network does not know a class, or the dataset has no such split.
    """
    from .data.dataset import Sample, split
    from .data.sources import read_dataset

    dataset = read_dataset(settings.target, settings.classes, settings.image_field)
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ValueError(
            f"target: {settings.target}: the network does not know the class{'es' * (len(unknown) > 1)} "
            f"{', '.join(unknown[:5])}{more}; its {len(classes)} classes are {', '.join(classes[:5])}"
            + (" ..." if len(classes) > 5 else "")
        )
    if is_own:
        fractions = {"val_fraction": settings.val_fraction, "test_fraction": settings.test_fraction}
        dataset = split(dataset, **fractions, shots=settings.shots, seed=settings.seed)
    part = part or ("test" if dataset.test else "all")
    chosen = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    chosen["all"] = [sample for samples in chosen.values() for sample in samples]
    if not chosen[part]:
        there = ", ".join(name for name, samples in chosen.items() if samples)
        raise ValueError(f"split: {settings.target} has no {part} split of its own; expected one of {there}")
    label = {name: position for position, name in enumerate(classes)}
    samples = [Sample(sample.image, label[dataset.classes[sample.label]]) for sample in chosen[part]]
    return part, samples, dataset.bad


def main(arguments: Sequence[str] | None = None, prog: str = "python -m xmixup_fast.evaluate") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        run(parse_options(Options, given, prog, __doc__, positional={"model": "RUN_OR_WEIGHTS"}))

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
