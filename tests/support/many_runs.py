"""Runs with the settings of a JSON file, one after the other, then a learning-rate test, and what the images take.

python tests/support/many_runs.py FILE.json
    {"runs": [settings, ...], "find_lr": settings}; in the processes that torchrun starts. The last line of stdout tells
    the memory, in KiB, that all processes use of the mapped pools of the last run
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from xmixup_fast import Settings, find_lr, fit
from xmixup_fast.ops.image_pool import ImagePool
from xmixup_fast.runtime import distributed
from xmixup_fast.training.prepare import prepare
from xmixup_fast.training.resolve import resolved


def main(file: str) -> None:
    asked = json.loads(Path(file).read_text())
    with distributed.processes():
        run(asked)
        found = memory(resolved(Settings(**asked["runs"][-1])))
        if distributed.rank() == 0:
            print(json.dumps(found))


def run(asked: dict[str, Any]) -> None:
    for values in asked["runs"]:
        fit(**values)
    find_lr.run(Settings(**asked["find_lr"]))


def memory(settings: Settings) -> dict[str, float]:
    """The sizes of the mapped pools' files; how much of them is mapped, and the processes' shares of it, in KiB."""
    run = prepare(settings, lambda text: None)
    for pool in (run.images.train, run.images.val, run.images.test, run.parts.auxiliary):
        assert isinstance(pool, ImagePool)
        pool.pixels.sum()  # reads every page
    distributed.barrier()
    kib = {"Rss": 0, "Pss": 0}
    files = set()
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            path = Path(line.split(maxsplit=5)[-1])
            inside = str(path).startswith(f"{settings.cache}/pools/")
            files |= {path} if inside else set()
        name, _, value = line.partition(":")
        if inside and name in kib:
            kib[name] += int(value.split()[0])
    distributed.barrier()  # until here all have them mapped
    mapped, shares = distributed.all_reduce_sum(kib["Rss"], kib["Pss"])
    return {"files": sum(path.stat().st_size for path in files) / 1024, "mapped": mapped, "shares": shares}


if __name__ == "__main__":
    main(sys.argv[1])
