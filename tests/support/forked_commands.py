"""Commands that are interrupted, or whose output nobody reads, each in a process of its own.

The processes are forked from one that has imported all that commands import: what takes a new process seconds is done
once. So a moment is what a command does, and not how long an import takes.

python forked_commands.py FOLDER
    makes what the commands need in FOLDER, and prints a JSON line for each case: how the command ended, what it
    printed, and what it left half-written
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tarfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401
import pyarrow.parquet  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch
from made import SOURCE, TARGET, write_folder

from xmixup_fast.__main__ import COMMANDS, main
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save

BROKEN = 99
"""Exit status of a process that ended with an error that no command reports."""
SECONDS = 240
"""A process that takes longer hangs, and is ended."""
MOMENTS = {
    "decoding": "xmixup_fast.data.decoding.steps.Steps.read",
    "network": "xmixup_fast.models.network.Network.forward",
    "writing": "os.fsync",
    "index": "xmixup_fast.data.remote.indexing.write_index",
    "reading": "xmixup_fast.data.contents._hash_all",
    "starting": "xmixup_fast.comparison.workers._Worker",
    "table": "xmixup_fast.commands.compare.write_text",
}
"""Functions of which the first call interrupts the process, and what it has started, as Ctrl-C on a terminal does."""
JOB = "*.work/*/run0/manifest.csv"
"""What appears while a process that compare has started is at work; the moment "job"."""
SMALL = "--model test_resnet --image-size 32 --batch-size 8 --device cpu --decoder pillow --threads 1"
SHORT = f"--weights none --steps 2 {SMALL}"
TRAINING = f"--target {{0}}/target --method finetune --weights none --steps 2 --no-report {SMALL}"
LINES = {
    "train": f"train {TRAINING} --output run",
    "find-lr": f"find-lr {TRAINING} --output rates",
    "select": f"select --target {{0}}/target --source {{0}}/source --weights {{0}}/source.safetensors {SMALL} "
    "--steps 2 --output chosen",
    "evaluate": "evaluate {0}/target.safetensors --target {0}/target --device cpu --decoder pillow --threads 1 "
    "--output evaluated",
    "predict": "predict {0}/target.safetensors {0}/target --device cpu --decoder pillow --output p.csv",
    "predict to stdout": "predict {0}/target.safetensors @{0}/many.txt --device cpu --decoder pillow",
    "export": "export {0}/target.safetensors --format safetensors torch --output exported",
    "index": "index {0}/shard.tar --output index.parquet",
    "sources": "sources",
    "compare": f"compare --targets {{0}}/target --methods finetune --seeds 0 --results r.jsonl {SHORT}",
    "compare photos": f"compare {{0}}/target --methods finetune mixup --repeats 1 --results r.jsonl {SHORT}",
    "info": "info",
    "help": "--help",
    "help of a command": "train --help",
    "an error": "evaluate {0}/absent",
}
"""Command lines, in which {0} is the folder with what they need."""
INTERRUPTED = [
    *((name, moment) for name in ("train", "evaluate", "predict") for moment in ("decoding", "network", "writing")),
    *((name, moment) for name in ("find-lr", "export") for moment in ("network", "writing")),
    *(("select", "decoding"), ("select", "writing")),
    *(("index", "index"), ("index", "writing")),
    *(("compare", moment) for moment in ("starting", "job", "table")),
    *(("compare photos", moment) for moment in ("reading", "starting", "job")),
]
"""Commands, and the moments at which they are interrupted."""
ENDED = [
    (name, moment, signal)
    for name, moment in (
        *(("train", moment) for moment in ("decoding", "network", "writing")),
        *(("predict", moment) for moment in ("network", "writing")),
        *(("evaluate", "network"), ("find-lr", "network"), ("export", "network"), ("select", "writing")),
        *(("index", "index"), ("compare", "job")),
    )
    for signal in ("SIGTERM", "SIGHUP")
]
"""The same with other signals: of a queue that ends jobs, and of a terminal that is closed."""
BOTH = "stdout and stderr"
PRINTS = [name for name in LINES if name != "compare"]  # whose first line comes after a run
UNREAD = [
    *((name, "stdout") for name in PRINTS),
    *((name, BOTH) for name in ("train", "predict to stdout", "an error")),
]
"""Commands, and which of their outputs nobody reads any more."""


def prepare(folder: Path) -> None:
    """Makes images, shards and networks; nothing is trained, as autograd's threads would not survive a fork."""
    torch.set_num_threads(1)
    write_folder(folder / "target", TARGET, 8)
    write_folder(folder / "source", SOURCE, 4)
    for name, classes in (("target", TARGET), ("source", SOURCE)):
        save(build("test_resnet", "none", sorted(classes)), folder / f"{name}.safetensors", image_size=32)
    paths = sorted((folder / "target").rglob("*.png"))
    (folder / "many.txt").write_text("\n".join(map(str, paths * 40)))
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for number, path in enumerate(paths):
            (folder / "label.cls").write_text(path.parent.name)
            tar.add(path, f"{number:04d}.png")
            tar.add(folder / "label.cls", f"{number:04d}.cls")
    for command in COMMANDS:
        importlib.import_module(f"xmixup_fast.{'' if command == 'train' else 'commands.'}{command.replace('-', '_')}")
    for module in ("training.run", "report.contact_sheet", "commands.functions", "data.inputs", "data.remote.indexing"):
        importlib.import_module(f"xmixup_fast.{module}")


