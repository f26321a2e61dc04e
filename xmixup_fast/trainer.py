"""Trainer: the training step and evaluation; and fit, which makes a whole run of them."""

from __future__ import annotations

import math
import platform
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from . import __version__, models
from .files import default_cache
from .methods import METHODS, Method
from .models import Network
from .pool import Images
from .preparation import prepare
from .recorder import Recorder
from .rendering import Renderer
from .sampling import Draw, Sampler
from .settings import Settings


class Trainer:
    """Trains a network with a method: SGD with Nesterov momentum and a cosine to zero over each phase's steps."""

    def __init__(
        self, network: Network, method: Method, sampler: Sampler, renderer: Renderer, settings: Settings
    ) -> None:
        self.network = network.train()
        self.method = method
        self.sampler = sampler
        self.renderer = renderer
        self.batch_size = settings.batch_size
        self.steps_done = 0
        self.first_steps = method.first_steps(sampler.steps)
        self.steps = self.first_steps + sampler.steps
        """Of the whole run."""
        self._draws = self._draws_from_here()
        pretrained, new = network.parameter_groups()
        groups: list[dict[str, Any]] = [
            {"params": pretrained},
            {"params": new, "lr": settings.lr * settings.head_lr_multiplier},
        ]
        self.optimizer = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=method.weight_decay,
            nesterov=settings.momentum > 0,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def step(self) -> Tensor:
        """Draws, mixes, and updates the network once. Returns the loss, a detached scalar on the network's device."""
        draw = next(self._draws)
        self.method.before_step(self.network, self.optimizer, self.steps_done, self.sampler.steps)
        loss = self.method.loss(self.network, self.method.inputs(draw, self.renderer), draw)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.steps_done += 1
        return loss.detach()

    def _draws_from_here(self) -> Iterator[Draw]:
        steps = range(self.steps_done, self.steps)
        yield from self.renderer.feed(self.method.draw(self.sampler, step) for step in steps)

    def _rate(self, step: int) -> float:
        """The learning rate of a step, as a part of the first one's."""
        done = step / self.first_steps if step < self.first_steps else (step - self.first_steps) / self.sampler.steps
        return (1 + math.cos(math.pi * done)) / 2

    @torch.no_grad()
    def evaluate(self, images: Images) -> float:
        """Accuracy on unmixed centre crops, in percent."""
        self.network.eval()
        correct = sum(
            int((self.network(batch).argmax(1) == labels).sum())
            for batch, labels in self.renderer.batches(images, self.batch_size)
        )
        self.network.train()
        return 100 * correct / len(images)


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
        return _run(resolved(settings))


def _run(settings: Settings) -> Result:
    """A run with resolved settings."""
    recorder = Recorder(Path(str(settings.output)))
    run = prepare(settings, recorder.say)
    recorder.config(settings.to_yaml())
    if run.report is not None:
        recorder.selection(run.report)
    recorder.batch(*run.first_batch(), run.network.mean, run.network.std)
    trainer = Trainer(run.network, run.method, run.sampler, run.renderer, settings)
    seconds, val_accuracy = _train(trainer, run.val, settings.val_interval, recorder)
    models.save(run.network, recorder.folder / "model.safetensors", settings.image_size)

    # The test images are not looked at before all is decided.
    test_accuracy = trainer.evaluate(run.test.to(settings.device)) if settings.test else None
    summary = {
        "method": settings.method,
        "target": settings.target,
        "source": settings.source if run.report else None,
        "model": settings.model,
        "weights": settings.weights,
        "seed": settings.seed,
        "selection": run.report["how"] if run.report else None,
        "steps": trainer.steps,
        "images_seen": trainer.steps * settings.batch_size,
        "num_train": len(run.train),
        "num_val": len(run.val),
        "num_test": len(run.test),
        "bad_files": {"count": len(run.bad), "files": [item._asdict() for item in run.bad]},
        "val_accuracy": round(val_accuracy, 4),
        "test_accuracy": None if test_accuracy is None else round(test_accuracy, 4),
        "train_seconds": round(sum(seconds), 3),
        "seconds_per_step": round(statistics.median(seconds), 6),
        "selection_seconds": round(run.selection_seconds, 3),
        "versions": {
            "xmixup_fast": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }
    recorder.summary(summary)
    tested = "not tested" if test_accuracy is None else f"test {test_accuracy:.2f} %"
    recorder.say(f"{tested}  {sum(seconds):.1f} s of training  {recorder.folder}")
    return Result(recorder.folder, run.network, summary, run.report)


def _train(trainer: Trainer, val: Images, val_interval: int, recorder: Recorder) -> tuple[list[float], float]:
    """All steps, with a validation after every ``val_interval`` epochs, a first phase being epoch 0, and at the end.

    Returns the seconds of each step, and the last accuracy.
    """
    batch_size, first = trainer.batch_size, trainer.first_steps
    ends = {first: 0} | {first + step: epoch for step, epoch in trainer.sampler.epoch_ends().items()}
    seconds: list[float] = []
    losses: list[float] = []
    val_accuracy = 0.0
    with recorder.progress(trainer.steps * batch_size):
        for step in range(1, trainer.steps + 1):
            lr = trainer.optimizer.param_groups[0]["lr"]
            started = time.perf_counter()
            loss = float(trainer.step())  # waits for the device, so that the time is the step's
            seconds.append(time.perf_counter() - started)
            losses.append(loss)
            if not math.isfinite(loss):
                raise ValueError(f"lr: the loss became {loss} in step {step}; try a smaller learning rate")
            recorder.step(batch_size, loss)
            if step in ends:
                validated = ends[step] % val_interval == 0 or step == trainer.steps
                if validated:
                    val_accuracy = trainer.evaluate(val)
                spent = sum(seconds[-len(losses) :])
                recorder.epoch(
                    {
                        "epoch": ends[step],
                        "step": step,
                        "lr": lr,
                        "train_loss": statistics.fmean(losses),
                        "val_accuracy": round(val_accuracy, 4) if validated else None,
                        "images_per_second": round(len(losses) * batch_size / spent, 2),
                        "seconds": round(spent, 3),
                    }
                )
                losses = []
    return seconds, val_accuracy


def resolved(settings: Settings) -> Settings:
    """The settings with every default that depends on others, on the machine or on the time filled in."""
    if METHODS[settings.method].uses_source and settings.source is None:
        raise ValueError(f"source: {settings.method} needs a folder of auxiliary images, got none")
    name = run_name(settings.method, settings)
    return replace(
        settings,
        resize=settings.resize or settings.short_side,
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
