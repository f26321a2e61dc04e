"""What a notebook shows of a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from matplotlib.figure import Figure

from .figures import png
from .html import png_url

MAX_WIDTH = "60rem"
"""Of what a notebook shows."""


def paper(source: str, alt: str, width: str = "auto") -> str:
    """A picture on white, which is legible in a dark notebook, too; ``width`` is its greatest one, as CSS has it."""
    style = f"background: #fff; border-radius: 4px; max-width: min(100%, {width}); height: auto"
    return f'<img alt="{escape(alt)}" src="{source}" style="{style.replace("min(100%, auto)", "100%")}">'


def figure_row(figures: Iterable[Figure], alt: str) -> str:
    """Figures with transparent backgrounds, side by side."""
    pictures = (paper(png_url(png(figure, 100)), alt, "19rem") for figure in figures)
    return f'<div style="display: flex; flex-wrap: wrap; gap: .5rem">{"".join(pictures)}</div>'


def fragment(text: str, sections: Sequence[tuple[str, str]] = ()) -> str:
    """What a notebook shows of a result: the lines of its ``__repr__``, then sections of a title and HTML each.

    All style is in the elements, as a notebook's page has a style sheet of its own.
    """
    head, *lines = text.split("\n")
    parts = [f"<b>{escape(head)}</b>", *map(escape, lines)]
    shown = "".join(f'<div style="margin: .75rem 0 .25rem">{escape(title)}</div>{body}' for title, body in sections)
    return f'<div style="max-width: {MAX_WIDTH}; overflow-x: auto">{"<br>".join(parts)}{shown}</div>'


def table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> str:
    """A table of plain texts, which are escaped."""
    head = "".join(f'<th style="text-align: left">{escape(name)}' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align: left">{escape(cell)}' for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
