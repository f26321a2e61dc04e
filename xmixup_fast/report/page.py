"""report.html: curves, confusion matrix, selection, first batch and settings of a run, on one page.

The page holds its pictures and needs no script, server or network. Building it draws no random number, so a run ends
with the same weights with and without a report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..data.dataset import Dataset
from ..evaluation import Evaluation
from ..models.class_names import readable_name
from ..ops.image_pool import Images
from ..selection.choice import Selection
from ..settings.fields import Settings
from . import evaluated, figures
from .contact_sheet import ROWS, contact_sheets
from .html import image as _image
from .html import jpeg_url as _jpeg
from .html import png_url as _png
from .html import section as _section

STYLE = """
:root { color-scheme: light dark; --line: #8884; --card: #8881; --bar: #4a90d9; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
img { max-width: 100%; height: auto; }
.paper { background: #fff; border-radius: 4px; }
.wide { overflow-x: auto; }
.wide img { max-width: none; width: 100%; min-width: 42rem; }
.full { overflow: auto; max-height: 60rem; }
.full img { max-width: none; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .5rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem; }
.figure { background: var(--card); border-radius: 6px; padding: .5rem .75rem; }
.figure b { display: block; font-size: 1.4rem; font-weight: 600; }
.losses { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: .75rem; }
.pair { display: flex; gap: 1rem; background: var(--card); border-radius: 6px; padding: .5rem .75rem; }
.pair p { display: flex; gap: .25rem; margin: .25rem 0 0; }
.pair img { width: 5.5rem; }
figure { margin: 0; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
figure img { width: 100%; border-radius: 4px; display: block; margin-bottom: .25rem; }
.table { max-height: 32rem; overflow: auto; border: 1px solid var(--line); border-radius: 4px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { position: sticky; top: 0; background: Canvas; overflow-wrap: normal; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.bar { width: 25%; min-width: 4rem; }
td.bar i { display: block; height: .7rem; border-radius: 2px; background: var(--bar); }
summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .5rem; }
small, .note { opacity: .75; font-size: .85rem; }
"""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that the page of a run shows."""

    folder: Path
    """The run folder, which holds batch.png."""
    batch_note: str | None
    """A sentence about the mixing of an average batch, for the section of batch.png; None where nothing is mixed."""
    settings: Settings
    summary: Mapping[str, Any]
    """The content of summary.json."""
    metrics: Sequence[Mapping[str, Any]]
    """The lines of metrics.jsonl."""
    evaluation: Evaluation
    """Of the test images; of the validation images for a run without a test."""
    images: Images
    """The images that were evaluated, in the order of the evaluation's positions."""
    data: Mapping[str, Any]
    """The content of data.json."""
    target: Dataset
    source: Dataset | None
    """None for a method without auxiliary images."""
    selection: Selection | None
    """None for a method without auxiliary images."""


def run_page(run: RunRecord) -> str:
    """The page of a run, as HTML text."""
    settings, evaluation = run.settings, run.evaluation
    split = "test" if settings.test == "run" else "val"
    parts = [
        evaluated.key_figures(evaluation, split, run.summary),
        _curves(run.metrics),
        evaluated.confusion(evaluation, split),
        evaluated.classes(evaluation.per_class()),
        evaluated.confused_pairs(evaluation, run.images, settings.crop_size),
        evaluated.calibration(evaluation, split),
        evaluated.highest_losses(evaluation, run.images, settings.crop_size, split),
    ]
    if run.selection is not None and run.source is not None:
        parts.append(_selection(run.selection, run.target, run.source))
    parts += [
        _first_batch(run.folder, run.batch_note),
        _data(run.data),
        _details("Settings", _name_table(asdict(settings))),
        _details("Figures and versions", _name_table(_flat(run.summary))),
    ]
    return page(f"{settings.method} on {_text(settings.target)}", parts)


def page(title: str, parts: Iterable[str]) -> str:
    """An HTML page with its style sheet. The parts are HTML; the title is plain text, which is escaped."""
    head = f"<title>{escape(title)}</title>\n<style>{STYLE}</style>"
    viewport = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en">\n<head>\n{viewport}\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _selection(selection: Selection, target: Dataset, source: Dataset) -> str:
    """The contact sheet of the first target classes."""
    sheet = contact_sheets(selection, target, source, [], max_classes=ROWS)[0]
    rest = len(target.classes) - ROWS
    note = f"<p class=note>The first {ROWS} classes; {rest} more are in selection.json.</p>" if rest > 0 else ""
    text = "<p>Left: training images. Right: auxiliary images that they are mixed with, and how well they fit.</p>"
    if doubt := selection.doubt():
        text += f"<p>{escape(doubt)}.</p>"
    return _section("Selection", f'{text}<div class="wide">{_image(_jpeg(sheet), "paper")}</div>{note}')


def _data(data: Mapping[str, Any]) -> str:
    """The images of each class by split; ignored files, guesses and duplicates."""
    splits = list(next(iter(data["classes"].values())))
    head = "<tr><th>class" + "".join(f"<th class=number>{split}" for split in splits) + "</tr>"
    lines = [
        f"<tr><td>{escape(readable_name(name))}"
        + "".join(f"<td class=number>{row[split]}" for split in splits)
        + "</tr>"
        for name, row in data["classes"].items()
    ]
    notes = [
        f"{one['files']} {one['extension'] or 'files without extension'} in {one['folder'] or 'the top folder'} ignored"
        for one in data["ignored"]
    ]
    notes += data["guesses"]
    for kind, found in data["duplicates"].items():
        if kind != "policy" and found:
            notes.append(f"duplicates, {kind}: {len(found)} ({', '.join(found[:3])})")
    where = (
        f"<p>Images of {escape(data['path'])}. manifest.csv names each; fingerprint {escape(data['fingerprint'])}.</p>"
    )
    listed = "".join(f"<li>{escape(note)}" for note in notes)
    table = f'<div class="table"><table>{head}{"".join(lines)}</table></div>'
    return _section("Data", f"{where}{f'<ul>{listed}</ul>' if notes else ''}{table}")


def _first_batch(folder: Path, note: str | None) -> str:
    """The picture batch.png, with the note on its mixing."""
    text = f"<p>{escape(note)}</p>" if note else ""
    return _section("First batch", text + _image(_png((folder / "batch.png").read_bytes()), "paper"))


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    pictures = (_image(_png(figures.png(figure, 150, transparent=True))) for figure in figures.curves(metrics))
    return _section("Training", f'<div class="curves">{"".join(pictures)}</div>')


def _details(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _name_table(values: Mapping[str, Any]) -> str:
    """A table of names and values, without those that are None."""
    rows = (
        f"<tr><td>{escape(name)}<td>{escape(_text(value))}</tr>" for name, value in values.items() if value is not None
    )
    return f'<div class="table"><table>{"".join(rows)}</table></div>'


def _flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary without nesting: {"versions": {"torch": V}} becomes {"versions torch": V}, bad files their number."""
    flat: dict[str, Any] = {}
    for name, value in summary.items():
        if name == "bad_files":
            flat["bad files"] = value["count"]
        elif isinstance(value, dict):
            flat |= {f"{name} {key}": item for key, item in value.items()}
        else:
            flat[name] = value
    return flat


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
