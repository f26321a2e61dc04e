"""The embedded demo, with a budget of seconds."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xmixup_fast import demo
from xmixup_fast.data.readers.folder import read_folder
from xmixup_fast.runtime import progress
from xmixup_fast.runtime.signals import Interrupted
from xmixup_fast.training.run import Result

Run = tuple[Path, dict[str, list[Result]], str]
TINY = demo.Budget(images_per_font=1, pretraining_steps=2, transfer_steps=2, seeds=(3,))


@pytest.fixture(scope="module")
def told() -> list[str]:
    """Gets the lines of progress."""
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> Run:
    """Folder, results and printed lines of one tiny run, which tells its progress ten times a second."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as printed,
        redirect_stderr(io.StringIO()) as errors,
    ):
        patch.setattr(progress, "LINE_SECONDS", 0.1)
        results = demo.run(folder, TINY)
    told += errors.getvalue().splitlines()
    return folder, results, printed.getvalue()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_letters_are_a_dataset_without_digits(run: Run) -> None:
    letters = read_folder(run[0] / "letters")
    assert len(letters.classes) == 52
    assert not any(character.isdigit() for name in letters.classes for character in name)
    assert len({name.lower() for name in letters.classes}) == 52, "some file systems ignore case"
    assert len(letters.train) == 52 * len(demo.FONTS)


def test_digits_are_ten_a_class_to_train_and_to_validate_on(run: Run) -> None:
    digits = read_folder(run[0] / "digits-s3")
    assert digits.classes == [str(digit) for digit in range(10)]
    for split in (digits.train, digits.val):
        assert np.bincount([sample.label for sample in split]).tolist() == [10] * 10
    assert len(digits.test) == 1797 - 200


def test_all_images_have_the_resolution_of_the_digits(run: Run) -> None:
    levels = np.round(np.arange(17) * 255 / 16).astype(np.uint8)
    for path in (run[0] / "letters" / "capital-A" / "0000.png", run[0] / "digits-s3" / "train" / "4" / "0000.png"):
        image = Image.open(path)
        assert image.size == (demo.STORED, demo.STORED)
        # An enlarged 8 x 8 image is what its own reduction enlarges to; an image with finer detail is not.
        small = image.resize((8, 8), Image.Resampling.NEAREST)
        nearest = levels[np.abs(np.asarray(small, dtype=int)[..., None] - levels).argmin(-1)]
        again = Image.fromarray(nearest).resize(image.size, Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(again, dtype=int)).max() <= 16


def test_a_letter_is_counts_of_a_filled_bitmap() -> None:
    font, outline = demo.load_fonts()[0]
    random = np.random.default_rng(0)
    images = np.stack([demo.render(letter, font, outline, random) for letter in demo.CLASSES.values()])
    assert images.shape == (52, 8, 8)
    assert images.dtype == np.uint8
    assert images.max() == 16
    assert (images.max(axis=(1, 2)) >= 8).all(), "every letter has strokes"
    assert (images[:, :, 3:5].sum(axis=2) > 0).any(axis=1).all(), "and is centred"
    assert (images.sum(axis=2) > 0).sum(axis=1).min() >= 7, "and as high as the digits"


def test_a_seed_gives_the_same_images_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        demo.write_letters(tmp_path / name / "letters", 1, seed)
        demo.write_digits(tmp_path / name / "digits", seed)
    one, same, other = (_files(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert one.keys() == other.keys()
    assert one != other


def test_splits_share_no_image(tmp_path: Path) -> None:
    demo.write_digits(tmp_path, 0)
    splits = [{path.read_bytes() for path in (tmp_path / split).rglob("*.png")} for split in ("train", "val", "test")]
    assert not splits[0] & splits[1]
    assert not (splits[0] | splits[1]) & splits[2]


def test_all_methods_have_the_same_data_and_steps(run: Run) -> None:
    folder, results, _ = run
    assert list(results) == ["finetune", "xmixup", "xcutmix-l2sp"]
    for name, (result,) in results.items():
        summary = json.loads((folder / f"{name}-s3" / "summary.json").read_text())
        assert summary == result.summary
        assert (summary["method"], summary["seed"], summary["steps"]) == (name.partition("-")[0], 3, 2)
        assert summary["weights"] == str(folder / "pretraining" / "model.safetensors")
        assert (summary["num_train"], summary["num_val"], summary["num_test"]) == (100, 100, 1597)
        assert (folder / f"{name}-s3.log").read_text()


def test_selection_and_comparison_are_printed(run: Run) -> None:
    folder, results, text = run
    (xmixup,) = results["xmixup"]
    assert xmixup.selection is not None
    classes = xmixup.selection["classes"]
    assert list(classes) == [str(digit) for digit in range(10)]
    for digit, chosen in classes.items():
        assert {entry["class"] for entry in chosen} <= set(demo.CLASSES)
        assert f"{digit} <- {chosen[0]['class']} " in text
    for method, (result,) in results.items():
        assert any(
            line.startswith(method) and f"{result.summary['test_accuracy']:9.2f}" in line for line in text.splitlines()
        )
    assert str(folder) in text.splitlines()[-1]
    assert text.startswith("Printed letters help to learn handwritten digits")
    assert "in 3 runs" in text.splitlines()[0] and "does not resume" in text.splitlines()[0]
    lines = [line for line in text.splitlines() if line.endswith(" left")]
    assert len(lines) == 3 and all(re.fullmatch(r"about (\d+ s|\d+\.\d minutes) left", line) for line in lines)
    assert text.index(lines[0]) < text.index("pretraining  "), "told after the first steps"
    assert text.splitlines()[-2].endswith(" xmixup train photos/")


@pytest.mark.usefixtures("run")
def test_a_log_that_is_no_terminal_hears_of_each_run(told: list[str]) -> None:
    lines = [line for line in told if line.startswith("finished: ")]
    for number, name in enumerate(("pretraining", "finetune-s3", "xmixup-s3", "xcutmix-l2sp-s3")):
        assert any(re.fullmatch(rf"finished: {number} runs, {name} (begins|step 2)", line) for line in lines), name


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        demo.run(tmp_path, TINY)
    assert not list(tmp_path.iterdir())


def test_the_first_line_comes_before_torch_is_imported() -> None:
    program = (
        "import builtins, sys, xmixup_fast.demo as demo\n"
        "def stop(*words, **more): sys.stdout.write(' '.join(words)); raise SystemExit('torch' in sys.modules)\n"
        "builtins.print = stop\n"
        "demo.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "This takes a minute or two" in done.stdout, done.stderr


def test_an_interrupted_demo_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_letters", interrupt)
    with pytest.raises(Interrupted, match=r"stopped; .*out holds 0 finished runs of 4, and images; remove it"):
        demo.run(tmp_path / "out", TINY)


@pytest.mark.parametrize("module", ["xmixup_fast.runtime.signals", "xmixup_fast.cli", "torch", "timm"])
def test_an_interrupt_while_modules_are_imported_is_one_line(module: str, tmp_path: Path) -> None:
    """From the first import of the command on."""
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background processes ignore it
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from xmixup_fast.__main__ import main\n"
        "sys.exit(main(['train']))"
    )
    places: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(Path(demo.__file__).parents[1])}}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, **places)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.startswith("stopped") and done.stderr.count("\n") == 1, done.stderr
