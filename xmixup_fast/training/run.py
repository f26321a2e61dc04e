"""fit: a whole run, or the rest of one."""

from __future__ import annotations

import math
import platform
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch

from ..data import bad_files
from ..evaluation import Evaluation
from ..models.network import Network
from ..models.trained import save
from ..ops.image_pool import Images
from ..report.page import RunRecord, run_page
from ..runtime import distributed
from ..runtime.device import reproducible
from ..runtime.extension import __version__
from ..runtime.files import check_writable
from ..runtime.signals import Interrupted, catching_signals
from ..settings.fields import Settings
from ..settings.identity import check_same, run_hash
from ..settings.values import check_names
from .checkpoints import Checkpoints
from .prepare import TrainingSetup, prepare
from .profiler import profiled
from .progress import RunState
from .resolve import resolved
from .run_folder import NullRunFolder, RunFolder
from .trainer import Trainer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings.kwargs import SettingsKwargs


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    folder: Path
    """The run folder."""
    network: Network
    """The trained network; its average, with ema_decay."""
    summary: dict[str, Any]
    """What summary.json holds."""
    selection: dict[str, Any] | None
    """What selection.json holds; None for a method without a source."""
    evaluation: Evaluation | None
    """Of the test images; without a test, of the validation images; None with neither test nor report."""


def fit(settings: Settings | None = None, **overrides: Unpack[SettingsKwargs]) -> Result:
    """Trains a network as the settings say, and writes the run folder; ``python -m xmixup_fast.train`` does the same.

    Settings may be given as an object, by name, or both: then the names come on top. Random numbers and threads of the
    caller are left as they were.

    Raises TypeError for a name that is no setting; ValueError, FileNotFoundError or FileExistsError, with a message
    for the user, for settings, folders, files or weights that cannot be used, and where the loss is no longer finite;
    OSError where a checkpoint cannot be written; Interrupted, a KeyboardInterrupt, on Ctrl-C and SIGTERM.
    """
    check_names("fit", overrides, [field.name for field in fields(Settings)], TypeError)
    settings = Settings(**overrides) if settings is None else replace(settings, **overrides)
    with distributed.processes(), reproducible(settings.seed, settings.threads):
        return _run(resolved(settings))


def _run(settings: Settings) -> Result:
    """A run with resolved settings, or the rest of one."""
    folder = Path(str(settings.output))
    recorder: RunFolder = (RunFolder if distributed.rank() == 0 else NullRunFolder)(
        folder, resume=settings.resume == "auto"
    )
    check_writable(folder)
    if recorder.settings is not None:
        check_same(recorder.settings, settings, folder)
    checkpoints = Checkpoints(folder / "checkpoints", run_hash(settings), settings.checkpoints_kept)
    checkpoint = distributed.broadcast_object(checkpoints.newest(recorder.log) if distributed.rank() == 0 else None)
    run = prepare(settings, recorder.log, folder if checkpoint else None)
    trainer = Trainer(run.network, run.method, run.sampler, run.renderer, settings)
    progress = RunState(bad=run.bad)
    if checkpoint:
        progress = RunState.of(checkpoint, run.bad)
        recorder.resume(progress.metrics)
        trainer.load_state_dict(checkpoint.tensors, checkpoint.step)
        recorder.log(f"going on after step {checkpoint.step} of {trainer.steps}")
    else:
        recorder.config(settings.to_yaml())
        if run.report is not None:
            recorder.selection(run.report)
        recorder.batch(*run.first_batch(), run.network.mean, run.network.std)
    profiling = settings.profile and distributed.rank() == 0
    with recorder.logging(settings, trainer.steps_done):
        with profiled(trainer, folder, recorder.log) if profiling else nullcontext():
            _train(trainer, run.val, settings, progress, recorder, checkpoints)
        if progress.best:
            trainer.final_network.load_state_dict(progress.best)
            kept = f"kept the weights after step {progress.best_step}, validation {progress.best_accuracy:.2f} %"
            recorder.log(kept)
        if distributed.rank() == 0:
            save(trainer.final_network, folder / "model.safetensors", settings.image_size, settings.resize)
        return _finish(trainer, run, settings, progress, recorder)


