"""Turns the figures of a benchmark run into the tables and the plot of docs/performance.md.

python -m pytest bench --benchmark-only --rounds 30 --benchmark-json FILE.json
python bench/report.py FILE.json

A run of some benchmarks alone gives the tables of these; it prints which groups are missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from goals import goal_rows
from results import MissingGroup, Results, best_alternative, group, only

from xmixup_fast.runtime.files import write_between_markers

DOCS = Path(__file__).resolve().parent.parent / "docs"
MIX_GROUPS = {
    "mix-crop-f32": "crops, float32",
    "mix-crop-bf16": "crops, bfloat16",
    "mix-resized-f32": "resized, float32",
}
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
AUGMENT_GROUPS = {"augment-f32": "float32", "augment-bf16": "bfloat16"}
AUGMENT_SIDES = {
    "fused": "*fused*: `draw` and `mix_plan(..., out=)`",
    "fused_alloc": "likewise without `out=`",
    "mix": "`mix(..., out=)` of the same windows, colours left as they are",
    "mix-resized": "*resized* of the table above",
    "compiled": "*compiled*: bytes resized in threads, then one torch.compile kernel; does not draw",
    "torchvision": "*torchvision*: images in threads, the rest batched; does not draw",
    "kornia": "*kornia*: windows in threads, the rest batched; does not draw",
    "dali": "*dali*: its pipeline on the CPU, then mixup in torch",
    "timm": "*timm*: one image per sample, mixed within the batch; its workers share the images without loss",
    "ceiling": "*ceiling*: reads and writes as many bytes",
}
RESIZE_GROUPS = {
    "resize-antialias-2-to-4": "448 to 896 -> 224, batch 32",
    "resize-antialias-2.4": "426 -> 180, batch 64",
    "resize-antialias-6.7": "426 -> 64, batch 64",
}
RESIZE_SIDES = {
    "fused": "*fused*: `mix(..., antialias=True, out=)`, normalised",
    "torchvision": "*torchvision*: bytes in threads, then normalised in whole batches",
    "torchvision_bytes": "the same without normalisation",
    "pillow": "*pillow*: in threads, `reducing_gap=2`, not normalised",
}
OVERHEAD_PARTS = ("plan", "draw", "mix", "glue")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what pytest's --benchmark-json wrote")
    run = json.loads(parser.parse_args().file.read_text())
    results: Results = {}
    for benchmark in run["benchmarks"]:
        results.setdefault(benchmark["group"], []).append(benchmark["extra_info"])
    sections = [machine(run)]
    makers = [headline, goals, mix_table, augment_table, resize_table, overhead_table, others, epoch_table, alloc_table]
    for make in makers:
        sections += unless_missing(make, results)
    write_between_markers(DOCS / "performance.md", "bench/report.py", "\n\n".join(sections))
    unless_missing(lambda results: plot_growth(results, DOCS / "performance.png"), results)


def unless_missing(make: Callable[[Results], Any], results: Results) -> list[Any]:
    """What ``make`` gives for the results; nothing, and a line that says so, where they lack a group that it needs."""
    try:
        return [make(results)]
    except MissingGroup as missing:
        print(f"left out: {missing}")
        return []


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


def goals(results: Results) -> str:
    """Every goal with its figure, and whether it is met."""
    rows: list[Any] = []
    for make in goal_rows(MIX_GROUPS, AUGMENT_GROUPS, RESIZE_GROUPS):
        rows += [row for found in unless_missing(make, results) for row in found]
    what = (
        "### Goals\nA row divides two median times, or rates where it says so. Crops and resized windows are of `mix`."
    )
    return with_words(what, table(("ratio", "goal", "measured"), rows))


def mix_table(results: Results) -> str:
    what = (
        "### mix\nMilliseconds for a batch of 64 images of 224x224 pixels, by way (row) and kind (column; *resized*: "
        "windows as RandomResizedCrop draws them). In brackets, multiples of *fused*."
    )
    return with_words(what, sides_table(results, MIX_GROUPS, MIX_SIDES))


def augment_table(results: Results) -> str:
    what = (
        "### Augmentation\nLikewise for 64 pairs with resized crops, flips, colour jitter of 0.4 in brightness, "
        "contrast and saturation, and mixup."
    )
    return with_words(what, sides_table(results, AUGMENT_GROUPS, AUGMENT_SIDES))


def resize_table(results: Results) -> str:
    what = "### Antialiased resizing\nLikewise for windows of so many pixels in height and width."
    return with_words(what, sides_table(results, RESIZE_GROUPS, RESIZE_SIDES))


def overhead_table(results: Results) -> str:
    """Shares of a step that are not the network's."""
    rows = [
        (
            f"{at['model']}, {at['batch']} images of {at['size']}x{at['size']}",
            f"{1e3 * at['step']:.3g}",
            *(f"{at['share'][part]:.2%}" for part in OVERHEAD_PARTS),
            f"{at['without_pixels']:.2%}",
            f"{at['with_pixels']:.2%}",
        )
        for at in group(results, "step-overhead")
    ]
    what = (
        "### A step without its network\nShares of the time of an xmixup step. *Plan* contains *draw*; *mix* are the "
        "pixels, *glue* is what else a step does around the network, its loss and the optimiser's arithmetic."
    )
    head = ("step", "ms", *OVERHEAD_PARTS, "all but the pixels", "all")
    return with_words(what, table(head, rows))


