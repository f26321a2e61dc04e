"""Answers the questions of the comparisons on small images, from their results, in a table and a plot.

    python docs/answers.py                  # validation accuracies
    python docs/answers.py --split test

Reads the plans docs/small-images*.yaml and their files of results; trains nothing. Each question is one difference of
accuracy in pairs of runs, averaged over both targets, where little is forgotten (gentle) and where much is (drift).
The answer is yes or no where its p-value, corrected for all questions of its column (Holm), is below 0.05. Writes
docs/results/answers[.val].md, and answers[.val].png: gains against the share of each image that is the source's.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from xmixup_fast.comparison.differences import LEVEL, Difference, holm
from xmixup_fast.comparison.plan import BASELINE, Comparison, Task, read
from xmixup_fast.comparison.results import Results
from xmixup_fast.comparison.tables import BySeed, by_seed, paired_differences, table
from xmixup_fast.comparison.tuning import accuracies, choose, with_complete_tuning
from xmixup_fast.runtime.files import write_text
from xmixup_fast.settings.fields import Settings

DOCS = Path(__file__).resolve().parent
REGIMES = {
    "gentle": ("small-images", "small-images-questions", "small-images-rows"),
    "drift": ("small-images-drift", "small-images-questions-drift"),
}
"""Plans of each regime. Methods of one name have the same settings in all of them."""
LARGEST_P = 0.05
"""A p-value from which on a question is not decided."""
OTHER_NAMES = {f"xmixup-{name}": name for name in ("alpha1", "alpha1-random", "random")}
"""What the first plan calls methods of the second."""


class Question(NamedTuple):
    """Asks whether one method is more accurate than another."""

    text: str
    method: str
    other: str


QUESTIONS = (
    Question("XMixup (alpha 0.2, folded) against fine-tuning: better?", "xmixup", "finetune"),
    Question("XMixup at alpha 1, not folded, against fine-tuning: better?", "alpha1", "finetune"),
    Question("mixup within the target: better than fine-tuning?", "mixup", "finetune"),
    Question("XMixup (alpha 0.2, folded) against mixup within the target: better?", "xmixup", "mixup"),
    Question("co-training at equal steps: better than fine-tuning?", "cotrain", "finetune"),
    Question("co-training at equal time: better than fine-tuning?", "cotrain-half", "finetune"),
    Question("XMixup against co-training at equal time: better?", "xmixup", "cotrain-half"),
    Question("selected classes against random ones, alpha 0.2 folded: better?", "xmixup", "random"),
    Question("the same, alpha 1 folded: better?", "alpha1-folded", "alpha1-folded-random"),
    Question("the same, lambda always 0.7: better?", "lam-0.7", "lam-0.7-random"),
    Question("the same, alpha 1 not folded: better?", "alpha1", "alpha1-random"),
    Question("selected classes against the least similar, alpha 0.2 folded: better?", "xmixup", "xmixup-least"),
    Question("the same, alpha 1 not folded: better?", "alpha1", "xmixup-alpha1-least"),
    Question("selection by features against by predictions: better?", "alpha1-feature", "alpha1"),
    Question("one-to-one against the best class: better?", "alpha1-assignment", "alpha1-top1"),
    Question("1 class against 3: better?", "alpha1-top1", "alpha1"),
    Question("10 classes against 3: better?", "alpha1-top10", "alpha1"),
    Question("50 single images against 3 classes: better?", "alpha1-images", "alpha1"),
    Question("transport against predictions, alpha 0.2 folded: better?", "xmixup-transport", "xmixup"),
    Question("alpha 1 folded against alpha 0.2 folded: better?", "alpha1-folded", "xmixup"),
    Question("lambda always 0.7 against alpha 0.2 folded: better?", "lam-0.7", "xmixup"),
    Question("alpha 1 not folded against alpha 0.2 folded: better?", "alpha1", "xmixup"),
    Question("last 30 % of steps not mixed, alpha 0.2 folded: better?", "xmixup-end", "xmixup"),
    Question("the same, alpha 1 not folded: better?", "unmixed-end", "alpha1"),
    Question("alpha 1, last 30 % not mixed, against alpha 0.2 folded: better?", "unmixed-end", "xmixup"),
    Question("alpha 1, last 30 % not mixed, against fine-tuning: better?", "unmixed-end", "finetune"),
    Question(
        "selected classes against random ones, alpha 1, last 30 % not mixed: better?",
        "unmixed-end",
        "unmixed-end-random",
    ),
    Question("contrast kept, alpha 0.2 folded: better?", "xmixup-contrast", "xmixup"),
    Question("contrast kept, alpha 1: better?", "alpha1-contrast", "alpha1"),
    Question("statistics renewed, alpha 0.2 folded: better?", "renewed", "xmixup"),
    Question("statistics renewed, alpha 1: better?", "alpha1-renewed", "alpha1"),
    Question("both, alpha 1: better?", "alpha1-contrast-renewed", "alpha1"),
    Question("rectangles against blends, alpha 0.2 folded: better?", "boxes", "xmixup"),
    Question("rectangles against blends, alpha 1: better?", "boxes-alpha1", "alpha1"),
    Question("selected against random classes in rectangles, alpha 1: better?", "boxes-alpha1", "boxes-alpha1-random"),
    Question("source weight 0.1 against 1: better?", "weight-0.1", "alpha1"),
    Question("source weight 3 against 1: better?", "weight-3", "alpha1"),
    Question("fresh source head against the classifier: better?", "fresh-head", "alpha1"),
    Question("frozen source head against a trained one: better?", "frozen-head", "alpha1"),
    Question("target head from the source head's rows, fine-tuning: better?", "finetune-head", "finetune"),
    Question("the same, XMixup at alpha 0.2 folded: better?", "xmixup-head", "xmixup"),
    Question("the same, XMixup at alpha 1: better?", "alpha1-head", "alpha1"),
    Question("XMixup against fine-tuning, both with that head: better?", "xmixup-head", "finetune-head"),
    Question("the same, XMixup at alpha 1, last 30 % not mixed: better?", "unmixed-end-head", "finetune-head"),
    Question("L2-SP in fine-tuning: better?", "l2sp", "finetune"),
    Question("L2-SP in mixup: better?", "mixup-l2sp", "mixup"),
    Question("L2-SP in co-training: better?", "cotrain-l2sp", "cotrain"),
    Question("L2-SP in XMixup, alpha 0.2 folded: better?", "xmixup-l2sp", "xmixup"),
    Question("L2-SP in XMixup, alpha 1: better?", "alpha1-l2sp", "alpha1"),
    Question("probe, then tune, against fine-tuning: better?", "finetune-probe", "finetune"),
    Question("head fitted anew after fine-tuning: better?", "finetune-refit", "finetune"),
    Question("head fitted anew after XMixup, alpha 0.2 folded: better?", "xmixup-refit", "xmixup"),
)
SHARES = {
    "selected classes": ("xmixup", "alpha1-folded", "lam-0.7", "alpha1"),
    "random classes": ("random", "alpha1-folded-random", "lam-0.7-random", "alpha1-random"),
}
"""Methods that differ in the distribution of lambda, for the plot."""


class Regime(NamedTuple):
    """What is known of a regime."""

    lines: BySeed
    tasks: list[Task]
    settings: Mapping[str, Mapping[str, Any]]
    """The settings of each method."""
    made: str
    """How many runs were made, and their time."""

    def difference(self, method: str, other: str, split: str) -> Difference:
        """The first minus the second method's accuracy; without pairs where runs are missing."""
        own, base = ([self.lines.get((name, task), {}) for task in self.tasks] for name in (method, other))
        return Difference.of(*paired_differences(own, base, f"{split}_accuracy"))


