"""The page of a verdict: its sentence, the table, accuracy against seconds, photos and classes that gain and lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage

from ..data.bad_files import printable
from ..data.dataset import BadFile, Image
from ..data.decoding.decoder import PillowDecoder
from ..models.class_names import readable_name
from ..report import figures
from ..report.html import image, jpeg_url, png_url, section
from ..report.page import page
from ..runtime.device import default_threads
from .plan import BASELINE
from .verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_PHOTOS = 16
"""Photos of each kind that the page shows."""
THUMBNAIL = 160
"""Largest height and width of these photos, in pixels."""


def verdict_page(verdict: Verdict, images: Mapping[str, Image]) -> str:
    """The page, as HTML text. ``images`` has each photo by the hash of its content."""
    commands = "".join(f"<pre>{escape(command)}</pre>" for command in verdict.commands)
    many = " Train at each rate, and average the probabilities." if verdict.plan.rates else ""
    next_step = f"<p>To train on all photos but the few of each class that validation needs:{many}</p>{commands}"
    picture = image(png_url(figures.png(_plot(verdict))), "paper", "accuracy against seconds")
    parts = [
        f"<p><b>{escape(verdict.sentence[:1].upper() + verdict.sentence[1:])}.</b></p>{next_step}",
        section("Methods", _methods(verdict)),
        section("Accuracy against seconds", picture),
        *_photos(verdict, images),
        section("Classes that gain and lose", _classes(verdict)),
    ]
    return page(verdict.title(), parts)


def _methods(verdict: Verdict) -> str:
    head, _, *rows = (line.strip("| ").split(" | ") for line in verdict.table().splitlines())
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}</tr>" for row in rows)
    note = (
        "Each photo is predicted once a repeat, by a network that has not seen it. The intervals of differences are "
        "Nadeau and Bengio's, which respect that folds share training images; p is corrected by Holm for the number of "
        "methods, and the verdict goes by it."
    )
    titles = "".join(f"<th>{escape(name)}" for name in head)
    return f'<div class="table"><table><tr>{titles}</tr>{cells}</table></div><p class=note>{note}</p>'


def _plot(verdict: Verdict) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, one in enumerate(verdict.methods):
        low, high = one.accuracy_interval
        colour = "black" if one.name == BASELINE else f"C{number}"
        axes.vlines(one.seconds, low, high, color=colour, alpha=0.45, linewidth=2)
        axes.plot(one.seconds, one.accuracy, "o", color=colour, label=one.name)
    axes.set(xlabel="seconds of a run", ylabel="accuracy, %, with 95 % interval", xlim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def _photos(verdict: Verdict, images: Mapping[str, Image]) -> list[str]:
    """The photos that the method asked about gets right more often than fine-tuning, and those that it gets less."""
    asked = verdict.asked.name
    gain = verdict.right[asked] - verdict.right[BASELINE]
    kinds = (
        (asked, BASELINE, np.argsort(-gain, kind="stable"), 1),
        (BASELINE, asked, np.argsort(gain, kind="stable"), -1),
    )
    sections = []
    for better, other, order, sign in kinds:
        shown = [int(i) for i in order if sign * gain[i] > 0]
        digests = [verdict.photos[i] for i in shown[:SHOWN_PHOTOS]]
        pictures = _thumbnails([images[digest] for digest in digests])
        figures_shown = "".join(
            _photo(verdict, i, images[digest].name, picture, (better, other))
            for i, digest, picture in zip(shown, digests, pictures, strict=False)
        )
        more = len(shown) - len(digests)
        text = f"<p>{len(shown)} photos{f', of which these {len(digests)}' if more else ''}.</p>"
        sections.append(
            section(
                f"Photos that {better} gets, and {other} does not", f'{text}<div class="losses">{figures_shown}</div>'
            )
        )
    return sections


def _photo(verdict: Verdict, position: int, path: str, picture: str, methods: Sequence[str]) -> str:
    name = printable(path.replace("\\", "/").rsplit("/", 1)[-1])
    times = ", ".join(f"{one} {100 * verdict.right[one][position]:.0f} %" for one in methods)
    label = readable_name(verdict.classes[int(verdict.labels[position])])
    return (
        f"<figure>{picture}<b>{escape(label)}</b><br>right: {escape(times)}<br>"
        f'<small title="{escape(printable(path))}">{escape(name)}</small></figure>'
    )


def _thumbnails(photos: Sequence[Image]) -> list[str]:
    """Small pictures as HTML elements; empty for a file that is gone by now."""
    pictures = []
    for pixels in PillowDecoder(THUMBNAIL, default_threads()).decode(photos):
        if isinstance(pixels, BadFile):
            pictures.append("")
            continue
        picture = PillowImage.fromarray(pixels.numpy())
        left, top = ((side - THUMBNAIL) // 2 for side in picture.size)
        pictures.append(image(jpeg_url(picture.crop((left, top, left + THUMBNAIL, top + THUMBNAIL)))))
    return pictures


def _classes(verdict: Verdict) -> str:
    """The accuracy of each class with both methods, the one that gains most first."""
    asked = verdict.asked.name
    rows = []
    for label, name in enumerate(verdict.classes):
        mine = verdict.labels == label
        if mine.any():
            own, base = (100 * float(verdict.right[method][mine].mean()) for method in (asked, BASELINE))
            rows.append((own - base, name, int(mine.sum()), own, base))
    lines = "".join(
        f"<tr><td>{escape(readable_name(name))}<td class=number>{count}<td class=number>{own:.1f} %"
        f"<td class=number>{base:.1f} %<td class=number>{gain:+.1f}</tr>"
        for gain, name, count, own, base in sorted(rows, key=lambda row: (-row[0], row[1]))
    )
    head = "".join(f"<th class=number>{escape(name)}" for name in ("photos", asked, BASELINE, "difference"))
    return f'<div class="table"><table><tr><th>class{head}</tr>{lines}</table></div>'
