"""Which settings make two runs the same run: their hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace

from .fields import Settings

NOT_HASHED = (
    "fetch_anyway",
    "yes",
    "device",
    "threads",
    "cache",
    "cache_size",
    "storage",
    "memory_budget",
    "eval_batch_size",
    "val_interval",
    "output",
    "report",
    "loggers",
    "profile",
    "compile",
    "cuda_graph",
    "deterministic",
    "resume",
    "data_changed",
    "near_duplicates",
    "checkpoint_minutes",
    "checkpoint_steps",
    "checkpoints_kept",
)
"""Settings that decide where and how a run is computed, not what it computes."""

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "source_images": (100,),
    "sampler": ("shuffle",),
    "crop": ("random",),
    "color_jitter_prob": (1.0,),
    "erase_fill": ("mean",),
    "keep": ("last",),
    "optimizer": ("sgd",),
    "schedule": ("cosine",),
    "regularizer": ("none",),
    "source_head": ("classifier",),
    "head_init": ("fresh",),
    "lam": (),
    "lwf_weight": (1.0,),
    "lwf_temperature": (2.0,),
    "stochnorm_p": (0.5,),
    "bituning_weight": (1.0,),
    "split_by": ("order",),
    "test": ("run", "hold"),
    "duplicates": ("warn",),
    "tf32": ("convolutions",),
    "background": ("white",),
    "bit_range": ("full",),
}
"""Neutral values of these settings, besides None; of all others False and zero are neutral. Whether images that are put
aside are looked at changes no run."""


def affects_result(name: str, settings: Settings) -> bool:
    """Whether a setting can change the outcome of a run.

    The validation interval can where patience counts in it, or where the weights of the best validation are kept.
    """
    validations_count = settings.patience is not None or settings.keep == "best"
    return name not in NOT_HASHED or (name == "val_interval" and validations_count)


def run_hash(settings: Settings) -> str:
    """A hash of all settings that affect the result, 15 hexadecimal digits.

    Defaults are hashed, so that a run with a default of before is another run once the default changes. A setting at
    its neutral value (None, False, zero, or the one in NEUTRAL) is left out, so that a new setting which is neutral by
    default changes no hash. Without an image size, the network's own, the hash knows the network alone.
    """
    settings = settings.without_secrets()
    if settings.image_size is not None:
        settings = replace(settings, resize=settings.resize or settings.short_side)
    given = asdict(settings)
    values = {
        name: value for name, value in given.items() if not _is_neutral(name, value) and affects_result(name, settings)
    }
    return short_hash(json.dumps(values, sort_keys=True))


def _is_neutral(name: str, value: object) -> bool:
    """Whether a value leaves a run what it was before there was the setting. A zero that is not neutral counts."""
    return value is None or value in NEUTRAL[name] if name in NEUTRAL else not value


def short_hash(text: str) -> str:
    """The first 60 bits of the SHA-256 of a text, 15 hexadecimal digits: small enough for an offset in a lock file."""
    return hashlib.sha256(text.encode()).hexdigest()[:15]


def check_same(before: Settings, now: Settings, folder: os.PathLike[str]) -> None:
    """Raises ValueError, which names them, where settings that affect the result have changed since a run began.

    The spelling of the target may change: the run's manifest tells whether its images have.
    """
    before, now = before.without_secrets(), now.without_secrets()
    changed = []
    for name in (field.name for field in fields(Settings)):
        old, new = getattr(before, name), getattr(now, name)
        is_same = old == new or (old in NEUTRAL.get(name, ()) and new in NEUTRAL.get(name, ()))
        if name != "target" and affects_result(name, now) and not is_same:
            changed.append(f"{name} {old} (now {new})")
    if changed:
        raise ValueError(f"resume: the run in {os.fspath(folder)} has {', '.join(changed)}; name another output")
