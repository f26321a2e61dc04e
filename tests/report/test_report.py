"""report.html: well-formed, complete, self-contained, and safe whatever classes and files are called."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted_runs import interrupted
from made import TARGET, write_folder
from PIL import Image
from small_runs import arguments

from xmixup_fast.evaluation import Evaluation
from xmixup_fast.ops.image_pool import ImagePool
from xmixup_fast.report import figures
from xmixup_fast.report.evaluated import confused_pairs
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.yaml_file import read
from xmixup_fast.training.mixing_share import batch_note
from xmixup_fast.training.run import Result, fit

ODD = {"<b>blue": TARGET["blue"], "green & 'quiet'": TARGET["green"], 'red "</td><script>x()': TARGET["red"]}
"""Colours by class name. Each name would break a page that did not escape it."""
OPTIONAL = {"p", "td", "th", "tr", "li"}
"""Elements whose end tag may be left out."""
VOID = {"meta", "img", "br"}
"""Elements that have no end tag."""


class Page(HTMLParser):
    """A parsed page; an assertion fails where elements are not closed in the order opposite to their opening."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in OPTIONAL:
            self.open.pop()
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["title"]) and data.strip():
            self.text.append(data.strip())

    def images(self) -> list[Image.Image]:
        """All pictures of the page, decoded."""
        sources = [values["src"] or "" for tag, values in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(";base64,")[2]))) for source in sources]


def options(folder: Path, data: Path, **settings: Any) -> dict[str, Any]:
    """Settings of a run of four steps whose classes have odd names, on images in ``folder``."""
    if not (folder / "target").exists():
        # The names of classes are names of folders, which cannot hold a slash.
        write_folder(folder / "target", {name.replace("/", "\u2215"): colour for name, colour in ODD.items()}, 8)
    run = {"target": str(folder / "target"), "steps": 4, "report": True} | settings
    return arguments(data, folder / "run", **run)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("report")
    return fit(**options(folder, data, top_k=2))


def run_settings(run: Result) -> Settings:
    return read(run.folder / "config.yaml")


@pytest.fixture(scope="module")
def text(run: Result) -> str:
    return (run.folder / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_elsewhere(text: str) -> None:
    page = Page(text)
    for _, values in page.tags:
        assert not values.keys() & {"href", "srcset", "onclick", "onload", "action"}
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "form", "a"})
    assert all(values["src"].startswith("data:image/") for tag, values in page.tags if tag == "img" and values["src"])
    without_pictures = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//|url\(|@import", without_pictures.replace("</", "<"))


def test_names_are_text_and_not_markup(run: Result, text: str) -> None:
    page = Page(text)
    assert run.evaluation is not None
    for name in run.network.classes:
        assert page.text.count(name) >= 2  # in the table of classes, and above an image
    assert not {"script", "b>blue"} & {tag for tag, _ in page.tags}
    assert "<script>" not in text and "<b>blue" not in text


def run_data(run: Result) -> dict[str, Any]:
    return json.loads((run.folder / "data.json").read_text())


def test_every_section_of_the_page_is_there(run: Result, text: str) -> None:
    page = Page(text)
    shown = " ".join(page.text)
    titles = ("Training", "Confusion of the test images", "Classes", "Calibration", "Selection", "First batch")
    assert {*titles, "Settings"} <= set(page.text)
    assert f"{run.summary['test_accuracy']:.2f} %" in page.text
    assert f"First batch {batch_note(run_settings(run))} Data" in shown
    assert "class train val test" in shown and f"fingerprint {run_data(run)['fingerprint']}." in shown
    assert run.evaluation is not None
    for row in run.evaluation.top_losses(6):
        assert Path(row.name).name in page.text
        assert f"loss {row.loss:.3f}" in page.text
        assert f"predicted {row.predicted}, {100 * row.probability:.0f} %" in shown
    assert "versions torch" in page.text and torch.__version__ in page.text and "batch_size" in page.text
    pictures = page.images()
    images = len(run.evaluation)  # fewer than HIGHEST_LOSSES, so the page shows all of them
    # Curves, confusion matrix, reliability curve, images, selection, first batch; no class is confused with another.
    assert run.evaluation.accuracy == 100 and len(pictures) == 3 + 1 + 1 + images + 1 + 1
    colours = {name: ODD[name.replace("\u2215", "/")] for name in run.network.classes}
    for row, picture in zip(run.evaluation.top_losses(images), pictures[5:], strict=False):
        assert picture.size == (32, 32)
        mean = torch.from_numpy(np.array(picture.convert("RGB"))).float().mean((0, 1))
        torch.testing.assert_close(mean, torch.tensor(colours[row.label], dtype=torch.float32), atol=12, rtol=0)


