"""Makes the runs that are missing, each in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..settings.fields import Settings
from .plan import Run, timing_key, with_data_folder
from .results import Results, changed_settings, now, without_folders

PACKAGE = Path(__file__).resolve().parents[1]
START = f"""
import sys
if sys.path[0] == "":
    del sys.path[0]
sys.path.append({str(PACKAGE.parent)!r})
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("xmixup_fast", {str(PACKAGE / "__init__.py")!r})
sys.modules["xmixup_fast"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from xmixup_fast.comparison.worker import main
sys.exit(main())
"""
"""The program of a worker. The working folder, which Python would search first, leaves the path, so that a queue.py in
it is not taken for Python's own; and the package is this very one, wherever the path leads."""
COMMAND = [sys.executable, "-c", START]
"""Starts a worker."""


class Workers:
    """Makes runs, one after the other, each in a process of its own, and adds their lines to the results.

    ``log`` gets a line for each run.
    """

    def __init__(self, results: Results, data: str | None, log: Callable[[str], object] | None = None) -> None:
        self.results = results
        self.data = data
        self.log = log or partial(print, flush=True)
        self.worker: _Worker | None = None
        """The process whose forks do the jobs; None before the first one, and after its end."""

    def train(self, runs: Sequence[Run], split: str) -> int:
        """Makes the runs whose accuracy on the split is missing. Returns how many of them failed."""
        jobs = {
            run.key: (str(run), [replace(run.settings, test="run" if split == "test" else "hold")], _names(run))
            for run in runs
        }
        return self._work(jobs, f"{split}_accuracy", {"work": "train"})

    def predict(self, runs: Sequence[Run]) -> int:
        """Makes the runs of a cross-validation whose predictions are missing. Returns how many of them failed."""
        jobs = {run.key: (str(run), [run.settings], _names(run)) for run in runs}
        return self._work(jobs, "val_accuracy", {"work": "predict"})

    def few_steps(self, runs: Mapping[str, Run], steps: int) -> int:
        """Makes a few steps of each run, whose line has the key given for it. Returns how many of them failed."""
        jobs = {key: (f"{steps} steps of {run}", [run.settings], _names(run)) for key, run in runs.items()}
        return self._work(jobs, "run_seconds", {"work": "few_steps", "steps": steps})

    def time(self, pairs: Sequence[tuple[Run, Run]]) -> int:
        """Makes the timings of pairs of runs that are missing. Returns how many of them failed."""
        jobs = {
            timing_key((base, run)): (
                f"steps of {run.method} on {run.task}",
                [base.settings, run.settings],
                _names(run),
            )
            for base, run in pairs
        }
        return self._work(jobs, "relative_seconds", {"work": "time"})

    def _work(
        self, jobs: Mapping[str, tuple[str, list[Settings], dict[str, Any]]], figure: str, asked: Mapping[str, Any]
    ) -> int:
        """Does the jobs that have no line with the figure; what fails is tried again by the next call.

        ``asked`` tells the workers what to do.
        """
        try:
            return self._work_off(jobs, figure, asked)
        finally:
            if self.worker is not None:
                self.worker.end()
                self.worker = None

    def _work_off(
        self, jobs: Mapping[str, tuple[str, list[Settings], dict[str, Any]]], figure: str, asked: Mapping[str, Any]
    ) -> int:
        before = len(self.results.lines())
        failures, elsewhere = 0, 0
        for _, settings, _ in jobs.values():
            for one in settings:
                with_data_folder(one, self.data)  # finds a missing data folder before the first run
        for number, (key, (title, settings, names)) in enumerate(jobs.items(), start=1):
            with self.results.claim(key) as mine:
                if not mine:
                    elsewhere += 1
                    continue
                lines = self.results.lines()
                failed = any(line["key"] == key and "error" in line for line in lines[before:])
                if failed or any(line["key"] == key and line.get(figure) is not None for line in lines):
                    continue
                line = self._process(key, [with_data_folder(one, self.data) for one in settings], asked)
                changed = changed_settings(settings[-1])
                self.results.append({**names, "key": key, "finished": now(), **line, "settings": changed})
            shown = f"failed: {line['error']}" if "error" in line else f"{figure} {line[figure]:.4g}"
            self.log(f"[{number}/{len(jobs)}] {title}: {shown}")
            if "error" in line:
                failures += 1
                self.log(f"    {self.results.work / key}.log tells more")
        if elsewhere:
            self.log(f"{elsewhere} of {len(jobs)} are in progress in other processes")
        return failures

    def _process(self, key: str, settings: list[Settings], work: Mapping[str, Any]) -> dict[str, Any]:
        """What a worker gives for a run, or an error."""
        folder, log = self.results.work / key, self.results.work / f"{key}.log"
        shutil.rmtree(folder, ignore_errors=True)  # a killed run's
        folder.mkdir(parents=True)
        given = [_without_output(one) for one in settings]
        asked = {"folder": str(folder), "log": str(log), "settings": given, "started": time.time(), **work}
        log.write_bytes(b"")
        try:
            self.worker = self.worker or _Worker(log)
            status = self.worker.do(asked)
        except BaseException:  # such as Ctrl-C
            if self.worker is not None:
                self.worker.end()
            shutil.rmtree(folder)
            log.unlink()
            raise
        if self.worker.ended:
            self.worker = None
        result = folder / "result.json"
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or [""]
        ended = f"killed by signal {-status}" if status < 0 else f"exit status {status}: {said[-1]}"
        line = json.loads(result.read_text()) if result.exists() else {"error": ended}
        shutil.rmtree(folder)
        if "error" in line:
            line["error"] = without_folders(line["error"])
        else:
            log.unlink()
        return dict(line)


class _Worker:
    """A process of :mod:`.worker`; ``log`` gets what it says besides its jobs."""

    def __init__(self, log: Path) -> None:
        self.status, status = os.pipe()
        with log.open("a") as file:
            self.process = subprocess.Popen(
                COMMAND, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, text=True, pass_fds=(status,)
            )
        self.writes_to = status
        """The descriptor of the process to which it writes the status of each job."""
        os.close(status)
        self.ended = False

    def do(self, asked: Mapping[str, Any]) -> int:
        """Has a job done; returns its exit status, or that of the process where it has ended with the job."""
        assert self.process.stdin is not None
        try:
            # Stays open while the process lives: its end tells the process that this one has died.
            self.process.stdin.write(json.dumps({**asked, "status": self.writes_to}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended, which the next line finds
        said = os.read(self.status, 64)
        if said:
            return int(said)
        status = self.process.wait()
        self.end()
        return status

    def end(self) -> None:
        """Ends the process and its job, if they have not ended yet, and waits for that."""
        if not self.ended:
            self.ended = True
            self.process.kill()
            self.process.wait()
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):  # of what was written and not read
                self.process.stdin.close()
            while os.read(self.status, 64):  # to its end, which comes once nobody can write to it, the job neither
                pass
            os.close(self.status)


def _names(run: Run) -> dict[str, Any]:
    return {"method": run.method, "target": run.task.target, "shots": run.task.shots, "seed": run.settings.seed}


def _without_output(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name != "output"}
