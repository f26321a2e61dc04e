"""Evaluate a trained network on labelled images.

xmixup evaluate runs/NAME
    on the run's own test images, wherever its manifest recognises them: prints accuracy, calibration and a line for
    each class, writes evaluation.json, confusion.png and reliability.png

xmixup evaluate runs/NAME --target moved-photos/
    the same, where the run's images have moved; or on any other dataset that xmixup train takes, without the images
    that the network was trained on; its classes have to be the network's, or some of them

xmixup evaluate runs/NAME --split new
    on images that were added since
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..cli import exit_status, parse_options, require_one_process
from ..data.dataset import SPLITS
from ..runtime.files import write_json
from ..settings.fields import Settings
from ..settings.yaml_file import read

if TYPE_CHECKING:
    from ..data.contents import Contents
    from ..data.dataset import BadFile, Dataset, Sample
    from ..data.manifest import Manifest, Match
    from ..models.network import Network
    from ..models.trained import Preprocessing
    from ..report.results import EvaluationResult

    _Pair: TypeAlias = tuple[Sample, str]  # an image, and the name of its class


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to evaluate, and how."""

    model: str
    """A run folder, or the model.safetensors of one."""
    target: str | None = None
    """Images, as xmixup train takes them; the run's own, where they were, if not given."""
    split: Literal["test", "val", "train", "unused", "new", "all"] | None = None
    """Which images: of a run's own, its test images if not given, images that --shots left unused, or new ones, which
    it does not have; of another dataset, its test images, or all where it has no test split."""
    trained: Literal["drop", "keep"] = "drop"
    """What to do with images that the network was trained or validated on, unless --split asks for these: leave them
    out, or keep them."""
    classes: Literal["outer", "inner"] | None = None
    """Which folders are the classes, where all class folders hold the same folders; as in training, if not given."""
    image_field: str | None = None
    """Field of the images in tar shards, where samples have several; as in training, if not given."""
    output: str | None = None
    """Folder to write to; runs/TIME-evaluate-TARGET-sSEED-RANDOM if not given."""
    resize: int | Literal["full"] | None = None
    """Short side at which images are cropped, in pixels, or full for their own size; as in training, if not given."""
    tta: Literal["none", "flip"] = "none"
    """Test-time augmentation: predict from an image alone, or by the mean probabilities of it and its mirror image."""
    batch_size: int = 64
    """Images at a time."""
    decoder: Literal["auto", "dali", "torchcodec", "torchvision", "pillow"] = "auto"
    """What decodes JPEG files; auto takes the first of these that is installed."""
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
    """CPU threads; if not given, PyTorch's default, or what a CPU quota feeds if that is less."""


def run(options: Options, log: Callable[[str], object] = print, *, writes: bool = True) -> EvaluationResult:
    """Evaluates as the options say, and writes evaluation.json and two pictures; ``log`` gets lines for the user.

    Without ``writes``, files are written only to an ``output`` that is given. Raises ValueError and OSError, with a
    message for the user, for what cannot be used.
    """
    from ..models.trained import load
    from ..runtime.claims import owned_output
    from ..training.resolve import run_name
    from ..training.run_folder import data_beside

    require_one_process()
    network, preprocessing = load(options.model)
    run = data_beside(Path(options.model))
    settings = _settings(options, network.model_name, preprocessing, run)
    folder = Path(options.output or Path("runs", run_name("evaluate", settings))) if options.output or writes else None
    with owned_output(folder, log):
        if folder is not None and (folder / "evaluation.json").exists():
            raise FileExistsError(f"output: {folder} already holds an evaluation; name another folder, or remove it")
        chosen = choose(settings, options, network.classes, run, log)
        return _evaluate(options, settings, network, chosen, folder=folder, log=log)


