"""What values the settings may have, alone and beside others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .values import color, parse_bytes

Settings = Any
"""The settings that are checked; their class is in fields.py, which imports this module."""

COUNTS = (
    *("epochs", "steps", "shots", "batch_size", "top_k", "top_images", "image_size", "threads", "grad_accum_steps"),
    *("val_interval", "checkpoint_steps", "checkpoints_kept", "bss_k", "rifle_periods", "patience", "source_images"),
    *("probe_images", "max_pixels", "eval_batch_size"),
)
POSITIVE = (
    *("lr", "head_lr_multiplier", "clip_grad", "alpha", "lwf_temperature", "seqtrain_share", "checkpoint_minutes"),
)
NOT_NEGATIVE = (
    *("warmup_epochs", "weight_decay", "l2sp_alpha", "l2sp_beta", "delta_alpha", "bss_eta", "source_weight"),
    *("cotuning_weight", "lwf_weight", "bituning_weight"),
)


def check(settings: Settings) -> None:
    """Raises ValueError, which names the setting, for a value that is out of its range, or does not go with others."""
    for name in COUNTS:
        _check(settings, name, "a positive number", lambda value: value >= 1)
    for name in POSITIVE:
        _check(settings, name, "a positive number", lambda value: 0 < value < float("inf"))
    for name in NOT_NEGATIVE:
        _check(settings, name, "zero or a positive number", lambda value: 0 <= value < float("inf"))
    for name in ("momentum", "label_smoothing"):
        _check(settings, name, "a number from 0 to less than 1", lambda value: 0 <= value < 1)
    for name in ("val_fraction", "test_fraction", "ema_decay"):
        _check(settings, name, "a number between 0 and 1", lambda value: 0 < value < 1)
    for name in ("lam", "mix_probability", "unmixed_share", "color_jitter_prob", "erase", "stochnorm_p"):
        _check(settings, name, "a number from 0 to 1", lambda value: 0 <= value <= 1)
    _check(settings, "layer_decay", "a number above 0, up to 1", lambda value: 0 < value <= 1)
    _check(settings, "freeze", "backbone, or a positive number", lambda value: value == "backbone" or value >= 1)
    if settings.method == "seqtrain":
        expected = "nothing or a number, as backbone leaves seqtrain's first phase nothing to learn"
        _check(settings, "freeze", expected, lambda value: value != "backbone")
    if settings.steps is None:
        _check(settings, "warmup_epochs", f"less than epochs, {settings.epochs}", lambda value: value < settings.epochs)
    _check(settings, "seed", "a number from 0 to 2**63 - 1", lambda value: 0 <= value < 2**63)
    most = f"at most batch_size, {settings.batch_size}"
    _check(settings, "grad_accum_steps", most, lambda value: value <= settings.batch_size)
    if settings.compile:
        _check(settings, "method", "another method with compile, as its hooks cannot be compiled", "delta".__ne__)
    if settings.cuda_graph:
        _check(settings, "grad_accum_steps", "nothing with cuda_graph", lambda value: value == 1)
        _check(settings, "method", "another method with cuda_graph, as its SVD waits for the device", "bss".__ne__)
        on_cuda = "auto or a CUDA device with cuda_graph"
        _check(settings, "device", on_cuda, lambda value: value == "auto" or value.startswith("cuda"))
    if settings.weights == "none":
        expected = "none with weights none, as there is no pretrained start to draw weights to"
        _check(settings, "regularizer", expected, "none".__eq__)
    _check_fold(settings)
    if settings.split_by == "order":
        expected = "run or hold with split_by order"
        _check(settings, "test", expected, "none".__ne__)
    _check_groups(settings)
    if settings.renew_batch_norm:
        for name in ("freeze", "patience", "ema_decay"):
            _check(settings, name, "nothing with renew_batch_norm", lambda value: False)
    if settings.selection == "assignment":
        _check(settings, "top_k", "1, as assignment gives each target class one source class", lambda value: value == 1)
    for name in ("memory_budget", "cache_size"):
        try:
            parse_bytes("0" if getattr(settings, name) is None else getattr(settings, name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    color("background", settings.background)
    _check_augmentation(settings)
    expected = (
        f"full, or at least image_size, {settings.image_size}" if settings.image_size else "full, or a positive number"
    )
    _check(settings, "resize", expected, lambda value: value == "full" or value >= (settings.image_size or 1))


def _check_groups(settings: Settings) -> None:
    if settings.group_by is not None or settings.group_regex is not None:
        _check(settings, "split_by", "content with group_by and group_regex", "content".__eq__)
        _check(settings, "val_fold", "none with group_by and group_regex", lambda value: False)
    if settings.group_by is not None:
        _check(settings, "group_regex", "none with group_by", lambda value: False)
    if settings.group_regex is not None:
        try:
            re.compile(settings.group_regex)
        except re.error as error:
            raise ValueError(f"group_regex: {settings.group_regex!r} is no regular expression: {error}") from None


def _check_fold(settings: Settings) -> None:
    if settings.val_fold is not None:
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", settings.val_fold)
        fits = bool(match and int(match[2]) >= 2 and 1 <= int(match[1]) <= int(match[2]))
        _check(settings, "val_fold", "a part of two or more, such as 2/5", lambda value: fits)
        _check(settings, "split_by", "content with val_fold", "content".__eq__)


def _check_augmentation(settings: Settings) -> None:
    for name, most in (("scale", 1.0), ("ratio", float("inf"))):
        if settings.crop == "random":
            _check(settings, name, "nothing with crop random", lambda value: False)
        expected = "a positive number and one no less" + ", up to 1" * (name == "scale")
        _check(settings, name, expected, lambda v, most=most: len(v) == 2 and 0 < v[0] <= v[1] <= most)  # type: ignore[misc]
    jitter = [settings.color_jitter] if isinstance(settings.color_jitter, float) else settings.color_jitter or [0.0]
    expected = "1, 3 or 4 numbers from 0 on, the fourth up to 0.5"
    fits = len(jitter) in (1, 3, 4) and all(0 <= value < float("inf") for value in jitter) and jitter[3:] <= [0.5]
    _check(settings, "color_jitter", expected, lambda value: fits)


def _check(settings: Settings, name: str, expected: str, holds: Callable[[Any], bool]) -> None:
    value = getattr(settings, name)
    if value is not None and not holds(value):
        raise ValueError(f"{name}: expected {expected}, got {value}")
