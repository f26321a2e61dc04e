"""What the tests of the command compare share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made import write_plan

from xmixup_fast.commands.compare import main
from xmixup_fast.comparison.results import Results

STAND_IN = """
import hashlib, json, os, sys, time
asked = json.loads(sys.stdin.readline())
settings = asked["settings"]
with open(os.environ["STARTED"], "a") as log:
    log.write(json.dumps(settings) + "\\n")
time.sleep(float(os.environ.get("SECONDS", "0")))
last = settings[-1]
if last["lr"] > 1:
    result = {"error": "lr: /somewhere/else/lr is too large"}
elif len(settings) == 2:
    result = {"relative_seconds": 1.25}
else:
    accuracy = 50 + 10 * last["lr"] + last["seed"] + (last["method"] == "xmixup")
    result = {"val_accuracy": accuracy, "test_accuracy": accuracy + 10 if last["test"] == "run" else None}
    result |= {"images_seen": 40, "peak_memory_mib": 300, "versions": {"torch": "2"}, "data": os.environ.get("DATA")}
with open(asked["folder"] + "/result.json", "w") as file:
    json.dump(result, file)
"""
"""A worker that makes up its results at once, since a real one takes seconds to start."""


def compare(folder: Path, plan: dict[str, Any], *flags: str) -> int:
    return main([write_plan(folder, plan), "--data", "/data", *flags])


def lines(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return Results(Path(plan["results"])).lines()
