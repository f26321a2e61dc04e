"""bench/gpu_runs: what parts report, how times are taken, and the Markdown of stored results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu
import no_gpu
import pytest
import torch
from gpu_runs import kernels, report
from gpu_runs.lines import Figures, read
from gpu_runs.parts import PARTS, Part
from gpu_runs.timing import Timer
from made_machine import MACHINE

from xmixup_fast.runtime.files import around_markers

ROOT = Path(__file__).resolve().parents[2]


# --- What parts report ---


def test_figures_are_measured_once_and_errors_again(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    figures = Figures(file)
    figures.measure("a", lambda: {"seconds": 1.0})
    figures.measure("b", lambda: {"seconds": 1 / 0})
    assert figures.failed and [line.get("error") for line in read(file)] == [
        None,
        "ZeroDivisionError: division by zero",
    ]
    with file.open("a") as opened:
        opened.write('{"name": "c", "sec')  # cut off
    again = Figures(file)
    assert again.known == {"a"} and not again.failed


TESTS = """
import pytest
def test_passes(): ...
def test_fails(): assert 1 == 2, "that is why"
@pytest.mark.skip(reason="needs CUDA")
def test_skips(): ...
@pytest.fixture
def broken(): raise OSError("no disk")
def test_breaks(broken): ...
"""


def test_each_tests_outcome_is_reported_and_what_passed_is_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "test_made.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    file = tmp_path / "lines.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "gpu_runs.outcomes", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "bench"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for workers in ([], ["-p", "xdist", "-n", "1"]):
        subprocess.run([*command, *workers, "--lines", file], cwd=tmp_path, env=environment, capture_output=True)
    lines = read(file)
    found = {line["test"].partition("::")[2]: line for line in lines}
    outcomes = {name: line["outcome"] for name, line in found.items()}
    expected = {"test_passes": "passed", "test_fails": "failed", "test_skips": "skipped", "test_breaks": "failed"}
    assert outcomes == expected and len(lines) == 4 + 3
    assert "that is why" in found["test_fails"]["why"] and "no disk" in found["test_breaks"]["why"]
    assert found["test_skips"]["why"] == "needs CUDA"


def test_the_state_of_a_part_of_tests() -> None:
    tests = Part("tests", "made", 9, ("-m", "pytest"))
    skipped, passed, failed = ({"test": o, "outcome": o} for o in ("skipped", "passed", "failed"))
    assert gpu.state(tests, 0, [skipped]) == "skipped"
    assert gpu.state(tests, 0, [skipped, passed]) == gpu.state(tests, gpu.NO_TESTS, [passed]) == "done"
    assert gpu.state(tests, 1, [passed, failed]) == gpu.state(tests, gpu.NO_TESTS, []) == "failed"
    assert gpu.state(tests, -11, [passed]) == "failed" and gpu.state(tests, None, [passed]) == "cut"


# --- Times ---


def test_the_timer_calls_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu.stand_in(monkeypatch)
    counter = torch.zeros((), dtype=torch.int64)
    numbers: list[int] = []

    def work(n: int) -> None:
        numbers.append(n)
        counter.add_(1)

    seconds = Timer(torch.device("cuda"), warm_up=2, calls=10, in_graph=4).seconds(work, graph=True)
    assert seconds.keys() == {"host", "device", "graph"} and all(0 < value < 0.1 for value in seconds.values())
    assert numbers == list(range(2 + 10 + 10 + 1 + 4)), "inputs change from call to call"
    captured, replays = 4, 1 + 10 // 5  # once before it is timed
    assert counter == len(numbers) - captured + captured * replays
    assert Timer(torch.device("cpu"), 1, 3).seconds(work, graph=True).keys() == {"host"}


@pytest.mark.parametrize("name", ["mix: resized, bfloat16", "mix: crops, bfloat16, large batch"])
def test_operators_are_compared_before_they_are_timed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = kernels.scale_of(torch.device("cpu"))
    line = kernels.mix(scale, kernels.Pools(scale), **kernels.MIXES[name])
    assert line["batch"] == (4 if "large" in name else 2) and line["seconds"]["host"] > 0
    if "crops" in name:
        pixels = 224 * 224 * 3
        assert line["bytes"] == line["batch"] * pixels * (1 + 1 + 2), "two windows of bytes, and the output"
    monkeypatch.setattr(kernels.MixInputs, "empty_out", lambda inputs: torch.zeros(1))
    with pytest.raises(RuntimeError, match="out"):
        kernels.mix(scale, kernels.Pools(scale), **kernels.MIXES[name])


# --- Markdown ---


def times(seconds: float) -> dict[str, float]:
    return {"host": 2e-5, "device": 1.1 * seconds, "graph": seconds}


def stored(xmixup: float = 1.005) -> dict[str, Any]:
    """Results as bench/gpu.py stores them, with made figures."""
    crops = {"batch": 64, "bytes": 38535168, "seconds": times(1e-5), "copy": times(9e-6), "reference": times(1e-3)}
    large = {"batch": 1024, "bytes": 616562688, "seconds": times(1.8e-4), "copy": times(1.5e-4)}
    steps = {"finetune": 0.02, "xmixup": 0.02 * xmixup, "cotrain": 0.038}
    at = {"model": "resnet50", "size": 224, "batch": 64, "amp": "bf16"}
    over = {name: seconds / 0.02 for name, seconds in steps.items()}
    run = {"model": "resnet50", "batch": 64, "steps": 9, "seconds": 9.0, "training": 5.0, "step": 0.02}
    return {
        "machine": MACHINE,
        "parts": {
            "kernels": entry(
                "kernels",
                {"name": "copy", "bytes": 16 * 10**9, "seconds": times(4e-3)},
                {"name": "mix: crops, bfloat16", **crops},
                {"name": "mix: crops, bfloat16, large batch", **large},
                {"name": "draw", "error": "RuntimeError: first try"},
                {"name": "draw", "batch": 64, "seconds": times(5e-6)},
            ),
            "streams": entry(
                "streams",
                {"test": "a.py::test_a", "outcome": "failed", "why": "long | text\nE   assert 1 == 2"},
                {"test": "a.py::test_b", "outcome": "skipped", "why": "needs two GPUs"},
                {"test": "a.py::test_c", "outcome": "passed"},
                state="failed",
            ),
            "steps": entry("steps", {"name": "ResNet-50: methods", **at, "seconds": steps, "over_finetune": over}),
            "runs": entry("runs", {"name": "resident", **run, "images_per_second": 3200.0}),
        },
    }


def entry(name: str, *lines: dict[str, Any], state: str = "done") -> dict[str, Any]:
    (part,) = (part for part in PARTS if part.name == name)
    return {"what": part.what, "tests": part.is_tests, "state": state, "seconds": 12.3, "lines": list(lines)}


def test_the_page_has_goals_figures_and_failures() -> None:
    page = report.page(stored())
    for row in (
        "| mix: crops, bfloat16: a copy of as many bytes / `mix` | ≥ 0.85 | 0.9, met |",
        "| mix: crops, bfloat16, large batch: bandwidth / that of the large copy | ≥ 0.85 | 0.856, met |",
        "| ResNet-50: step of xmixup / finetune | ≤ 1.01 | 1.005, met |",
        "| ResNet-50: step of cotrain / finetune | ≥ 1.8 | 1.9, met |",
        "| mix: crops, bfloat16, batch 64 | 11 | 10 | 20 | 3.85 | 0.9 |",
        "| draw, batch 64 | 5.5 | 5 | 20 |  |  |",
        "| a copy of 8 GB | 4400 | 4000 | 20 | 4 |  |",
        "| ResNet-50: methods, bf16, 64 images of 224x224 | finetune 20 (1); xmixup 20.1 (1.005); cotrain 38 (1.9) |",
        "| resident | 9 | 5 | 0.02 | 3200 |",
        f"| streams | {entry('streams')['what']} | failed | 12 | 1 failed, 1 skipped, 1 passed |",
        "| 1 | needs two GPUs |",
    ):
        assert row in page.splitlines(), row
    assert "**streams**: a.py::test_a\n\n```text\nlong | text\nE   assert 1 == 2\n```" in page
    assert "first try" not in page, "what was measured later is no failure"
    assert "1.02, **missed**" in report.page(stored(xmixup=1.02))


def test_a_page_can_be_made_of_nothing_yet() -> None:
    page = report.page({"machine": MACHINE, "parts": {}})
    assert "# A run on A GPU" in page and "###" not in page


def test_only_figures_of_a_gpu_are_written_into_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    around_markers(ROOT / "docs" / "performance.md", "bench/gpu.py")  # raises where the markers are missing
    (tmp_path / "docs").mkdir()
    docs, file = tmp_path / "docs" / "performance.md", tmp_path / "results.json"
    before = "<!-- begin: written by bench/gpu.py -->\nnothing\n<!-- end: written by bench/gpu.py -->\n"
    docs.write_text(before)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    file.write_text(json.dumps({**stored(), "machine": {**MACHINE, "cuda": False, "device": "CPU"}}))
    assert gpu.main(["write", str(file)]) == 1 and docs.read_text() == before
    assert capsys.readouterr().err == "file: expected results of a GPU, got those of CPU\n"
    file.write_text(json.dumps(stored()))
    assert gpu.main(["write", str(file)]) == 0
    text = docs.read_text()
    assert "A GPU, 16 CPU cores, torch 2.11.0" in text and "### Goals on a GPU" in text and "nothing" not in text
