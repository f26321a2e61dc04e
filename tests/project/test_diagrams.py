"""The diagrams of the documentation are what docs/diagrams.py makes, say what they show, and can be read.

Shapes are looked up in the SVG itself: what lies behind a text is the last rectangle drawn around it, and a text's
width is that of DejaVu Sans, the widest of the usual fonts for pages.
"""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DIAGRAMS = ("method.svg", "data.svg")
SVG = "{http://www.w3.org/2000/svg}"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
PICTURE = re.compile(r'<image id="(\w+)"[^>]* href="data:image/png;base64,([^"]+)"')


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float
    fill: str
    """The class of a rectangle's colour."""

    def holds(self, x: float, y: float) -> bool:
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def has_on_its_edge(self, x: float, y: float) -> bool:
        return self.holds(x, y) and (x in (self.left, self.right) or y in (self.top, self.bottom))


def boxes(root: ElementTree.Element) -> list[Box]:
    """All rectangles, in the order in which they are drawn."""
    found = []
    for rect in root.iter(f"{SVG}rect"):
        x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        found.append(Box(x, y, x + width, y + height, rect.attrib["class"].split()[0]))
    return found


def extent(text: ElementTree.Element) -> Box:
    """Where a text is, in a wide font."""
    look, size = text.attrib["class"].split(), float(text.attrib["font-size"])
    font = "DejaVuSansMono.ttf" if "mono" in look else "DejaVuSans-Bold.ttf" if "bold" in look else "DejaVuSans.ttf"
    width = ImageFont.truetype(str(FONTS / font), 100).getlength("".join(text.itertext())) * size / 100
    x, y = float(text.attrib["x"]), float(text.attrib["y"])
    return Box(x - width / 2, y - 0.76 * size, x + width / 2, y + 0.24 * size, look[0])


def behind(text: Box, rectangles: list[Box]) -> Box:
    """What a text lies on: the last rectangle around its middle."""
    x, y = (text.left + text.right) / 2, (text.top + text.bottom) / 2
    return [box for box in rectangles if box.holds(x, y)][-1]


def colours(root: ElementTree.Element) -> list[dict[str, str]]:
    """The classes' fill colours in light mode, and in dark mode."""
    light, dark = root.findtext(f"{SVG}style", "").split("@media (prefers-color-scheme: dark)")
    modes = [dict(re.findall(r"^\.([\w-]+)\{fill:(#\w{6})\}$", rules, re.M)) for rules in (light, dark)]
    assert modes[0].keys() == modes[1].keys()
    return modes


