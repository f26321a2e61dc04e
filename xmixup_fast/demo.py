"""The embedded demo: printed letters help to learn handwritten digits, with nothing to download.

The source dataset is upper and lower case letters, rendered from the fonts that matplotlib ships. The target dataset is
scikit-learn's handwritten digits, with ten training images of each class. A small network is pretrained on the letters
and then fine-tuned to the digits, with each method and several seeds. The letters become images in the way in which the
digits did, so that the pretrained features fit: a character fills a bitmap of 32 x 32, and an image counts the set
pixels of each 4 x 4 block (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998).
"""

from __future__ import annotations

import json
import secrets
import signal
import string
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .cli import require_one_process
from .runtime.files import check_writable
from .runtime.signals import Interrupted

if TYPE_CHECKING:
    from .runtime.progress import Progress
    from .training.result import Result

Pixels = NDArray[np.uint8]

SIDE, LEVELS = 8, 16
"""Height and width of scikit-learn's digits, in pixels, and their largest grey level."""
STORED = 36
"""Height and width of the PNG files, in pixels. The network sees crops of 32 x 32, which lose at most one pixel of the
8 x 8."""

THIN_FONTS = (
    "DejaVuSans DejaVuSans-Oblique DejaVuSansMono DejaVuSansMono-Oblique DejaVuSerif DejaVuSerif-Italic "
    "STIXGeneral STIXGeneralItalic cmr10 cmss10 cmtt10 cmmi10"
)
BOLD_FONTS = (
    "DejaVuSans-Bold DejaVuSans-BoldOblique DejaVuSansMono-Bold DejaVuSansMono-BoldOblique DejaVuSerif-Bold "
    "DejaVuSerif-BoldItalic STIXGeneralBol STIXGeneralBolIta cmb10"
)
FONTS = dict.fromkeys(THIN_FONTS.split(), 3) | dict.fromkeys(BOLD_FONTS.split(), 1)
"""Fonts, each with the widest outline that leaves its letters readable, in pixels at FONT_SIZE."""
FONT_SIZE = 48
CLASSES = {f"capital-{x}": x for x in string.ascii_uppercase} | {f"small-{x}": x for x in string.ascii_lowercase}
"""Letters by class name. The names differ in more than case, because some file systems ignore case."""

SETTINGS: dict[str, Any] = {
    "model": "test_resnet",
    "image_size": 32,
    "resize": STORED,
    "flip": False,
    "head_lr_multiplier": 1.0,
    "decoder": "pillow",  # the images are PNG files, for which DALI would be imported in vain
    "device": "cpu",
    "threads": 1,  # a second thread saved a quarter of a step at best, and on a busy machine it cost far more
    "report": False,
    "keep": "last",  # for all methods alike, whatever a few validation images say
}
"""Settings of all runs."""
PRETRAINING: dict[str, Any] = {
    "method": "finetune",
    "weights": "none",
    "batch_size": 64,
    "lr": 0.2,
    "val_fraction": 0.05,
    "test_fraction": 0.05,
    "cache": "none",  # no other run reads the same set of letters
}
"""Settings of the run that pretrains the network on the letters."""
TRANSFER: dict[str, Any] = {"batch_size": 50, "lr": 0.1, "val_interval": 100}
"""Settings of all runs on the digits. Batch size and learning rate were chosen by the mean validation accuracy over
twelve other splits, the same values for all methods. Those validation images are in part test images here."""
METHODS: dict[str, dict[str, Any]] = {
    "finetune": {"method": "finetune"},
    "xmixup": {"method": "xmixup", "top_k": 3},
    "xcutmix-l2sp": {"method": "xcutmix", "regularizer": "l2sp", "top_k": 3},
}
"""Settings of each method: plain fine-tuning, the paper's method, and this project's recipe. ``top_k`` was chosen for
xmixup, out of 1, 3 and 5, on the same validation images; the recipe takes it over."""

TRAINING_SHARE = 0.6
"""The share of training steps in the demo's time, as measured on two cores; the rest decodes, selects and evaluates."""


