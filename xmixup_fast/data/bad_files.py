"""What is said and recorded of files that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .dataset import BadFile, Sample


def refuse_bad_files(bad: Iterable[BadFile], policy: str, does: str = "trains without them") -> list[BadFile]:
    """Each bad file once, in order. Raises ValueError as :func:`list_bad` words it, where the policy is "error"."""
    each = list(dict.fromkeys(bad))
    if each and policy == "error":
        raise ValueError(list_bad(each, does))
    return each


def list_bad(bad: Sequence[BadFile], does: str = "trains without them") -> str:
    """A message that names all bad files, and tells what the command does where it may skip them."""
    lines = [f"{_count(bad)}; --bad-files skip {does}:", *(f"{item.name}: {item.reason}" for item in bad)]
    return "\n  ".join(lines)


def skipped(bad: Sequence[BadFile]) -> str:
    """How many bad files were left out."""
    return f"{_count(bad)} skipped"


def without(samples: Iterable[Sample], bad: Iterable[BadFile]) -> list[Sample]:
    """The samples whose images are not among the bad files."""
    names = {item.name for item in bad}
    return [sample for sample in samples if sample.image.name not in names]


def to_json(bad: Sequence[BadFile]) -> dict[str, Any]:
    """What the JSON files that commands write hold under bad_files."""
    return {"count": len(bad), "files": [item._asdict() for item in bad]}


def printable(name: str) -> str:
    """A file's name, with bytes that are not Unicode as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _count(bad: Sequence[BadFile]) -> str:
    return f"{len(bad)} bad file{'s' * (len(bad) != 1)}"
