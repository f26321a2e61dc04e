"""Images that target and source share, which their content tells: training never sees validation and test images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from made import SOURCE, TARGET, write_folder
from small_runs import run

from xmixup_fast.training import images as images_module
from xmixup_fast.training.result import Result

RANDOM = {"weights": "none", "selection": "random", "top_k": 1}


def rows(result: Result) -> list[dict[str, str]]:
    with (result.folder / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def held_out(result: Result) -> set[str]:
    return {row["name"] for row in rows(result) if row["split"] in ("val", "test")}


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets the names of the auxiliary images that are decoded for training."""
    names: list[str] = []
    build = images_module.ImageStore.build

    def recorded(self: Any, samples: Any, name: str) -> Any:
        if name == "auxiliary images":
            names.extend(sample.image.name for sample in samples)
        return build(self, samples, name)

    monkeypatch.setattr(images_module.ImageStore, "build", recorded)
    return names


@pytest.mark.parametrize("selection", ["random", "feature", "sample"])
def test_a_source_that_is_the_target_lends_its_training_images_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pooled: list[str], selection: str
) -> None:
    target = data / "target"
    changes = {"source": str(target), "selection": selection, "top_images": 8}
    result = run(data, tmp_path / "run", **changes)
    said = capsys.readouterr().out
    assert "equal to validation or test images, and left out (" in said
    assert "auxiliary images are training images of the target, too" in said
    assert pooled and not {str(Path(name).relative_to(target)) for name in pooled} & held_out(result)


@pytest.mark.parametrize("test", ["run", "hold", "none"])
def test_copies_under_other_names_are_found(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pooled: list[str], test: str
) -> None:
    first = run(data, tmp_path / "first", "finetune", test=test)
    held = sorted(held_out(first))
    source = write_folder(tmp_path / "source", SOURCE, 4, seed=9)
    for i, name in enumerate(held):
        copy = source / sorted(SOURCE)[i % 4] / f"copy {i}.jpg"
        copy.write_bytes((data / "target" / name).read_bytes())
    capsys.readouterr()
    run(data, tmp_path / "run", source=str(source), **{**RANDOM, "top_k": 4}, test=test)
    assert f"{len(held)} auxiliary images equal to validation or test images, and left out" in capsys.readouterr().out
    assert len(pooled) == 16 and not any("copy" in name for name in pooled)


def test_a_class_of_nothing_but_test_images_is_named(data: Path, tmp_path: Path) -> None:
    held = held_out(run(data, tmp_path / "first", "finetune"))
    source = write_folder(tmp_path / "source", {"sky": SOURCE["sky"], "sea": SOURCE["sky"]}, 4, seed=9)
    for name in ("tested", "tested too"):
        (source / name).mkdir()
        for i, one in enumerate(sorted(held)):
            (source / name / f"{i}.png").write_bytes((data / "target" / one).read_bytes())
    with pytest.raises(ValueError, match=r"source: all images of tested, tested too are validation or test images of "):
        run(data, tmp_path / "run", source=str(source), **{**RANDOM, "top_k": 4})
    assert not (tmp_path / "run").exists()


def test_a_source_of_its_own_says_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(data, tmp_path / "run")
    said = capsys.readouterr().out
    assert "training images of the target" not in said and "left out" not in said and len(TARGET) == 3