@dataclass(frozen=True)
class Budget:
    """How much the demo does."""

    images_per_font: int = 3
    """Images of each letter in each font."""
    pretraining_steps: int = 300
    transfer_steps: int = 120
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the splits of the digits and of the runs."""


def main() -> None:
    """Runs the demo into the folder ``runs/TIME-demo-RANDOM``. Raises as :func:`run` does."""
    run(Path("runs", f"{time.strftime('%Y%m%d-%H%M%S')}-demo-{secrets.token_hex(4)}"))


def run(output: Path, budget: Budget | None = None) -> dict[str, list[Result]]:
    """Runs the demo and prints what comes out.

    Args:
        output: the folder to make, for both datasets and the run folder of each run.
        budget: how much to do; as much as takes a minute or two on two cores if not given.

    Returns the results of each method, in the order of the seeds. Raises FileExistsError where ``output`` exists,
    ValueError under torchrun, and Interrupted, a KeyboardInterrupt, on Ctrl-C and SIGTERM.
    """
    check_writable(output)
    started = time.perf_counter()
    budget = budget or Budget()
    runs = len(METHODS) * len(budget.seeds)
    # PyTorch is imported after this line, because the import takes seconds and the line shall come at once.
    print(
        "Printed letters help to learn handwritten digits: makes both datasets, pretrains a small network on the "
        f"letters, and fine-tunes it to the digits in {runs} runs. This takes a minute or two on two idle cores; "
        "the time left is told after the first steps. It does not resume: started again, it begins anew, elsewhere.",
        flush=True,
    )
    require_one_process()
    output.mkdir(parents=True)
    try:
        results = _run(output, budget)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        done = len(list(output.glob("*/summary.json")))
        held = f"{output} holds {done} finished runs of {runs + 1}, and images"
        raise Interrupted(f"stopped; {held}; remove it: the demo does not resume", number) from error
    _print_selection(results["xmixup"][0])
    _print_comparison(results, budget.seeds)
    print(f"{time.perf_counter() - started:.0f} s in all; datasets, networks and logs are in {output}", flush=True)
    return results


def _run(output: Path, budget: Budget) -> dict[str, list[Result]]:
    """Makes the datasets, pretrains, and fine-tunes with each method and seed."""
    from .runtime.progress import Progress

    # The runs' own lines go to log files, and would keep a log that is no terminal waiting; a terminal has their bars.
    with Progress(None, "finished", unit="runs", hidden=sys.stderr.isatty()) as progress:
        return _run_all(output, budget, progress)


def _run_all(output: Path, budget: Budget, progress: Progress) -> dict[str, list[Result]]:
    letters = output / "letters"
    count = write_letters(letters, budget.images_per_font, seed=0)
    print(f"source: {count} images of {len(CLASSES)} printed letters, in {letters}", flush=True)
    pretrained = _fit(
        SETTINGS | PRETRAINING,
        progress,
        after_first_epoch=lambda seconds: _print_time_left(seconds, budget),
        target=str(letters),
        steps=budget.pretraining_steps,
        val_interval=budget.pretraining_steps,
        output=str(output / "pretraining"),
    )
    results: dict[str, list[Result]] = {name: [] for name in METHODS}
    started, runs = time.perf_counter(), len(METHODS) * len(budget.seeds)
    for seed in budget.seeds:
        digits = output / f"digits-s{seed}"
        write_digits(digits, seed)
        print(f"target: handwritten digits, ten training images of each class, in {digits}", flush=True)
        for name, method in METHODS.items():
            result = _fit(
                SETTINGS | TRANSFER | method,
                progress,
                weights=str(pretrained.folder / "model.safetensors"),
                target=str(digits),
                source=str(letters),
                steps=budget.transfer_steps,
                seed=seed,
                cache=str(output / "cache"),  # the methods of a seed decode the same images
                output=str(output / f"{name}-s{seed}"),
            )
            results[name].append(result)
            done = sum(map(len, results.values()))
            if done < runs:
                _print_left((time.perf_counter() - started) / done * (runs - done))
    return results


def write_letters(folder: Path, images_per_font: int, seed: int) -> int:
    """Renders the source dataset, a folder of class folders of PNG files. Returns the number of images."""
    fonts = load_fonts()
    random = np.random.default_rng(seed)
    for name, letter in CLASSES.items():
        images = [render(letter, font, outline, random) for font, outline in fonts for _ in range(images_per_font)]
        _write_images(folder / name, images)
    return len(CLASSES) * len(fonts) * images_per_font


def load_fonts() -> list[tuple[ImageFont.FreeTypeFont, int]]:
    """All fonts, each with the width of its widest outline in pixels."""
    import matplotlib

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
    """Writes the target dataset: ten images of each class in train/, ten in val/, and the rest in test/."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng(seed)
    for digit in range(10):
        images = random.permutation(digits.images[digits.target == digit].astype(np.uint8))
        for split, part in (("train", images[:10]), ("val", images[10:20]), ("test", images[20:])):
            _write_images(folder / split / str(digit), part)


