"""Which settings make two runs the same run: their hash."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, fields, replace

from .fields import Settings

NOT_HASHED = (
    *("device", "threads", "cache", "storage", "memory_budget", "val_interval", "output", "test", "report", "loggers"),
    *("profile", "compile", "cuda_graph"),
    *("resume", "checkpoint_minutes", "checkpoint_steps", "checkpoints_kept"),
)
"""Settings that say where and how something is computed, not what."""


NEUTRAL = {"optimizer": "sgd", "schedule": "cosine"}
"""Values that are left out of the hash as what is off is."""


OF_METHODS = {"rectangle_probability": ("xmixup",), "anchor": ("xmixup", "xcutmix")}
"""Settings that count for these methods alone."""


def affects_result(name: str, settings: Settings) -> bool:
    """Whether a setting can change what comes out: patience counts validations, and some settings are some methods'."""
    if name in OF_METHODS:
        return settings.method in OF_METHODS[name]
    return name not in NOT_HASHED or (name == "val_interval" and settings.patience is not None)


def run_hash(settings: Settings) -> str:
    """A hash of the settings that matter, 15 hexadecimal digits.

    Defaults are among them: where a default changes, it is another run. Settings that are off (None, False or zero)
    are left out, and those in UNSAID, so that a new setting that is off by default changes nothing.
    """
    values = asdict(replace(settings, resize=settings.resize or settings.short_side))
    values = {
        name: value
        for name, value in values.items()
        if value and value != NEUTRAL.get(name) and affects_result(name, settings)
    }
    return short_hash(json.dumps(values, sort_keys=True))


def short_hash(text: str) -> str:
    """15 hexadecimal digits: a number of 60 bits, small enough for a place in a file."""
    return hashlib.sha256(text.encode()).hexdigest()[:15]


def check_same(before: Settings, now: Settings, folder: os.PathLike[str]) -> None:
    """Raises ValueError, which names them, where settings that matter have changed since a run began."""
    changed = [
        f"{field.name} {getattr(before, field.name)} (now {getattr(now, field.name)})"
        for field in fields(Settings)
        if affects_result(field.name, now) and getattr(before, field.name) != getattr(now, field.name)
    ]
    if changed:
        raise ValueError(f"resume: the run in {os.fspath(folder)} has {', '.join(changed)}; name another output")