def _finish(
    trainer: Trainer, run: TrainingSetup, settings: Settings, progress: RunState, recorder: RunFolder
) -> Result:
    """What comes after training: the test, the summary and the report."""
    evaluation = None
    # The test images are not looked at before all is decided.
    split = "test" if settings.test else "val"
    images = run.test if settings.test else run.val
    if settings.test or settings.report:
        names = [sample.image.name for sample in run.samples(split)]
        evaluation = replace(trainer.examine(images.to(settings.device)), names=names)
        recorder.evaluation(split, evaluation)
    test_accuracy = evaluation.accuracy if settings.test and evaluation else None
    summary = {
        "method": settings.method,
        "target": settings.target,
        "source": settings.source if run.report else None,
        "model": settings.model,
        "weights": settings.weights,
        "seed": settings.seed,
        "selection": run.report["how"] if run.report else None,
        "ema_decay": settings.ema_decay,
        "steps": trainer.steps_done,
        "kept": {"weights": "best" if progress.best else "last", "step": progress.best_step or trainer.steps_done},
        "images_seen": trainer.steps_done * settings.batch_size,
        "num_train": len(run.train),
        "num_val": len(run.val),
        "num_test": len(run.test),
        "bad_files": bad_files.to_json(progress.bad),
        "val_accuracy": round(progress.best_accuracy if progress.best else progress.val_accuracy, 4),
        "test_accuracy": None if test_accuracy is None else round(test_accuracy, 4),
        "train_seconds": round(sum(progress.seconds), 3),
        "seconds_per_step": round(statistics.median(progress.seconds), 6),
        "selection_seconds": round(run.selection_seconds, 3),
        "versions": {
            "xmixup_fast": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }
    recorder.summary(summary)
    if settings.report and evaluation and distributed.rank() == 0:
        record = RunRecord(
            folder=recorder.folder,
            settings=settings,
            summary=summary,
            metrics=progress.metrics,
            evaluation=evaluation,
            images=images,
            target=run.target,
            source=run.source,
            selection=run.selection,
        )
        recorder.report(run_page(record))
    tested = "not tested" if test_accuracy is None else f"test {test_accuracy:.2f} %"
    recorder.log(f"{tested}  {sum(progress.seconds):.1f} s of training  {recorder.folder}")
    return Result(recorder.folder, trainer.final_network, summary, run.report, evaluation)


def _train(
    trainer: Trainer, val: Images, settings: Settings, progress: RunState, recorder: RunFolder, checkpoints: Checkpoints
) -> None:
    """All steps to come, with validations and checkpoints as the settings say.

    Raises Interrupted on SIGINT and SIGTERM, once a checkpoint is saved.
    """
    batch_size, first = trainer.batch_size, trainer.source_phase_steps
    ends = {first: 0} | {first + step: epoch for step, epoch in trainer.sampler.epoch_ends().items()}
    saved = time.monotonic()
    with recorder.progress(trainer.steps * batch_size, trainer.steps_done * batch_size), catching_signals() as signal:
        while trainer.steps_done < trainer.steps and not progress.is_over(settings):
            lr = trainer.lr
            started = time.perf_counter()
            with trainer.span("step"):
                mine = float(trainer.step())  # waits for the device, so that the time is the step's
                (loss,) = distributed.all_reduce_sum(mine)
                progress.seconds.append(time.perf_counter() - started)
            progress.losses.append(loss)
            step = trainer.steps_done
            if not math.isfinite(loss):
                # The loss of a step tells of the weights after the one before it.
                good = checkpoints.before(step - 1)
                raise ValueError(f"lr: the loss became {loss} in step {step}; try a smaller learning rate; {good}")
            recorder.step(batch_size, loss)
            if step in ends:
                validated = ends[step] % settings.val_interval == 0 or step == trainer.steps
                if validated:
                    progress.val_accuracy = trainer.evaluate(val)
                    if settings.patience and step > first:
                        progress.validated(progress.val_accuracy, trainer)
                spent = sum(progress.seconds[-len(progress.losses) :])
                metrics = {
                    "epoch": ends[step],
                    "step": step,
                    "lr": lr,
                    "train_loss": statistics.fmean(progress.losses),
                    "val_accuracy": round(progress.val_accuracy, 4) if validated else None,
                    "images_per_second": round(len(progress.losses) * batch_size / spent, 2),
                    "seconds": round(spent, 3),
                }
                progress.metrics.append(metrics)
                recorder.epoch(metrics)
                progress.losses = []
            due = settings.checkpoint_steps is not None and step % settings.checkpoint_steps == 0
            late = time.monotonic() - saved >= 60 * settings.checkpoint_minutes
            save, number = map(int, distributed.all_reduce_max(due or late, signal() or 0))
            if save or number or step == trainer.steps or progress.is_over(settings):
                if distributed.rank() == 0:
                    checkpoints.save(progress.checkpoint(trainer))
                saved = time.monotonic()
            if number:
                distributed.barrier()  # torchrun ends all processes as soon as one has ended
                raise Interrupted(
                    f"stopped after step {step} of {trainer.steps}; --resume auto --output {recorder.folder} goes on",
                    number,
                )