def regime(plans: Sequence[str], split: str) -> Regime:
    """Reads the results of several plans, whose tasks are the same."""
    lines: dict[tuple[str, Task], Any] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    comparison: Comparison | None = None
    seconds: dict[str, float] = {}
    for plan in plans:
        comparison = read(str(DOCS / f"{plan}.yaml"), settings={})
        results = Results(DOCS.parent / comparison.results).lines()
        seconds |= {line["key"]: line["run_seconds"] for line in results if "run_seconds" in line}
        if None in accuracies(comparison, results, BASELINE):
            continue
        shown = with_complete_tuning(comparison, results)
        for (method, task), found in by_seed(shown.runs(choose(shown, results)), results, split).items():
            name = OTHER_NAMES.get(method, method)
            lines[name, task] = {**lines.get((name, task), {}), **found}
            settings[name] = comparison.methods[method]
    assert comparison is not None
    made = f"{len(seconds)} runs, tuning included, in {sum(seconds.values()) / 3600:.1f} hours of one core"
    return Regime(lines, comparison.tasks, settings, made)


def answers(regimes: Mapping[str, Regime], split: str) -> str:
    """The table."""
    columns = []
    tasks = next(iter(regimes.values())).tasks
    for found in regimes.values():
        differences = [found.difference(question.method, question.other, split) for question in QUESTIONS]
        p_values = holm([difference.p for difference in differences])
        columns.append([cell(difference, p) for difference, p in zip(differences, p_values, strict=True)])
    head = ("question", *(f"{name}: difference ({100 * LEVEL:.0f} % interval), seeds, p (Holm)" for name in regimes))
    body = [(question.text, *cells) for question, *cells in zip(QUESTIONS, *columns, strict=True)]
    made = "; ".join(f"{name}: {found.made}" for name, found in regimes.items())
    title = f"Questions on small images, {split} accuracy, average over {len(tasks)} targets"
    return f"**{title}**\n\n{table(head, body)}\n\n{made}."


