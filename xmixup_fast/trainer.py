"""Trainer: the training step and evaluation; and fit, which makes a whole run of them."""

from __future__ import annotations

import math
import platform
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from . import __version__, models, selector
from .data.dataset import BadFile, Dataset, Sample, split
from .data.decode import make_decoder
from .data.pools import PoolBuilder
from .data.sources import read_dataset
from .files import default_cache
from .memory import format_bytes, free_memory, parse_bytes
from .methods import METHODS, Method
from .methods.base import Batches
from .models import Network
from .pool import ImagePool
from .recorder import Recorder
from .rendering import Renderer
from .sampling import Auxiliary, Sampler
from .settings import Settings


class Trainer:
    """Trains a network with a method: SGD with Nesterov momentum and a cosine to zero over the sampler's steps."""

    def __init__(
        self, network: Network, method: Method, sampler: Sampler, renderer: Renderer, settings: Settings
    ) -> None:
        self.network = network.train()
        self.method = method
        self.sampler = sampler
        self.renderer = renderer
        self.batch_size = settings.batch_size
        self.steps_done = 0
        pretrained, new = network.parameter_groups()
        groups: list[dict[str, Any]] = [
            {"params": pretrained},
            {"params": new, "lr": settings.lr * settings.head_lr_multiplier},
        ]
        self.optimizer = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: (1 + math.cos(math.pi * step / sampler.steps)) / 2
        )

    def step(self) -> Tensor:
        """Draws, mixes, and updates the network once. Returns the loss, a detached scalar on the network's device."""
        draw = self.sampler.draw(self.steps_done)
        self.method.before_step(self.network, self.steps_done, self.sampler.steps)
        loss = self.method.loss(self.network, self.method.inputs(draw, self.renderer), draw)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.steps_done += 1
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, pool: ImagePool) -> float:
        """Accuracy on unmixed centre crops, in percent."""
        self.network.eval()
        correct = sum(
            int((self.network(images).argmax(1) == labels).sum())
            for images, labels in self.renderer.batches(pool, self.batch_size)
        )
        self.network.train()
        return 100 * correct / len(pool)


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    folder: Path
    """The run folder."""
    network: Network
    """The trained network."""
    summary: dict[str, Any]
    """What summary.json holds."""
    selection: dict[str, Any] | None
    """What selection.json holds; None for a method without a source."""


def fit(settings: Settings | None = None, **overrides: Any) -> Result:
    """Trains a network as the settings say, and writes the run folder; ``python -m xmixup_fast.train`` does the same.

    Settings may be given as an object, by name, or both: then the names come on top. Random numbers and threads of the
    caller are left as they were.

    Raises TypeError for a name that is no setting; ValueError, FileNotFoundError or FileExistsError, with a message
    for the user, for settings, folders, files or weights that cannot be used, and where the loss is no longer finite.
    """
    settings = Settings(**overrides) if settings is None else replace(settings, **overrides)
    with reproducible(settings):
        return _run(_resolved(settings))


