"""The processes that make a comparison's runs: forks of one, of which each may die."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from made import write_plan

from xmixup_fast.commands.compare import main
from xmixup_fast.comparison import workers
from xmixup_fast.comparison.results import Results

FORKS = """
import os, sys
from xmixup_fast.comparison import worker

def train(settings):
    print("seed", settings.seed, flush=True)
    if settings.seed == 1:
        os.kill(os.getpid(), 9)
    if settings.seed == 2:
        raise ValueError("lr: too large")
    if settings.seed == 3:
        os._exit(5)
    result = {"images_seen": 40, "peak_memory_mib": 300, "versions": {"torch": "2"}}
    return result | {"val_accuracy": 50.0, "process": os.getpid(), "parent": os.getppid()}

worker.train = train
sys.exit(worker.main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks elsewhere may not be safe")
def test_a_run_that_dies_leaves_the_process_of_the_next_runs(
    tmp_path: Path, plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "COMMAND", [sys.executable, "-c", FORKS])
    plan |= {"methods": {"finetune": {}}, "seeds": [0, 1, 2, 3, 4]}
    assert main([write_plan(tmp_path, plan), "--data", "/data", "--targets", "birds", "--split", "val"]) == 1
    runs = {line["seed"]: line for line in Results(Path(plan["results"])).lines()}
    errors = {seed: line.get("error") for seed, line in runs.items()}
    assert errors == {0: None, 1: "killed by signal 9", 2: "lr: too large", 3: "exit status 5: seed 3", 4: None}
    assert runs[0]["parent"] == runs[4]["parent"] != os.getpid()
    assert runs[0]["process"] != runs[4]["process"]
    logs = sorted(path.read_text() for path in (tmp_path / "results.work").glob("*.log"))
    assert [log.splitlines()[0] for log in logs] == ["seed 1", "seed 2", "seed 3"]
    assert not Path(f"/proc/{runs[0]['parent']}").exists()
