"""Recorder: the run folder, and what the console shows. Every file appears whole or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import replacing, write_text
from .settings import Settings

PICTURE_IMAGES = 16
"""Images of the first batch that batch.png shows."""


class Recorder:
    """Writes one run to its folder: config.yaml, selection.json, batch.png, metrics.jsonl and summary.json.

    Nothing is written before the first file is. Raises FileExistsError where the folder already holds a run that is not
    to be resumed.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        config = folder / "config.yaml"
        if config.exists() and not resume:
            raise FileExistsError(
                f"output: {folder} already holds a run; name another folder, remove it, or go on with --resume auto"
            )
        self.folder = folder
        self.settings = Settings.from_yaml(config) if config.exists() else None
        """Those of the run that the folder holds."""
        self._metrics: list[str] = []
        self._bar: Any = None

    def say(self, text: str) -> None:
        """One line on stdout, above the progress bar where there is one."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)

    def config(self, text: str) -> None:
        """Makes the folder and writes config.yaml."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.yaml", text)

    def selection(self, selection: dict[str, Any]) -> None:
        """Writes selection.json."""
        self._json("selection.json", selection)

    def batch(
        self, inputs: Sequence[Tensor], titles: Sequence[Sequence[str]], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Writes batch.png: the first images of each batch, float32[B, 3, H, W], normalised, with their titles."""
        from matplotlib.figure import Figure

        count = min(PICTURE_IMAGES // len(inputs), len(inputs[0]))
        pixels = torch.cat([images[:count] for images in inputs]).cpu().permute(0, 2, 3, 1)
        pixels = (pixels * torch.tensor(std) + torch.tensor(mean)).clamp(0, 1)
        captions = [title for batch in titles for title in batch[:count]]
        columns = min(4, len(pixels))
        rows = -(-len(pixels) // columns)
        figure = Figure(figsize=(2.4 * columns, 2.8 * rows), layout="constrained")
        for axes in figure.subplots(rows, columns, squeeze=False).flat:
            axes.axis("off")
        for axes, image, caption in zip(figure.axes, pixels, captions, strict=False):
            axes.imshow(image.numpy())
            axes.set_title(caption, fontsize=8)
        with replacing(self.folder / "batch.png") as aside:
            figure.savefig(aside, format="png", dpi=120)

    @contextmanager
    def progress(self, images: int, done: int = 0) -> Iterator[None]:
        """Shows a progress bar over the run's images while it lasts, where stderr is a terminal."""
        from tqdm import tqdm

        # disable=None: no bar where stderr is not a terminal.
        with tqdm(total=images, initial=done, unit=" images", leave=False, disable=None) as self._bar:
            yield
        self._bar = None

    def step(self, images: int, loss: float) -> None:
        """Moves the progress bar on."""
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update(images)

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl and says it."""
        self._metrics.append(json.dumps(metrics) + "\n")
        self._write_metrics()
        validation = "" if metrics["val_accuracy"] is None else f"validation {metrics['val_accuracy']:.2f} %  "
        self.say(
            f"epoch {metrics['epoch']:3d}  step {metrics['step']:5d}  loss {metrics['train_loss']:.3f}  "
            f"{validation}{metrics['images_per_second']:.1f} images/s"
        )

    def resume(self, metrics: Sequence[dict[str, Any]]) -> None:
        """Takes metrics.jsonl back to these lines: a killed run may have written more than its last checkpoint."""
        self._metrics = [json.dumps(line) + "\n" for line in metrics]
        self._write_metrics()

    def _write_metrics(self) -> None:
        write_text(self.folder / "metrics.jsonl", "".join(self._metrics))

    def summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json."""
        self._json("summary.json", summary)

    def _json(self, name: str, content: dict[str, Any]) -> None:
        write_text(self.folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class Silent(Recorder):
    """A recorder that writes and shows nothing: that of all processes but the first."""

    def __init__(self, folder: Path, resume: bool = False) -> None:
        self.folder = folder
        self.settings = None

    @contextmanager
    def progress(self, images: int, done: int = 0) -> Iterator[None]:
        """Does nothing."""
        yield

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing."""

    say = config = selection = batch = step = epoch = resume = summary = _nothing
