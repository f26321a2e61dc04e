"""How long a command takes to its first step, for many small images, over what it cannot do without.

python -m pytest bench/bench_start.py -s [--start-images 20000]
    prints the seconds of both sides, and their ratio; the goal is 1.5 at most

The other side imports torch, timm and torchvision, and reads and decodes the images in two threads. Sides are processes
that are started in turn. The files are in the system's cache, and each run has an empty cache of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

CLASSES, SIDE, ROUNDS = 10, 64, 3
COMMAND = """
import os, sys
from xmixup_fast.runtime.openmp import set_environment

set_environment()
from xmixup_fast.__main__ import main
from xmixup_fast.runtime.process import run_process

def to_the_first_step():
    from xmixup_fast.training.trainer import Trainer

    Trainer.step = lambda trainer: os._exit(0)
    return main(sys.argv[1:]) or 1

run_process(to_the_first_step)
"""
ALONE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import timm
import torch
import torchvision
from torchvision.io import ImageReadMode, decode_jpeg

def decode(path):
    return decode_jpeg(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8), ImageReadMode.RGB)

with ThreadPoolExecutor(2) as workers:
    assert sum(1 for _ in workers.map(decode, sorted(Path(sys.argv[1]).rglob("*.jpg")))) == int(sys.argv[2])
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, int]:
    """A folder of small JPEG files, no two of which are equal, and how many there are."""
    folder, count = tmp_path_factory.mktemp("photos"), request.config.getoption("--start-images")
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        rough = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        PIL.Image.fromarray(rough).resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR).save(path, quality=90)
    return folder, count


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


@pytest.mark.benchmark(group="start")
def test_start(benchmark: Any, photos: tuple[Path, int], tmp_path: Path) -> None:
    folder, count = photos
    settings = f"--method finetune --model test_resnet --weights none --image-size {SIDE} --resize {SIDE} --no-report"
    times: dict[str, list[float]] = {"command": [], "alone": []}

    def in_turn() -> None:
        for number in range(ROUNDS):
            times["alone"].append(seconds(ALONE, str(folder), str(count)))
            places = ["--cache", str(tmp_path / f"cache{number}"), "--output", str(tmp_path / f"run{number}")]
            times["command"].append(seconds(COMMAND, "train", str(folder), *settings.split(), *places))

    benchmark.pedantic(in_turn, rounds=1)
    medians = {side: statistics.median(values) for side, values in times.items()}
    ratio = medians["command"] / medians["alone"]
    benchmark.extra_info.update(seconds=medians, images=count, command_over_alone=ratio)
    print(f"\nstart with {count} images: {medians['command']:.1f} s; alone {medians['alone']:.1f} s; {ratio:.2f} times")
