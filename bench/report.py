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
MIX_GROUPS = {
    "mix-crop-f32": "crops, float32",
    "mix-crop-bf16": "crops, bfloat16",
    "mix-resized-f32": "resized, float32",
}
ALTERNATIVES = ("compiled", "torchvision", "kornia")
MIX_SIDES = {
    "fused_alloc": "`mix(...)`: a plain call",
    "fused": "*fused*: `mix(..., out=)`, reused output",
    "fused_fresh": "`mix(..., out=torch.empty(...))`: new memory",
    "reference": "*reference*: eager PyTorch",
    "compiled": "*compiled*: slices copied, then one torch.compile kernel",
    "torchvision": "*torchvision*: windows cut one by one, the rest batched",
    "kornia": "*kornia*: likewise",
    "ceiling": "*ceiling*: reads and writes as many bytes, mixes nothing",
}
EPOCH_SIDES = {
    "resident": "*resident*: `Sampler.plan` and `render`, from decoded images",
    "stream": "*stream*: the same bits, target images decoded anew",
    "dataloader": "*dataloader*: both images of each pair decoded with torchvision",
    "timm": "*timm*: one image per sample decoded with Pillow; `FastCollateMixup`",
}
OUTPUTS = {
    "fused_alloc": "memory that `mix` reuses: a plain call",
    "fused": "reused output, `out=`",
    "fused_fresh": "`torch.empty` as `out=`",
    "touch": "new memory, one write per page, no mixing",
    "huge_pages": "new memory in pages of 2 MiB (`madvise`)",
    "kept_memory": "`torch.empty`, glibc keeps freed memory",
}

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
        headline(results),
        goals(results),
        mix_table(results),
        others(results),
        epoch_table(results),
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


def headline(results: Results) -> str:
    """What a plain call of `mix` gains, and then what ``out=`` adds."""
    over = only(results, "mix-crop-f32-in-turn")["over_fused"]
    name, best = best_alternative(over)
    plain = over["fused_alloc"]
    return (
        f"In float32, **a plain call of `mix` is {over['reference'] / plain:.3g} times as fast as eager PyTorch** and "
        f"{best / plain:.3g} times as fast as the best alternative ({name}). It takes {plain:.3g} times as long as one "
        f"into a reused output, `out=`; one into new memory takes {over['fused_fresh']:.3g} times as long."
    )


def best_alternative(over_fused: dict[str, float]) -> tuple[str, float]:
    """Name and time, in multiples of the fused operator's, of the fastest other way to a batch."""
    return min(((name, over_fused[name]) for name in ALTERNATIVES if name in over_fused), key=lambda pair: pair[1])


def goals(results: Results) -> str:
    """Every goal with its figure, and whether it is met."""
    rows = []

    def add(what: str, goal: str, value: float, met: bool) -> None:
        rows.append((what, goal, f"{value:.3g}, {'met' if met else '**missed**'}"))

    for group, title in MIX_GROUPS.items():
        over = only(results, f"{group}-in-turn")["over_fused"]
        _, best = best_alternative(over)
        if group == "mix-resized-f32":
            add(f"{title}: best alternative / fused", "≥ 3", best, best >= 3)
            continue
        add(f"{title}: reference / fused", "≥ 30", over["reference"], over["reference"] >= 30)
        add(f"{title}: best alternative / fused", "≥ 4", best, best >= 4)
        add(f"{title}: fused / ceiling", "≤ 1.3", 1 / over["ceiling"], 1 / over["ceiling"] <= 1.3)
    loop = only(results, "loop")
    plain = loop["fused_alloc"]["mix"] / loop["fused"]["mix"]
    add("plain call / `out=`, in a loop with backward", "≤ 1.15", plain, plain <= 1.15)
    draw = only(results, "draw-in-turn")
    add("`draw` / `mix`, calls repeated", "< 0.03", draw["over_mix"], draw["over_mix"] < 0.03)
    add("`draw` / `mix`, calls after other work", "< 0.03", cold := draw["cold_over_mix"], cold < 0.03)
    loss = only(results, "loss-in-turn")["over_fused"]["reference"]
    add("loss: reference / fused", "≥ 2", loss, loss >= 2)
    step = only(results, "step-in-turn")["over_finetune"]["xmixup"]
    add("training step: xmixup / finetune", "≤ 1.05", step, step <= 1.05)
    for decoder, pool in pools(results).items():
        ratio = pool["build_over_decode_only"]
        add(f"rate: first start / decoding alone ({decoder})", "≥ 0.9", ratio, ratio >= 0.9)
    over = only(results, "epoch")["over_resident"]
    add("epoch: dataloader / resident", "≥ 20", over["dataloader"], over["dataloader"] >= 20)
    add("epoch: timm / resident", "≥ 10", over["timm"], over["timm"] >= 10)
    select = 1 / only(results, "select-in-turn")["over_forward"]
    add("rate: selection / bare network", "≥ 0.9", select, select >= 0.9)
    what = (
        "### Goals\nA row divides two median times, or rates where it says so. Crops and resized windows are of `mix`."
    )
    return with_words(what, table(("ratio", "goal", "measured"), rows))


