"""report.html: curves, confusion matrix, selection, first batch and settings of a run, on one page.

The page holds its pictures and needs no script, server or network. Building it draws no random number, so a run ends
with the same weights with and without a report.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..data.center_crops import center_windows
from ..data.dataset import Dataset
from ..evaluation import ClassResult, Evaluation, ImageResult
from ..models.class_names import readable_name
from ..ops.image_pool import Images
from ..selection.choice import Selection
from ..settings.fields import Settings
from . import figures
from .contact_sheet import ROWS, contact_sheets

HIGHEST_LOSSES = 16
"""Number of images with the highest loss that the page shows."""
THUMBNAIL = 160
"""Largest height and width of these images, in pixels."""
SPLITS = {"test": "test", "val": "validation"}
"""Names of the splits for readers."""

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
        _key_figures(evaluation, split, run.summary),
        _curves(run.metrics),
        _confusion(evaluation, split),
        _classes(evaluation.per_class()),
        _highest_losses(evaluation, run.images, settings.image_size, split),
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


def _key_figures(evaluation: Evaluation, split: str, summary: Mapping[str, Any]) -> str:
    """Accuracy, numbers of images, and length of training, as cards."""
    values = {
        f"{SPLITS[split]} accuracy": f"{evaluation.accuracy:.2f} %",
        "mean of the classes": f"{evaluation.balanced_accuracy:.2f} %",
        f"{SPLITS[split]} images": str(len(evaluation)),
        "training images": str(summary["num_train"]),
        "steps": str(summary["steps"]),
        "of training": f"{summary['train_seconds']:.1f} s",
    }
    if split == "test":
        values["validation accuracy"] = f"{summary['val_accuracy']:.2f} %"
    cards = (f'<div class="figure"><b>{escape(value)}</b>{escape(name)}</div>' for name, value in values.items())
    return f'<div class="figures">{"".join(cards)}</div>'


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    pictures = (_image(_png(figures.png(figure, 150, transparent=True))) for figure in figures.curves(metrics))
    return _section("Training", f'<div class="curves">{"".join(pictures)}</div>')


def _confusion(evaluation: Evaluation, split: str) -> str:
    picture = _image(_png(figures.png(figures.confusion_matrix(evaluation))), "paper")
    if len(evaluation.classes) > figures.MAX_NUMBERED:
        picture = f'<div class="full">{picture}</div>'
    return _section(f"Confusion of the {SPLITS[split]} images", picture)


def _classes(rows: Sequence[ClassResult]) -> str:
    """The classes as a table, lowest accuracy first."""
    head = "<tr><th>class<th class=number>images<th class=number>accuracy<th><th>most often confused with</tr>"
    lines = []
    # Classes without images have no accuracy and come last.
    for row in sorted(rows, key=lambda row: (row.accuracy is None, row.accuracy)):
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.1f} %"
        confused = f"{escape(readable_name(row.taken_for))} ({row.times})" if row.taken_for else ""
        lines.append(
            f"<tr><td>{escape(readable_name(row.name))}<td class=number>{row.images}<td class=number>{accuracy}"
            f'<td class=bar><i style="width: {row.accuracy or 0:.0f}%"></i><td>{confused}</tr>'
        )
    return _section("Classes", f'<div class="table"><table>{head}{"".join(lines)}</table></div>')


def _highest_losses(evaluation: Evaluation, images: Images, size: int, split: str) -> str:
    """The images with the highest loss, cropped as for the network, with their classes and predictions."""
    rows = evaluation.top_losses(HIGHEST_LOSSES)
    pictures = _crops(images, [row.position for row in rows], size)
    content = "".join(_figure(row, picture) for row, picture in zip(rows, pictures, strict=True))
    return _section(
        f"{SPLITS[split].capitalize()} images with the highest loss", f'<div class="losses">{content}</div>'
    )


def _figure(row: ImageResult, picture: Image.Image) -> str:
    name = row.name.replace("\\", "/").rsplit("/", 1)[-1]
    return (
        f"<figure>{_image(_jpeg(picture), alt=row.label)}<b>{escape(readable_name(row.label))}</b><br>"
        f"predicted {escape(readable_name(row.predicted))}, {100 * row.probability:.0f} %<br>loss {row.loss:.3f}<br>"
        f'<small title="{escape(row.name)}">{escape(name)}</small></figure>'
    )


def _crops(images: Images, positions: Sequence[int], size: int) -> list[Image.Image]:
    """The centre crops, size x size pixels, of the images at some positions, shrunk to THUMBNAIL pixels."""
    index = torch.tensor(positions, device=images.labels.device)
    pool, crops = next(images.fetch([center_windows(images.sizes, size, index)]))
    pictures = []
    for i, (top, left, height, width) in zip(crops.index.tolist(), crops.window.tolist(), strict=True):
        picture = Image.fromarray(pool[i][top : top + height, left : left + width].cpu().numpy())
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        pictures.append(picture)
    return pictures


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


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


def _image(source: str, css_class: str = "", alt: str = "") -> str:
    attribute = f' class="{css_class}"' if css_class else ""
    return f'<img{attribute} alt="{escape(alt)}" src="{source}">'


def _png(data: bytes) -> str:
    """A data URL of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _jpeg(picture: Image.Image) -> str:
    """A data URL of a picture, encoded as JPEG."""
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
