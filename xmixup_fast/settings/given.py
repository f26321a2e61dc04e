"""The settings that a function of the package is given: an object, a target, names, or several of these."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from .fields import Settings
from .values import check_names


def given_settings(
    function: str,
    first: Settings | str | os.PathLike[str] | None,
    settings: Settings | None,
    overrides: Mapping[str, Any],
) -> Settings:
    """The settings of a call: ``first`` is its positional argument, ``overrides`` come on top.

    Raises TypeError for a name that is no setting, and where target or settings are given twice or not at all; and
    ValueError as :class:`Settings` does.
    """
    check_names(function, overrides, [field.name for field in fields(Settings)], TypeError)
    if isinstance(first, Settings):
        if settings is not None:
            raise TypeError(f"{function}: settings: expected one object, got two")
        first, settings = None, first
    if first is not None:
        if "target" in overrides:
            raise TypeError(f"{function}: target: expected one, got {first!r} and {overrides['target']!r}")
        overrides = {"target": first, **overrides}
    return Settings(**overrides) if settings is None else replace(settings, **overrides)