def cell(difference: Difference, p: float) -> str:
    """An answer: yes, no or not decided, and the figures."""
    if difference.pairs < 2:
        return "not run"
    said = "not decided" if p >= LARGEST_P else "yes" if difference.mean > 0 else "no"
    shown = "< 0.001" if p < 0.001 else f"{p:.3f}"
    interval = f"{difference.mean:+.1f} ({difference.low:+.1f} to {difference.high:+.1f})"
    return f"**{said}**: {interval}, {difference.pairs}, {shown}"


def source_share(settings: Mapping[str, Any]) -> float:
    """The mean of 1 - lambda: the share of a blend's pixels that is the source's."""
    if "lam" in settings:
        return 1.0 - float(settings["lam"])
    alpha = float(settings.get("alpha", Settings.alpha))
    if not settings.get("fold", Settings.fold):
        return 0.5
    return float(stats.beta(alpha + 1, alpha).cdf(0.5))  # the mean of min(lambda, 1 - lambda)


def plot(regimes: Mapping[str, Regime], split: str, path: Path) -> None:
    """Plots gains over fine-tuning against the share of the source, with selected and with random classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, len(regimes), squeeze=False)[0], regimes.items(), strict=True):
        axes.axhline(0, color="0.7", linewidth=1, zorder=0)
        for number, (label, methods) in enumerate(SHARES.items()):
            points = [
                (source_share(found.settings[method]), difference)
                for method in methods
                if (difference := found.difference(method, "finetune", split)).pairs > 1
            ]
            points.sort(key=lambda point: point[0])
            places = [share + 0.004 * (2 * number - 1) for share, _ in points]
            gains = [difference.mean for _, difference in points]
            errors = [difference.high - difference.mean for _, difference in points]
            axes.errorbar(places, gains, errors, marker="os"[number], markersize=4, label=label)
        axes.set(title=name, xlabel="share of the source in a blend, on average")
        axes.grid(alpha=0.25)
        axes.legend()
    figure.axes[0].set_ylabel(f"{split} accuracy minus finetune's, points")
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=["val", "test"], default="val", help="default: val")
    split = parser.parse_args(arguments).split
    regimes = {name: regime(plans, split) for name, plans in REGIMES.items()}
    text = answers(regimes, split)
    print(text)
    base = DOCS / "results" / ("answers" if split == "test" else f"answers.{split}")
    write_text(base.with_name(f"{base.name}.md"), text + "\n")
    plot(regimes, split, base.with_name(f"{base.name}.png"))


if __name__ == "__main__":
    main()
