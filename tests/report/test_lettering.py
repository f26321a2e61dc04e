"""Names in pictures: any name, in a font that has its letters, or else with escapes, of which a line tells once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
from made import TARGET, write_folder
from PIL import Image, ImageDraw, ImageFont
from small_runs import arguments, flags

from xmixup_fast.commands import evaluate, find_lr
from xmixup_fast.commands.find_lr import RangeTest
from xmixup_fast.comparison.plot import plot
from xmixup_fast.comparison.tables import Difference, Row
from xmixup_fast.evaluation import Evaluation
from xmixup_fast.report import contact_sheet, figures, lettering
from xmixup_fast.train import main as train

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
STIX = FONTS / "STIXGeneral.ttf"
LETTER = min(lettering.letters(STIX) - lettering.letters(lettering.DEFAULT_FONT))
"""A letter of a font that is not the default one's."""
NAMES = [
    *("US$1", "US$5", "$\\frac$", "x^2$_$", "a_b^{c}", "\\", "%s {0}", "'\"<b>&"),
    *("猫", "狐と犬", "🦊", "عربي", "héllo", "tab\there", "line\nbreak", "\x07", "caf\udce9", "n" * 200, " "),
]

METHODS = ("finetune", "xmixup")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Fonts and missing letters of other tests are not known."""
    kept = dict(lettering._found), set(lettering._missing)
    lettering._found.clear()
    lettering._missing.clear()
    yield
    lettering._found.clear()
    lettering._found.update(kept[0])
    lettering._missing.clear()
    lettering._missing.update(kept[1])


@pytest.fixture
def fontconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fontconfig that finds one font whatever it is asked for, and a file that is none."""
    path = tmp_path / "bin" / "fc-list"
    path.parent.mkdir()
    (tmp_path / "broken.ttf").write_text("no font")
    path.write_text(f"#!/bin/sh\necho {tmp_path}/broken.ttf\necho {STIX}\necho {tmp_path}/gone.otf\necho old.pcf\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


@pytest.fixture
def no_fontconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error")
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    """In each kind of picture; matplotlib warns where it lacks a letter."""
    tensors = [torch.tensor([0, 1])] * 3
    evaluation = Evaluation([name, "other"], *tensors, torch.ones(2), torch.ones(2), torch.zeros(2).long())
    for figure in (
        figures.confusion_matrix(evaluation),
        figures.image_grid(torch.zeros(1, 8, 8, 3), [f"{name}\n0.7 {name}"]),
    ):
        assert figures.png(figure).startswith(b"\x89PNG")
    group = (name, [Image.new("RGB", (96, 96))])
    assert contact_sheet._draw_sheet([[group, group]]).size[0] > 96
    find_lr.draw(RangeTest([1e-3, 1e-2], [2.0, 1.0], [2.0, 1.0]), None, name, tmp_path / "lr.png")
    rows = [Row(name, None, method, "", 2, 50.0, *[Difference(1.0, 0.5, 1.5, 2)] * 2, *[1.0] * 4) for method in METHODS]
    assert plot([*rows, replace(rows[0], method=name)], "test", tmp_path / "plot.png")


def test_dollar_signs_are_no_formulas() -> None:
    style = lettering.text_style()
    text = figures.image_grid(torch.zeros(1, 8, 8, 3), ["$x^2$"]).axes[0].texts[0]
    assert not style["parse_math"] and not text.get_parse_math() and text.get_text() == "$x^2$"


def test_a_font_that_has_the_letters_is_found(fontconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lettering.drawable(f"a{LETTER}b") == f"a{LETTER}b"
    assert "STIXGeneral" in lettering.text_style()["fontfamily"]
    text, file = lettering.for_pillow(f"a{LETTER}")
    assert (text, file) == (f"a{LETTER}", str(STIX))
    assert lettering.for_pillow("plain") == ("plain", str(lettering.DEFAULT_FONT))
    assert capsys.readouterr().err == ""
    font = ImageFont.truetype(file, 20)
    drawn = [Image.new("L", (40, 40)) for _ in range(2)]
    for picture, letter in zip(drawn, (LETTER, "\uffff"), strict=True):
        ImageDraw.Draw(picture).text((5, 5), letter, fill=255, font=font)
    assert drawn[0].tobytes() != drawn[1].tobytes()  # not the box of a letter that is missing


def test_letters_that_no_font_has_are_escaped_and_told_once(
    no_fontconfig: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lettering.drawable("a猫 犬") == r"a\u732b \u72ac" and lettering.drawable("狐") == r"\u72d0"
    assert lettering.for_pillow("🦊")[0] == r"\U0001f98a"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"no installed font has 犬 猫: pictures show \u72ac and the like; install a font")


@pytest.mark.parametrize("name", ["a\nb", "\x07", "\udce9", "\u200d"])
def test_control_characters_are_escaped_in_silence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lettering.drawable(name) == name.encode("unicode_escape").decode()
    assert capsys.readouterr().err == ""


def test_a_run_and_its_evaluation_take_any_class_name(data: Path, tmp_path: Path, capsys: Any) -> None:
    """From the folders to report.html, and back from manifest and weights."""
    names = ["$\\frac$", "猫 <b>", "x^2$_$", "line\nbreak", "a,b;\"c'", "n" * 200]
    target = write_folder(tmp_path / "target", dict(zip(names, [*TARGET.values()] * 3, strict=False)), 6)
    run = tmp_path / "run"
    settings = arguments(data, run, "finetune", target=str(target), report=True, steps=2)
    assert train(flags(settings)) == 0, capsys.readouterr().err
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "猫 &lt;b&gt;" in page and "$\\frac$" in page and "猫 <b>" not in page
    assert evaluate.main([str(run), "--output", str(tmp_path / "evaluated")]) == 0, capsys.readouterr().err
    assert (tmp_path / "evaluated" / "confusion.png").exists()
    assert train([*flags(settings), "--resume", "auto"]) == 0, capsys.readouterr().err
