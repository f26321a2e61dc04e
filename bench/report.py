"""Turns the figures of a benchmark run into the tables and the plot of docs/performance.md.

python -m pytest bench --benchmark-only --rounds 30 --benchmark-json FILE.json
python bench/report.py FILE.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from xmixup_fast.runtime.files import write_between_markers

DOCS = Path(__file__).resolve().parent.parent / "docs"
MIX_GROUPS = ("mix-crop-f32", "mix-crop-bf16", "mix-resized-f32")
ALTERNATIVES = ("compiled", "torchvision", "kornia")

Results = dict[str, list[dict[str, Any]]]
"""extra_info of the benchmarks of each group."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what pytest's --benchmark-json wrote")
    run = json.loads(parser.parse_args().file.read_text())
    results: Results = {}
    for benchmark in run["benchmarks"]:
        results.setdefault(benchmark["group"], []).append(benchmark["extra_info"])
    sections = [
        machine(run),
        goals(results),
        mix_table(results),
        others(results),
        data_table(results),
        alloc_table(results),
    ]
    write_between_markers(DOCS / "performance.md", "bench/report.py", "\n\n".join(sections))
    plot_growth(results, DOCS / "performance.png")


def machine(run: dict[str, Any]) -> str:
    info = run["machine_info"]
    built, versions = info["xmixup_fast"], info["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{info['cpu'].get('brand_raw', 'unknown CPU')}, {info['cores']} cores, {info['threads']} threads, "
        f"CPU level {built['cpu_level']}, compiled with {built['compiler']}; {info['system']}, "
        f"Python {info['python_version']}, {packages}; {run['datetime'][:10]}."
    )


def goals(results: Results) -> str:
    """Every goal with its figure, and whether it is met."""
    rows = []

    def add(what: str, goal: str, value: float, met: bool) -> None:
        rows.append((what, goal, f"{value:.3g}", "met" if met else "**missed**"))

    for group in MIX_GROUPS:
        over = only(results, f"{group}-in-turn")["over_fused"]
        name, best = min(((name, over[name]) for name in ALTERNATIVES if name in over), key=lambda pair: pair[1])
        if group == "mix-resized-f32":
            add(f"{group}: best alternative ({name}) / fused", "at least 3", best, best >= 3)
            continue
        add(f"{group}: reference / fused", "at least 30", over["reference"], over["reference"] >= 30)
        add(f"{group}: best alternative ({name}) / fused", "at least 4", best, best >= 4)
        add(f"{group}: fused / ceiling", "at most 1.3", 1 / over["ceiling"], 1 / over["ceiling"] <= 1.3)
    draw = only(results, "draw-in-turn")
    add("draw / mix-crop-f32, calls repeated", "under 0.03", draw["over_mix"], draw["over_mix"] < 0.03)
    add("draw / mix-crop-f32, single calls after other work", "under 0.03", cold := draw["cold_over_mix"], cold < 0.03)
    loss = only(results, "loss-in-turn")["over_fused"]["reference"]
    add("loss: eager / fused", "at least 2", loss, loss >= 2)
    step = only(results, "step-in-turn")["over_finetune"]["xmixup"]
    add("step: xmixup / finetune", "at most 1.05", step, step <= 1.05)
    for decoder, pool in pools(results).items():
        ratio = pool["build_over_decode_only"]
        add(f"pool: rate of building / of decoding alone ({decoder})", "at least 0.9", ratio, ratio >= 0.9)
    over = only(results, "epoch")["over_resident"]
    add("epoch: dataloader / resident", "at least 20", over["dataloader"], over["dataloader"] >= 20)
    add("epoch: timm / resident", "at least 10", over["timm"], over["timm"] >= 10)
    select = 1 / only(results, "select-in-turn")["over_forward"]
    add("select: rate of selection / of the bare network", "at least 0.9", select, select >= 0.9)
    return table(("ratio of medians", "goal", "measured", ""), rows)


def mix_table(results: Results) -> str:
    """Milliseconds of each side of `mix`, and in brackets multiples of the fused operator's time."""
    sides = list(only(results, f"{MIX_GROUPS[0]}-in-turn")["seconds"])
    rows = []
    for side in sides:
        row = [side]
        for group in MIX_GROUPS:
            turn = only(results, f"{group}-in-turn")
            row.append(f"{1e3 * turn['seconds'][side]:.2f} ({turn['over_fused'][side]:.2f})")
        rows.append(row)
    return "Milliseconds of a call of `mix` (in brackets: multiples of fused):\n\n" + table(("", *MIX_GROUPS), rows)


