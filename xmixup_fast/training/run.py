"""fit: a training run from its start to its report, or the rest of a run that was interrupted."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..calibration import Calibration, calibrate
from ..evaluation import Evaluation
from ..models.timm_config import write_config
from ..models.trained import Preprocessing, save
from ..report.page import RunRecord, run_page
from ..runtime import distributed
from ..runtime.device import current_device, reproducible, usable_device
from ..runtime.device_asserts import named_device_asserts
from ..runtime.signals import Interrupted, catching_signals
from ..settings.fields import Settings
from ..settings.given import given_settings
from .checkpoints import Checkpoint, Checkpoints
from .given_network import named
from .head_fit import fit_head
from .images import cache_within_size
from .longer import check_not_stopped, say_what_changes, shorter_settings
from .losses import StepLoss, StepLosses, agreement_interval
from .mixing_share import batch_note
from .prepare import TrainingSetup, prepare
from .profiler import profiled
from .progress import RunState
from .resolve import resolved
from .result import Result
from .run_folder import RunFolder, owned_run_folder
from .summary import summary_of
from .trainer import Trainer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings.kwargs import SettingsKwargs


def fit(
    given: Settings | str | os.PathLike[str] | None = None,
    /,
    *,
    settings: Settings | None = None,
    **overrides: Unpack[SettingsKwargs],
) -> Result:
    """Trains a network as the settings say, and writes the run folder; ``python -m xmixup_fast.train`` does the same.

    ``fit("photos/")`` gives the target. Settings may be given as an object, by name, or both: then the names come on
    top. ``model`` may also be a network, of timm's or of an earlier run, and ``weights`` a state dict; the cache keeps
    these weights. Random numbers, threads, default dtype, gradient mode and current GPU of the caller change nothing,
    and are left alone.

    Raises TypeError for a name that is no setting; ValueError, FileNotFoundError or FileExistsError, with a message
    for the user, for settings, folders, files or weights that cannot be used, and where the loss is no longer finite;
    OSError where a checkpoint cannot be written; DeviceAssertError, a RuntimeError, for a wrong value in a CUDA tensor;
    Interrupted, a KeyboardInterrupt, on Ctrl-C and SIGTERM.
    """
    of_call = given if isinstance(given, Settings) else settings
    settings = given_settings("fit", given, settings, named("fit", of_call, overrides))
    with (
        named_device_asserts(),
        distributed.processes(),
        current_device(usable_device(settings.device)),
        reproducible(settings.seed, settings.threads, deterministic=settings.deterministic, tf32=settings.tf32),
    ):
        settings = resolved(settings)
        with owned_run_folder(settings) as run_folder, cache_within_size(settings, run_folder.log):
            return _Run.begin(settings, run_folder).complete()


@dataclass
class _Run:
    """The parts of a run, and its phases: begin, train, evaluate, summary and report."""

    settings: Settings
    """Resolved settings."""
    setup: TrainingSetup
    trainer: Trainer
    state: RunState
    run_folder: RunFolder
    checkpoints: Checkpoints
    saved_at: float = field(default=0.0, init=False)
    """When training began or a checkpoint was saved last, by the monotonic clock, in seconds."""
    refitted_accuracy: float | None = field(default=None, init=False)
    """Validation accuracy, in percent, once the final network's head has been fitted anew."""
    next_agreement: int = field(default=0, init=False)
    """The step after which the processes agree on signals and checkpoints next, the same in all of them."""

    def __post_init__(self) -> None:
        self.losses = StepLosses(self.trainer.device)

    @classmethod
    def begin(cls, settings: Settings, run_folder: RunFolder) -> _Run:
        """Makes a run ready for its next step: from the newest checkpoint of its folder, or as a new run."""
        folder, before = run_folder.folder, run_folder.settings
        shorter = None if before is None else shorter_settings(before, settings, folder)
        recorded, weights, shorter = distributed.broadcast_object(
            (run_folder.manifest, run_folder.description.get("class_weights"), shorter)
        )
        checkpoint = None
        if recorded is not None:
            checkpoints = Checkpoints.of(settings, recorded, shorter)
            newest = checkpoints.newest(run_folder.log) if distributed.rank() == 0 else None
            checkpoint = distributed.broadcast_object(newest)
            if checkpoint is None:
                run_folder.log(f"resume: {folder} has no checkpoint that can be used: the run begins anew")
        resumed = folder if checkpoint else None
        setup = prepare(settings, run_folder.log, resumed=resumed, recorded=recorded, kept_weights=weights)
        settings = settings.without_secrets()
        trainer = Trainer(setup.parts, settings)
        state = RunState.of(checkpoint, setup.images.store.bad) if checkpoint else RunState(bad=setup.bad)
        run = cls(settings, setup, trainer, state, run_folder, Checkpoints.of(settings, setup.manifest))
        if checkpoint:
            run._load(checkpoint)
            if shorter is not None:
                run._lengthen(shorter)
        else:
            run._write_first_files()
        return run

    def complete(self) -> Result:
        """Trains, evaluates, and writes all that the run folder lacks."""
        settings, run_folder, trainer = self.settings, self.run_folder, self.trainer
        profiling = settings.profile and distributed.rank() == 0
        with run_folder.logging(settings, trainer.steps_done):
            with profiled(trainer, run_folder.folder, run_folder.log) if profiling else nullcontext():
                self._train()
            self._load_best_weights()
            if settings.refit_head:
                self.state.head_seconds += fit_head(trainer, run_folder.log, final=True).seconds
            calibration = self._calibrate()
            if distributed.rank() == 0:
                network = trainer.final_network
                images = settings.crop_size, settings.resize
                save(
                    network,
                    run_folder.folder / "model.safetensors",
                    *images,
                    calibration.temperature,
                    no_temperature=calibration.why_none,
                    reading=settings.reading,
                )
                write_config(network, Preprocessing.of(network, *images, settings.reading), run_folder.folder)
            evaluation = self._evaluate(calibration.temperature)
            summary = summary_of(
                settings,
                self.setup,
                self.state,
                trainer=trainer,
                evaluation=evaluation,
                calibration=calibration,
                refitted_accuracy=self.refitted_accuracy,
            )
            try:
                self._write_results(summary, evaluation)
            finally:  # told where a file cannot be written, too
                tested = summary["test_accuracy"]
                accuracy = "not tested" if tested is None else f"test {tested:.2f} %"
                run_folder.log(f"{accuracy}  {sum(self.state.seconds):.1f} s of training  {run_folder.folder}")
        network = trainer.final_network.eval()
        network.zero_grad(set_to_none=True)  # the last step's gradients are of no use to the caller
        return Result(run_folder.folder, network, summary, self.setup.report, evaluation)

    def _load(self, checkpoint: Checkpoint) -> None:
        """Brings trainer and run folder to the checkpoint's step."""
        self.run_folder.resume(self.state.metrics)
        self.trainer.load_state_dict(checkpoint.tensors, checkpoint.step)
        self.run_folder.log(f"resuming at step {checkpoint.step} of {self.trainer.steps}")

    def _lengthen(self, shorter: Settings) -> None:
        """Has the run folder tell the new length: first a checkpoint of the longer run, which must not begin anew."""
        check_not_stopped(self.state, self.settings)
        if distributed.rank() == 0:
            self.checkpoints.save(self.state.checkpoint(self.trainer))
        self.run_folder.config(self.settings.to_yaml())
        say_what_changes(shorter, self.trainer, self.run_folder.log)

    def _write_first_files(self) -> None:
        """Writes the manifest, selection.json and batch.png."""
        setup = self.setup
        if setup.data.recorded is None:
            description = setup.data.description(self.settings, setup.manifest)
            if setup.auxiliary and setup.auxiliary.fetched:
                description["source"] = setup.auxiliary.fetched
            if setup.class_weights is not None:
                description["class_weights"] = setup.class_weights
            self.run_folder.data(setup.manifest, description)
        if setup.report is not None:
            self.run_folder.selection(setup.report)
        images, titles = setup.first_batch()
        network = setup.parts.network
        self.run_folder.batch(images, titles, network.mean, network.std, note=batch_note(self.settings))

    def _train(self) -> None:
        """Takes all steps that are left, with validations and checkpoints as the settings say.

        Raises ValueError where the loss is no longer finite, and Interrupted on SIGINT and SIGTERM, after the step at
        hand and once a checkpoint is saved.
        """
        settings, trainer, batch_size = self.settings, self.trainer, self.trainer.batch_size
        epoch_ends = self._epoch_ends()
        self.saved_at = time.monotonic()
        if trainer.steps == 0:
            self._fit_head_alone()
            return
        progress_bar = self.run_folder.progress(trainer.steps * batch_size, trainer.steps_done * batch_size)
        with progress_bar, catching_signals() as signal:
            while trainer.steps_done < trainer.steps and not self.state.stops_early(settings):
                lr = trainer.lr
                if settings.head_init == "probe" and trainer.steps_done == trainer.source_phase_steps:
                    self.state.head_seconds += fit_head(trainer, self.run_folder.log).seconds
                self._step()
                if trainer.steps_done == 1:
                    self.run_folder.config(self.settings.to_yaml())
                if trainer.steps_done in epoch_ends:
                    self._end_epoch(epoch_ends[trainer.steps_done], lr)
                self._save_checkpoint_if_due(signal() or 0)

    def _fit_head_alone(self) -> None:
        """All of a run without steps, which is shown as epoch 0; a resumed one has it done."""
        if self.state.metrics:
            return
        fitted = fit_head(self.trainer, self.run_folder.log)
        self.run_folder.config(self.settings.to_yaml())
        self.state.losses, self.state.seconds = [fitted.loss], [fitted.seconds]
        self._end_epoch(0, 0.0)
        if distributed.rank() == 0:
            self.checkpoints.save(self.state.checkpoint(self.trainer))

    def _epoch_ends(self) -> dict[int, int]:
        """The steps after which an epoch is complete, each with the epoch's number; a source phase is epoch 0."""
        first = self.trainer.source_phase_steps
        return {first: 0} | {first + step: epoch for step, epoch in self.trainer.sampler.epoch_ends().items()}

    def _step(self) -> None:
        """Takes a step; on a GPU its loss is read some steps later.

        Raises ValueError where a loss is no longer finite.
        """
        trainer = self.trainer
        with trainer.span("step"):
            self.losses.begin()
            loss = trainer.step()
            read = self.losses.end(trainer.steps_done, loss)
        self._add_losses(read)

    def _add_losses(self, losses: Sequence[StepLoss]) -> None:
        """Adds losses and durations of steps to the state, and shows them.

        Raises ValueError for a loss that is not finite.
        """
        for step, loss, seconds in losses:
            self.state.seconds.append(seconds)
            self.state.losses.append(loss)
            if not math.isfinite(loss):
                # The loss is that of the weights before the step: a checkpoint of those is of no use either.
                advice = f"try a smaller learning rate; {self.checkpoints.before(step - 1)}"
                raise ValueError(f"lr: the loss became {loss} in step {step}; {advice}")
            self.run_folder.step(self.trainer.batch_size, loss)

    def _add_all_losses(self) -> None:
        """Waits for the steps that the device has not done yet, and adds all losses."""
        self._add_losses(self.losses.read())

    def _end_epoch(self, epoch: int, lr: float) -> None:
        """Validates where a validation is due, and records the metrics of an epoch; ``lr`` is its last step's."""
        trainer, state, settings = self.trainer, self.state, self.settings
        self._add_all_losses()
        step = trainer.steps_done
        if settings.renew_batch_norm and step == trainer.steps:
            trainer.renew_statistics()
        validates = epoch % settings.val_interval == 0 or step == trainer.steps
        if validates:
            state.val_accuracy = trainer.evaluate(self.setup.images.val).accuracy
            if step > trainer.source_phase_steps or trainer.steps == 0:
                state.record_validation(state.val_accuracy, trainer, settings.keep)
        seconds = sum(state.seconds[-len(state.losses) :])
        images = len(state.losses) * trainer.batch_size if trainer.steps else len(self.setup.images.train)
        metrics = {
            "epoch": epoch,
            "step": step,
            "lr": lr,
            "train_loss": statistics.fmean(state.losses),
            "val_accuracy": round(state.val_accuracy, 4) if validates else None,
            "images_per_second": round(images / seconds, 2),
            "seconds": round(seconds, 3),
        }
        state.metrics.append(metrics)
        self.run_folder.epoch(metrics)
        state.losses = []

    def _save_checkpoint_if_due(self, signal: int) -> None:
        """Saves a checkpoint at the end, after a signal, and where the settings ask for one after this step or time.

        ``signal`` is the number of a caught signal, or 0. All processes save and stop in the same step. Losses are read
        before: one that is not finite must be found while the checkpoints before it are still there.

        Raises Interrupted where any process has caught a signal, and ValueError where a loss is no longer finite.
        """
        trainer, settings = self.trainer, self.settings
        step = trainer.steps_done
        due = settings.checkpoint_steps is not None and step % settings.checkpoint_steps == 0
        due = due or step == trainer.steps or self.state.stops_early(settings)
        if not due and step < self.next_agreement:
            return
        minutes = (time.monotonic() - self.saved_at) / 60
        step_seconds = self.state.seconds[-1] if self.state.seconds else 0.0
        minutes, signal_of_any, unfinished, step_seconds = distributed.all_reduce_max(
            minutes, signal, self.losses.unfinished(), step_seconds
        )
        self._add_losses(self.losses.read(int(unfinished)))
        self.next_agreement = step + agreement_interval(trainer.device, step_seconds)
        if due or minutes >= settings.checkpoint_minutes or signal_of_any:
            self._add_all_losses()
            if distributed.rank() == 0:
                self.checkpoints.save(self.state.checkpoint(trainer))
            self.saved_at = time.monotonic()
        if signal_of_any:
            distributed.barrier()  # torchrun ends all processes as soon as one has ended
            folder = self.run_folder.folder
            raise Interrupted(
                f"stopped after step {step} of {trainer.steps}; resume with --resume auto --output {folder}",
                int(signal_of_any),
            )

    def _load_best_weights(self) -> None:
        """With ``keep`` best: puts the weights of the best validation into the network that is tested and saved."""
        if self.state.best:
            self.trainer.final_network.load_state_dict(self.state.best)
        for line in self.state.validations(len(self.setup.images.val), self.settings.keep):
            self.run_folder.log(line)

    def _calibrate(self) -> Calibration:
        """Fits a temperature on the validation images."""
        evaluation = self.trainer.evaluate(self.setup.images.val, keep_logits=True)
        if self.settings.refit_head:
            self.refitted_accuracy = evaluation.accuracy
        assert evaluation.logits is not None
        calibration = calibrate(evaluation.logits, evaluation.labels)
        self.run_folder.log(calibration.line())
        return calibration

    def _evaluate(self, temperature: float | None) -> Evaluation | None:
        """Evaluates the test images or, without a test, the validation images; None with neither test nor report.

        Nothing else looks at the test images: all is decided by now.
        """
        setup = self.setup
        tests = self.settings.test == "run"
        if not (tests or self.settings.report):
            return None
        split, images = ("test", setup.images.test) if tests else ("val", setup.images.val)
        names = [sample.image.name for sample in setup.samples(split)]
        images = images.to(self.settings.device)
        return replace(self.trainer.evaluate(images, temperature=temperature), names=names)

    def _write_results(self, summary: dict[str, Any], evaluation: Evaluation | None) -> None:
        """Writes summary.json and, of an evaluation, evaluation.json and report.html."""
        settings, run_folder = self.settings, self.run_folder
        if evaluation:
            run_folder.evaluation("test" if settings.test == "run" else "val", evaluation)
        run_folder.summary(summary)
        if settings.report and evaluation and distributed.rank() == 0:
            run_folder.report(run_page(self._record(summary, evaluation)))

    def _record(self, summary: dict[str, Any], evaluation: Evaluation) -> RunRecord:
        """What the report shows."""
        setup = self.setup
        return RunRecord(
            folder=self.run_folder.folder,
            batch_note=batch_note(self.settings),
            settings=self.settings,
            summary=summary,
            metrics=self.state.metrics,
            evaluation=evaluation,
            images=setup.images.test if self.settings.test == "run" else setup.images.val,
            data=self.run_folder.description,
            target=setup.target,
            source=setup.source,
            selection=setup.selection,
        )
