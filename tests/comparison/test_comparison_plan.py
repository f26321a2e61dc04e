"""The plan of a comparison: which runs it has, and which mistakes in its file are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made import write_plan

from xmixup_fast.comparison.plan import Comparison, Task, check_weights, read

ROOT = Path(__file__).resolve().parents[2]


def planned(folder: Path, plan: dict[str, Any], settings: dict[str, Any] | None = None, **flags: Any) -> Comparison:
    """The comparison of a plan that is written to a file, with flags on top."""
    return read(write_plan(folder, plan), settings=settings or {}, **flags)


def test_runs_are_methods_x_targets_x_shots_x_seeds(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["methods"]["mixup"] = {"seeds": [1]}
    plan["targets"]["boats"]["shots"] = [2, 3]
    runs = planned(tmp_path, plan).runs({})
    assert len({run.key for run in runs}) == len(runs) == 3 * (2 + 2 + 1)
    assert [run.settings.seed for run in runs] == [0] * 6 + [1] * 9
    first = runs[0]
    assert (first.method, str(first.task), first.settings.target) == ("finetune", "birds, 5 shots", "{data}/b")
    control = next(run for run in runs if run.method == "xmixup-random" and run.task == Task("boats", 3))
    assert (control.settings.method, control.settings.selection, control.settings.top_k) == ("xmixup", "random", 2)
    assert (control.settings.steps, control.settings.shots) == (9, 3)


def test_flags_replace_common_settings_but_not_those_of_one_method(tmp_path: Path, plan: dict[str, Any]) -> None:
    flags: dict[str, Any] = {"targets": ["boats"], "methods": ["finetune", "xmixup-random"], "seeds": [7], "shots": [1]}
    runs = planned(tmp_path, plan, settings={"steps": 4, "top_k": 9}, **flags).runs({})
    assert [(run.method, str(run.task), run.settings.seed) for run in runs] == [
        ("finetune", "boats, 1 shot", 7),
        ("xmixup-random", "boats, 1 shot", 7),
    ]
    assert [(run.settings.steps, run.settings.top_k) for run in runs] == [(4, 9), (4, 2)]


def test_without_a_file_flags_are_a_comparison_with_its_controls() -> None:
    settings = {"model": "test_resnet", "source": ["s"]}
    comparison = read(None, settings=settings, results="r.jsonl", targets=["x/cats", "dogs/"], shots=[1, 2])
    assert comparison.tasks == [Task(name, shots) for name in ("cats", "dogs") for shots in (1, 2)]
    assert list(comparison.methods) == ["finetune", "mixup", "xmixup", "xmixup-random"]
    assert len(comparison.runs({})) == 4 * 4 * 5


@pytest.mark.parametrize(
    ("name", "method", "selection"),
    [
        ("linear-probe", "linear-probe", "prediction"),
        ("xmixup-transport", "xmixup", "transport"),
        ("lwf", "lwf", "prediction"),
        ("linear-probe-random", "linear-probe", "random"),
    ],
)
def test_a_row_is_named_by_its_method_which_may_have_a_dash(
    tmp_path: Path, plan: dict[str, Any], name: str, method: str, selection: str
) -> None:
    plan["methods"] = {"finetune": {}, name: {"refit_head": True}}
    runs = [run for run in planned(tmp_path, plan).runs({}) if run.method == name]
    assert len(runs) == 4
    assert {(run.settings.method, run.settings.selection, run.settings.refit_head) for run in runs} == {
        (method, selection, True)
    }


@pytest.mark.parametrize("name", ["linear", "linear-", "linearprobe", "probe-linear"])
def test_a_row_of_no_method_is_named(tmp_path: Path, plan: dict[str, Any], name: str) -> None:
    plan["methods"] = {"finetune": {}, name: {}}
    with pytest.raises(ValueError, match=f"{name} on birds, 5 shots: method: expected one of "):
        planned(tmp_path, plan)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut-slow.yaml").write_text("method: cutmix\nlr: 0.5\nalpha: 0.6\n")
    (tmp_path / "seeded.yaml").write_text("method: cutmix\nseed: 3\n")
    monkeypatch.setattr("xmixup_fast.settings.yaml_file.RECIPES", tmp_path)


def test_a_row_may_be_a_recipe(tmp_path: Path, plan: dict[str, Any], recipe: None) -> None:
    # The row's name would otherwise be METHOD-SELECTION, and its own settings come on top of the recipe's.
    plan["methods"] = {"finetune": {}, "cut-slow": {"recipe": "cut-slow", "alpha": 0.7}}
    _, run, *_ = planned(tmp_path, plan).runs({})
    assert (run.method, run.settings.method, run.settings.lr, run.settings.alpha) == ("cut-slow", "cutmix", 0.5, 0.7)
    written_out = {"method": "cutmix", "lr": 0.5, "alpha": 0.7}
    again = planned(tmp_path, {**plan, "methods": {"finetune": {}, "cut-slow": written_out}})
    assert [one.key for one in again.runs({})][1] == run.key
    flags: dict[str, Any] = {"results": "r.jsonl", "targets": ["cats"], "settings": {"model": "m"}}
    comparison = read(None, methods=["finetune", "cut-slow"], **flags)
    assert comparison.methods["cut-slow"] == {"method": "cutmix", "lr": 0.5, "alpha": 0.6}


def test_a_recipe_of_a_row_may_not_set_what_the_comparison_gives(
    tmp_path: Path, plan: dict[str, Any], recipe: None
) -> None:
    plan["methods"]["mixup"] = {"recipe": "seeded"}
    with pytest.raises(ValueError, match="methods: mixup: seed is no setting"):
        planned(tmp_path, plan)
    plan["methods"]["mixup"] = {"recipe": "absent"}
    with pytest.raises(ValueError, match="recipe: expected one of cut-slow, plan, seeded, got absent"):
        planned(tmp_path, plan)


def test_the_key_of_a_run_depends_on_the_settings_that_change_its_result(tmp_path: Path, plan: dict[str, Any]) -> None:
    def key(**changes: Any) -> str:
        return planned(tmp_path, {**plan, **changes}).runs({})[0].key

    same = {"device": "cuda", "threads": 3, "cache": "none", "storage": "resident", "memory_budget": "1GB"}
    assert key() == key(**same) != key(image_size=224) == key(image_size=224, resize=256)
    assert key(image_size=224) != key(image_size=224, resize=300)
    assert len({key(), key(lr=0.02), key(alpha=0.3), key(source="{data}/t"), key(batch_size=47)}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batchsize": 4}, "batchsize is no setting; did you mean batch_size"),
        ({"seed": 4}, "seed is no setting; did you mean seeds"),
        (
            {"targets": {"a": {"target": "b", "imagesize": 4}}},
            "targets: a: imagesize is no setting; did you mean image",
        ),
        ({"methods": {"finetune": {"lrr": 1}}}, "methods: finetune: lrr is no setting; did you mean lr"),
        ({"methods": {"finetune": {}, "mixxup": {}}}, "mixxup on birds, 5 shots: method: expected one of finetune, "),
        ({"methods": {"finetune": {}, "xmixup-rand": {}}}, "xmixup-rand on birds, 5 shots: selection: expected one of"),
        ({"methods": {"xmixup": {}}}, "methods: expected finetune among them"),
        (
            {"methods": {"finetune": {"origin": "theirs"}}},
            "finetune: origin: expected one of paper, baseline, ours, got 'theirs'",
        ),
        ({"methods": ["finetune"]}, r"methods: expected names, each with its settings, got \['finetune'\]"),
        ({"seeds": 3}, "seeds: expected a list of whole numbers, got 3"),
        ({"lr": -1}, "finetune on birds, 5 shots: lr: expected a positive number, got -1"),
        ({"model": None}, "finetune on birds, 5 shots: model: expected text, got None"),
        ({"results": None}, "results: expected the name of a file, got None"),
        ({"grid": {"finetune": {"lr": [1]}}, "tune_seeds": [9]}, "got finetune 1, xmixup-random 1, mixup 1"),
        ({"grid": {"finetun": {"lr": [1]}}}, "grid: expected some of finetune, xmixup-random, mixup; got finetun"),
        ({"grid": {"finetune": {"lr": 1}}}, "grid: finetune: lr: expected a list of values, got 1"),
    ],
)
def test_mistakes_in_a_file_are_named(
    tmp_path: Path, plan: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    if "got finetune 1, " in message:  # a method without a grid has one point, which is as many
        assert len(planned(tmp_path, {**plan, **changes}).grid) == 3
        changes["grid"]["finetune"]["lr"].append(2)
        message = message.replace("finetune 1", "finetune 2")
    with pytest.raises(ValueError, match=message):
        planned(tmp_path, {**plan, **changes})


def test_tuning_needs_seeds_of_its_own(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan |= {"grid": {"finetune": {"lr": [0.1]}}, "tune_seeds": [1, 2]}
    with pytest.raises(ValueError, match=r"tune_seeds: expected other seeds than the comparison's, got \[1\]"):
        planned(tmp_path, plan)


def test_tuning_may_be_on_some_targets(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan |= {"grid": {"finetune": {"lr": [0.1]}}, "tune_seeds": [9], "tune_targets": ["boats"]}
    comparison = planned(tmp_path, plan)
    assert [run.task.target for points in comparison.tuning("finetune") for run in points] == ["boats"]
    assert [task.target for task in comparison.tasks] == ["birds", "boats"]
    with pytest.raises(ValueError, match="targets: expected some of birds, boats; got cars"):
        planned(tmp_path, {**plan, "tune_targets": ["cars"]})


def test_the_documented_comparison_can_be_read() -> None:
    comparison = read(str(ROOT / "docs" / "comparison.yaml"), settings={})
    assert [str(task) for task in comparison.tasks] == [
        *("flowers102, 5 shots", "caltech101, 5 shots", "dtd10, 20 shots"),
        *("clothing10, 10 shots", "trash6, 20 shots", "art7, 15 shots"),
    ]
    assert (
        comparison.tune_tasks == comparison.tasks
        and {"mixup", "xcutmix-l2sp"} < set(comparison.methods)
        and comparison.grid
    )
    assert [name for name, origin in comparison.origins.items() if origin == "paper"] == ["xmixup"]
    assert set(comparison.origins.values()) == {"paper", "baseline", "ours"}


def test_the_documented_comparison_at_224_pixels_has_the_same_images() -> None:
    runs, larger = (read(str(ROOT / "docs" / f"{name}.yaml"), settings={}) for name in ("comparison", "comparison-224"))
    (task,) = larger.tasks
    for run in larger.runs({}):
        settings = runs.run(run.method, task, run.settings.seed, {"lr": 0.005}).settings
        assert replace(settings, image_size=224) == run.settings
    assert [len(larger.methods), larger.seeds["xmixup"]] == [2, [0, 1]]


def test_rows_say_where_their_methods_come_from(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["methods"] |= {"finetune": {"origin": "baseline"}, "mixup": {"origin": "ours", "lr": 0.5}}
    assert planned(tmp_path, plan).origins == {"finetune": "baseline", "xmixup-random": "", "mixup": "ours"}


def test_missing_weights_are_named_with_the_command_that_makes_them(tmp_path: Path, plan: dict[str, Any]) -> None:
    check_weights(planned(tmp_path, plan), "data")  # weights: none
    plan["weights"] = "{data}/pretrained"
    with pytest.raises(FileNotFoundError, match=rf"^weights: {tmp_path}/pretrained: no such file or run$"):
        check_weights(planned(tmp_path, plan), str(tmp_path))
    plan["weights_from"] = "xmixup train {data}/images --output {data}/pretrained"
    expected = f"no such file or run; make it with: xmixup train {tmp_path}/images --output {tmp_path}/pretrained$"
    with pytest.raises(FileNotFoundError, match=expected):
        check_weights(planned(tmp_path, plan), str(tmp_path))
    (tmp_path / "pretrained").mkdir()
    check_weights(planned(tmp_path, plan), str(tmp_path))
