"""Kills runs with SIGKILL at random moments, resumes them, and compares their bits with those of runs never killed.

python tests/support/kill_runs.py --kills 30
    takes methods and storages in turn, some with AMP, averaged weights or micro-batches; prints a line per finished run
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, product
from pathlib import Path
from typing import Any

import safetensors.numpy
from made import SOURCE, TARGET, write_folder

METHODS: tuple[dict[str, Any], ...] = (
    {"method": "xmixup"},
    {"method": "finetune"},
    {"method": "delta"},
    {"method": "seqtrain"},
    {"method": "rifle"},
    {"method": "finetune", "regularizer": "l2sp"},
    {"method": "cotuning"},
    {"method": "cotrain"},
    {"method": "bss"},
    {"method": "mixup"},
    {"method": "lwf", "head_init": "probe"},
    {"method": "stochnorm", "refit_head": True},
    {"method": "bituning"},
    {"method": "cutmix"},
    {"method": "xcutmix", "regularizer": "l2sp"},
)
STEPS: tuple[dict[str, Any], ...] = (
    {"amp": "bf16", "ema_decay": 0.9},
    {"amp": "fp16", "grad_accum_steps": 2},
    {"ema_decay": 0.9, "grad_accum_steps": 3},
    {},
)
CASES = [
    {**method, "storage": storage, **STEPS[(number + round) % len(STEPS)]}
    for (round, storage), (number, method) in product(enumerate(("resident", "stream")), enumerate(METHODS))
]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="smallest number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--steps", type=int, default=12, help="steps of each run")
    options = parser.parse_args(arguments)
    moments = random.Random(options.seed)
    total = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "target", TARGET, 10)
        write_folder(folder / "source", SOURCE, 4)
        in_child(lambda: save_weights(folder))
        for number, case in enumerate(cycle(CASES)):
            settings = settings_of(folder, options.steps) | case
            whole, killed = (folder / f"{kind}-{number}" for kind in ("whole", "killed"))
            started = time.monotonic()
            assert in_child(lambda s=settings, o=whole: run(s, o)) == 0
            duration = time.monotonic() - started
            kills = 0
            while in_child(lambda s=settings, o=killed: run(s, o), moments.uniform(0, duration)) != 0:
                kills += 1
            assert result(killed) == result(whole), f"{case}: another result after {kills} kills"
            total += kills
            print(f"{case}: the same after {kills} kills", flush=True)
            if total >= options.kills and (options.kills < 30 or number + 1 >= len(CASES)):
                break
    print(f"{total} kills, {number + 1} runs: all as if never killed")
    return 0


def settings_of(folder: Path, steps: int) -> dict[str, Any]:
    """Settings of all runs, on the images and weights in a folder."""
    return {
        "target": str(folder / "target"),
        "source": str(folder / "source"),
        "model": "test_resnet",
        "weights": str(folder / "weights.safetensors"),
        "steps": steps,
        "batch_size": 8,
        "image_size": 32,
        "device": "cpu",
        "threads": 1,
        "cache": str(folder / "cache"),
        "checkpoint_steps": 2,
    }


def in_child(work: Callable[[], object], seconds: float | None = None) -> int:
    """Calls ``work`` in a child process, and kills it after some seconds if given; returns the exit status, or -9.

    The child is forked, which spares it the imports. That is safe as this process has not started any thread of torch.
    """
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return checked(os.waitstatus_to_exitcode(status))
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    return checked(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def checked(status: int) -> int:
    """The exit status of a child that ended well or was killed; an assertion fails for any other."""
    assert status in (0, -signal.SIGKILL), f"a run ended with status {status}"
    return status


def save_weights(folder: Path) -> None:
    from xmixup_fast.models.build import build
    from xmixup_fast.models.trained import save

    save(build("test_resnet", "none", sorted(SOURCE)), folder / "weights.safetensors", image_size=32)


def run(settings: dict[str, Any], output: Path) -> None:
    from xmixup_fast.training.run import fit

    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    fit(**settings, output=str(output), resume="auto")


def result(folder: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The bytes of the weights, and the metrics without durations."""
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["images_per_second"]
    return {name: tensor.tobytes() for name, tensor in weights.items()}, lines


if __name__ == "__main__":
    import xmixup_fast.training.run  # noqa: F401  (imported once, before the children are forked)

    sys.exit(main())