def mix_table(results: Results) -> str:
    """Milliseconds of each side of `mix`, and in brackets multiples of the fused operator's time."""
    sides = list(only(results, "mix-crop-f32-in-turn")["seconds"])
    rows = []
    for side in sides:
        row = [MIX_SIDES[side]]
        for group in MIX_GROUPS:
            turn = only(results, f"{group}-in-turn")
            row.append(f"{1e3 * turn['seconds'][side]:.2f} ({turn['over_fused'][side]:.2f})")
        rows.append(row)
    what = (
        "### mix\nMilliseconds for a batch of 64 images of 224x224 pixels, by way (row) and kind (column; *resized*: "
        "windows as RandomResizedCrop draws them). In brackets, multiples of *fused*."
    )
    return with_words(what, table(("", *MIX_GROUPS.values()), rows))


def others(results: Results) -> str:
    """`draw`, the loss, a training step and decoding, each in multiples of its first side."""
    draw, loss, step = (only(results, f"{name}-in-turn") for name in ("draw", "loss", "step"))
    rates, windows = only(results, "decode")["images_per_second"], only(results, "windows")["whole_over_windows"]

    def multiples(over: dict[str, float], first: str, unit: str = "") -> str:
        names = [name for name in over if name not in (first, "mix")]
        return ", ".join([f"{first} 1{unit}", *(f"{name} {over[name]:.3g}" for name in names)])

    warm, cold = 1e6 * draw["seconds"]["fused"], 1e6 * draw["cold"]["fused"]
    draw_unit = f" ({warm:.3g} µs; after other work {cold:.3g} µs)"
    loss_unit = f" ({1e6 * loss['seconds']['fused']:.3g} µs)"
    step_unit = f" ({1e3 * step['seconds']['finetune']:.3g} ms)"
    rows = [
        ("`draw` for 64 samples, time", multiples(draw["over_fused"], "fused", draw_unit)),
        ("loss with gradients, time", multiples(loss["over_fused"], "fused", loss_unit)),
        (
            f"training step, {step['model']}, {step['batch']} images of {step['size']}x{step['size']}, time "
            "(torchvision, timm: their mixup)",
            multiples(step["over_finetune"], "finetune", step_unit),
        ),
        ("decoding, rate", multiples({name: rate / rates["pil"] for name, rate in rates.items()}, "pil")),
        ("decoding 224x224 windows, rate", f"torchvision (whole images) 1, dali (windows alone) {windows:.3g}"),
    ]
    what = "### Other parts\nA row lists sides that were measured in turn, in multiples of the first."
    return with_words(what, table(("what", "sides"), rows))


def epoch_table(results: Results) -> str:
    over = only(results, "epoch")["over_resident"]
    what = "### Epochs without a network\nTime for 256 images, in multiples of the first row; loaders have two workers."
    return with_words(what, table(("", "time"), [(EPOCH_SIDES[name], f"{value:.3g}") for name, value in over.items()]))


def pools(results: Results) -> dict[str, dict[str, Any]]:
    """What was measured of building pools, by decoder."""
    measured = {pool["decoder"]: pool for pool in results.get("pool", [])}
    if measured.keys() != {"dali", "torchvision"}:
        raise SystemExit(f"expected the group pool with dali and torchvision, got {sorted(measured)}: run all of bench")
    return measured


def alloc_table(results: Results) -> str:
    measured = only(results, "alloc")
    rows = [(OUTPUTS[name], f"{1e3 * m['seconds']:.2f}", str(m["faults"])) for name, m in measured.items()]
    what = "### Memory of the output\nA row is one call of `mix`, crops in float32, and its page faults."
    alone = with_words(what, table(("into", "ms", "page faults"), rows))
    loop = only(results, "loop")
    rows = [
        (OUTPUTS[name], f"{1e3 * m['mix']:.2f}", f"{1e3 * m['step']:.1f}", str(m["faults"])) for name, m in loop.items()
    ]
    what = "The same in a loop that keeps each batch through the backward pass of one convolution."
    return f"{alone}\n\n" + with_words(what, table(("into", "ms", "ms of the step", "page faults"), rows))


def only(results: Results, group: str) -> dict[str, Any]:
    if len(results.get(group, [])) != 1:
        raise SystemExit(
            f"expected one benchmark of the group {group}, got {len(results.get(group, []))}: run all of bench"
        )
    return results[group][0]


def with_words(words: str, rows: str) -> str:
    """A table below the sentences that say what it shows."""
    return f"{words}\n\n{rows}"


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
