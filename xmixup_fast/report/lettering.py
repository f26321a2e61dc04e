"""Names in pictures: drawn as they are, in fonts that have their letters, and with escapes for what no font has.

Names may hold whatever a file system takes: dollar signs, which matplotlib takes for formulas, letters that its font
lacks, and control characters. Fontconfig finds fonts that are installed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from ..runtime.console import complain

DEFAULT_FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
"""The font that matplotlib brings, and draws with."""
KINDS = (".ttf", ".otf", ".ttc")
"""How files of fonts are named that matplotlib and Pillow read."""
LISTED = 10
"""Letters that the line on missing ones names."""

_found: dict[Path, frozenset[str]] = {}
"""Fonts that were found for letters that the default one lacks, with all of their letters."""
_missing: set[str] = set()
"""Letters that no font has."""


def drawable(text: str) -> str:
    """The text with escapes, such as \\\\u732b, for control characters and for letters that no font has.

    A line on stderr names the first letters that no font has, once in a process.
    """
    _find_fonts(letter for letter in text if letter.isprintable())
    known = letters(DEFAULT_FONT).union(*_found.values())
    return "".join(letter if letter.isprintable() and letter in known else _escaped(letter) for letter in text)


def text_style() -> dict[str, Any]:
    """Keyword arguments of matplotlib's texts, with which they show what :func:`drawable` has returned so far."""
    families = [font_manager.FontProperties(fname=str(path)).get_name() for path in _found]
    return {"parse_math": False, "fontfamily": [*matplotlib.rcParams["font.family"], *families]}


def for_pillow(text: str) -> tuple[str, str]:
    """The text as Pillow can draw it, and the file of a font for it: Pillow takes one font for a text."""
    text = drawable(text)
    for path in (DEFAULT_FONT, *_found):
        if letters(path).issuperset(text):
            return text, str(path)
    default = letters(DEFAULT_FONT)
    return "".join(letter if letter in default else _escaped(letter) for letter in text), str(DEFAULT_FONT)


@cache
def letters(path: Path) -> frozenset[str]:
    """The letters that a font has."""
    return frozenset(map(chr, FT2Font(str(path)).get_charmap()))


def _find_fonts(wanted: Iterable[str]) -> None:
    """Looks for fonts for letters that no font has so far, and says once where there is none."""
    lacking = set(wanted) - letters(DEFAULT_FONT).union(*_found.values()) - _missing
    new = set()
    while lacking:
        letter = min(lacking)
        path = _font_with(letter, lacking)
        if path is None:
            new.add(letter)
        else:
            font_manager.fontManager.addfont(str(path))
            _found[path] = letters(path)
            lacking -= _found[path]
        lacking.discard(letter)
    if new and not _missing:
        named = " ".join(sorted(new)[:LISTED]) + (" ..." if len(new) > LISTED else "")
        shown = f"pictures show {_escaped(min(new))} and the like"
        complain(f"no installed font has {named}: {shown}; install a font that has them, such as one of Noto's")
    _missing.update(new)


def _font_with(letter: str, wanted: set[str]) -> Path | None:
    """The font with a letter that has most of the wanted ones; None where fontconfig, or what is missing, has none."""
    program = shutil.which("fc-list")
    if program is None:
        return None
    # Bitmaps, and letters in several colours, cannot be drawn at any size.
    pattern = f":charset={ord(letter):x}:scalable=true:color=false"
    done = subprocess.run([program, pattern, "--format", "%{file}\n"], capture_output=True, text=True)
    paths = [Path(line) for line in sorted(set(done.stdout.splitlines())) if line.lower().endswith(KINDS)]
    usable = [path for path in paths if letter in _letters_or_none(path)]
    return max(usable, key=lambda path: len(wanted & letters(path)), default=None)


def _letters_or_none(path: Path) -> frozenset[str]:
    """The letters of a font; none where its file cannot be read, or not as matplotlib reads it."""
    try:
        return letters(path)
    except (OSError, RuntimeError):
        return frozenset()


def _escaped(letter: str) -> str:
    """A letter as Python escapes it: \\\\n, \\\\xe9, \\\\u732b."""
    return letter.encode("unicode_escape").decode()
