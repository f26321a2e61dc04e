"""Several runs, a learning-rate range test, and the memory that mapped image pools take, in the processes of torchrun.

torchrun --nproc-per-node 2 tests/support/many_runs.py FILE.json
    makes the runs one after the other, then the range test, for a file {"runs": [SETTINGS, ...], "find_lr": SETTINGS}.
    The last line of stdout is a JSON object with the memory, in KiB, of the mapped pools of the last run
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from xmixup_fast import Settings, fit
from xmixup_fast.commands import find_lr
from xmixup_fast.ops.image_pool import ImagePool
from xmixup_fast.runtime import distributed
from xmixup_fast.training.prepare import prepare
from xmixup_fast.training.resolve import resolved


def main(file: str) -> None:
    jobs = json.loads(Path(file).read_text())
    with distributed.processes():
        run(jobs)
        kib = memory(resolved(Settings(**jobs["runs"][-1])))
        if distributed.rank() == 0:
            print(json.dumps(kib))


def run(jobs: dict[str, Any]) -> None:
    for settings in jobs["runs"]:
        fit(**settings)
    find_lr.run(Settings(**jobs["find_lr"]))


def memory(settings: Settings) -> dict[str, float]:
    """Sizes in KiB: of the pools' files, of their mappings in all processes, and of the memory these share out.

    The last one is the sum of proportional set sizes: memory that n processes map counts as 1/n for each.
    """
    setup = prepare(settings, lambda text: None)
    for pool in (setup.images.train, setup.images.val, setup.images.test, setup.parts.auxiliary):
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
    distributed.barrier()  # no process unmaps its pools before all have measured
    mapped, shares = distributed.all_reduce_sum(kib["Rss"], kib["Pss"])
    return {"files": sum(path.stat().st_size for path in files) / 1024, "mapped": mapped, "shares": shares}


if __name__ == "__main__":
    main(sys.argv[1])
