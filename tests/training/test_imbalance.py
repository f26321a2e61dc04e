"""Class weights and the balanced sampler in a run: where they come from, what is refused, and what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from made import TARGET, write_folder
from sklearn.utils.class_weight import compute_class_weight
from small_runs import arguments, run

from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash
from xmixup_fast.settings.yaml_file import read
from xmixup_fast.training.imbalance import class_weights, imbalance, read_class_weights
from xmixup_fast.training.prepare import TrainingSetup, prepare
from xmixup_fast.training.resolve import resolved

COUNTS = {"blue": 10, "green": 3, "red": 24}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images in COUNTS, and two validation images of each class."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, (name, count) in enumerate(COUNTS.items()):
        write_folder(folder / "train", {name: TARGET[name]}, count, seed=seed)
        write_folder(folder / "val", {name: TARGET[name]}, 2, seed=seed + 9)
    return folder


def prepared(data: Path, photos: Path, output: Path, **settings: Any) -> tuple[TrainingSetup, list[str]]:
    logged: list[str] = []
    settings = {"method": "finetune", "target": str(photos), "test": "none", **settings}
    return prepare(resolved(Settings(**arguments(data, output, **settings))), logged.append), logged


def test_balanced_weights_are_those_of_scikit_learn(data: Path, photos: Path, tmp_path: Path) -> None:
    setup, logged = prepared(data, photos, tmp_path / "run", class_weights="balanced")
    labels = np.repeat(list(COUNTS), list(COUNTS.values()))
    expected = compute_class_weight("balanced", classes=np.array(list(COUNTS)), y=labels)
    torch.testing.assert_close(setup.parts.method.class_weights, torch.tensor(expected).float())
    (line,) = [line for line in logged if line.startswith("classes: ")]
    assert "red has 24 training images, green 3" in line
    assert f"weigh {expected[2]:.3g} and {expected[1]:.3g}" in line


def test_with_the_balanced_sampler_balanced_weights_have_nothing_to_do(
    data: Path, photos: Path, tmp_path: Path
) -> None:
    setup, logged = prepared(data, photos, tmp_path / "run", class_weights="balanced", sampler="balanced")
    torch.testing.assert_close(setup.parts.method.class_weights, torch.ones(3))
    assert any("each class is shown as often, so class_weights balanced has nothing to do" in line for line in logged)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_factor_of_all_weights_changes_nothing(data: Path, photos: Path, tmp_path: Path, suffix: str) -> None:
    write = yaml.safe_dump if suffix == "yaml" else lambda values: json.dumps(values, indent="\t")
    found = []
    for factor in (1, 40):
        path = tmp_path / f"{factor}.{suffix}"
        path.write_text(write({"red": 0.5 * factor, "green": 2 * factor, "blue": factor}))
        setup, _ = prepared(data, photos, tmp_path / "run", class_weights=str(path))
        assert setup.parts.method.class_weights is not None
        found.append(setup.parts.method.class_weights)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0] / found[0][0], torch.tensor([1, 2, 0.5]))
    assert float((found[0] * torch.tensor([10, 3, 24])).mean() / 37 * 3) == pytest.approx(1)


@pytest.mark.parametrize(
    "case",
    [
        ("blue: 1\n", "lacks green, red"),
        ("{blue: 1, green: 1, red: 1, pink: 2}", "names what is no class of the target: pink"),
        ("{blue: 1, green: 0, red: -1}", "expected a positive number for green, red"),
        ("{blue: 1, green: .inf, red: some, pink: 1}", "is no class.*: pink; expected a positive number for green, r"),
        ("{blue: 1, green: [2], red: null}", "expected a positive number for green, red"),
        ("[1, 2, 3]", "expected a mapping of classes to numbers"),
        ("{blue: ", "is neither YAML nor JSON"),
        (None, "no such file; expected balanced, or"),
    ],
)
def test_other_files_are_refused_before_an_image_is_decoded(
    data: Path, photos: Path, tmp_path: Path, case: tuple[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, message = case
    path = tmp_path / "weights.yaml"
    if text is not None:
        path.write_text(text)

    def decoded(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("xmixup_fast.training.prepare.SplitImages", decoded)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"class_weights: .*{message}"):
        prepared(data, photos, tmp_path / "run", class_weights=str(path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("w.yaml", "a: 1\nb: 2\na: 3\n", "a is there twice, with 1 and 3; expected each class once"),
        ("w.json", '{"a": 1, "b": 2, "a": 3}', "a is there twice, with 1 and 3; expected each class once"),
        ("w.json", "[" * 100_000, "got a deeply nested file"),
        ("w.yaml", "[" * 5000, "got a deeply nested file"),
        ("w.yaml", "? [a]\n: 1\n", "is neither YAML nor JSON"),
        ("folder", None, "a folder; expected balanced, or a YAML or JSON file"),
    ],
)
def test_what_a_file_says_twice_or_not_at_all_is_named_in_one_line(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    path = tmp_path / name
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(ValueError, match=f"^class_weights: {path}: .*{message}") as raised:
        read_class_weights(Settings(target="t", class_weights=str(path)), ["a", "b"])
    assert "\n" not in str(raised.value)


def test_weights_come_from_files_of_any_spelling_and_from_a_dict(tmp_path: Path) -> None:
    weights, expected = {"b": 2, "a": 0.5}, {"a": 0.5, "b": 2.0}
    for name, mark in (("w.json", ""), ("w.JSON", "\ufeff"), ("w.yaml", "\ufeff"), ("w", "")):
        (tmp_path / name).write_text(
            mark + json.dumps(weights, indent="\t" if "." in name and "y" not in name else None)
        )
        assert read_class_weights(Settings(target="t", class_weights=str(tmp_path / name)), ["a", "b"]) == expected
    settings = Settings(target="t", class_weights=weights)
    assert read_class_weights(settings, ["a", "b"]) == expected
    (tmp_path / "config.yaml").write_text(settings.to_yaml())
    assert read(tmp_path / "config.yaml") == settings
    assert run_hash(settings) == run_hash(replace(settings, class_weights=expected))
    assert run_hash(settings) != run_hash(replace(settings, class_weights={"a": 1, "b": 1}))
    with pytest.raises(ValueError, match=r"^class_weights: lacks c$"):
        read_class_weights(settings, ["a", "b", "c"])
    for wrong in ({"a": "some"}, {1: 2.0}, 3, [1.0]):
        with pytest.raises(ValueError, match="class_weights: expected text, or a mapping of names to numbers, got"):
            Settings(target="t", class_weights=wrong)  # type: ignore[arg-type]


def test_classes_that_yaml_takes_for_numbers_or_switches_are_names(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text("007: 2\nno: 0.5\n1e3: 3\n")
    settings = Settings(target="t", class_weights=str(path))
    assert read_class_weights(settings, ["007", "1e3", "no"]) == {"007": 2, "1e3": 3, "no": 0.5}


def test_an_imbalance_is_said_with_what_helps(data: Path, photos: Path, tmp_path: Path) -> None:
    _, logged = prepared(data, photos, tmp_path / "run")
    (line,) = [line for line in logged if line.startswith("classes: ")]
    assert "red has 24 training images, green 3" in line and "--class-weights balanced" in line
    assert "--sampler balanced" in line
    settings = Settings(target="t")
    assert imbalance(settings, ["a", "b"], [10, 4], None) is None
    assert imbalance(settings, ["a", "b"], [12, 4], None) is not None


@pytest.mark.parametrize("method", ["finetune", "xmixup", "cotuning"])
def test_a_run_that_balances_both_ways_is_resumed_to_the_same_bits(
    data: Path, photos: Path, tmp_path: Path, method: str
) -> None:
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps({"blue": 1, "green": 2.5, "red": 1}))
    settings = {"target": str(photos), "test": "none", "sampler": "balanced", "class_weights": str(weights)}
    settings |= {"checkpoint_steps": 3, "steps": 7}
    whole = run(data, tmp_path / "whole", method, **settings)
    run(data, tmp_path / "part", method, **settings)
    newest = max((tmp_path / "part" / "checkpoints").iterdir())
    newest.unlink()
    weights.write_text(json.dumps({"blue": 1, "green": 2, "red": 1}))
    with pytest.raises(ValueError, match=r"class_weights: .*have changed since the run began: green 2.5 \(now 2\)"):
        run(data, tmp_path / "part", method, resume="auto", **settings)
    weights.unlink()  # the run has its own
    for name in ("summary.json", "model.safetensors"):
        (tmp_path / "part" / name).unlink()
    part = run(data, tmp_path / "part", method, resume="auto", **settings)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, part.network.state_dict()[name]), name


def test_weights_of_equal_classes_are_ones() -> None:
    assert torch.equal(class_weights(torch.tensor([4, 4, 4]), None), torch.ones(3))