def sides_table(results: Results, groups: dict[str, str], words: dict[str, str]) -> str:
    """Milliseconds of each side that was measured in all groups, and in brackets multiples of the fused operator's."""
    turns = [only(results, f"{name}-in-turn") for name in groups]
    rows = []
    for side in words:
        if all(side in turn["seconds"] for turn in turns):
            rows.append(
                [
                    words[side],
                    *(f"{1e3 * turn['seconds'][side]:.2f} ({turn['over_fused'][side]:.2f})" for turn in turns),
                ]
            )
    return table(("", *groups.values()), rows)


def others(results: Results) -> str:
    """`draw`, the loss, training steps and decoding, each in multiples of its first side."""
    draw, loss, step = (only(results, f"{name}-in-turn") for name in ("draw", "loss", "step"))
    depthwise, heap = only(results, "step-depthwise"), only(results, "step-heap")
    rates, windows = only(results, "decode")["images_per_second"], only(results, "windows")["whole_over_windows"]

    def multiples(over: dict[str, float], first: str, unit: str = "") -> str:
        names = [name for name in over if name not in (first, "mix")]
        return ", ".join([f"{first} 1{unit}", *(f"{name} {over[name]:.3g}" for name in names)])

    warm, cold = 1e6 * draw["seconds"]["fused"], 1e6 * draw["cold"]["fused"]
    draw_unit = f" ({warm:.3g} µs; after other work {cold:.3g} µs)"
    loss_unit = f" ({1e6 * loss['seconds']['fused']:.3g} µs)"

    def step_row(measured: dict[str, Any], sides: str, over: dict[str, float], first: str) -> tuple[str, str]:
        size = f"{measured['size']}x{measured['size']}"
        what = f"training step, {measured['model']}, {measured['batch']} images of {size}, time ({sides})"
        return what, multiples(over, first, f" ({1e3 * measured['seconds'][first]:.3g} ms)")

    rows = [
        ("`draw` for 64 samples, time", multiples(draw["over_fused"], "fused", draw_unit)),
        ("loss with gradients, time", multiples(loss["over_fused"], "fused", loss_unit)),
        step_row(step, "torchvision, timm: their mixup", step["over_finetune"], "finetune"),
        step_row(depthwise, "gradients of its depthwise convolutions' weights", depthwise["over_ours"], "ours"),
        step_row(heap, "memory that a step frees", heap["over_kept"], "kept"),
        ("decoding, rate", multiples({name: rate / rates["pil"] for name, rate in rates.items()}, "pil")),
        ("decoding 224x224 windows, rate", f"torchvision (whole images) 1, dali (windows alone) {windows:.3g}"),
    ]
    what = "### Other parts\nA row lists sides that were measured in turn, in multiples of the first."
    return with_words(what, table(("what", "sides"), rows))


def epoch_table(results: Results) -> str:
    over = only(results, "epoch")["over_resident"]
    what = "### Epochs without a network\nTime for 256 images, in multiples of the first row; loaders have two workers."
    return with_words(what, table(("", "time"), [(EPOCH_SIDES[name], f"{value:.3g}") for name, value in over.items()]))


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
    for axis, (name, (x_label, y_label)) in zip(axes, panels.items(), strict=True):
        points = sorted(group(results, name), key=lambda point: point["at"])
        at = [point["at"] for point in points]
        for side, marker in (("fused", "o"), ("compiled", "s")):
            unit = [1e6 / n if name == "growth-batch" else 1e3 for n in at]
            seconds = [point["seconds"][side] for point in points]
            axis.plot(at, [s * u for s, u in zip(seconds, unit, strict=True)], marker=marker, label=side)
        axis.set(xlabel=x_label, ylabel=y_label, ylim=(0, None))
        if name != "growth-threads":
            axis.set_xscale("log")
        if name != "growth-pool":
            axis.set_xticks(at, [str(n) for n in at])
            axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
