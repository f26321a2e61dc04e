"""--profile: the parts of the table add up to the step, and a profiled run has the same bits as another."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import run

from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash
from xmixup_fast.training import profiler
from xmixup_fast.training.profiler import PARTS, WARM_UP_STEPS, no_span, table

ROWS = [*PARTS, "other", "step"]


def numbers(lines: list[str]) -> dict[str, list[float]]:
    """The numbers in the rows of a table, by the rows' names."""
    rows = {}
    for line in lines:
        match = re.match(r"  (\w[a-z ]*?) +([\d. %]+)$", line)
        if match:
            rows[match[1]] = [float(number.rstrip("%")) for number in match[2].split()]
    return rows


def parts_add_up(rows: dict[str, list[float]]) -> bool:
    """Whether in each column the parts' times add up to the step's, but for rounding."""
    return all(
        sum(rows[name][column] for name in ROWS[:-1]) == pytest.approx(rows["step"][column], abs=0.06 * len(ROWS))
        for column in range(len(rows["step"]))
    )


@pytest.mark.parametrize("storage", ["resident", "stream"])
@pytest.mark.parametrize("steps", [9, 2])
def test_a_profiled_run_ends_with_the_same_bits(
    data: Path, tmp_path: Path, capsys: Any, steps: int, storage: str
) -> None:
    settings = {"steps": steps, "storage": storage, "grad_accum_steps": 2}
    plain = run(data, tmp_path / "plain", **settings)
    capsys.readouterr()
    profiled = run(data, tmp_path / "profiled", profile=True, **settings)
    weights = [load_file(result.folder / "model.safetensors") for result in (plain, profiled)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    lines = capsys.readouterr().out.splitlines()
    assert f"the profiler's trace: {profiled.folder}/trace.json.gz" in lines
    skipped = min(WARM_UP_STEPS, steps // 2)
    assert any(line.startswith(f"mean of {steps - skipped} steps ") for line in lines)
    rows = numbers(lines)
    assert list(rows) == ROWS and parts_add_up(rows) and rows["forward"][0] > 0 and rows["backward"][0] > 0
    with gzip.open(profiled.folder / "trace.json.gz") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert names.count("forward") == 2 * names.count("step")
    # Streams plan ahead: two steps are planned before profiling begins.
    assert set(PARTS) - set(names) <= ({"plan"} if (steps, storage) == (2, "stream") else set())


def test_a_profiled_step_waits_for_the_device_at_its_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(profiler.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(profiler.torch.cuda, "synchronize", lambda: waited.append(1))
    steps = SimpleNamespace(steps=2, steps_done=0, span=no_span)
    with profiler.profiled(steps, tmp_path, lambda line: None):
        for count in (1, 2):
            with steps.span("step"), steps.span("forward"):
                assert len(waited) == count - 1
            assert len(waited) == count
    with steps.span("step"):
        pass
    assert len(waited) == 2


def test_profiling_is_off_by_default_and_does_not_change_the_hash_of_a_run(
    data: Path, tmp_path: Path, capsys: Any
) -> None:
    assert not (run(data, tmp_path / "run", "finetune", steps=1).folder / "trace.json.gz").exists()
    assert "mean of" not in capsys.readouterr().out
    plain = Settings(target="a", model="b")
    assert run_hash(plain) == run_hash(Settings(target="a", model="b", profile=True))
    assert no_span("mix") is no_span("plan")  # one object for all parts


def span(name: str, begin: float, length: float, thread: int = 1) -> dict[str, Any]:
    """A trace's event of a part of a step; times are in microseconds."""
    return {"cat": "user_annotation", "name": name, "ts": begin, "dur": length, "tid": thread}


def launch(at: float, correlation: int, category: str = "kernel", length: float = 100.0) -> Iterator[dict[str, Any]]:
    """Two events of a trace: a launch on another thread, and the GPU work that it starts 5 ms later."""
    arguments = {"correlation": correlation}
    yield {"cat": "cuda_runtime", "name": "launch", "ts": at, "dur": 1, "tid": 2, "args": arguments}
    yield {"cat": category, "name": "work", "ts": at + 5000, "dur": length, "tid": 7, "args": arguments}


STEP = [
    span("step", 1000, 1000),
    span("data", 1000, 300),
    span("plan", 1100, 100),
    span("forward", 1400, 200),
    span("backward", 1600, 300),
    span("forward", 1400, 200, thread=9),
]


def test_the_time_of_a_part_excludes_parts_inside_it() -> None:
    events = [*STEP, span("mix", 5000, 10), *({**event, "ts": event["ts"] + 10000} for event in STEP)]
    lines = table(events)
    assert lines[0].split() == ["mean", "of", "2", "steps", "ms", "share"]
    assert numbers(lines) == {
        "data": [0.2, 20.0],
        "plan": [0.1, 10.0],
        "mix": [0.005, 0.5],
        "forward": [0.2, 20.0],
        "backward": [0.3, 30.0],
        "update": [0.0, 0.0],
        "other": [0.2, 20.0],
        "step": [1.0, 100.0],
    }


def test_gpu_work_belongs_to_the_part_that_launched_it() -> None:
    launches = [launch(1450, 1), launch(1700, 2, length=300), launch(1950, 3, "gpu_memcpy"), launch(3000, 4)]
    lines = table([*STEP, *(event for events in launches for event in events)])
    assert lines[0].split()[-4:] == ["share", "GPU", "ms", "share"]
    rows = numbers(lines)
    gpu = {name: rows[name][2:] for name in ("forward", "backward", "other", "step")}
    assert gpu == {"forward": [0.1, 10.0], "backward": [0.3, 30.0], "other": [0.1, 10.0], "step": [0.5, 50.0]}
    assert parts_add_up(rows)


def test_a_trace_without_steps_gives_one_line() -> None:
    assert table([span("mix", 1, 2)]) == ["profile: no step was profiled"]