def _evaluate(
    options: Options,
    settings: Settings,
    network: Network,
    chosen: Chosen,
    *,
    folder: Path | None,
    log: Callable[[str], object],
) -> EvaluationResult:
    """Evaluates the images that were chosen, and writes to a folder that this process owns."""
    from ..data.bad_files import list_bad, refuse_bad_files, skipped, to_json, without
    from ..data.duplicates import EXAMPLES
    from ..data.layout import some
    from ..evaluation import evaluate_network
    from ..models.finite import not_finite
    from ..models.trained import temperature_of
    from ..report import figures
    from ..report.results import EvaluationResult
    from ..runtime.device import current_device, reproducible
    from ..training.images import make_image_store

    split, samples, bad = chosen.split, chosen.samples, chosen.bad
    with current_device(settings.device), reproducible(settings.seed, settings.threads):
        builder = make_image_store(settings, log)
        builder.know(chosen.contents)
        images = builder.images(samples, f"{split} images", settings.storage).to(settings.device)
        bad = refuse_bad_files(bad + builder.bad, settings.bad_files, "evaluates without them")
        if not len(images):
            raise ValueError(f"target: {settings.target}: none of its images can be decoded\n{list_bad(bad)}")
        network.to_device(settings.device)
        form = network.image_format(settings.crop_size)
        evaluation = evaluate_network(
            network,
            images,
            form,
            settings.batch_size,
            flip=options.tta == "flip",
            temperature=temperature_of(options.model),
        )
    evaluation = replace(evaluation, names=[sample.image.name for sample in without(samples, bad)])
    if wrong := [evaluation.names[position] for position in evaluation.not_finite()]:
        raise not_finite(network, "outputs", f"{len(wrong)} of {len(evaluation)} images ({some(wrong, EXAMPLES)})")
    log("\n".join(evaluation.lines()))
    if bad:
        log(f"{skipped(bad)}; evaluation.json lists them" if folder else list_bad(bad, "evaluates without them"))
    mirrored = ", with mirror images" if options.tta == "flip" else ""
    log(f"{split}{mirrored}: " + "\n  ".join(evaluation.figures()))
    chose = chosen.about.get("validation_images", 0)
    if chose and evaluation.temperature is not None:
        log(f"the temperature was fitted on {chose} of these images: calibration is worse on others")
    if folder is not None:  # last, so that what was found is seen where it cannot be written
        figures.save(figures.confusion_matrix(evaluation), folder / "confusion.png")
        figures.save(figures.reliability(evaluation), folder / "reliability.png")
        description = {"model": options.model, "target": settings.target, "split": split, "tta": options.tta}
        description |= chosen.about
        write_json(folder / "evaluation.json", {**description, **evaluation.to_json(), "bad_files": to_json(bad)})
        log(f"evaluation.json, confusion.png and reliability.png in {folder}")
    return EvaluationResult(**vars(evaluation), target=settings.target, split=split, folder=folder)


