"""Tests and measures on a machine with a GPU and without a network, within eight minutes; .ci/gpu packs what it needs.

python3 bench/gpu.py run
    installs what is packed, and runs the parts of gpu_runs/parts.py, the most important first. Each line of a part is
    in results.json and results.md as soon as it is known. Called again, it goes on: parts that are done are left out,
    of others the tests that passed and the figures that were measured
python3 bench/gpu.py run --device cpu
    rehearses all of it in tiny sizes; tests that need CUDA say so
python3 bench/gpu.py write build/gpu-results/results.json
    writes the tables of measured figures into docs/performance.md

This file imports nothing but Python's own library before the package is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from gpu_runs import lines
from gpu_runs.parts import LEAST, PARTS, TOTAL, Part
from gpu_runs.record import Record
from gpu_runs.report import tables

ROOT = Path(__file__).resolve().parent.parent
SLOWER = 4
"""How much longer a rehearsal may take: its machine may have few cores."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent has ended."""
NO_TESTS = 5
"""Exit status of pytest where no test is left to run."""


def main(given: Sequence[str] | None = None) -> int:
    asked = parser().parse_args(given)
    return write(asked) if asked.command == "write" else run(asked)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run the parts that are not done yet")
    runs.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse, in tiny sizes")
    runs.add_argument("--packed", type=Path, default=ROOT / "build" / "gpu", help="what .ci/gpu pack made")
    runs.add_argument("--output", type=Path, default=ROOT / "build" / "gpu-results", help="folder of the results")
    text = f"in which all has to end; {TOTAL} if not given, and {SLOWER} times as many with cpu"
    runs.add_argument("--seconds", type=float, help=text)
    names = [part.name for part in PARTS]
    runs.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    writes = commands.add_parser("write", help="write the figures into docs/performance.md")
    writes.add_argument("file", type=Path, help="results.json of a run on a GPU")
    return made


def run(asked: argparse.Namespace) -> int:
    """Installs, and runs the parts that are not done yet. Returns 1 where one failed."""
    slower = SLOWER if asked.device == "cpu" else 1
    end = time.monotonic() + (asked.seconds or slower * TOTAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a part's processes end, too
    packed = asked.packed.resolve()
    environment = install(packed)
    record = Record(asked.output.resolve(), machine(asked.device, environment), PARTS)
    for part in PARTS:
        if part.name not in asked.only or record.is_finished(part.name):
            continue
        limit = min(slower * part.limit, end - time.monotonic())
        if limit < LEAST:
            print(f"{part.name}: not begun, {max(limit, 0):.0f} s are left", flush=True)
            continue
        print(f"== {part.name}: {part.what} ({limit:.0f} s at most)", flush=True)
        run_part(part, record, limit, ["--device", asked.device, "--photos", str(packed / "photos")], environment)
        entry = record.parts[part.name]
        print(f"{part.name}: {entry['state']} after {entry['seconds']:.0f} s", flush=True)
    print(record.folder / "results.md", flush=True)
    return int(any(entry["state"] == "failed" for entry in record.parts.values()))


def install(packed: Path) -> dict[str, str]:
    """Installs the wheels into a folder of their own; returns the environment in which they are found.

    The package of the working tree, which is not built, is not found there: no folder that Python adds of itself
    comes in front.

    Raises FileNotFoundError where nothing is packed.
    """
    wheels = sorted(map(str, (packed / "wheels").glob("*.whl")))
    if not wheels:
        raise FileNotFoundError(f"packed: expected wheels in {packed / 'wheels'}, which .ci/gpu pack makes; found none")
    site = packed / "site"
    shutil.rmtree(site, ignore_errors=True)
    options = ["--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
    folders = [site, ROOT / "tests" / "support", ROOT / "bench"]
    paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "XMIXUP_CACHE": str(packed / "cache")}
    return {**os.environ, **own}


def machine(device: str, environment: dict[str, str]) -> dict[str, Any]:
    """What gpu_runs/machine.py says. Ends with its message where the device cannot be used."""
    command = [sys.executable, "-m", "gpu_runs.machine", "--device", device]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stderr.strip()}\n--device {device} cannot be used here; --device cpu rehearses")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    width = max(map(len, found["info"]))
    print("\n".join(f"{name:{width}}  {value}" for name, value in found["info"].items()), flush=True)
    return found


def run_part(part: Part, record: Record, limit: float, options: list[str], environment: dict[str, str]) -> None:
    """Runs a part, keeps its lines as they come, and says how it ended."""
    entry = record.parts[part.name]
    before, began = entry["seconds"], time.monotonic()
    entry["state"] = "cut"  # which is what it is, should this process be killed
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "lines.jsonl")
        for line in entry["lines"]:
            lines.append(file, line)
        command = [sys.executable, *part.command, "--lines", str(file), *([] if part.is_tests else options)]
        status = None
        with (record.folder / "log.txt").open("ab") as log:
            log.write(f"\n== {part.name}: {' '.join(part.command)}\n".encode())
            log.flush()
            with started(command, log, environment) as process:
                while status is None and time.monotonic() < began + limit:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        status = process.wait(timeout=1)
                    found = lines.read(file)
                    if len(found) > len(entry["lines"]):
                        entry.update(lines=found, seconds=round(before + time.monotonic() - began, 1))
                        record.write()
        found = lines.read(file)
    entry.update(lines=found, seconds=round(before + time.monotonic() - began, 1))
    entry.update(state=state(part, status, found), exit=status)
    record.write()


@contextlib.contextmanager
def started(command: list[str], log: BinaryIO, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is killed at the end if it still runs, with all that it started."""
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, preexec_fn=_own_group
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _own_group() -> None:
    """Lets a process be killed with all that it starts, and be killed where this one is."""
    os.setpgrp()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def state(part: Part, status: int | None, found: list[dict[str, Any]]) -> str:
    """How a part ended: done, failed, cut, or skipped where no test of it could run."""
    if status is None:
        return "cut"
    outcomes = {line["test"]: line["outcome"] for line in found if "test" in line}
    if status == NO_TESTS and outcomes:
        status = int("failed" in outcomes.values())
    if status != 0:
        return "failed"
    return "skipped" if part.is_tests and set(outcomes.values()) <= {"skipped"} else "done"


def write(asked: argparse.Namespace) -> int:
    """Writes the tables into docs/performance.md. Returns 1, with a message, for what was not measured on a GPU."""
    from xmixup_fast.runtime.files import write_between_markers

    results = json.loads(asked.file.read_text())
    if not results["machine"]["cuda"]:
        print(f"file: expected results of a GPU, got those of {results['machine']['device']}", file=sys.stderr)
        return 1
    write_between_markers(ROOT / "docs" / "performance.md", "bench/gpu.py", tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
