"""How waiting threads of OpenMP cost time on an idle and on a busy machine, for the table in docs/faq.md.

python bench/busy.py
    trains and mixes in new processes, with several ways of waiting in turn, alone and beside busy loops, as many as
    there are cores; prints a table, and writes it into docs/faq.md. The machine has to be idle otherwise

python bench/busy.py --counts 10000 20000 30000 --rounds 5 --no-write
    compares several values of GOMP_SPINCOUNT, as a table alone
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from scaling import write_images

from xmixup_fast import Crops, ImagePool, Settings, mix
from xmixup_fast.runtime import openmp
from xmixup_fast.runtime.device import reproducible
from xmixup_fast.runtime.files import write_between_markers
from xmixup_fast.training.prepare import prepare
from xmixup_fast.training.resolve import resolved
from xmixup_fast.training.trainer import Trainer

DOCS = Path(__file__).resolve().parent.parent / "docs" / "faq.md"
WARMUP, CALLS = 3, 200
TRAINING = {"model": "tf_efficientnet_lite0", "weights": "none", "image_size": 96, "batch_size": 16}
MIX_BATCH, MIX_SIDE = 64, 224
CORES = len(os.sched_getaffinity(0))
WORKER = "BUSY_WORKER"
"""Environment variable of the processes that measure."""
LOOP = """
import os, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(0), daemon=True).start()
while True: pass
"""
"""The program of a busy loop. It ends where its stdin does: with the process that has started it."""
LEGEND = f"""\
A *step* is one of training (xmixup, {TRAINING["model"]}, batches of {TRAINING["batch_size"]} images of
{TRAINING["image_size"]} x {TRAINING["image_size"]} pixels), *mix* a call for {MIX_BATCH} images of \
{MIX_SIDE} x {MIX_SIDE}. *Busy* is beside {CORES} processes that never wait.
A time is the median over processes of the mean of each one's steps or calls; in parentheses, a multiple of the idle
default."""

Seconds = dict[str, float]
"""Of one step, and of one call of mix."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[openmp.SPIN_COUNT], help="values of GOMP_SPINCOUNT")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each way of waiting, taken in turn")
    parser.add_argument("--steps", type=int, default=25, help="training steps of each process")
    parser.add_argument("--no-write", action="store_true", help="leave docs/faq.md as it is")
    asked = parser.parse_args()
    ways = {"default": {}, **{f"GOMP_SPINCOUNT={n}": {"GOMP_SPINCOUNT": str(n)} for n in asked.counts}}
    ways["OMP_WAIT_POLICY=passive"] = {"OMP_WAIT_POLICY": "passive"}
    load = os.getloadavg()[0]
    found: dict[tuple[str, str], list[Seconds]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dataset, seed in (("target", 0), ("source", 1)):
            write_images(folder / dataset, 2 * int(TRAINING["image_size"]), seed)
        for turn in range(asked.rounds):
            for machine, loops in (("idle", 0), ("busy", CORES)):
                for way, variables in ways.items():
                    with busy_loops(loops):
                        seconds = measured(folder, asked.steps, variables)
                    found.setdefault((way, machine), []).append(seconds)
                    print(f"{turn + 1}/{asked.rounds} {machine} {way}: {json.dumps(seconds)}", file=sys.stderr)
    text = f"{title(load, asked)}\n\n{LEGEND}\n\n{table(list(ways), found)}"
    print(text)
    if not asked.no_write:
        write_between_markers(DOCS, "bench/busy.py", text)


def measured(folder: Path, steps: int, variables: dict[str, str]) -> Seconds:
    """What a new process measures, with these variables of OpenMP and no others."""
    kept = {name: value for name, value in os.environ.items() if name not in (*openmp.WAITING, *openmp.THREADS)}
    command = [sys.executable, __file__, str(folder), str(steps)]
    environment = {**kept, **variables, WORKER: "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds: Seconds = json.loads(done.stdout.splitlines()[-1])
    return seconds


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Runs processes that never wait, and ends them."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
        if any(loop.poll() is not None for loop in loops):
            raise RuntimeError("a busy loop ended before the measurement did")
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def work(folder: Path, steps: int) -> None:
    """What a process that measures does."""
    data = {"target": str(folder / "target"), "source": str(folder / "source"), "cache": str(folder / "cache")}
    settings = Settings(**data, **TRAINING, output=str(folder / "run"), selection="random", steps=10**6)
    with reproducible(settings.seed, settings.threads):
        settings = resolved(settings)
        trainer = Trainer(prepare(settings, lambda text: None).parts, settings)
        step = mean_seconds(lambda: float(trainer.step()), steps)
        print(json.dumps({"step": step, "mix": mean_seconds(mix_call(), CALLS)}))


def mix_call() -> Callable[[], object]:
    """A call of mix on random images, into an output that is reused."""
    generator = torch.Generator().manual_seed(0)
    pools = [
        ImagePool.from_dense(torch.randint(256, (MIX_BATCH, 256, 256, 3), dtype=torch.uint8, generator=generator))
        for _ in range(2)
    ]
    window = torch.tensor([16, 16, MIX_SIDE, MIX_SIDE], dtype=torch.int32).expand(MIX_BATCH, 4).contiguous()
    crops = Crops(torch.arange(MIX_BATCH), window, torch.rand(MIX_BATCH, generator=generator) < 0.5)
    lam = torch.rand(MIX_BATCH, generator=generator)
    size, constants = (MIX_SIDE, MIX_SIDE), {"mean": [0.5] * 3, "std": [0.25] * 3}
    out = mix(pools[0], crops, pools[1], crops, lam, size=size, **constants)
    return lambda: mix(pools[0], crops, pools[1], crops, lam, size=size, **constants, out=out)


def mean_seconds(what: Callable[[], object], times: int) -> float:
    for _ in range(WARMUP):
        what()
    began = time.perf_counter()
    for _ in range(times):
        what()
    return (time.perf_counter() - began) / times


def table(ways: list[str], found: dict[tuple[str, str], list[Seconds]]) -> str:
    """A row for each way of waiting: the median over processes, with its multiple of the idle default."""
    cells = [(what, machine) for what in ("step", "mix") for machine in ("idle", "busy")]

    def median(way: str, what: str, machine: str) -> float:
        return 1e3 * statistics.median(seconds[what] for seconds in found[way, machine])

    lines = [["waiting", *(f"{what}, {machine}, ms" for what, machine in cells)], ["---"] * (1 + len(cells))]
    for way in ways:
        values = [(median(way, *cell), median("default", cell[0], "idle")) for cell in cells]
        lines.append([way, *(f"{value:.4g} ({value / base:.2f})" for value, base in values)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def title(load: float, asked: argparse.Namespace) -> str:
    name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{name[1] if name else platform.machine()}, {CORES} cores, torch {torch.__version__}; "
        f"{asked.rounds} processes of {asked.steps} steps and {CALLS} calls each; "
        f"load average {load:.2f} before; {time.strftime('%Y-%m-%d')}."
    )


if __name__ == "__main__":
    if WORKER in os.environ:
        work(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
