"""RunFolder: the files of a run, and its lines and progress bar on the console."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.manifest import Manifest
from ..evaluation import Evaluation
from ..report import figures
from ..runtime import distributed
from ..runtime.claims import claimed
from ..runtime.files import check_writable, write_json, write_text
from ..runtime.progress import Progress
from ..settings.fields import Settings
from ..settings.yaml_file import read
from .loggers import LOGGERS, Logger, logger_names

MANIFEST, DATA = "manifest.csv", "data.json"
FIRST_FILES = (MANIFEST, DATA, "selection.json", "batch.png", "tensorboard", "wandb", "wandb.json")
"""What is in the folder before the first step, logs of the loggers among it."""
PICTURE_IMAGES = 16
"""Images of the first batch that batch.png shows."""


class RunFolder:
    """The folder of one run, and its output on the console.

    Writes manifest.csv, data.json, config.yaml, selection.json, batch.png, metrics.jsonl, metrics.csv, summary.json,
    evaluation.json and report.html, each of which appears whole or not at all. The constructor writes nothing.

    Raises FileExistsError where the folder already holds a run and ``resume`` is False, and ValueError where the run
    has no manifest.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        config = folder / "config.yaml"
        if config.exists() and not resume:
            raise FileExistsError(
                f"output: {folder} already holds a run; name another folder, remove it, or go on with --resume auto"
            )
        self.folder = folder
        self.settings = read(config) if config.exists() else None
        """The settings of the run that the folder holds; None where it holds none."""
        self.manifest: Manifest | None = None
        """The images of the run that the folder holds; None where it holds none."""
        self.description: dict[str, Any] = {}
        """The content of data.json; empty before it is written."""
        if self.settings is not None:
            self.manifest, self.description = read_data(folder)
        self._metrics: list[dict[str, Any]] = []
        self._loggers: list[Logger] = []
        self._bar: Progress | None = None
        self._postfix = {"loss": "", "validation": ""}

    def log(self, text: str) -> None:
        """Prints a line on stdout, above the progress bar where there is one."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def config(self, text: str) -> None:
        """Writes config.yaml, which takes the folder: after the first step, so that no failure before does."""
        write_text(self.folder / "config.yaml", text)

    def data(self, manifest: Manifest, description: dict[str, Any]) -> None:
        """Writes manifest.csv and data.json."""
        self.description = description
        manifest.write(self.folder / MANIFEST)
        write_json(self.folder / DATA, description)

    def selection(self, selection: dict[str, Any]) -> None:
        """Writes selection.json."""
        write_json(self.folder / "selection.json", selection)

    def batch(
        self,
        inputs: Sequence[Tensor],
        titles: Sequence[Sequence[str]],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        note: str | None,
    ) -> None:
        """Writes batch.png: the first images of each batch with their titles, and a note below.

        Batches are float[B, 3, H, W], normalised with ``mean`` and ``std`` of each channel.
        """
        count = min(PICTURE_IMAGES // len(inputs), len(inputs[0]))
        pixels = torch.cat([images[:count] for images in inputs]).cpu().permute(0, 2, 3, 1)
        pixels = (pixels * torch.tensor(std) + torch.tensor(mean)).clamp(0, 1)
        captions = [title for batch in titles for title in batch[:count]]
        figures.save(figures.image_grid(pixels, captions, note), self.folder / "batch.png")

    @contextmanager
    def logging(self, settings: Settings, step: int) -> Iterator[None]:
        """Context in which metrics go to the settings' loggers. ``step`` is where the run is resumed, or 0."""
        try:
            for name in logger_names(settings):
                self._loggers.append(LOGGERS[name](self.folder, settings, step))
            yield
        finally:
            for logger in self._loggers:
                logger.close()
            self._loggers = []

    @contextmanager
    def progress(self, images: int, done: int = 0) -> Iterator[None]:
        """Context with a progress bar, or with lines of progress where stderr is no terminal.

        ``images`` is the number of images of the whole run, ``done`` the number seen before.
        """
        with Progress(images, "training", done=done) as self._bar:
            yield
        self._bar = None

    def step(self, images: int, loss: float) -> None:
        """Advances the progress bar by a step of so many images, and shows its loss."""
        assert self._bar is not None
        self._postfix["loss"] = f"{loss:.3f}"
        self._bar.update(images, **{name: value for name, value in self._postfix.items() if value})

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl and metrics.csv, sends it to the loggers, and prints it with the time left."""
        self._metrics.append(metrics)
        self._write_metrics()
        self._log(metrics)
        validation = ""
        if metrics["val_accuracy"] is not None:
            self._postfix["validation"] = f"{metrics['val_accuracy']:.2f} %"
            validation = f"validation {self._postfix['validation']}  "
        # At the average pace of this process, validations included.
        left = f"  {self._bar.time_left()} left" if self._bar and self._bar.time_left() else ""
        self.log(
            f"epoch {metrics['epoch']:3d}  step {metrics['step']:5d}  loss {metrics['train_loss']:.3f}  "
            f"{validation}{metrics['images_per_second']:.1f} images/s{left}"
        )

    def resume(self, metrics: Sequence[dict[str, Any]]) -> None:
        """Replaces all lines of metrics by those of the checkpoint: a killed run may have written later ones."""
        self._metrics = list(metrics)
        self._write_metrics()
        accuracies = [line["val_accuracy"] for line in metrics if line["val_accuracy"] is not None]
        self._postfix["validation"] = f"{accuracies[-1]:.2f} %" if accuracies else ""

    def evaluation(self, split: str, evaluation: Evaluation) -> None:
        """Writes evaluation.json: the name of the split, and the evaluation of its images."""
        write_json(self.folder / "evaluation.json", {"split": split, **evaluation.to_json()})

    def report(self, page: str) -> None:
        """Writes report.html."""
        write_text(self.folder / "report.html", page)

    def summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, and sends the test accuracy to the loggers."""
        write_json(self.folder / "summary.json", summary)
        self._log({"step": summary["steps"] + 1, "test_accuracy": summary["test_accuracy"]})

    def _write_metrics(self) -> None:
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self._metrics))
        table = io.StringIO()
        names = list(dict.fromkeys(name for line in self._metrics for name in line))
        writer = csv.DictWriter(table, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._metrics)
        write_text(self.folder / "metrics.csv", table.getvalue())

    def _log(self, metrics: dict[str, Any]) -> None:
        values = {name: value for name, value in metrics.items() if name != "step" and value is not None}
        for logger in self._loggers:
            logger.log(values, metrics["step"])


