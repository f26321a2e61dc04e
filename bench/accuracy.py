"""Trains methods with several seeds on one dataset, and prints their accuracies as a Markdown table.

python bench/accuracy.py docs/results/dtd10.jsonl --methods finetune xmixup cotrain --seeds 0 1 2 3 4 -- \
    --target DIR --source DIR --model tf_efficientnet_lite0 --weights pip --image-size 96 --shots 20 --steps 150

What follows ``--`` are flags of ``python -m xmixup_fast.train``. Each run adds its summary to the file as one JSON
line; a run that the file has is not made again, so the command can be stopped and continued. Without ``--`` and flags
it only prints the table of the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from xmixup_fast import fit
from xmixup_fast.train import parse

RANDOM = "-random"
"""Behind a method's name: with random selection, the control that every comparison of XMixup needs."""


def main() -> None:
    command, _, flags = " ".join(sys.argv[1:]).partition(" -- ")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="results, a JSON line a run")
    parser.add_argument("--methods", nargs="+", default=["finetune", "xmixup"], help="such as xmixup-random")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args(command.split())
    runs = read(arguments.file)
    if flags:
        settings = parse(flags.split())
        done = {(name(run), run["seed"]) for run in runs}
        for seed in arguments.seeds:
            for method in arguments.methods:
                if (method, seed) not in done:
                    runs.append(train(settings, method, seed))
                    write(arguments.file, runs)
    print(table(runs))


def train(settings: Any, method: str, seed: int) -> dict[str, Any]:
    """One run's summary, without the folders of this machine."""
    changes: dict[str, Any] = {"selection": "random"} if method.endswith(RANDOM) else {}
    with tempfile.TemporaryDirectory() as folder:
        changes |= {"method": method.removesuffix(RANDOM), "seed": seed, "output": str(Path(folder, "run"))}
        summary = fit(replace(settings, **changes)).summary
    for name in ("target", "source"):
        summary[name] = summary[name] and Path(summary[name]).name
    return summary


def name(run: dict[str, Any]) -> str:
    return run["method"] + (RANDOM if run["selection"] == "random" else "")


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write(file: Path, runs: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(run) + "\n" for run in runs))


def table(runs: list[dict[str, Any]]) -> str:
    """Mean accuracy of each method, and its mean paired difference to finetune with its standard error."""
    accuracy: dict[str, dict[int, float]] = {}
    for run in runs:
        accuracy.setdefault(name(run), {})[run["seed"]] = run["test_accuracy"]
    lines = ["| method | seeds | test accuracy, % | gain over finetune |", "| --- | --- | --- | --- |"]
    for method, by_seed in accuracy.items():
        gains = [value - accuracy["finetune"][seed] for seed, value in by_seed.items() if seed in accuracy["finetune"]]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        gain = "" if method == "finetune" else f"{statistics.fmean(gains):+.1f} ± {error:.1f}"
        lines.append(f"| {method} | {len(by_seed)} | {statistics.fmean(by_seed.values()):.1f} | {gain} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