def _settings(
    options: Options, model: str, preprocessing: Preprocessing, run: tuple[Manifest, Mapping[str, Any]] | None
) -> Settings:
    """The settings of the evaluation; of a run's data, the place where they were is the target if none is given."""
    from ..runtime.device import usable_device

    config = Path(options.model, "config.yaml")
    names = ("batch_size", "decoder", "bad_files", "storage", "memory_budget", "cache", "threads")
    given = {name: getattr(options, name) for name in names} | {
        "device": usable_device(options.device),
        "image_size": preprocessing.image_size,
        "resize": options.resize or preprocessing.resize or "full",
        "grad_accum_steps": None,
        **preprocessing.reading,
    }
    for name in ("target", "classes", "image_field"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    if options.target is None and run is not None and config.is_file():
        given["target"] = run[1]["path"]
    elif options.target is None:
        raise ValueError(f"target: expected a dataset, since {options.model} is no run folder; got none")
    return read(config, **given) if config.is_file() else Settings(model=model, **given)


@dataclass(frozen=True)
class Chosen:
    """The images that are evaluated."""

    split: str
    samples: list[Sample]
    """With the network's labels."""
    bad: list[BadFile]
    """What cannot be used."""
    about: dict[str, Any]
    """What evaluation.json says of them."""
    contents: Contents
    """Of all images of the dataset that were read; empty where none was."""


def choose(
    settings: Settings,
    options: Options,
    classes: Sequence[str],
    run: tuple[Manifest, Mapping[str, Any]] | None,
    log: Callable[[str], object],
) -> Chosen:
    """The images that the options ask for; says how they relate to the images of the run, by their content.

    Args:
        settings: of the evaluation.
        options: what the user asked for.
        classes: of the network.
        run: manifest and data.json of the run that the network belongs to; None where they are not known.
        log: is called with lines for the user.

    Raises ValueError where the network does not know a class, or there are no such images; FileNotFoundError for a
    target that is not there.
    """
    from ..data.sources import read_dataset
    from ..data.understood import found

    try:
        dataset = read_dataset(settings.target, settings.classes, settings.image_field, needs_train=False)
    except FileNotFoundError as error:
        if options.target is not None:
            raise
        raise FileNotFoundError(f"{error}; --target tells where the run's images are now") from error
    for line in found(dataset.findings):
        log(line)
    if run is not None:
        return _chosen_by_content(settings, options, classes, run, dataset, log=log)
    log(f"no manifest.csv beside {options.model}: whether it was trained on some of these images cannot be told")
    split = options.split or ("test" if dataset.test else "all")
    return Chosen(split, _labelled(settings, split, _in_splits(dataset), classes), dataset.bad, {}, {})


def _chosen_by_content(
    settings: Settings,
    options: Options,
    classes: Sequence[str],
    run: tuple[Manifest, Mapping[str, Any]],
    dataset: Dataset,
    *,
    log: Callable[[str], object],
) -> Chosen:
    """The images that the options ask for, of a run's own data or another dataset, which their contents tell."""
    from ..data.duplicates import EXAMPLES
    from ..data.layout import some
    from ..data.manifest import Match
    from ..data.sources import real_name
    from ..training.target import contents_of

    contents, unreadable = contents_of(dataset, dataset.samples, settings)
    match = Match.of(run[0], dataset, contents)
    known, total = match.recognised()
    own = real_name(settings.target) == run[1]["path"] or 2 * known >= max(total, 1)
    about: dict[str, Any] = {"own_data": own}
    given = _own_images(match) if own else _in_splits(dataset)
    given["new"] = [(one, dataset.classes[one.label]) for one in match.new]
    if own:
        log(f"{settings.target}: the run's own images, {known} of its {total} {match.recognised_by} recognised")
        about["differences"] = match.differences()
        if about["differences"]:
            log(f"since the run began: {', '.join(about['differences'])}")
        edited = [(one, dataset.classes[one.label]) for one in match.edited.values()]
        given["all"] = [pair for pairs in (*given.values(), edited) for pair in pairs]
    split = options.split or ("test" if own or dataset.test else "all")
    is_asked_for = own and split in (*SPLITS, "unused")
    bad = [] if is_asked_for else [*dataset.bad, *unreadable]
    trained = _trained(match, contents, given.get(split, []), own) if split not in ("train", "val") or not own else []
    if trained:
        keeps = is_asked_for or options.trained == "keep"
        about["trained_images"] = {"count": len(trained), "kept": keeps}
        done = "kept" if keeps else "left out; --trained keep evaluates them, too"
        names = some([dataset.name_of(one.image) for one, _ in trained], EXAMPLES)
        log(f"{len(trained)} of these images were trained or validated on ({names}): {done}")
        if not keeps:
            left_out = {one.image.name for one, _ in trained}
            given[split] = [pair for pair in given[split] if pair[0].image.name not in left_out]
            if not given[split]:
                raise ValueError(f"target: {settings.target}: all of these images were trained or validated on")
    if validated := _count_validated(match, contents, given.get(split, [])):
        about["validation_images"] = validated
    if match.edited and not own:
        names = some([dataset.name_of(one.image) for one in match.edited.values()], EXAMPLES)
        log(f"{len(match.edited)} of these images have names of the run's images, and other content ({names})")
    return Chosen(split, _labelled(settings, split, given, classes), bad, about, contents)


def _trained(match: Match, contents: Contents, pairs: Sequence[_Pair], own: bool) -> list[_Pair]:
    """The images whose content is that of a training or validation image of the run.

    Of the run's ``own`` data, those too that have the name of such an image, which was edited or saved anew.
    """
    rows = [row for split in ("train", "val") for row in match.manifest.of_split(split)]
    digests = {row.blake2b for row in rows}
    edited = {match.edited[row].image.name for row in rows if own and row in match.edited}
    names = [one.image.name for one, _ in pairs]
    return [pair for pair, name in zip(pairs, names, strict=True) if name in edited or contents[name].digest in digests]


def _count_validated(match: Match, contents: Contents, pairs: Sequence[_Pair]) -> int:
    """How many of the images have the content of a validation image of the run."""
    digests = {row.blake2b for row in match.manifest.of_split("val")}
    names = [one.image.name for one, _ in pairs]
    return sum(name in contents and contents[name].digest in digests for name in names)


def _in_splits(dataset: Dataset) -> dict[str, list[_Pair]]:
    """The images of each split of a dataset, and of all splits, with the names of their classes."""
    given = {name: [(one, dataset.classes[one.label]) for one in getattr(dataset, name)] for name in SPLITS}
    return {**given, "all": [pair for name in SPLITS for pair in given[name]]}


def _own_images(match: Match) -> dict[str, list[_Pair]]:
    """The images of each of a run's splits, with the names of their classes in the manifest."""
    names = match.manifest.classes
    return {split: [(one, names[one.label]) for _, one in match.of_split(split)] for split in (*SPLITS, "unused")}


def _labelled(settings: Settings, split: str, given: Mapping[str, list[_Pair]], classes: Sequence[str]) -> list[Sample]:
    """The images of a split with the network's labels.

    Raises ValueError where there are none, or the network does not know a class.
    """
    from ..data.layout import some

    pairs = given.get(split, [])
    if not pairs:
        there = ", ".join(name for name, others in given.items() if others)
        raise ValueError(f"split: {settings.target} has no images to evaluate as {split}; expected one of {there}")
    label = {name: position for position, name in enumerate(classes)}
    unknown = sorted({name for _, name in pairs if name not in label})
    if unknown:
        raise ValueError(
            f"target: {settings.target}: the network does not know the class{'es' * (len(unknown) > 1)} "
            f"{some(unknown)}; its {len(classes)} classes are {', '.join(classes[:5])}"
            + (" ..." if len(classes) > 5 else "")
        )
    return [sample._replace(label=label[name]) for sample, name in pairs]


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup evaluate") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        run(parse_options(Options, given, prog, __doc__, positional={"model": "RUN_OR_WEIGHTS"}))

    return exit_status(work)