def _write_images(folder: Path, images: Sequence[Pixels] | Pixels) -> None:
    """Writes images, uint8[8, 8] with values from 0 to 16, as enlarged PNG files."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        grey = Image.fromarray(np.round(image * (255 / LEVELS)).astype(np.uint8))
        grey.resize((STORED, STORED), Image.Resampling.BILINEAR).save(folder / f"{number:04d}.png", compress_level=1)


class _Log:
    """A log file that passes the line of each epoch to a function."""

    def __init__(self, file: TextIO, after_epoch: Callable[[str], object]) -> None:
        self.file, self.after_epoch = file, after_epoch

    def write(self, text: str) -> int:
        written = self.file.write(text)
        if text.startswith("epoch "):
            self.after_epoch(text)
        return written

    def flush(self) -> None:
        self.file.flush()


def _fit(
    settings: dict[str, Any],
    progress: Progress,
    *,
    after_first_epoch: Callable[[float], object] = lambda seconds: None,
    **more: Any,
) -> Result:
    """One run, printed as one line. The lines that fit prints go to a log file beside the run folder.

    ``progress`` counts runs; ``after_first_epoch`` is called once, with the seconds of training of an image.
    """
    from .training.run import fit

    folder, console = Path(more["output"]), sys.stdout

    def tell_pace(line: str) -> None:
        progress.update(0, **{folder.name: " ".join(line.split()[2:4])})
        first, *rest = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        if not rest:
            with redirect_stdout(console):
                after_first_epoch(1 / json.loads(first)["images_per_second"])

    with (
        folder.with_suffix(".log").open("w", encoding="utf-8") as file,
        redirect_stdout(_Log(file, tell_pace)),  # type: ignore[type-var]
    ):
        progress.update(0, **{folder.name: "begins"})
        result = fit(**settings, **more)
    progress.update()
    summary = result.summary
    accuracies = f"validation {summary['val_accuracy']:6.2f} %, test {summary['test_accuracy']:.2f} %"
    print(f"{folder.name:16s} {accuracies}, {summary['train_seconds']:.1f} s of training", flush=True)
    return result


def _print_time_left(seconds: float, budget: Budget) -> None:
    """Prints how long the demo takes from its first steps on, of which an image takes so many seconds."""
    runs = len(METHODS) * len(budget.seeds)
    images = budget.pretraining_steps * PRETRAINING["batch_size"]
    images += runs * budget.transfer_steps * TRANSFER["batch_size"]
    _print_left(seconds * images / TRAINING_SHARE)


def _print_left(seconds: float) -> None:
    print(f"about {seconds / 60:.1f} minutes left" if seconds >= 90 else f"about {seconds:.0f} s left", flush=True)


def _print_selection(result: Result) -> None:
    """Prints which letters the auxiliary images of each digit were taken from."""
    print(f"\nsource classes that XMixup gave each digit (seed {result.summary['seed']}), by predicted probability:")
    assert result.selection is not None
    for digit, chosen in result.selection["classes"].items():
        scores = (f"{one['class']} {one['score']:.2f}{' (?)' if 'doubtful' in one else ''}" for one in chosen)
        print(f"  {digit} <- {', '.join(scores)}")


def _print_comparison(results: dict[str, list[Result]], seeds: Sequence[int]) -> None:
    """Prints the test accuracies of all runs as a table, and what to do next."""
    tested = results["finetune"][0].summary["num_test"]
    print(f"\ntest accuracy in percent, on {tested} digits; seconds of training of a run, on average")
    print(" " * 14 + "".join(f"{f'seed {seed}':>9s}" for seed in seeds) + "     mean  seconds")
    for name, runs in results.items():
        accuracies = [run.summary["test_accuracy"] for run in runs]
        seconds = fmean(run.summary["train_seconds"] for run in runs)
        cells = "".join(f"{accuracy:9.2f}" for accuracy in (*accuracies, fmean(accuracies)))
        print(f"{name:14s}{cells}{seconds:9.1f}")
    print("finetune: plain fine-tuning. xmixup: the paper's method, which blends each digit with a letter.")
    print("xcutmix-l2sp: this project's recipe, boxes in place of blends and L2-SP in place of weight decay.")
    print("\nnext, with your photos in a folder for each class (--help lists all settings):")
    print("  xmixup train photos/")
