"""The table of whole runs, from what bench/end_to_end.py has measured."""

from __future__ import annotations

import math
import statistics
from typing import Any

Rows = list[dict[str, Any]]
OURS = ("finetune", "xmixup")
SIDES = {
    ("finetune", 0): "*finetune*, first run",
    ("finetune", 1): "*finetune*, second run",
    ("xmixup", 0): "*xmixup*, first run",
    ("xmixup", 1): "*xmixup*, second run",
    ("fastai", 0): "fastai, `vision_learner`",
    ("lightning", 0): "Lightning, torchvision's loader",
    ("huggingface", 0): "Hugging Face's Trainer",
    ("timm", 0): "timm's loader and loop",
}
PARTS = {
    "start": "start",
    "setup": "to the first step",
    "training": "training",
    "between": "between epochs",
    "end": "to the end",
}
LEGEND = """\
A row is a process, from its start to the saved model; figures are medians (turns: {repeats}), with the least and the \
most in brackets. *First run*: our cache of decoded images is empty; *second run*: it is not. All start from the same \
{model}, with a new head as PyTorch makes one, and train on {images} made photographs of 500 x 375 pixels in ten \
classes that overlap, cropped to 128 x 128, for {epochs} epochs with a validation each. The same {steps} steps of SGD \
were checked. Loaders have {workers} workers.

*Start*: Python and imports. *To the first step*: network, data, workers, and our decoding and selection. *Training*: \
from step to step within epochs, waits for images included. *Between epochs*: from an epoch's last step to the next \
one's first, validation included. *To the end*: the last validation and saving. *Memory*: the most at a time, of all \
processes, with what they share counted once (PSS). *Accuracy*: on {test} other photographs, by one evaluator for all; \
two standard errors are {error:.1f} points."""


def page(rows: Rows, complete: bool = False) -> str:
    """Machine and versions, the legend, the table and the goals, as Markdown.

    Raises SystemExit where nothing was measured or, with ``complete``, where a side is missing.
    """
    measured = [row for row in rows if "seconds" in row]
    if not measured:
        raise SystemExit("expected measurements, found none: run bench/end_to_end.py with the same flags first")
    sides = {key: [row for row in measured if (row["side"], row["run"]) == key] for key in SIDES}
    why = {row["side"]: row["not_run"] for row in rows if "not_run" in row}
    missing = [SIDES[key] for key in SIDES if not sides[key] and key[0] not in why]
    if complete and missing:
        raise SystemExit(f"expected measurements of every side, found none of {', '.join(missing)}")
    last = measured[-1]
    error = two_standard_errors(statistics.mean(row["accuracy"] for row in measured), last["test_images"])
    legend = LEGEND.format(
        repeats=numbers([len(found) for found in sides.values() if found]),
        test=last["test_images"],
        error=error,
        **{name: last[name] for name in ("model", "images", "epochs", "steps", "workers")},
    )
    sections = [heading(measured), legend, side_table(sides, why)]
    if any(sides[name, 0] for name in OURS) and others(sides):
        sections += [goals(sides), accuracies(sides, last["test_images"])]
    return "\n\n".join(sections)


def heading(measured: Rows) -> str:
    """Machines, versions and days of all measurements."""
    machines = sorted({row["machine"] for row in measured})
    versions = sorted({f"{name} {number}" for row in measured for name, number in row["versions"].items()})
    days = sorted({row["date"] for row in measured})
    return f"{'; '.join(machines)}; {', '.join(versions)}; {' to '.join(dict.fromkeys((days[0], days[-1])))}."


def side_table(sides: dict[tuple[str, int], Rows], why: dict[str, str]) -> str:
    head = ["", "seconds", *PARTS.values(), "CPU seconds", "memory, MiB", "accuracy, %"]
    lines = [head, ["---"] * len(head)]
    for key, found in sides.items():
        if found:
            seconds = [row["seconds"] for row in found]
            accuracy = [row["accuracy"] for row in found]
            cells = [f"**{statistics.median(seconds):.1f}** ({min(seconds):.1f} to {max(seconds):.1f})"]
            cells += [f"{statistics.median(row['parts'][part] for row in found):.1f}" for part in PARTS]
            cells += [f"{median(found, 'cpu_seconds'):.0f}", f"{median(found, 'pss_mib'):.0f}"]
            cells += [f"{statistics.median(accuracy):.1f} ({min(accuracy):.1f} to {max(accuracy):.1f})"]
            lines.append([SIDES[key], *cells])
        elif key[0] in why:
            lines.append([SIDES[key], f"not run: {why[key[0]]}", *[""] * (len(head) - 2)])
    return markdown(lines)


def goals(sides: dict[tuple[str, int], Rows]) -> str:
    """Every goal with its figure, and whether it is met."""
    seconds = {SIDES[key]: median(found, "seconds") for key, found in others(sides).items()}
    fastest = min(seconds, key=seconds.__getitem__)
    lines = [["ratio of seconds", "goal", "measured"], ["---"] * 3]

    def add(what: str, goal: str, ratio: float, met: bool) -> None:
        lines.append([what, goal, f"{ratio:.2f}, {'met' if met else '**missed**'}"])

    for key in SIDES:
        if key[0] in OURS and sides[key]:
            own = median(sides[key], "seconds")
            over_fastest, over_median = seconds[fastest] / own, statistics.median(seconds.values()) / own
            add(f"fastest other ({fastest}) / {SIDES[key]}", "> 1", over_fastest, over_fastest > 1)
            add(f"median other / {SIDES[key]}", "≥ 2", over_median, over_median >= 2)
    return markdown(lines)


def accuracies(sides: dict[tuple[str, int], Rows], images: int) -> str:
    """Whether those that fine-tune differ by more than chance."""
    found = {key: statistics.mean(row["accuracy"] for row in rows) for key, rows in others(sides).items()}
    if sides["finetune", 0]:
        found["finetune", 0] = statistics.mean(row["accuracy"] for row in sides["finetune", 0])
    values = sorted(found.values())
    bound = math.sqrt(2) * two_standard_errors(statistics.mean(values), images)
    less = "less" if values[-1] - values[0] <= bound else "**more**"
    return (
        f"Mean accuracies of the {len(values)} sides that fine-tune lie from {values[0]:.1f} to {values[-1]:.1f} %, "
        f"apart by {less} than two standard errors of a difference, {bound:.1f} points."
    )


def others(sides: dict[tuple[str, int], Rows]) -> dict[tuple[str, int], Rows]:
    return {key: found for key, found in sides.items() if key[0] not in OURS and found}


def two_standard_errors(accuracy: float, images: int) -> float:
    """Of an accuracy in percent that is measured on so many images, in points."""
    share = accuracy / 100
    return 200 * math.sqrt(share * (1 - share) / images)


def median(rows: Rows, name: str) -> float:
    return statistics.median(row[name] for row in rows)


def numbers(counts: list[int]) -> str:
    """As 3, or 2 to 3 where they differ."""
    return " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))


def markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