def interrupting(place: str, number: int) -> None:
    """Has the first call of a function, of a module or of a class in one, send the process a signal."""
    parts = place.split(".")
    count = next(n for n in range(len(parts) - 1, 0, -1) if _is_module(".".join(parts[:n])))
    owner: Any = sys.modules[".".join(parts[:count])]
    for name in parts[count:-1]:
        owner = getattr(owner, name)
    original: Callable[..., Any] = getattr(owner, parts[-1])
    came: list[bool] = []

    def replaced(*arguments: Any, **names: Any) -> Any:
        if not came:
            came.append(True)
            Path("came").touch()
            os.killpg(0, number)
        return original(*arguments, **names)

    setattr(owner, parts[-1], replaced)


def interrupting_job(number: int) -> None:
    """Sends the process, and what it has started, a signal once that is at work."""

    def wait() -> None:
        while not any(Path().glob(JOB)):
            time.sleep(0.01)
        Path("came").touch()
        os.killpg(0, number)

    threading.Thread(target=wait, daemon=True).start()


def _is_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def forked(folder: Path, case: tuple[str, ...]) -> dict[str, Any]:
    """Runs a case in a process and a folder of its own; returns how it ended."""
    place = folder / "-".join(case).replace(" ", "-")
    place.mkdir()
    process = os.fork()
    if not process:
        status = BROKEN
        try:
            os.setpgrp()
            signal.alarm(SECONDS)
            os.chdir(place)
            os.environ["XMIXUP_CACHE"] = "cache"
            _redirect(case[1])
            number = signal.Signals[case[2]] if len(case) > 2 else signal.SIGINT
            if case[1] in MOMENTS:
                interrupting(MOMENTS[case[1]], number)
            elif case[1] == "job":
                interrupting_job(number)
            status = _status(LINES[case[0]].format(folder).split())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # nothing of the parent's is to be ended here
    _, status = os.waitpid(process, 0)
    names = [path.name for path in place.rglob(".*")]
    names += [path.name for path in place.glob("*.work/*") if path.name != "lock"]
    printed = {name: (place / name).read_text() if (place / name).exists() else "" for name in ("out", "err")}
    return {
        "case": case,
        "status": os.waitstatus_to_exitcode(status),
        "came": (place / "came").exists(),
        "half": names,
        **printed,
    }


def _status(words: list[str]) -> int:
    try:
        status = main(words)
    except SystemExit as ended:  # of --help
        status = int(ended.code or 0)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


def _redirect(end: str) -> None:
    """Has stdout and stderr go to files, or to a pipe that nobody reads."""
    read, unread = os.pipe()
    os.close(read)
    for number, name in ((1, "out"), (2, "err")):
        closed = end == BOTH or (end == "stdout" and number == 1)
        os.dup2(unread if closed else os.open(name, os.O_WRONLY | os.O_CREAT), number)


def run_all(folder: Path) -> None:
    prepare(folder)
    sys.stdout.flush()
    for case in [*INTERRUPTED, *ENDED, *UNREAD]:
        print(json.dumps(forked(folder, case)), flush=True)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]).resolve())
