"""Find a learning rate: a range test on a run's own data, with its own network and method.

xmixup find-lr --target photos/ --source imagenet/train/ --model resnet50
    raises the learning rate from step to step until the loss diverges; suggests one, and draws the losses: lr.png

xmixup find-lr --config runs/NAME/config.yaml --steps 200 --output runs/rates
    for the settings of a run, in 200 steps instead of 100

All settings of training are understood; --steps is the length of the test, and --lr changes nothing. The rate is that
of the pretrained weights, as --lr is; heads and layers keep their multiples of it. The trained network is not kept.
Where the loss falls by no more than its noise, nothing is suggested, and the exit status is 1.

L. N. Smith, Cyclical Learning Rates for Training Neural Networks, arXiv 1506.01186.
"""

from __future__ import annotations

import math
import statistics
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli import exit_status, parse_settings
from ..runtime.files import write_json
from ..settings.fields import Settings

if TYPE_CHECKING:
    from ..training.trainer import Trainer

STEPS = 100
LOWEST, HIGHEST = 1e-6, 10.0
"""Learning rates of the first and the last step; between them they grow by one factor."""
SMOOTHING = 0.95
"""What a smoothed loss keeps of the one before."""
DIVERGED = 4.0
"""The test ends where the smoothed loss is so many times the smallest one."""
LEAST_POINTS = 5
"""Of a valley: fewer losses that fall are noise."""
CLEAR = 4.0
"""Standard deviations of its noise by which a smoothed loss has to fall; of 1,000 tests of 100 or 500 steps whose
losses were noise alone, 2 % and 6 % had such a fall."""


