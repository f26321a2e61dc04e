"""The figures of a benchmark run, by group, for the report."""

from __future__ import annotations

from typing import Any

ALTERNATIVES = ("compiled", "torchvision", "kornia", "dali", "timm")

Results = dict[str, list[dict[str, Any]]]
"""extra_info of the benchmarks of each group."""


class MissingGroup(Exception):
    """A run has none of a group's benchmarks, or not all of them; says which group."""


def group(results: Results, name: str) -> list[dict[str, Any]]:
    """Of each benchmark of a group. Raises MissingGroup where there is none."""
    if not results.get(name):
        raise MissingGroup(f"no benchmark of the group {name}")
    return results[name]


def only(results: Results, name: str) -> dict[str, Any]:
    """Of the one benchmark of a group. Raises MissingGroup where there is none, or another number."""
    measured = group(results, name)
    if len(measured) != 1:
        raise MissingGroup(f"expected one benchmark of the group {name}, got {len(measured)}")
    return measured[0]


def best_alternative(over_fused: dict[str, float]) -> tuple[str, float]:
    """Name and time, in multiples of the fused operator's, of the fastest other way to a batch."""
    return min(((name, over_fused[name]) for name in ALTERNATIVES if name in over_fused), key=lambda pair: pair[1])


def pools(results: Results) -> dict[str, dict[str, Any]]:
    """What was measured of building pools, by decoder. Raises MissingGroup where there are others than the usual."""
    measured = {pool["decoder"]: pool for pool in group(results, "pool")}
    if measured.keys() != {"dali", "torchvision"}:
        raise MissingGroup(f"expected the group pool with dali and torchvision, got {sorted(measured)}")
    return measured