def _run(settings: Settings) -> Result:
    """A run with resolved settings."""
    recorder = Recorder(Path(str(settings.output)))
    method_class = METHODS[settings.method]
    target, source = read_datasets(settings, uses_source=method_class.uses_source)
    source_classes = source.classes if source else None
    network = models.build(settings.model, settings.weights, target.classes, source_classes, settings.seed)
    network.to(settings.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bad = target.bad + (source.bad if source else [])
    builder = _pool_builder(settings, recorder)
    train, val, test = (builder.build(getattr(target, name), f"{name} images") for name in ("train", "val", "test"))
    for pool, name in ((train, "train"), (val, "val"), (test, "test")):
        samples = getattr(target, name)
        _check_images(pool, samples, target.classes, f"{name} images", settings, bad + builder.bad)
    train, val = train.to(settings.device), val.to(settings.device)
    recorder.say(
        f"{settings.method} on {settings.target}: {len(target.classes)} classes, {len(train)} training, "
        f"{len(val)} validation and {len(test)} test images"
    )

    renderer = Renderer(train, None, network.mean, network.std, settings.image_size)
    batches = partial(renderer.batches, train, settings.batch_size)
    try:
        chosen = _choose(settings, network, batches, target, source, builder, recorder) if source else None
    except ValueError as error:
        if settings.bad_files == "skip" or not bad + builder.bad or list_bad(bad + builder.bad) == str(error):
            raise
        raise ValueError(f"{list_bad(bad + builder.bad)}\n{error}") from error
    bad += builder.bad
    if bad and settings.bad_files == "error":
        raise ValueError(list_bad(bad))
    if bad:
        recorder.say(f"{len(bad)} bad file{'s' * (len(bad) > 1)} skipped; summary.json lists them")
    if builder.budget is not None:
        recorder.say(
            f"storage: resident, {format_bytes(builder.bytes)} of a memory budget of {format_bytes(builder.budget)}"
        )
    if chosen:
        renderer.aux_pool = chosen.pool
    sampler = Sampler(train.labels, train.sizes, chosen.index if chosen else None, settings)
    method = method_class(settings, network, batches)

    recorder.config(settings.to_yaml())
    if chosen:
        recorder.selection(chosen.report)
    draw = sampler.draw(0)
    titles = method.titles(draw, target.classes, [models.describe(name) for name in source_classes or []])
    recorder.batch(method.inputs(draw, renderer), titles, network.mean, network.std)
    trainer = Trainer(network, method, sampler, renderer, settings)
    seconds, val_accuracy = _train(trainer, val, recorder)
    models.save(network, recorder.folder / "model.safetensors", settings.image_size)

    # The test images are not looked at before all is decided.
    test_accuracy = trainer.evaluate(test.to(settings.device))
    summary = {
        "method": settings.method,
        "target": settings.target,
        "source": settings.source if source else None,
        "model": settings.model,
        "weights": settings.weights,
        "seed": settings.seed,
        "selection": chosen.report["how"] if chosen else None,
        "steps": sampler.steps,
        "images_seen": sampler.steps * settings.batch_size,
        "num_train": len(train),
        "num_val": len(val),
        "num_test": len(test),
        "bad_files": {"count": len(bad), "files": [item._asdict() for item in bad]},
        "val_accuracy": round(val_accuracy, 4),
        "test_accuracy": round(test_accuracy, 4),
        "train_seconds": round(sum(seconds), 3),
        "seconds_per_step": round(statistics.median(seconds), 6),
        "selection_seconds": round(chosen.seconds, 3) if chosen else 0.0,
        "versions": {
            "xmixup_fast": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }
    recorder.summary(summary)
    recorder.say(f"test {test_accuracy:.2f} %  {sum(seconds):.1f} s of training  {recorder.folder}")
    return Result(recorder.folder, network, summary, chosen.report if chosen else None)


def read_datasets(settings: Settings, uses_source: bool) -> tuple[Dataset, Dataset | None]:
    """Lists the images of target, split as the settings say, and source; none is decoded.

    Raises what :func:`~xmixup_fast.data.sources.read_dataset` and :func:`~xmixup_fast.data.dataset.split` do.
    """
    listed = read_dataset(settings.target)
    source = read_dataset(settings.source) if uses_source and settings.source else None
    target = split(
        listed,
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
        shots=settings.shots,
        seed=settings.seed,
    )
    return target, source


def _train(trainer: Trainer, val: ImagePool, recorder: Recorder) -> tuple[list[float], float]:
    """All steps, with a validation after each epoch. Returns the seconds of each step, and the last accuracy."""
    sampler, batch_size = trainer.sampler, trainer.batch_size
    ends = sampler.epoch_ends()
    seconds: list[float] = []
    losses: list[float] = []
    val_accuracy = 0.0
    with recorder.progress(sampler.steps * batch_size):
        for step in range(1, sampler.steps + 1):
            lr = trainer.optimizer.param_groups[0]["lr"]
            started = time.perf_counter()
            loss = float(trainer.step())  # waits for the device, so that the time is the step's
            seconds.append(time.perf_counter() - started)
            losses.append(loss)
            if not math.isfinite(loss):
                raise ValueError(f"lr: the loss became {loss} in step {step}; try a smaller learning rate")
            recorder.step(batch_size, loss)
            if step in ends:
                val_accuracy = trainer.evaluate(val)
                spent = sum(seconds[-len(losses) :])
                recorder.epoch(
                    {
                        "epoch": ends[step],
                        "step": step,
                        "lr": lr,
                        "train_loss": statistics.fmean(losses),
                        "val_accuracy": round(val_accuracy, 4),
                        "images_per_second": round(len(losses) * batch_size / spent, 2),
                        "seconds": round(spent, 3),
                    }
                )
                losses = []
    return seconds, val_accuracy


@dataclass(frozen=True)
class _Chosen:
    """The auxiliary images of a run."""

    pool: ImagePool
    index: Auxiliary
    report: dict[str, Any]
    """For selection.json."""
    seconds: float
    """What the selection took, without decoding what it chose."""


def _choose(
    settings: Settings,
    network: Network,
    batches: Batches,
    target: Dataset,
    source: Dataset,
    builder: PoolBuilder,
    recorder: Recorder,
) -> _Chosen:
    """Selects source classes or images, and decodes what is chosen alone."""
    started = time.perf_counter()
    selection = selector.select(settings, network, batches(), target, source)
    seconds = time.perf_counter() - started
    for line in selection.lines(target.classes, source):
        recorder.say(line)
    samples = selection.samples(source)
    pool = builder.build(samples, "auxiliary images")
    bad = target.bad + source.bad + builder.bad
    if selection.kind == "image":
        places = _places_of_good(selection.places(), samples, bad, target.classes)
        pool = pool.to(settings.device)
        index = Auxiliary.of_images(pool, places)
    else:
        _check_images(pool, samples, source.classes, "auxiliary images", settings, bad)
        pool = pool.to(settings.device)
        index = Auxiliary.of(pool, selection.chosen)
    return _Chosen(pool, index, selector.report(settings, selection, target, source), seconds)


def _places_of_good(
    places: Sequence[Sequence[int]], samples: Sequence[Sample], bad: Sequence[BadFile], classes: Sequence[str]
) -> list[list[int]]:
    """Positions among the samples as positions among those that are not bad. ValueError where a class has none."""
    names = {item.name for item in bad}
    good = [i for i, sample in enumerate(samples) if sample.image.name not in names]
    place = {i: position for position, i in enumerate(good)}
    kept = [[place[i] for i in row if i in place] for row in places]
    for name, row in zip(classes, kept, strict=True):
        if not row:
            raise ValueError(f"class {name}: none of its auxiliary images can be decoded\n{list_bad(bad)}")
    return kept


def _pool_builder(settings: Settings, recorder: Recorder) -> PoolBuilder:
    """What decodes the run's images, by resolved settings."""
    device = torch.device(settings.device)
    decoder = make_decoder(settings.decoder, settings.short_side, device, torch.get_num_threads(), recorder.say)
    cache = None if settings.cache in (None, "none") else Path(str(settings.cache))
    budget = None
    if settings.storage == "auto":
        budget = parse_bytes(settings.memory_budget) if settings.memory_budget else int(0.8 * free_memory(device))
    return PoolBuilder(decoder, cache, budget, recorder.say)


def _check_images(
    pool: ImagePool,
    samples: Sequence[Sample],
    classes: Sequence[str],
    what: str,
    settings: Settings,
    bad: list[BadFile],
) -> None:
    """Raises ValueError where a class has no image left, so that training cannot go on even to find other bad files."""
    lost = sorted({sample.label for sample in samples} - set(pool.labels.tolist()))
    if lost and settings.bad_files == "error":
        raise ValueError(list_bad(bad))
    if lost:
        raise ValueError(f"class {classes[lost[0]]}: none of its {what} can be decoded\n{list_bad(bad)}")


def list_bad(bad: Sequence[BadFile]) -> str:
    """A message that names all bad files."""
    lines = [f"{len(bad)} bad file{'s' * (len(bad) > 1)}; --bad-files skip trains without them:"]
    return "\n  ".join([*lines, *(f"{item.name}: {item.reason}" for item in bad)])


def _resolved(settings: Settings) -> Settings:
    """The settings with every default that depends on others, on the machine or on the time filled in."""
    if METHODS[settings.method].uses_source and settings.source is None:
        raise ValueError(f"source: {settings.method} needs a folder of auxiliary images, got none")
    name = run_name(settings.method, settings)
    return replace(
        settings,
        resize=settings.short_side,
        device=usable_device(settings.device),
        threads=torch.get_num_threads(),
        cache=settings.cache or str(default_cache()),
        output=settings.output or str(Path("runs", name)),
    )


def run_name(what: str, settings: Settings) -> str:
    """A name for a run folder: time, what is run, target, seed."""
    target = re.sub(r"[^\w.-]+", "-", Path(settings.target).resolve().name)
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{what}-{target}-s{settings.seed}"


def usable_device(name: str) -> str:
    """The name of a usable device."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {name} is not there; PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return name


@contextmanager
def reproducible(settings: Settings) -> Iterator[None]:
    """Seeds PyTorch and sets its threads for one run, and has cuDNN choose the same kernels each time."""
    threads = torch.get_num_threads()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
