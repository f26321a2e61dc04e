"""summary.json: a run in figures."""

from __future__ import annotations

import platform
import statistics
from typing import Any

import timm
import torch

from ..calibration import Calibration
from ..data import bad_files
from ..evaluation import Evaluation
from ..runtime.extension import __version__
from ..settings.fields import Settings
from .prepare import TrainingSetup
from .progress import RunState
from .trainer import Trainer


def summary_of(
    settings: Settings,
    setup: TrainingSetup,
    state: RunState,
    *,
    trainer: Trainer,
    evaluation: Evaluation | None,
    calibration: Calibration,
    refitted_accuracy: float | None,
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        settings: of the run.
        setup: of the run.
        state: after the last step.
        trainer: after the last step.
        evaluation: of test images, or of validation images where the run does not test; None without one.
        calibration: of the validation images.
        refitted_accuracy: validation accuracy of a head that was fitted anew at the end, in percent; None without one.
    """
    steps, is_best = trainer.steps_done, settings.keep == "best"
    kept_accuracy = state.best_accuracy if is_best else state.val_accuracy
    return {
        "method": settings.method,
        "target": settings.target,
        "data": setup.data.listing,
        "source": settings.source if setup.report else None,
        "model": settings.model,
        "weights": settings.weights,
        "seed": settings.seed,
        "selection": setup.report["how"] if setup.report else None,
        "ema_decay": settings.ema_decay,
        "steps": steps,
        "kept": {"weights": settings.keep, "step": state.best_step if is_best else steps},
        "images_seen": steps * settings.batch_size,
        "num_train": len(setup.images.train),
        "num_val": len(setup.images.val),
        "num_test": len(setup.samples("test")),
        "bad_files": bad_files.to_json(state.bad),
        "val_accuracy": round(kept_accuracy if refitted_accuracy is None else refitted_accuracy, 4),
        "best_val_accuracy": round(state.best_accuracy, 4),
        "last_val_accuracy": round(state.val_accuracy, 4),
        "test_accuracy": round(evaluation.accuracy, 4) if settings.test == "run" and evaluation else None,
        **setup.source_accuracies(trainer.final_network),
        "train_seconds": round(sum(state.seconds) + state.head_seconds, 3),
        "seconds_per_step": round(statistics.median(state.seconds), 6),
        "selection_seconds": round(setup.selection_seconds, 3),
        "versions": {
            "xmixup_fast": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
        "calibration": calibration.to_json(),
    }
