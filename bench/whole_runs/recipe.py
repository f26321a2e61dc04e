"""What every side of a whole run is told, and what it tells: marks in time, and what its optimiser did.

A side is a process of its own. It prints its marks on stderr, as lines of JSON, with the monotonic clock's time, which
is the same in all processes of a Linux machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How all sides train: random crops of images whose short side is ``resize``, and half of them mirrored; SGD with
    Nesterov momentum; a learning rate that falls to zero along a cosine, step by step; a validation after each epoch.
    """

    target: str
    """Folder of train/ and val/, each of class folders."""
    source: str
    """Folder of class folders that xmixup blends with."""
    start: str
    """Folder of the network that all start from, of 1000 classes, as timm saves one."""
    output: str
    """Folder for what the side writes, which does not exist before."""
    cache: str
    """Folder for what the side keeps for later runs."""
    classes: int
    epochs: int
    workers: int
    batch_size: int = 30
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    image_size: int = 128
    resize: int = 146
    """Short side of the images that are cropped: 8/7 of the image size."""
    seed: int = 0

    @property
    def model(self) -> str:
        """The start, as ``timm.create_model`` takes it."""
        return f"local-dir:{self.start}"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def mark(name: str, **values: Any) -> None:
    """Prints that the process has come so far."""
    print(json.dumps({"mark": name, "at": time.monotonic(), **values}), file=sys.stderr, flush=True)


def marks(text: str) -> Iterator[dict[str, Any]]:
    """The marks among the lines that a side printed on stderr."""
    for line in text.splitlines():
        if line.startswith('{"mark":'):
            yield json.loads(line)


@dataclass
class Steps:
    """What the optimiser of this process did, whichever library called it."""

    ends: list[float] = field(default_factory=list)
    """When each step ended, by the monotonic clock."""
    rates: list[list[float]] = field(default_factory=list)
    """The learning rates of the groups in each step, each once."""
    how: set[tuple[str, float, bool, float]] = field(default_factory=set)
    """Class, momentum, whether it is Nesterov's, and weight decay of every group in every step."""

    def record(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """A hook that PyTorch calls after each step of any optimiser."""
        groups = optimizer.param_groups
        self.ends.append(time.monotonic())
        self.rates.append(sorted({float(group["lr"]) for group in groups}))
        for group in groups:
            name = type(optimizer).__name__
            self.how.add((name, group["momentum"], bool(group["nesterov"]), group["weight_decay"]))


def imported() -> Steps:
    """Marks that everything is imported, and begins to record the steps."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    mark("imported")
    steps = Steps()
    register_optimizer_step_post_hook(steps.record)
    return steps


def saved(file: Path, steps: Steps, names: dict[str, str] | None = None, key: str | None = None) -> None:
    """Marks that the model is on disk, and tells what the steps were.

    ``names`` maps beginnings of the names of the file's tensors to timm's; tensors without any are left out. ``key`` is
    where the state dict is in the file, if it is not the whole.
    """
    mark("saved", file=str(file), names=names or {"": ""}, key=key)
    mark("steps", ends=steps.ends, rates=steps.rates, how=sorted(steps.how))
