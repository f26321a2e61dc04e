"""Values of settings: their types, their names, and amounts of memory."""

from __future__ import annotations

import difflib
import os
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal


def check_names(where: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raises ValueError, with the nearest known name, for a name that is no setting."""
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"{where}: {name} is no setting" + (f"; did you mean {close[0]}?" if close else ""))


def as_type(name: str, value: Any, hint: Any) -> Any:
    """The value as its setting's type; ValueError where it is of another."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        # A list is meant where one is given; an empty one falls through to the error.
        lists = [option for option in typing.get_args(hint) if typing.get_origin(option) is list]
        if lists and isinstance(value, list | tuple) and value:
            return [as_type(name, item, typing.get_args(lists[0])[0]) for item in value]
        words = [option for option in typing.get_args(hint) if typing.get_origin(option) is Literal]
        if words and isinstance(value, str):
            return as_type(name, value, words[0])
        hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
    if typing.get_origin(hint) is Literal:
        options = typing.get_args(hint)
        if value not in options:
            raise ValueError(f"{name}: expected one of {', '.join(options)}, got {value!r}")
        return value
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        # YAML reads 1e-4, which has no point, as text.
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{name}: expected {hint.__name__}, got {value!r}")
    return value


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


_NAMES = {10: "KiB", 20: "MiB", 30: "GiB"}


def parse_bytes(text: str) -> int:
    """Bytes of an amount such as 4GiB, 500MB or 1.5G. Raises ValueError for other texts."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*((?:[KMGT]I?)?)B?\s*", text.upper())
    if not match:
        raise ValueError(f"expected an amount such as 4GiB or 500MB, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def format_bytes(count: int) -> str:
    """An amount in KiB, in MiB from one on, or in GiB from one on."""
    unit = next((unit for unit in (30, 20) if count >= 2**unit), 10)
    return f"{count / 2**unit:.1f} {_NAMES[unit]}"