def others(results: Results) -> str:
    """`draw`, the loss and a training step."""
    draw, loss, step = (only(results, f"{name}-in-turn") for name in ("draw", "loss", "step"))

    def times(seconds: dict[str, float], over: dict[str, float], first: str, unit: float) -> str:
        names = [first, *(name for name in over if name not in (first, "mix"))]
        return ", ".join(f"{name} {seconds[name] * unit:.3g} ({over[name]:.2f})" for name in names)

    cold = 1e6 * draw["cold"]["fused"]
    rows = [
        ("draw, µs", times(draw["seconds"], draw["over_fused"], "fused", 1e6) + f"; fused after other work {cold:.3g}"),
        ("loss with gradients, µs", times(loss["seconds"], loss["over_fused"], "fused", 1e6)),
        (
            f"training step, {step['model']}, {step['batch']} x {step['size']} x {step['size']}, ms",
            times(step["seconds"], step["over_finetune"], "finetune", 1e3),
        ),
    ]
    return table(("", "time (multiples of the first)"), rows)


def data_table(results: Results) -> str:
    """Decoders, pools, epochs and selection; ratios alone, as rates are the machine's."""
    rates, over = only(results, "decode")["images_per_second"], only(results, "epoch")["over_resident"]
    over_pil = {name: rate / rates["pil"] for name, rate in rates.items()}
    select, windows = only(results, "select-in-turn"), only(results, "windows")["whole_over_windows"]

    def ratios(values: dict[str, float]) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in values.items())

    rows = [
        (
            "decoding: rate, in multiples of Pillow's",
            ratios(over_pil),
        ),
        (
            "building a pool: rate, in multiples of decoding alone",
            ratios({decoder: pool["build_over_decode_only"] for decoder, pool in pools(results).items()}),
        ),
        ("windows alone (DALI): rate, in multiples of whole images' (torchvision)", f"{windows:.3g}"),
        ("epoch: time, in multiples of resident's", ratios(over)),
        (f"selection, {select['model']}: time, in multiples of the bare network's", f"{select['over_forward']:.3g}"),
    ]
    return table(("images", "ratios"), rows)


def pools(results: Results) -> dict[str, dict[str, Any]]:
    """What was measured of building pools, by decoder."""
    measured = {pool["decoder"]: pool for pool in results.get("pool", [])}
    if measured.keys() != {"dali", "torchvision"}:
        raise SystemExit(f"expected the group pool with dali and torchvision, got {sorted(measured)}: run all of bench")
    return measured


def alloc_table(results: Results) -> str:
    names = {
        "fused": "into a reused output",
        "fused_alloc": "into a fresh output",
        "touch": "one write to each page of a fresh output, by one thread, and no mixing",
        "huge_pages": "into a fresh output in pages of 2 MiB (`madvise`)",
        "kept_memory": "fresh output, glibc told to keep freed memory",
    }
    measured = only(results, "alloc")
    rows = [(names[name], f"{1e3 * m['seconds']:.2f}", str(m["faults"])) for name, m in measured.items()]
    return table(("`mix-crop-f32`", "ms", "page faults"), rows)


def only(results: Results, group: str) -> dict[str, Any]:
    if len(results.get(group, [])) != 1:
        raise SystemExit(
            f"expected one benchmark of the group {group}, got {len(results.get(group, []))}: run all of bench"
        )
    return results[group][0]


def table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot_growth(results: Results, file: Path) -> None:
    panels = {
        "growth-batch": ("images per batch (224 x 224)", "µs per image"),
        "growth-pool": ("images in the pool (256 crops of 64 x 64)", "ms per batch"),
        "growth-threads": ("threads (64 crops of 224 x 224)", "ms per batch"),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.2), layout="constrained")
    for axis, (group, (x_label, y_label)) in zip(axes, panels.items(), strict=True):
        points = sorted(results[group], key=lambda point: point["at"])
        at = [point["at"] for point in points]
        for side, marker in (("fused", "o"), ("compiled", "s")):
            unit = [1e6 / n if group == "growth-batch" else 1e3 for n in at]
            seconds = [point["seconds"][side] for point in points]
            axis.plot(at, [s * u for s, u in zip(seconds, unit, strict=True)], marker=marker, label=side)
        axis.set(xlabel=x_label, ylabel=y_label, ylim=(0, None))
        if group != "growth-threads":
            axis.set_xscale("log")
        if group != "growth-pool":
            axis.set_xticks(at, [str(n) for n in at])
            axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