@pytest.mark.parametrize("wrong", [0, 1, 30])
def test_confused_pairs_are_pictures_of_both_classes(wrong: int) -> None:
    """Images of one colour for each class; the third class has no image, and some are taken for it."""
    names = [*ODD]
    labels = torch.arange(60) % 2
    pixels = torch.tensor([*ODD.values()], dtype=torch.uint8)[labels].view(60, 1, 1, 3).expand(60, 34, 35, 3)
    predicted = torch.where(torch.arange(60) < wrong, 2 - labels, labels)  # the first class as the third, then itself
    found = Evaluation(
        names,
        positions=torch.arange(60),
        labels=labels,
        predicted=predicted,
        probabilities=torch.rand(60),
        losses=torch.rand(60),
        ranks=torch.zeros(60).long(),
    )
    text = confused_pairs(found, ImagePool.from_dense(pixels.contiguous(), labels), 32)
    page = Page(text)
    pairs = found.confused_pairs()
    assert [(pair.label, pair.predicted, pair.example) for pair in pairs] == [(names[0], names[2], None)] * (wrong > 0)
    assert (text == "") == (wrong == 0)
    if wrong:
        assert names[0] in page.text and f"taken for {names[2]}, {(wrong + 1) // 2} times" in " ".join(page.text)
        assert "none here" in page.text and "<b>blue" not in text and "<script>" not in text
        pictures = page.images()
        assert len(pictures) == min(3, (wrong + 1) // 2)
        assert all(np.abs(np.array(picture).mean((0, 1)) - ODD[names[0]]).max() < 3 for picture in pictures)


@pytest.mark.parametrize("temperature", [None, 1.5])
@pytest.mark.parametrize("count", [1, 500])
def test_reliability_curves_of_any_number_of_images_are_pictures(count: int, temperature: float | None) -> None:
    labels = torch.zeros(count).long()
    values = torch.rand(count)
    found = Evaluation(
        ["a", "b"],
        positions=torch.arange(count),
        labels=labels,
        predicted=(torch.rand(count) > values).long(),
        probabilities=values,
        losses=values,
        ranks=labels,
        temperature=temperature,
        calibrated=None if temperature is None else values**2,
    )
    picture = Image.open(io.BytesIO(figures.png(figures.reliability(found)))).convert("RGB")
    orange = (np.abs(np.array(picture).astype(int) - (255, 127, 14)).sum(2) < 20).any()  # the colour of temperatures
    assert min(picture.size) > 400 and orange == (temperature is not None)


def test_without_a_test_the_report_is_of_the_validation_images(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fit(**options(tmp_path, data, method="finetune", test="hold", storage="stream"))
    text = (result.folder / "report.html").read_text()
    page = Page(text)
    assert "Confusion of the validation images" in page.text and "Selection" not in page.text
    assert "test accuracy" not in page.text and "validation accuracy" in page.text
    assert "First batch Data" in " ".join(page.text)  # nothing is mixed, so there is no note
    content = json.loads((result.folder / "evaluation.json").read_text())
    assert content["split"] == "val" and content["accuracy"] == result.summary["val_accuracy"]
    assert "not tested" in capsys.readouterr().out
    settings = options(tmp_path, data, method="finetune", test="hold", report=False) | {"output": f"{tmp_path}/off"}
    off = fit(**settings)
    assert off.evaluation is None and not {"report.html", "evaluation.json"} & {p.name for p in off.folder.iterdir()}


def test_the_report_changes_nothing(data: Path, tmp_path: Path, run: Result) -> None:
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    settings = {**options(tmp_path, data, top_k=2), "target": str(run.folder.parent / "target"), "report": False}
    plain = fit(**settings)
    assert torch.equal(torch.get_rng_state(), torch_state) and random.getstate() == python_state
    for name, tensor in plain.network.state_dict().items():
        assert torch.equal(tensor, run.network.state_dict()[name])
    assert plain.summary["test_accuracy"] == run.summary["test_accuracy"]


def test_the_report_of_a_resumed_run_is_complete(data: Path, tmp_path: Path) -> None:
    interrupted(data, tmp_path / "run", 4)
    assert not (tmp_path / "run" / "report.html").exists()
    result = fit(**arguments(data, tmp_path / "run", steps=8, report=True, resume="auto"))
    page = Page((result.folder / "report.html").read_text())
    assert "Selection" in page.text
    assert any(f"{result.summary['test_accuracy']:.2f} %" == part for part in page.text)


def test_a_note_is_written_below_a_grid_of_images() -> None:
    images, captions = torch.zeros(6, 32, 32, 3), ["caption"] * 6
    plain, with_note = (
        Image.open(io.BytesIO(figures.png(figures.image_grid(images, captions, note)))).convert("L")
        for note in (None, "one line")
    )
    added = with_note.height - plain.height
    assert with_note.width == plain.width and 10 < added < 60
    assert np.array(with_note)[-added:].min() < 100  # dark letters


@pytest.mark.parametrize("count", [1, 3, 60, 400])
def test_confusion_matrices_of_any_size_are_pictures(count: int) -> None:
    labels = torch.arange(count).repeat(2)
    evaluation = Evaluation(
        [f"a long name of class {i}" * (1 + i % 3) for i in range(count)],
        positions=torch.arange(len(labels)),
        labels=labels,
        predicted=labels.flip(0),
        probabilities=torch.rand(len(labels)),
        losses=torch.rand(len(labels)),
        ranks=torch.ones_like(labels),
    )
    picture = Image.open(io.BytesIO(figures.png(figures.confusion_matrix(evaluation))))
    assert max(picture.size) < 3000 and min(picture.size) > 200