@dataclass(frozen=True)
class Suggestions:
    """Learning rates read off the smoothed losses."""

    valley: float
    """The middle of the longest fall: the one to take."""
    steepest: float
    """Where the loss falls fastest, by the rate's logarithm."""
    minimum_over_10: float
    """A tenth of the rate at which the loss is smallest."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw, one value for each step."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]

    def suggestions(self) -> Suggestions | None:
        """None where the loss never falls for long, or by no more than its noise."""
        valley = longest_fall(self.smoothed)
        lowest = self.smoothed.index(min(self.smoothed)) if self.smoothed else 0
        if len(valley) < LEAST_POINTS or lowest == 0 or self._largest_fall(lowest) < CLEAR:
            return None
        # All rates are one factor apart, so that differences of losses are slopes. Beyond the minimum they are noise.
        slopes = [after - before for before, after in pairwise(self.smoothed[: lowest + 1])]
        steepest = slopes.index(min(slopes))
        return Suggestions(self.rates[valley[len(valley) // 2]], self.rates[steepest], self.rates[lowest] / 10)

    def _largest_fall(self, lowest: int) -> float:
        """The largest fall of the smoothed loss to its minimum, in standard deviations of such a difference's noise.

        The noise of a loss shows in the differences between steps, of which the median tells it: what falls or jumps
        matters little there. Smoothing leaves (1 - s)(1 + s^n) / ((1 + s)(1 - s^n)) of its variance in the n-th loss.
        """
        step = statistics.median(abs(after - before) for before, after in pairwise(self.losses[: lowest + 1]))
        noise = step / math.sqrt(2) / statistics.NormalDist().inv_cdf(0.75)
        powers = [SMOOTHING**number for number in range(1, lowest + 2)]
        left = [(1 - SMOOTHING) * (1 + power) / ((1 + SMOOTHING) * (1 - power)) for power in powers]
        deviations = (noise * math.sqrt(variance + left[-1]) for variance in left[:-1])
        falls = (before - self.smoothed[lowest] for before in self.smoothed[:lowest])
        return max(fall / d if d else math.inf for fall, d in zip(falls, deviations, strict=True))


def longest_fall(values: Sequence[float]) -> list[int]:
    """Positions of the longest strictly falling subsequence."""
    ends: list[int] = []  # of the best one of each length: that whose last value is largest
    keys: list[float] = []  # minus their values, which rise
    before: list[int | None] = []
    for position, value in enumerate(values):
        length = bisect_left(keys, -value)
        before.append(ends[length - 1] if length else None)
        ends[length : length + 1] = [position]
        keys[length : length + 1] = [-value]
    fall: list[int] = []
    place = ends[-1] if ends else None
    while place is not None:
        fall.append(place)
        place = before[place]
    return fall[::-1]


def run(settings: Settings) -> tuple[RangeTest, Suggestions | None]:
    """Tests learning rates as the settings say; prints the suggestion, and writes lr.json and lr.png.

    Raises as :func:`xmixup_fast.fit` does.
    """
    from ..methods import METHODS
    from ..runtime import distributed
    from ..runtime.claims import owned_output
    from ..runtime.device import current_device, reproducible, usable_device
    from ..training.head_fit import fit_head
    from ..training.prepare import prepare
    from ..training.resolve import resolved, run_name
    from ..training.trainer import Trainer

    if not METHODS[settings.method].takes_steps:
        raise ValueError(f"method: {settings.method} takes no steps, so it has no learning rate to find; take another")
    folder = Path(settings.output or Path("runs", distributed.broadcast_object(run_name("find-lr", settings))))
    first = distributed.rank() == 0

    def log(text: str) -> None:
        if first:
            print(text, flush=True)

    steps = settings.steps or STEPS
    # What changes in the middle of a run would be taken for the learning rate's doing.
    steady = {"warmup_epochs": 0.0, "unmixed_share": 0.0, "rifle_periods": 1, "seqtrain_share": 1.0}
    settings = replace(settings, output=str(folder), resume="never", steps=steps, **steady)  # type: ignore[arg-type]
    with owned_output(folder if first else None, log):
        if (folder / "lr.json").exists():
            raise FileExistsError(f"output: {folder} already holds a range test; name another folder, or remove it")
        device = usable_device(settings.device)
        with (
            current_device(device),
            reproducible(settings.seed, settings.threads, deterministic=settings.deterministic, tf32=settings.tf32),
        ):
            settings = resolved(settings)
            prepared = prepare(settings, log)
            trainer = Trainer(prepared.parts, settings)
            if settings.head_init == "probe" and trainer.source_phase_steps == 0:
                fit_head(trainer, log)
            swept = sweep(trainer, steps)
        found = swept.suggestions()
        log(describe(swept, found))
        if first:
            _write(folder, settings, swept, found)
    log(f"lr.json and lr.png in {folder}")
    return swept, found


def _write(folder: Path, settings: Settings, swept: RangeTest, found: Suggestions | None) -> None:
    draw(swept, found, f"{settings.method} on {Path(settings.target).name}, {settings.model}", folder / "lr.png")
    report = {"suggestions": asdict(found) if found else None, **asdict(swept)}
    write_json(folder / "lr.json", report)


def sweep(trainer: Trainer, steps: int) -> RangeTest:
    """Trains for so many steps, or until the loss diverges, while the learning rates grow."""
    from ..runtime import distributed
    from ..runtime.progress import progress

    swept = RangeTest([], [], [])
    average, least = 0.0, math.inf
    for step in progress(range(steps), steps, "range test", unit="steps"):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / max(steps - 1, 1))
        trainer.set_lr(rate)
        (loss,) = distributed.all_reduce_sum(float(trainer.step()))
        if not math.isfinite(loss):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed = average / (1 - SMOOTHING ** (step + 1))  # as if the average had begun with the first loss
        swept.rates.append(rate)
        swept.losses.append(loss)
        swept.smoothed.append(smoothed)
        least = min(least, smoothed)
        if smoothed > DIVERGED * least:
            break
    return swept


def describe(swept: RangeTest, found: Suggestions | None) -> str:
    """A line for the user."""
    if not swept.rates:
        return "no suggestion: the first loss is not finite"
    tested = f"{len(swept.rates)} steps, learning rates from {swept.rates[0]:.1e} to {swept.rates[-1]:.1e}"
    if found is None:
        return f"no suggestion: the loss did not fall by more than its noise ({tested}); try more --steps"
    return (
        f"suggested: --lr {found.valley:.1e} (middle of the longest fall of the loss; steepest {found.steepest:.1e}, "
        f"a tenth of the minimum's {found.minimum_over_10:.1e}; {tested})"
    )


def draw(swept: RangeTest, found: Suggestions | None, title: str, path: Path) -> None:
    """Draws losses over learning rates, with the suggestions, as a PNG file."""
    from matplotlib.figure import Figure

    from ..report import figures, lettering

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(swept.rates, swept.losses, color="tab:blue", alpha=0.3, linewidth=1, label="loss of each step")
    axes.plot(swept.rates, swept.smoothed, color="tab:blue", linewidth=2, label="smoothed")
    if found:
        axes.axvline(found.valley, color="tab:red", label=f"suggested: {found.valley:.1e}")
        axes.axvline(found.steepest, color="grey", linestyle="--", label=f"steepest fall: {found.steepest:.1e}")
        tenth = found.minimum_over_10
        axes.axvline(tenth, color="grey", linestyle=":", label=f"a tenth of the minimum's: {tenth:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.set_title(lettering.drawable(title), **lettering.text_style())
    if swept.smoothed:
        low, high = min(swept.losses), max(swept.smoothed)
        height = high - low or 1.0
        axes.set_ylim(low - 0.05 * height, high + 0.25 * height)  # single losses may be much higher
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figures.save(figure, path)


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup find-lr") -> int:
    """Runs the command; returns its exit status, 1 without a suggestion, 2 for an error that the user can mend."""

    def work() -> int:
        settings = parse_settings(sys.argv[1:] if arguments is None else arguments, prog, __doc__)
        from ..runtime import distributed  # needs torch, which --help need not wait for

        with distributed.processes():
            _, found = run(settings)
        return int(found is None)  # as grep: so that find-lr && train does not go on

    return exit_status(work)