def luminance(code: str) -> float:
    """WCAG 2.2's relative luminance of #rrggbb."""
    levels = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def pixels(svg: str) -> dict[str, np.ndarray]:
    """The embedded pictures, by name."""
    return {name: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for name, data in PICTURE.findall(svg)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that docs/diagrams.py has written to."""
    folder = tmp_path_factory.mktemp("diagrams")
    subprocess.run([sys.executable, DOCS / "diagrams.py", folder], check=True)
    return folder


@pytest.fixture(params=DIAGRAMS)
def root(request: pytest.FixtureRequest) -> ElementTree.Element:
    return ElementTree.parse(DOCS / request.param).getroot()


@pytest.mark.parametrize("name", DIAGRAMS)
def test_the_diagrams_are_what_the_script_makes(name: str, made: Path) -> None:
    expected, found = ((folder / name).read_text(encoding="utf-8") for folder in (made, DOCS))
    without = [re.sub(r"base64,[^\"]+", "", text) for text in (expected, found)]  # zlib's versions pack differently
    assert without[0] == without[1], "run python docs/diagrams.py"
    ours, theirs = pixels(expected), pixels(found)
    assert ours.keys() == theirs.keys() and len(ours) == (3 if name == "method.svg" else 0)
    for picture, values in ours.items():
        np.testing.assert_array_equal(values, theirs[picture], picture)


def test_the_mixed_picture_is_the_blend_that_the_diagram_states() -> None:
    svg = (DOCS / "method.svg").read_text(encoding="utf-8")
    pictures = {name: values.astype(float) for name, values in pixels(svg).items()}
    (lam,) = map(float, re.findall(r"here λ = (0\.\d+)<", svg))
    blend = lam * pictures["target"] + (1 - lam) * pictures["auxiliary"]
    assert np.abs(pictures["mixed"] - blend).max() <= 2.5 + 1e-9, "levels are multiples of 5"
    assert np.abs(pictures["mixed"] - pictures["target"]).mean() > 20, "one sees that it is mixed"
    assert blend.std() > 20, "there is something to see"


def test_files_are_small(made: Path) -> None:
    for name in DIAGRAMS:
        svg = (made / name).read_text(encoding="utf-8")
        assert len(svg.encode()) < 80_000
        assert all(len(base64.b64decode(data)) < 15_000 for _, data in PICTURE.findall(svg))


def test_texts_stand_out_from_what_lies_behind_them(root: ElementTree.Element) -> None:
    rectangles, texts = boxes(root), [extent(text) for text in root.iter(f"{SVG}text")]
    assert len(texts) > 15
    for mode in colours(root):
        for text in texts:
            ground = behind(text, rectangles)
            assert contrast(mode[text.fill], mode[ground.fill]) >= 4.5, (text.fill, ground.fill)


def overlap(one: Box, other: Box) -> bool:
    beside = one.right <= other.left or other.right <= one.left
    return not beside and one.top < other.bottom and other.top < one.bottom


def test_texts_fit_even_in_a_wide_font(root: ElementTree.Element) -> None:
    rectangles = boxes(root)
    texts = [("".join(text.itertext()), extent(text)) for text in root.iter(f"{SVG}text")]
    for words, text in texts:
        ground = behind(text, rectangles)
        assert ground.left + 3 < text.left and text.right < ground.right - 3, words
        assert ground.top < text.top and text.bottom < ground.bottom, words
        assert not any(overlap(text, box) for box in rectangles[rectangles.index(ground) + 1 :]), words
    for (words, one), (others, other) in combinations(texts, 2):
        assert not overlap(one, other), (words, others)


def arrows(root: ElementTree.Element) -> Iterator[list[tuple[float, float]]]:
    """The corners of each arrow, from its start to its tip: a path that is followed by its head."""
    for line, head in pairwise(root):
        if head.tag == f"{SVG}polygon":
            numbers = re.findall(r"[\d.]+", line.attrib["d"]) + head.attrib["points"].split()[:2]
            yield list(zip(map(float, numbers[::2]), map(float, numbers[1::2]), strict=True))


def test_arrows_go_from_box_to_box(root: ElementTree.Element) -> None:
    rectangles = [box for box in boxes(root) if box.fill not in ("panel", "zone")]
    ends = [(corners[0], corners[-1]) for corners in arrows(root)]
    assert len(ends) > 10
    for begin, end in ends:
        (origin,) = (box for box in rectangles if box.has_on_its_edge(*begin))
        (goal,) = (box for box in rectangles if box.has_on_its_edge(*end))
        assert origin != goal, (begin, end)


def test_no_arrow_runs_through_a_text(root: ElementTree.Element) -> None:
    for text in root.iter(f"{SVG}text"):
        for corners in arrows(root):
            for (x0, y0), (x1, y1) in pairwise(corners):
                line = Box(min(x0, x1) - 2, min(y0, y1) - 2, max(x0, x1) + 2, max(y0, y1) + 2, "")
                assert not overlap(line, extent(text)), ("".join(text.itertext()), corners)


def test_diagrams_have_words_for_those_who_do_not_see_them(root: ElementTree.Element) -> None:
    assert root.findtext(f"{SVG}title") and len(root.findtext(f"{SVG}desc", "")) > 200
    assert root.attrib["aria-labelledby"].split() == [
        root.find(f"{SVG}{tag}").attrib["id"] for tag in ("title", "desc")
    ]


@pytest.mark.parametrize(
    ("page", "diagram"),
    [("README.md", "docs/method.svg"), ("docs/index.md", "method.svg"), ("docs/design.md", "data.svg")],
)
def test_pages_show_them_and_say_what_they_show(page: str, diagram: str) -> None:
    (alt,) = re.findall(rf"^!\[(.+)\]\({re.escape(diagram)}\)$", (ROOT / page).read_text(encoding="utf-8"), re.M)
    assert len(alt) > 50
