"""How files that cannot be used are reported, refused or left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from .dataset import BadFile, Sample

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
LISTED = 10
"""As many lines of one kind a message lists."""


def refuse_bad_files(bad: Iterable[BadFile], policy: str, effect: str = "trains without them") -> list[BadFile]:
    """Returns each bad file once, in order, where the policy is "skip".

    Raises ValueError with the message of :func:`list_bad` where there are bad files and the policy is "error".
    """
    each = list(dict.fromkeys(bad))
    if each and policy == "error":
        raise ValueError(list_bad(each, effect))
    return each


def list_bad(bad: Sequence[BadFile], effect: str = "trains without them") -> str:
    """A message that lists the first bad files, and how many more there are.

    ``effect`` says what the command does with ``--bad-files skip``.
    """
    lines = [
        f"{_count(bad)}; --bad-files skip {effect}:",
        *first_lines([said(item) for item in bad]),
    ]
    return "\n  ".join(lines)


def said(bad: BadFile) -> str:
    """A bad file and why it is one, in a line whatever characters its name has."""
    return f"{_CONTROL.sub(lambda found: repr(found[0])[1:-1], bad.name)}: {bad.reason}"


def first_lines(lines: Sequence[str]) -> list[str]:
    """The first lines of a list, and a line on how many more there are."""
    more = len(lines) - LISTED
    return [*lines[:LISTED], *([f"... and {more} more"] if more > 0 else [])]


def skipped(bad: Sequence[BadFile]) -> str:
    """A message that says how many bad files were skipped."""
    return f"{_count(bad)} skipped"


def without(samples: Iterable[Sample], bad: Iterable[BadFile]) -> list[Sample]:
    """The samples whose images are not among the bad files."""
    names = {item.name for item in bad}
    return [sample for sample in samples if sample.image.name not in names]


def to_json(bad: Sequence[BadFile]) -> dict[str, Any]:
    """The value of ``bad_files`` in the JSON files that commands write: the number of bad files, and a list of them."""
    return {"count": len(bad), "files": [item._asdict() for item in bad]}


def printable(name: str) -> str:
    """A file's name, in which escapes stand for bytes that are not Unicode."""
    return name.encode("utf-8", "backslashreplace").decode()


def _count(bad: Sequence[BadFile]) -> str:
    return f"{len(bad)} bad file{'s' * (len(bad) != 1)}"
