"""results.json as Markdown: how each part ended, the goals, the figures, and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

Line = dict[str, Any]
Row = tuple[str, ...]

COPY_SHARE = 0.85
"""Goal: of the bandwidth of a copy."""
XMIXUP_STEP = 1.01
"""Goal: at most so many steps of finetune."""
COTRAIN_STEP = 1.8
"""Goal: at least so many; it computes two batches."""


def page(results: dict[str, Any]) -> str:
    """All that was found so far."""
    machine = results["machine"]
    sections = [
        f"# A run on {machine['device']}",
        "" if machine["cuda"] else "A rehearsal in tiny sizes: its figures mean nothing.",
        "\n".join(f"- {name}: {value}" for name, value in machine["info"].items()),
        "## Parts\n\n" + table(("part", "what", "state", "seconds", "found"), list(_parts(results))),
        tables(results),
        *_problems(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def tables(results: dict[str, Any]) -> str:
    """The goals and the figures, as far as they were measured."""
    machine = results["machine"]
    info = machine["info"]
    sections = [
        f"{machine['device']}, {machine['cores']} CPU cores, torch {info['torch']}, torchvision {info['torchvision']}, "
        f"timm {info['timm']}, cuDNN {machine['cuDNN']}, Python {info['Python']}; {machine['date']}."
    ]
    made: list[tuple[str, Row, Iterator[Row]]] = [
        (KERNELS, ("work", "queued", "in a graph", "host", "TB/s", "copy / work"), _kernels(results)),
        (PLAIN, ("work", "plain call", "eager PyTorch"), _others(results)),
        (STEPS, ("steps", "milliseconds of each side (in steps of `finetune`)"), _steps(results)),
        (RUNS, ("images", "run", "training", "step", "images a second"), _runs(results)),
    ]
    if machine["cuda"]:
        made.insert(0, (GOALS, ("ratio", "goal", "measured"), _goals(results)))
    for title, head, found in made:
        if rows := list(found):
            sections.append(f"{title}\n\n{table(head, rows)}")
    return "\n\n".join(sections)


GOALS = "### Goals on a GPU"
KERNELS = """### Operators on a GPU
Microseconds of a call: of the device, for calls that are queued and for calls in a CUDA graph, and of the host.
Bandwidth counts bytes read and bytes written, in the time in a graph; the last column is the time of a plain copy of
as many bytes over that."""
PLAIN = """### The same without `out=`, and in eager PyTorch
Microseconds of the device when calls are queued."""
STEPS = """### Training steps on a GPU
Medians of blocks of steps, the sides in turn; *graph*: from a CUDA graph. `torchvision` and `timm` are their mixup, out
of a DataLoader."""
RUNS = """### Whole runs on a GPU
Seconds of `fit` and of its steps, ResNet-50 at random, from JPEG files."""


def latest(results: dict[str, Any], part: str) -> dict[str, Line]:
    """The last line of each test or figure of a part."""
    lines = results["parts"].get(part, {}).get("lines", [])
    return {line.get("test") or line["name"]: line for line in lines}


def figures(results: dict[str, Any], part: str) -> dict[str, Line]:
    """What a part has measured, by name."""
    return {name: line for name, line in latest(results, part).items() if "error" not in line}


def _parts(results: dict[str, Any]) -> Iterator[Row]:
    for name, entry in results["parts"].items():
        lines = latest(results, name).values()
        if entry["tests"]:
            counts = Counter(line["outcome"] for line in lines)
        else:
            counts = Counter("failed" if "error" in line else "measured" for line in lines)
        found = ", ".join(f"{number} {kind}" for kind, number in counts.items())
        state = SKIPPED if entry["state"] == "skipped" else entry["state"]
        yield name, entry["what"], state, f"{entry['seconds']:.0f}", found


SKIPPED = "skipped: needs CUDA"


def _goals(results: dict[str, Any]) -> Iterator[Row]:
    kernels, steps = figures(results, "kernels"), figures(results, "steps")
    name = "mix: crops, bfloat16"
    if name in kernels:
        yield _at_least(f"{name}: a copy of as many bytes / `mix`", _copy_over(kernels[name]), COPY_SHARE)
    large = f"{name}, large batch"
    if large in kernels and "copy" in kernels:
        share = _bandwidth(kernels[large]) / _bandwidth(kernels["copy"])
        yield _at_least(f"{large}: bandwidth / that of the large copy", share, COPY_SHARE)
    methods = steps.get("ResNet-50: methods")
    if methods:
        over = methods["over_finetune"]
        yield _at_most("ResNet-50: step of xmixup / finetune", over["xmixup"], XMIXUP_STEP)
        yield _at_least("ResNet-50: step of cotrain / finetune", over["cotrain"], COTRAIN_STEP)


def _at_least(what: str, value: float, goal: float) -> Row:
    return what, f"≥ {goal:g}", f"{value:.3g}, {'met' if value >= goal else '**missed**'}"


def _at_most(what: str, value: float, goal: float) -> Row:
    return what, f"≤ {goal:g}", f"{value:.4g}, {'met' if value <= goal else '**missed**'}"


def _best(seconds: dict[str, float]) -> float:
    """The time that the host has the least part in."""
    return seconds.get("graph") or seconds.get("device") or seconds["host"]


def _bandwidth(line: Line) -> float:
    """Bytes a second."""
    return float(line["bytes"]) / _best(line["seconds"])


def _copy_over(line: Line) -> float:
    return _best(line["copy"]) / _best(line["seconds"])


def _kernels(results: dict[str, Any]) -> Iterator[Row]:
    for name, line in figures(results, "kernels").items():
        seconds = line["seconds"]
        times = (_microseconds(seconds.get(kind)) for kind in ("device", "graph", "host"))
        bandwidth = f"{_bandwidth(line) / 1e12:.3g}" if "bytes" in line else ""
        yield _title(name, line), *times, bandwidth, f"{_copy_over(line):.3g}" if "copy" in line else ""


def _others(results: dict[str, Any]) -> Iterator[Row]:
    for name, line in figures(results, "kernels").items():
        plain, reference = line.get("plain call", {}), line.get("reference", {})
        if plain or reference:
            yield _title(name, line), _device(plain), _device(reference)


def _title(name: str, line: Line) -> str:
    if name == "copy":
        return f"a copy of {line['bytes'] / 2e9:.3g} GB"
    return f"{name}, batch {line['batch']}"


def _device(seconds: dict[str, float]) -> str:
    return _microseconds(seconds.get("device", seconds.get("host")))


def _microseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e6 * seconds:.4g}"


def _steps(results: dict[str, Any]) -> Iterator[Row]:
    for name, line in figures(results, "steps").items():
        shown = [f"{side} {1e3 * s:.4g} ({line['over_finetune'][side]:.4g})" for side, s in line["seconds"].items()]
        dtype = line["amp"] or "float32"
        yield f"{name}, {dtype}, {line['batch']} images of {line['size']}x{line['size']}", "; ".join(shown)


def _runs(results: dict[str, Any]) -> Iterator[Row]:
    for name, line in figures(results, "runs").items():
        seconds = (f"{line[what]:.4g}" for what in ("seconds", "training", "step", "images_per_second"))
        yield name, *seconds


def _problems(results: dict[str, Any]) -> Iterator[str]:
    """What failed, with the end of its message; and why tests were skipped."""
    every = [(part, name, line) for part in results["parts"] for name, line in latest(results, part).items()]
    failed = [(part, name, line) for part, name, line in every if "error" in line or line.get("outcome") == "failed"]
    if failed:
        yield "## What failed"
        for part, name, line in failed:
            text = line.get("error") or line["why"]
            yield f"**{part}**: {name}\n\n```text\n" + "\n".join(text.splitlines()[-12:]) + "\n```"
    skipped = Counter(line["why"] for _, _, line in every if line.get("outcome") == "skipped")
    if skipped:
        yield "## Skipped\n\n" + table(("tests", "reason"), [(str(n), why) for why, n in skipped.most_common()])


def table(head: Row, rows: list[Row]) -> str:
    lines: list[Row] = [head, ("---",) * len(head), *rows]
    escape: Callable[[str], str] = lambda cell: cell.replace("|", "\\|").replace("\n", " ")  # noqa: E731
    return "\n".join("| " + " | ".join(map(escape, line)) + " |" for line in lines)