def read_data(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    """The manifest and data.json of a run.

    Raises ValueError where they are missing, as in runs of earlier versions, or where the manifest is not what the run
    wrote.
    """
    for name in (MANIFEST, DATA):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder}: has no {name}: restore it; or, if an earlier version made the run, train anew, to another "
                f"output, or give {folder / 'model.safetensors'} alone"
            )
    description: dict[str, Any] = json.loads((folder / DATA).read_text(encoding="utf-8"))
    manifest = Manifest.read(folder / MANIFEST)
    if manifest.fingerprint != description["fingerprint"]:
        raise ValueError(f"{folder / MANIFEST}: is not what the run wrote, as {DATA} tells; restore it")
    return replace(manifest, order=list(description["classes"])), description


def data_beside(weights: Path) -> tuple[Manifest, dict[str, Any]] | None:
    """The manifest and data.json of the run that weights belong to; None for weights outside of a run folder.

    Raises ValueError for the folder of a run of an earlier version.
    """
    if weights.is_dir():
        return read_data(weights)
    return read_data(weights.parent) if (weights.parent / MANIFEST).is_file() else None


@contextmanager
def owned_run_folder(settings: Settings) -> Iterator[RunFolder]:
    """Context with the folder ``output`` of a run, which no other run can use meanwhile.

    Of a new run that fails before its first step nothing stays. Processes but rank 0 get a folder that writes nothing.

    Raises FileExistsError where another run is using the folder, and what :class:`RunFolder` raises; OSError where the
    folder cannot be written to.
    """
    folder, resume = Path(str(settings.output)), settings.resume == "auto"
    check_writable(folder)
    if distributed.rank() > 0:
        yield NullRunFolder(folder, resume)
        return
    with claimed(folder) as warning:
        run_folder = RunFolder(folder, resume)
        if warning is not None:
            run_folder.log(warning)
        before = set(os.listdir(folder))
        try:
            yield run_folder
        except BaseException:
            if not (folder / "config.yaml").exists():
                _remove([folder / name for name in FIRST_FILES if name not in before])
            raise


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class NullRunFolder(RunFolder):
    """A run folder that writes and prints nothing, for all processes but rank 0."""

    def __init__(self, folder: Path, resume: bool = False) -> None:
        self.folder = folder
        self.settings = None
        self.manifest = None
        self.description = {}

    @contextmanager
    def _empty_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Takes the place of every context."""
        yield

    def _do_nothing(self, *args: Any, **kwargs: Any) -> None:
        """Takes the place of every other method."""

    logging = progress = _empty_context
    log = data = config = selection = batch = step = epoch = resume = evaluation = report = summary = _do_nothing
