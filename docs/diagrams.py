"""Writes the diagrams of the documentation, method.svg and data.svg, beside this file or into another folder:

    python docs/diagrams.py [FOLDER]

flowers.py draws the pictures in method.svg, and the mixed one is computed here from the other two. Every text lies on a
shape that the diagram itself fills, because the page's colour is not known: a reader can choose light or dark mode for
the page alone, while prefers-color-scheme may follow the system.
"""

# ruff: noqa: RUF001 -- formulas have Greek letters and the signs of multiplication and subtraction

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from flowers import daisy, rounded, tulip
from numpy.typing import NDArray
from PIL import Image

Point = tuple[float, float]

LAM = 0.7
"""Weight of the target photo in method.svg."""
ALPHA = 0.2
"""Parameter of the Beta distribution whose density method.svg shows: the default of the setting alpha."""

COLOURS = {
    "panel": ("#f6f8fa", "#161b22"),  # behind the whole drawing
    "zone": ("#eaeef2", "#1f2630"),
    "box": ("#ffffff", "#2b333e"),
    "target": ("#dbeafe", "#17335c"),
    "source": ("#ffedd5", "#4d2a10"),
    "mixed": ("#ede9fe", "#34245e"),
    "network": ("#d9f2ea", "#123f36"),
    "box-edge": ("#8c959f", "#768390"),
    "target-edge": ("#2563eb", "#58a6ff"),
    "source-edge": ("#d9530f", "#f0883e"),
    "mixed-edge": ("#7c3aed", "#a78bfa"),
    "network-edge": ("#0f8a6d", "#3fb99a"),
    "text": ("#1f2328", "#f0f3f6"),
    "quiet": ("#4d5661", "#b6bfca"),
}
"""Each class's colour in light and in dark mode: of lines where its name ends in edge, else of areas and letters."""
SANS = "-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"

# --- Shapes: lengths are in units of the viewBox, about 1.25 to a pixel where a page shows the diagram ---


def numbers(*values: float) -> str:
    """Numbers, with at most two digits after the point, between spaces."""
    return " ".join(f"{value:.2f}".rstrip("0").rstrip(".") for value in values)


def rules(mode: int) -> str:
    """The classes' colours in light mode, 0, or dark mode, 1; what is "solid" is filled with the colour of an edge."""
    edge, area = ".{0}{{stroke:{1}}} .{0}.solid{{fill:{1};stroke:none}}", ".{0}{{fill:{1}}}"
    return "\n".join((edge if "edge" in name else area).format(name, pair[mode]) for name, pair in COLOURS.items())


STYLE = f"""\
text{{font-family:{SANS};text-anchor:middle}}
.mono{{font-family:{MONO}}}
.bold{{font-weight:bold}}
.line{{fill:none;stroke-width:2}}
.dashed{{stroke-dasharray:5 4}}
{rules(0)}
@media (prefers-color-scheme: dark) {{
{rules(1)}
}}"""


