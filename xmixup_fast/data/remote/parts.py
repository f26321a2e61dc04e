"""One large tar in parts, as split makes them: NAME.tar.001, .tar.002 ... or NAME.tar.aa, .tar.ab ..."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import count, pairwise, product, takewhile
from string import ascii_lowercase

_PART = re.compile(r"(?P<stem>.*\.tar\.?)(?P<end>\d+|(?![bglx]z$)[a-z]{2})$", re.IGNORECASE | re.DOTALL)
"""How parts are named; not .tar.gz."""
_LETTERS = ["".join(pair) for pair in product(ascii_lowercase, repeat=2)]


def parts_of(paths: Sequence[str]) -> list[str]:
    """The paths that are named like parts, in the order of their numbers."""
    return sorted((path for path in paths if _PART.match(path)), key=lambda path: (_stem(path), _number(path)))


def all_parts(parts: Sequence[str], exists: Callable[[str], bool]) -> list[str]:
    """All parts of a tar, in order: those that were found or, where one was named, those that follow it as well.

    Args:
        parts: what ``parts_of`` returns; at least one.
        exists: says whether a path is there.

    Raises ValueError for parts of several tars, and FileNotFoundError where one is missing before another.
    """
    if len(stems := {_stem(part) for part in parts}) > 1:
        raise ValueError(f"{', '.join(f'{one}*' for one in sorted(stems))}: several tars in parts: name one of them so")
    found = list(parts)
    if len(parts) == 1:
        more = (_numbered(parts[0], number) for number in count(_number(parts[0]) + 1))
        found += takewhile(exists, more)
        if exists(_numbered(found[-1], _number(found[-1]) + 2)):
            raise _missing(_numbered(found[-1], _number(found[-1]) + 1), parts[0])
    first = _number(found[0])
    if first > (0 if _end(found[0]).isalpha() else 1):
        raise _missing(_numbered(found[0], first - 1), found[0])
    for one, other in pairwise(found):
        if _number(other) != _number(one) + 1:
            raise _missing(_numbered(one, _number(one) + 1), other)
    return found


def _missing(path: str, other: str) -> FileNotFoundError:
    return FileNotFoundError(f"{path}: no such file, but {other} is there: expected all parts of the tar, in one place")


def _stem(path: str) -> str:
    return path[: -len(_end(path))]


def _end(path: str) -> str:
    found = _PART.match(path)
    assert found is not None
    return found["end"]


def _number(path: str) -> int:
    """The number of a part; that of aa is 0."""
    end = _end(path)
    return int(end) if end.isdecimal() else _LETTERS.index(end.lower())


def _numbered(path: str, number: int) -> str:
    """The path of another part of the same tar."""
    end = _end(path)
    if end.isdecimal():
        return f"{_stem(path)}{number:0{len(end)}d}"
    letters = _LETTERS[number % len(_LETTERS)]
    return _stem(path) + (letters.upper() if end.isupper() else letters)
