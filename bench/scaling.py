"""Training in 1 to 4 processes of this machine: time and memory of a step, for the table in docs/scaling.md.

python bench/scaling.py
    starts torchrun with 1, 2 and 4 processes of one thread each, prints a table, and writes it into docs/scaling.md

python bench/scaling.py --processes 1 2 4 8 --model resnet50 --image-size 224 --device cuda --no-write
    on another machine, as a table alone
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from xmixup_fast import Settings
from xmixup_fast.runtime import distributed
from xmixup_fast.runtime.device import reproducible
from xmixup_fast.runtime.files import write_between_markers
from xmixup_fast.training.prepare import prepare
from xmixup_fast.training.resolve import resolved
from xmixup_fast.training.trainer import Trainer

DOCS = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
CLASSES, IMAGES_OF_CLASS = 4, 100
WARMUP, TIMES = 3, 20
MIB = 2**20
COLUMNS = {
    "processes": "{processes}",
    "images a step": "{images}",
    "step, ms": "{step:.1f}",
    "images/s": "{rate:.0f}",
    "plan, ms": "{plan:.2f}",
    "agreeing, ms": "{agree:.2f}",
    "gradients, ms": "{gradients:.1f}",
    "memory, MiB": "{memory:.0f}",
    "private, MiB": "{private:.0f}",
    "pools, MiB": "{pools:.1f}",
}
LEGEND = f"""\
A row is training in so many processes of one CPU thread each, which share cores where they are more than the cores.
Times are medians of {TIMES} calls, of the slowest process. *Plan*: a part of the step, which every process does for
the whole batch. *Agreeing*: two small reductions, for the loss and for signals. *Gradients*: one all-reduce of as
many numbers, with nothing to overlap with. *Memory* and *pools* add up the processes' proportional shares (PSS);
*private* is what one process shares with none."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="how many, one after the other")
    parser.add_argument("--model", default="resnet18", help="network, by its timm name")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32, help="of all processes; and again, of each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-write", action="store_true", help="leave docs/scaling.md as it is")
    asked = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dataset, seed in (("target", 0), ("source", 1)):
            write_images(folder / dataset, asked.image_size * 2, seed)
        common = {"model": asked.model, "image_size": asked.image_size, "device": asked.device}
        for processes in asked.processes:
            results += started(processes, folder, asked.batch_size, common)
    rows = [[cell.format(**result) for cell in COLUMNS.values()] for result in results]
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    text = f"{machine(asked, results[0])}\n\n{LEGEND}\n\n{text}"
    print(text)
    if not asked.no_write:
        write_between_markers(DOCS, "bench/scaling.py", text)
    print(json.dumps(results))


def started(processes: int, folder: Path, batch_size: int, common: dict[str, Any]) -> list[dict[str, float]]:
    """What so many processes measure, with a batch of ``batch_size`` and, if that is another, one of each."""
    batches = sorted({batch_size, batch_size * processes})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, __file__, json.dumps([{**common, "batch_size": batch} for batch in batches]), str(folder)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "SCALING_WORKER": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def work(asked: list[dict[str, Any]], folder: Path) -> None:
    """What each of the processes does."""
    data = {"target": str(folder / "target"), "source": str(folder / "source"), "cache": str(folder / "cache")}
    run = {"output": str(folder / "run"), "weights": "none", "selection": "random", "steps": 10**6}
    with distributed.processes():
        found = []
        for values in asked:
            settings = Settings(**data, **run, **values)
            with reproducible(settings.seed, settings.threads):
                found.append(measure(resolved(settings)))
        if distributed.rank() == 0:
            print(json.dumps(found))


def measure(settings: Settings) -> dict[str, float]:
    """Median times in milliseconds, and memory in MiB."""
    run = prepare(settings, lambda text: None)
    parts = run.parts
    trainer = Trainer(parts, settings)
    parameters = sum(parameter.numel() for parameter in parts.network.parameters())
    gradients = torch.zeros(parameters, device=settings.device)

    def step() -> None:
        (loss,) = distributed.all_reduce_sum(float(trainer.step()))
        distributed.all_reduce_max(0, 0)
        assert np.isfinite(loss)

    def agree() -> None:
        distributed.all_reduce_sum(1.0)
        distributed.all_reduce_max(0, 0)

    def reduce() -> None:
        if distributed.world_size() > 1:
            dist.all_reduce(gradients)
        float(gradients[0])

    seconds = {name: median_seconds(what) for name, what in (("step", step), ("agree", agree), ("gradients", reduce))}
    seconds["plan"] = median_seconds(lambda: parts.method.plan(parts.sampler, trainer.steps_done))
    whole, private, pools = memory(f"{settings.cache}/pools/")
    distributed.barrier()
    return {
        **{name: 1e3 * value for name, value in seconds.items()},
        "processes": distributed.world_size(),
        "images": settings.batch_size,
        "rate": settings.batch_size / seconds["step"],
        "gradient_bytes": 4 * parameters,
        "memory": distributed.all_reduce_sum(whole / MIB)[0],
        "pools": distributed.all_reduce_sum(pools / MIB)[0],
        "private": distributed.all_reduce_max(private / MIB)[0],
    }


def median_seconds(what: Callable[[], object]) -> float:
    """Of some calls, which all processes begin together; of the slowest process."""
    seconds = []
    for _ in range(WARMUP + TIMES):
        distributed.barrier()
        began = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - began)
    return distributed.all_reduce_max(statistics.median(seconds[WARMUP:]))[0]


def memory(pools: str) -> tuple[int, int, int]:
    """This process's share of memory (PSS), what nobody shares of it, and its share of mapped pools, in bytes."""
    whole = private = of_pools = 0
    is_pool = False
    distributed.barrier()
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_pool = pools in line
        name, _, value = line.partition(":")
        if name == "Pss":
            whole += 1024 * int(value.split()[0])
            of_pools += 1024 * int(value.split()[0]) * is_pool
        elif name in ("Private_Clean", "Private_Dirty"):
            private += 1024 * int(value.split()[0])
    return whole, private, of_pools


def write_images(folder: Path, size: int, seed: int) -> None:
    """Writes a folder of class folders of smooth noise."""
    random = np.random.default_rng(seed)
    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True)
        for i in range(IMAGES_OF_CLASS):
            noise = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            image = noise.resize((size * 4 // 3, size), Image.Resampling.BICUBIC)
            image.save(folder / f"class{number}" / f"{i:03d}.jpg", quality=90)


def machine(asked: argparse.Namespace, result: dict[str, float]) -> str:
    info = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", info)
    return (
        f"{name[1] if name else platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}; "
        f"xmixup, {asked.model}, {asked.image_size} x {asked.image_size} pixels, {asked.device}; "
        f"{result['gradient_bytes'] / MIB:.1f} MiB of gradients; {time.strftime('%Y-%m-%d')}."
    )


if __name__ == "__main__":
    if "SCALING_WORKER" in os.environ:
        work(json.loads(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