class Drawing:
    """An SVG image that grows by shapes; later ones lie on top."""

    def __init__(self, size: tuple[int, int], *, title: str, description: str) -> None:
        width, height = size
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'role="img" aria-labelledby="title description">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="description">{escape(description)}</desc>',
            f"<style>\n{STYLE}\n</style>",
        ]
        self.box((width / 2, height / 2), (width - 2, height - 2), look="panel box-edge", radius=14)

    def box(self, middle: Point, size: Point, *rows: str, look: str, radius: float = 8) -> None:
        """A rectangle with round corners, and rows of words in its middle."""
        (x, y), (width, height) = middle, size
        place = numbers(x - width / 2, y - height / 2, width, height, radius).split()
        self.parts.append('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="{}"/>'.format(look, *place))
        for row, words in enumerate(rows):
            self.text((x, y + 20 * (row - (len(rows) - 1) / 2)), words)

    def text(self, middle: Point, words: str, *, size: float = 15, look: str = "text") -> None:
        """One line of words around a point; x_a, y_a and g_s become letters with a subscript."""
        x, y = middle
        subscript = r'\1<tspan dy="4" font-size="12">\2</tspan><tspan dy="-4">\3</tspan>'
        spans = re.sub(r"\b([xyg])_([as])\b(.*)", subscript, escape(words)).replace('<tspan dy="-4"></tspan>', "")
        place = numbers(x, y + 0.36 * size, size).split()  # a capital's height is about 0.72 of the font's size
        self.parts.append('<text class="{}" x="{}" y="{}" font-size="{}">{}</text>'.format(look, *place, spans))

    def arrow(self, *points: Point, look: str = "box-edge") -> None:
        """A line along the axes, with round corners, from the first point to a head at the last one."""
        path = np.array(points, float)
        directions = np.sign(np.diff(path, axis=0))
        tip, direction = path[-1].copy(), directions[-1]
        head = [tip, tip - 9 * direction + 5 * direction[::-1], tip - 9 * direction - 5 * direction[::-1]]
        path[-1] = tip - 8 * direction
        line = f"M{numbers(*path[0])}"
        for corner, before, after in zip(path[1:-1], directions[:-1], directions[1:], strict=True):
            line += f"L{numbers(*(corner - 8 * before))}Q{numbers(*corner, *(corner + 8 * after))}"
        self.parts.append(f'<path class="line {look}" d="{line}L{numbers(*path[-1])}"/>')
        self.parts.append(f'<polygon class="{look.split()[0]} solid" points="{numbers(*np.ravel(head))}"/>')

    def picture(self, middle: Point, side: float, pixels: NDArray[np.uint8], *, name: str) -> None:
        """A square of uint8[S, S, 3], kept in the SVG as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
        data = base64.b64encode(file.getvalue()).decode()
        x, y, length = numbers(middle[0] - side / 2, middle[1] - side / 2, side).split()
        place = f'x="{x}" y="{y}" width="{length}" height="{length}"'
        self.parts.append(f'<image id="{name}" {place} href="data:image/png;base64,{data}"/>')

    def density(self, corner: Point, size: Point) -> None:
        """The curve of Beta(ALPHA, ALPHA), up to a factor, with a dot at LAM."""
        lam = np.append(np.linspace(0.015, 0.985, 98), LAM)
        density = (lam * (1 - lam)) ** (ALPHA - 1)
        *curve, dot = np.array(corner) + np.stack((lam, 1 - density / density[0]), 1) * size
        self.parts.append(f'<path class="line mixed-edge" d="M{"L".join(numbers(*point) for point in curve)}"/>')
        self.parts.append('<circle class="mixed-edge solid" cx="{}" cy="{}" r="6"/>'.format(*numbers(*dot).split()))


# --- The diagrams ---


def method() -> Drawing:
    """XMixup: two images, their blend, one network with two heads, one loss."""
    draw = Drawing(
        (1080, 546),
        title="XMixup at a glance",
        description="A target photo x, a tulip, and an auxiliary image x_a of the source, a daisy, are blended to "
        "lambda x + (1 - lambda) x_a, with lambda from a Beta distribution. One shared backbone sees the mixed image. "
        "The loss is lambda times the target head's cross entropy with the label tulip, plus 1 - lambda times the "
        "source head's with the label daisy. Auxiliary classes are selected once, before training.",
    )
    target, auxiliary = tulip(), daisy()
    mixed = rounded(LAM * target.astype(float) + (1 - LAM) * auxiliary)
    draw.box((100, 127), (152, 206), look="box target-edge")
    draw.box((100, 47), (132, 26), "y = tulip", look="target", radius=5)
    draw.picture((100, 134), 132, target, name="target")
    draw.text((100, 215), "target photo x")
    draw.box((100, 353), (152, 206), look="box source-edge")
    draw.text((100, 265), "auxiliary image x_a")
    draw.picture((100, 346), 132, auxiliary, name="auxiliary")
    draw.box((100, 433), (132, 26), "y_a = daisy", look="source", radius=5)

    draw.box((294, 104), (128, 40), "× λ", look="target target-edge", radius=20)
    draw.box((294, 376), (128, 40), "× (1 − λ)", look="source source-edge", radius=20)
    draw.box((294, 240), (144, 136), look="mixed mixed-edge")
    draw.text((294, 191), "λ ~ Beta(α, α)")
    draw.density((238, 206), (112, 68))
    draw.text((294, 290), f"here λ = {LAM}")
    draw.box((488, 240), (152, 192), look="box mixed-edge")
    draw.text((488, 159), "mixed image", look="text bold")
    draw.picture((488, 240), 132, mixed, name="mixed")
    draw.text((488, 321), "λ x + (1 − λ) x_a")
    for look, y, edge, card in (("target-edge", 104, 124, 144), ("source-edge", 376, 356, 336)):
        draw.arrow((176, y), (230, y), look=look)
        draw.arrow((294, 172 if y < 240 else 308), (294, edge), look="mixed-edge")
        draw.arrow((358, y), (488, y), (488, card), look=look)

    draw.arrow((564, 240), (600, 240))
    draw.box((657, 240), (114, 160), look="network network-edge")
    for layer in range(5):
        draw.box((627.5 + 14.5 * layer, 214), (9, 74 - 13 * layer), look="network-edge solid", radius=3)
    draw.text((657, 274), "one shared")
    draw.text((657, 294), "backbone f")
    draw.box((807, 134), (98, 64), "target", "head g", look="target target-edge")
    draw.box((807, 346), (98, 64), "source", "head g_s", look="source source-edge")
    draw.box((974, 134), (164, 64), "λ CE(target)", "with y = tulip", look="target target-edge")
    draw.box((974, 346), (164, 64), "(1 − λ) CE(source)", "with y_a = daisy", look="source source-edge")
    draw.box((974, 240), (164, 56), look="mixed mixed-edge")
    draw.text((974, 240), "loss: their sum", look="text bold")
    draw.text((575, 33), "each label counts as much as its image", look="quiet", size=14)
    for look, side in (("target-edge", -1), ("source-edge", 1)):
        head = 240 + 106 * side
        draw.arrow((714, 240 + 26 * side), (736, 240 + 26 * side), (736, head), (758, head), look=look)
        draw.arrow((856, head), (892, head), look=look)
        draw.arrow((974, head - 32 * side), (974, 240 + 28 * side), look=look)
        label = 240 + 193 * side
        draw.arrow((176, label), (974, label), (974, head + 32 * side), look=f"{look} dashed")

    once = (
        "Auxiliary classes are selected once, before training, "
        "by what the pretrained classifier predicts for each target class"
    )
    draw.box((540, 502), (1032, 40), once, look="box box-edge")
    draw.arrow((100, 482), (100, 456))
    return draw


def column(index: int) -> float:
    """The middle of a column of data.svg; there are two groups of three."""
    return 100.5 + 169 * index + 14 * (index > 2)


def station(draw: Drawing, top: Point, size: Point, words: str) -> None:
    """A box below a point. Its words: a colour, the room of the package, a title, and rows that say what happens."""
    (x, y), (_, height) = top, size
    colour, room, title, *rows = re.split(r" *\| *", words)
    draw.box((x, y + height / 2), size, look=f"{colour} {colour}-edge")
    draw.text((x, y + 17), room, size=13, look="quiet mono")
    draw.text((x, y + 39), title, size=16, look="text bold")
    for row, text in enumerate(rows):
        draw.text((x, y + 63 + 19 * row), text, size=14)


PREPARING = """\
box    | on disk       | Files       | folders, tables, tar | shards, torchvision, | Hugging Face
box    | data/readers  | Readers     | list images with | classes and splits
box    | data/decoding | Decoder     | DALI, or | torchvision, Pillow
source | models/       | Classifier  | the pretrained | network, frozen
source | selection/    | Class means | of predictions | or features
source | selection/    | Selection   | source classes for | each target class"""
STEP = """\
mixed   | batches/       | Sampler.plan | a StepPlan: order, | crops, flips, | lam, box, | auxiliary image
mixed   | batches/, ops/ | render       | one call of mix, | the fused operator: | crop, flip, mix, | normalise
box     | torch.Tensor   | Batch        | [B, 3, S, S]: | B mixed images | of S × S pixels
network | models/        | Network      | one backbone, | target head and | source head
box     | methods/       | Loss         | both heads' cross | entropies, weighed | by lam
box     | training/      | Optimizer    | SGD or AdamW, | learning rate of | the schedule"""
TARGET = "ops/, data/ | Target images | ImagePool: decoded once, kept in memory as bytes,"
AUXILIARY = "ops/, data/ | Auxiliary images | ImagePool: images of the selected | classes, decoded alike, in memory"


def data() -> Drawing:
    """The data's way: files to pools, once; selection, once; pools to a step of the optimizer, again and again."""
    draw = Drawing(
        (1060, 586),
        title="The way of the data through the code",
        description="Files are listed by readers, decoded, and kept in an ImagePool, or streamed. Once, before "
        "training, the pretrained classifier passes over the training images; class means make the Selection, and the "
        "images of its classes the auxiliary pool. In each step Sampler.plan makes a StepPlan; render makes a batch of "
        "plan and pools in one call of the fused operator mix; then come network, loss and optimizer.",
    )
    zones = (270, 16, 507, 168, "Reading"), (790, 16, 507, 168, "Selection: once, before training")
    for x, y, width, height, title in (*zones, (530, 200, 1028, 150, "Images"), (530, 380, 1028, 190, "Each step")):
        draw.box((x, y + height / 2), (width, height), look="zone")
        draw.text((x, y + 20), title, look="text bold")
    for top, height, stations, last in ((54, 120, PREPARING, (2, 5)), (418, 142, STEP, (5,))):
        for index, words in enumerate(stations.splitlines()):
            station(draw, (column(index), top), (145, height), words)
            if index not in last:
                draw.arrow((column(index) + 72.5, top + height / 2), (column(index + 1) - 72.5, top + height / 2))
    station(draw, (361, 240), (666, 98), f"target | {TARGET} | or streamed: decoded again for each step")
    station(draw, (875, 240), (314, 98), f"source | {AUXILIARY}")

    draw.arrow((column(2), 174), (column(2), 240), look="target-edge")
    draw.arrow((column(3), 240), (column(3), 174), look="target-edge")
    draw.text((column(3) + 70, 220), "training images", size=14, look="quiet")
    draw.arrow((column(5), 174), (column(5), 240), look="source-edge")
    draw.text((column(5) - 73, 220), "what to decode", size=14, look="quiet")
    draw.text((775, 400), "the plan follows from seed and step alone", size=14, look="quiet")
    left, right = column(1) - 36, column(1) + 36
    draw.arrow((left, 338), (left, 418), look="target-edge")
    draw.arrow((column(4), 338), (column(4), 365), (right, 365), (right, 418), look="source-edge")
    return draw


def main(folder: Path) -> None:
    for name, drawing in (("method.svg", method()), ("data.svg", data())):
        (folder / name).write_text("\n".join([*drawing.parts, "</svg>", ""]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
