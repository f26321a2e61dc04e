"""The embedded default: from printed characters to handwritten digits, in a minute or two, with nothing to download.

Source: upper and lower case letters, rendered from the fonts that matplotlib ships. Target: scikit-learn's handwritten
digits, ten training images per class. A small network is pretrained on the letters, and then fine-tuned to the digits
with and without XMixup. Letters become images as the digits did, so that the pretrained features fit: a bitmap of
32 x 32 that the character fills, then the set pixels of each 4 x 4 block are counted (Alpaydin and Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

import string
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .cli import require_one_process
from .training.run import Result, fit

Pixels = NDArray[np.uint8]

SIDE, LEVELS = 8, 16
"""Height and width of scikit-learn's digits, in pixels, and their largest grey level."""
STORED = 36
"""Height and width of the PNG files: the network takes crops that lose half a pixel of the 8 x 8 to each side."""

FONTS = {
    **dict.fromkeys(("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Oblique"), 3),
    **dict.fromkeys(("DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic"), 3),
    **dict.fromkeys(("cmr10", "cmss10", "cmtt10", "cmmi10"), 3),
    **dict.fromkeys(("DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSansMono-Bold"), 1),
    **dict.fromkeys(("DejaVuSansMono-BoldOblique", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"), 1),
    **dict.fromkeys(("STIXGeneralBol", "STIXGeneralBolIta", "cmb10"), 1),
}
"""Fonts, and the widest outline that leaves their letters readable, in pixels at FONT_SIZE."""
FONT_SIZE = 48
CLASSES = {f"capital-{x}": x for x in string.ascii_uppercase} | {f"small-{x}": x for x in string.ascii_lowercase}
"""Letters by class name; the names differ in more than case, which some file systems ignore."""

SETTINGS: dict[str, Any] = {
    **{"model": "test_resnet", "image_size": 32, "resize": STORED, "flip": False, "device": "cpu", "cache": "none"},
    **{"batch_size": 25, "lr": 0.1, "head_lr_multiplier": 1.0, "threads": 1, "report": False},
}
"""Of all runs. A second thread saved about a quarter of a step at best, and on a busy machine it cost far more."""
PRETRAINING = {"method": "finetune", "weights": "none", "batch_size": 64, "val_fraction": 0.05, "test_fraction": 0.05}
METHODS: dict[str, dict[str, Any]] = {"finetune": {}, "xmixup": {"top_k": 5}}
"""Chosen by the mean validation accuracy over twelve splits: learning rates, steps and batch size from the same values
for both methods; for XMixup also top_k out of 1, 3 and 5, and alpha out of 0.2 and 1."""


@dataclass(frozen=True)
class Budget:
    """How much the demonstration does: images of each letter in each font, steps, and seeds of the digits' splits."""

    images_per_font: int = 6
    pretraining_steps: int = 1000
    transfer_steps: int = 240
    seeds: tuple[int, ...] = (0, 1, 2)


def main(output: Path | None = None, budget: Budget | None = None) -> dict[str, list[Result]]:
    """Runs the demonstration and prints what comes out. Returns the results of each method, seed by seed.

    Everything is written to ``output``, ``runs/TIME-demo`` if not given: both datasets as class folders, and the run
    folder of each run. Raises FileExistsError where that is there already, and ValueError under torchrun.
    """
    require_one_process()
    budget = budget or Budget()
    output = output or Path("runs", time.strftime("%Y%m%d-%H%M%S-demo"))
    output.mkdir(parents=True)
    started = time.perf_counter()
    letters = output / "letters"
    count = write_letters(letters, budget.images_per_font, seed=0)
    print(f"source: {count} images of {len(CLASSES)} printed letters, in {letters}; pretraining", flush=True)
    pretrained = fit(
        **{**SETTINGS, **PRETRAINING},
        target=str(letters),
        steps=budget.pretraining_steps,
        output=str(output / "pretraining"),
    )
    results: dict[str, list[Result]] = {method: [] for method in METHODS}
    for seed in budget.seeds:
        digits = output / f"digits-s{seed}"
        write_digits(digits, seed)
        print(f"target: handwritten digits, ten training images a class, in {digits}", flush=True)
        for method in METHODS:
            results[method].append(_transfer(method, pretrained, output, seed, budget.transfer_steps))
    _print_selection(results["xmixup"][0])
    _print_comparison(results, budget.seeds)
    print(f"{time.perf_counter() - started:.0f} s in all; everything is in {output}", flush=True)
    return results


def write_letters(folder: Path, images_per_font: int, seed: int) -> int:
    """Renders the source dataset, a folder of class folders of PNGs. Returns the number of images."""
    fonts = load_fonts()
    random = np.random.default_rng(seed)
    for name, letter in CLASSES.items():
        images = [render(letter, *font, random) for font in fonts for _ in range(images_per_font)]
        _write_images(folder / name, images)
    return len(CLASSES) * len(fonts) * images_per_font


def load_fonts() -> list[tuple[ImageFont.FreeTypeFont, int]]:
    """All fonts, each with its widest outline."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    return [(ImageFont.truetype(str(folder / f"{name}.ttf"), FONT_SIZE), widest) for name, widest in FONTS.items()]


def render(letter: str, font: ImageFont.FreeTypeFont, widest_outline: int, random: np.random.Generator) -> Pixels:
    """A letter as a digit would be stored: uint8[8, 8], 0 to 16, white on black.

    Drawn with an outline of up to ``widest_outline`` pixels of the font, turned by up to 15 degrees, sheared, and
    stretched to about the height of the bitmap, which the digits fill too.
    """
    canvas = Image.new("L", (128, 128))
    stroke = int(random.integers(widest_outline, endpoint=True))
    ImageDraw.Draw(canvas).text((64, 64), letter, fill=255, font=font, anchor="mm", stroke_width=stroke)
    angle, shear = random.uniform(-np.pi / 12, np.pi / 12), random.uniform(-0.25, 0.25)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ [[1, shear], [0, 1]]
    shift = 64 - matrix @ [64, 64]  # about the centre
    coefficients = tuple(np.column_stack([matrix, shift]).ravel().tolist())
    canvas = canvas.transform(canvas.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    canvas = canvas.crop(canvas.getbbox())
    side = 4 * SIDE
    height = int(random.integers(side - 3, side, endpoint=True))
    widest = int(random.integers(20, 28, endpoint=True))  # digits are narrower than high
    width = min(max(round(height * canvas.width / canvas.height * random.uniform(0.8, 1.15)), 4), widest)
    left = (side - width) // 2 + int(random.integers(-2, 2, endpoint=True))
    top = int(random.integers(side - height, endpoint=True))
    bitmap = Image.new("L", (side, side))
    bitmap.paste(canvas.resize((width, height), Image.Resampling.BOX), (left, top))
    counts: Pixels = (np.asarray(bitmap) > 127).reshape(SIDE, 4, SIDE, 4).sum(axis=(1, 3), dtype=np.uint8)
    return counts


def write_digits(folder: Path, seed: int) -> None:
    """Writes the target dataset: ten images of each class in train/ and in val/, and all others in test/."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng(seed)
    for digit in range(10):
        images = random.permutation(digits.images[digits.target == digit].astype(np.uint8))
        for split, part in (("train", images[:10]), ("val", images[10:20]), ("test", images[20:])):
            _write_images(folder / split / str(digit), part)


def _write_images(folder: Path, images: Sequence[Pixels] | Pixels) -> None:
    """Writes images, uint8[8, 8] of 0 to 16, as enlarged PNGs."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        grey = Image.fromarray(np.round(image * (255 / LEVELS)).astype(np.uint8))
        grey.resize((STORED, STORED), Image.Resampling.BILINEAR).save(folder / f"{i:04d}.png", compress_level=1)


def _transfer(method: str, pretrained: Result, output: Path, seed: int, steps: int) -> Result:
    """One run from the pretrained network, in one line; what fit says goes to a file."""
    settings = {**SETTINGS, **METHODS[method], "method": method}
    with (output / f"{method}-s{seed}.log").open("w", encoding="utf-8") as log, redirect_stdout(log):
        result = fit(
            **settings,
            weights=str(pretrained.folder / "model.safetensors"),
            target=str(output / f"digits-s{seed}"),
            source=str(output / "letters"),
            steps=steps,
            seed=seed,
            output=str(output / f"{method}-s{seed}"),
        )
    summary = result.summary
    accuracies = f"validation {summary['val_accuracy']:6.2f} %, test {summary['test_accuracy']:.2f} %"
    print(f"{method:8s} seed {seed}: {accuracies}, {summary['train_seconds']:.1f} s", flush=True)
    return result


def _print_selection(result: Result) -> None:
    print(f"\nsource classes that XMixup gave each digit (seed {result.summary['seed']}), by predicted probability:")
    assert result.selection is not None
    for digit, chosen in result.selection["classes"].items():
        print(f"  {digit} <- " + ", ".join(f"{entry['class']} {entry['score']:.2f}" for entry in chosen))


def _print_comparison(results: dict[str, list[Result]], seeds: Sequence[int]) -> None:
    print("\naccuracy on held-out digits in percent, and seconds of training a run")
    print("          " + "".join(f"{f'seed {seed}':>9s}" for seed in seeds) + "     mean  seconds")
    for method, runs in results.items():
        accuracies = [run.summary["test_accuracy"] for run in runs]
        seconds = fmean(run.summary["train_seconds"] for run in runs)
        cells = "".join(f"{accuracy:9.2f}" for accuracy in (*accuracies, fmean(accuracies)))
        print(f"{method:10s}{cells}{seconds:9.1f}")
