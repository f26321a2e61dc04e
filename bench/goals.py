"""The goals of the benchmarks, for the report: each with its figure, and whether it is met."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from results import Results, best_alternative, group, only, pools

Row = tuple[str, str, str]
"""What is measured, the goal, and the figure."""


def at_least(what: str, value: float, goal: float) -> Row:
    return what, f"≥ {goal:g}", _measured(value, value >= goal)


def at_most(what: str, value: float, goal: float) -> Row:
    return what, f"≤ {goal:g}", _measured(value, value <= goal)


def below(what: str, value: float, goal: float) -> Row:
    return what, f"< {goal:g}", _measured(value, value < goal)


def _measured(value: float, met: bool) -> str:
    return f"{value:.3g}, {'met' if met else '**missed**'}"


def goal_rows(
    mix_groups: dict[str, str], augment_groups: dict[str, str], resize_groups: dict[str, str]
) -> Iterable[Callable[[Results], list[Row]]]:
    """Functions from results to rows, one for each group, in the table's order; the groups are given with titles.

    They raise MissingGroup for results that lack theirs.
    """
    for name, title in mix_groups.items():
        yield lambda results, name=name, title=title: _mix(results, name, title)
    for name, title in augment_groups.items():
        yield lambda results, name=name, title=title: _augment(results, name, title)
    for name, title in resize_groups.items():
        yield lambda results, name=name, title=title: _resize(results, name, title)
    yield from (_loop, _draw, _loss, _step, _overhead, _first_start, _epoch, _select)


def _mix(results: Results, name: str, title: str) -> list[Row]:
    over = only(results, f"{name}-in-turn")["over_fused"]
    _, best = best_alternative(over)
    if name == "mix-resized-f32":
        return [at_least(f"{title}: best alternative / fused", best, 3)]
    return [
        at_least(f"{title}: reference / fused", over["reference"], 30),
        at_least(f"{title}: best alternative / fused", best, 4),
        at_most(f"{title}: fused / ceiling", 1 / over["ceiling"], 1.3),
    ]


def _augment(results: Results, name: str, title: str) -> list[Row]:
    over = only(results, f"{name}-in-turn")["over_fused"]
    other, best = best_alternative(over)
    return [
        at_least(f"augmentation, {title}: best alternative ({other}) / fused", best, 10),
        at_most(f"augmentation, {title}: fused / mix, resized", 1 / over["mix-resized"], 1.6),
    ]


def _resize(results: Results, name: str, title: str) -> list[Row]:
    over = only(results, f"{name}-in-turn")["over_fused"]
    return [at_least(f"antialiased, {title}: torchvision / fused", over["torchvision"], 3)]


def _loop(results: Results) -> list[Row]:
    loop = only(results, "loop")
    plain = loop["fused_alloc"]["mix"] / loop["fused"]["mix"]
    return [at_most("plain call / `out=`, in a loop with backward", plain, 1.15)]


def _draw(results: Results) -> list[Row]:
    draw = only(results, "draw-in-turn")
    return [
        below("`draw` / `mix`, calls repeated", draw["over_mix"], 0.03),
        below("`draw` / `mix`, calls after other work", draw["cold_over_mix"], 0.03),
    ]


def _loss(results: Results) -> list[Row]:
    return [at_least("loss: reference / fused", only(results, "loss-in-turn")["over_fused"]["reference"], 2)]


def _step(results: Results) -> list[Row]:
    over = only(results, "step-in-turn")["over_finetune"]
    return [at_most("training step: xmixup / finetune", over["xmixup"], 1.05)]


def _overhead(results: Results) -> list[Row]:
    return [
        at_most(f"{at['model']}: all but network and pixels / training step", at["without_pixels"], 0.02)
        for at in group(results, "step-overhead")
    ]


def _first_start(results: Results) -> list[Row]:
    return [
        at_least(f"rate: first start / decoding alone ({decoder})", pool["build_over_decode_only"], 0.9)
        for decoder, pool in pools(results).items()
    ]


def _epoch(results: Results) -> list[Row]:
    over = only(results, "epoch")["over_resident"]
    return [
        at_least("epoch: dataloader / resident", over["dataloader"], 20),
        at_least("epoch: timm / resident", over["timm"], 10),
    ]


def _select(results: Results) -> list[Row]:
    return [at_least("rate: selection / bare network", 1 / only(results, "select-in-turn")["over_forward"], 0.9)]
