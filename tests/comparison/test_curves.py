"""Plots of gains against a setting of the targets: which tasks make a point, and what is drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import compare
from made import write_plan

from xmixup_fast.comparison.differences import Difference
from xmixup_fast.comparison.plan import Comparison, Task, read
from xmixup_fast.comparison.plot import panels, plot_curve
from xmixup_fast.report import figures

BIRDS, BOATS = {"target": "{data}/birds"}, {"target": "{data}/boats", "val_fraction": 0.5}


def planned(folder: Path, plan: dict[str, Any], targets: dict[str, Any]) -> Comparison:
    return read(write_plan(folder, plan | {"targets": targets}), settings={})


def steps(*, of: tuple[int, ...] = (50, 10), lr: tuple[float, ...] = (0.1, 0.2)) -> dict[str, Any]:
    """Targets with all steps and rates, on two datasets."""
    return {
        f"{name}-{count}-{rate}": {**own, "steps": count, "lr": rate}
        for name, own in (("birds", BIRDS), ("boats", BOATS))
        for rate in lr
        for count in of
    }


def test_a_panel_has_one_value_of_what_else_differs_on_the_same_images(tmp_path: Path, plan: dict[str, Any]) -> None:
    found = panels(planned(tmp_path, plan, steps()), "steps")
    assert found == {
        f"lr {rate}": {
            count: [Task(f"{name}-{count}-{rate}", None) for name in ("birds", "boats")] for count in (10, 50)
        }
        for rate in (0.1, 0.2)
    }
    assert [list(by_value) for by_value in found.values()] == [[10, 50]] * 2
    shots = planned(tmp_path, plan, {"birds": BIRDS | {"shots": [20, 5]}, "boats": BOATS | {"shots": [5, 20]}})
    assert panels(shots, "shots") == {"": {count: [Task("birds", count), Task("boats", count)] for count in (5, 20)}}


@pytest.mark.parametrize(
    ("targets", "setting", "got"),
    [
        ({"birds": BIRDS | {"shots": 5}}, "shots", r"\{data\}/birds: 5"),
        ({"birds": BIRDS | {"shots": [5, 10]}}, "steps", r"\{data\}/birds: None"),
        (
            {"birds": BIRDS | {"shots": [5, 10]}, "boats": BOATS | {"shots": [5, 20]}},
            "shots",
            r"\{data\}/birds: 5, 10; \{data\}/boats: 5, 20",
        ),
        (
            {"birds": BIRDS | {"shots": [5, 10]}, "boats": BOATS},
            "shots",
            r"\{data\}/birds: 5, 10; \{data\}/boats: None",
        ),
        (
            {name: BIRDS | {"fold": name == "a"} for name in "ab"},
            "fold",
            r"\{data\}/birds: True, False",
        ),
        (
            {"a": BIRDS | {"lr": 0.1, "steps": 5}, "b": BIRDS | {"lr": 0.2, "steps": 9}},
            "lr",
            r"\{data\}/birds: 0\.1; \{data\}/birds: 0\.2",
        ),
    ],
)
def test_a_target_without_the_others_numbers_is_refused(
    tmp_path: Path, plan: dict[str, Any], targets: dict[str, Any], setting: str, got: str
) -> None:
    expected = f"^curve: expected several numbers of {setting}, the same for all targets, got {got}$"
    with pytest.raises(ValueError, match=expected):
        panels(planned(tmp_path, plan, targets), setting)


def made_up(comparison: Comparison, gains: dict[str, float]) -> dict[tuple[str, Task], dict[int, dict[str, Any]]]:
    """Lines of results by method, task and seed; ``gains`` are points for a step, with a seed's number added."""
    return {
        (method, task): {
            seed: {
                "val_accuracy": 50.0
                + (gain * comparison.settings[task]["steps"] + seed if method != "finetune" else 0),
                **{"images_seen": 32, "peak_memory_mib": 1, "settings": {}},
            }
            for seed in comparison.seeds[method]
        }
        for method, gain in gains.items()
        for task in comparison.tasks
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved."""
    saved: list[Any] = []
    save = figures.save

    def keeping(figure: Any, path: Path) -> None:
        save(figure, path)
        saved.append(figure)

    monkeypatch.setattr(figures, "save", keeping)
    return saved


@pytest.mark.parametrize("of", [(10, 50), (10, 20)])  # on a logarithmic axis, and on a linear one
def test_gains_and_intervals_stand_at_the_settings_values(
    tmp_path: Path, plan: dict[str, Any], drawn: list[Any], of: tuple[int, ...]
) -> None:
    comparison = planned(tmp_path, plan, steps(of=of))
    lines = made_up(comparison, {"finetune": 0.0, "xmixup-random": 0.5, "mixup": -0.25})
    assert plot_curve(comparison, lines, "steps", "val", tmp_path / "p.png", post_hoc=True)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert figure.get_suptitle() == "average over birds, boats, some settings chosen after test runs"
    assert [axes.get_title() for axes in figure.axes] == ["lr 0.1", "lr 0.2"]
    for axes in figure.axes:
        assert axes.get_xscale() == ("log" if of[1] == 50 else "linear")
        assert [label.get_text() for label in axes.get_xticklabels()] == [f"{count}\n50.0" for count in of]
        curves = {line.get_label(): line for line in axes.get_lines() if len(line.get_xdata()) == len(of)}
        curves = {name: line for name, line in curves.items() if not name.startswith("_")}
        assert list(curves) == ["xmixup-random", "mixup"]
        for (name, line), gain in zip(curves.items(), (0.5, -0.25), strict=True):
            np.testing.assert_allclose(line.get_ydata(), [gain * count + 0.5 for count in of], err_msg=name)
            np.testing.assert_allclose(line.get_xdata(), of, rtol=0.05)
        intervals = [collection.get_segments()[0][:, 1] for collection in axes.collections]
        expected = [
            Difference.of(*[[gain * count + seed for seed in (0, 1)]] * 2) for gain in (0.5, -0.25) for count in of
        ]
        np.testing.assert_allclose(intervals, [(each.low, each.high) for each in expected])


def test_what_is_not_done_is_not_drawn(tmp_path: Path, plan: dict[str, Any], drawn: list[Any]) -> None:
    comparison = planned(tmp_path, plan, steps())
    lines = made_up(comparison, {"finetune": 0.0, "mixup": 1.0})
    assert not plot_curve(comparison, {}, "steps", "val", tmp_path / "p.png")
    only = {place: runs for place, runs in lines.items() if place[0] == "finetune"}
    assert not plot_curve(comparison, only, "steps", "val", tmp_path / "p.png") and not drawn
    missing = {place: runs for place, runs in lines.items() if place != ("mixup", Task("boats-10-0.1", None))}
    assert plot_curve(comparison, missing, "steps", "val", tmp_path / "p.png")
    first, second = ({line.get_label(): line for line in axes.get_lines()} for axes in drawn[0].axes)
    assert [len(each["mixup"].get_xdata()) for each in (first, second)] == [1, 2]
    assert math.isclose(first["mixup"].get_ydata()[0], 50.5) and len(first["xmixup-random"].get_xdata()) == 0


def test_the_command_plots_beside_its_results(
    tmp_path: Path, plan: dict[str, Any], started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan |= {"targets": {"birds": BIRDS | {"shots": [5, 10]}}}
    for setting, message in (("steps", "expected several numbers of steps"), ("shot", "did you mean shots?")):
        assert compare(tmp_path, plan, "--curve", setting) == 2 and not started()
        assert message in capsys.readouterr().err
    assert compare(tmp_path, plan, "--curve", "shots") == 0
    assert (tmp_path / "results.shots.png").exists()
    assert compare(tmp_path, plan, "--split", "val", "--table", "--curve", "shots") == 0
    assert (tmp_path / "results.val.shots.png").exists()
