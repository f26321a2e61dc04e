"""A run owns its data: evaluate and resume know its images by content, wherever they are."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from made import TARGET, write_folder
from small_runs import arguments

from xmixup_fast.commands.evaluate import main as evaluate
from xmixup_fast.train import main as train
from xmixup_fast.training.run import fit

FLAGS = ["--method", "finetune", "--model", "test_resnet", "--weights", "none", "--image-size", "32"]
FLAGS += [
    "--batch-size",
    "8",
    "--no-report",
    "--steps",
    "4",
    "--checkpoint-steps",
    "2",
    "--checkpoints-kept",
    "9",
    "--device",
    "cpu",
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", TARGET, 10)


@pytest.fixture
def run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose target was given as "photos" in the working folder."""
    monkeypatch.chdir(photos.parent)
    assert train(["--target", "photos", "--output", "run", *FLAGS]) == 0
    return photos.parent / "run"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names(run: Path, split: str) -> set[str]:
    return {row["name"] for row in rows(run) if row["split"] == split}


def evaluated(run: Path, output: Path, *flags: str) -> dict[str, Any]:
    """evaluation.json of a command."""
    shutil.rmtree(output, ignore_errors=True)
    assert evaluate([str(run), "--output", str(output), *flags]) == 0
    return json.loads((output / "evaluation.json").read_text())


def change(photos: Path) -> tuple[Path, Path]:
    """Adds ten images, deletes one and relabels one, of those that the run tests on. Returns the two."""
    write_folder(photos / "more", {"red": (250, 10, 10)}, 10, seed=9)
    for path in sorted((photos / "more" / "red").iterdir()):
        path.rename(photos / "red" / f"new {path.name}")
    shutil.rmtree(photos / "more")
    tested = sorted(names(photos.parent / "run", "test"))
    deleted, relabelled = photos / tested[0], photos / tested[1]
    deleted.unlink()
    to = "green" if relabelled.parent.name != "green" else "blue"
    relabelled.rename(photos / to / "moved here.png")
    return deleted, relabelled


def test_the_manifest_tells_all_of_each_image(run: Path, photos: Path) -> None:
    listed = rows(run)
    assert [(row["split"], row["name"]) for row in listed] == sorted((row["split"], row["name"]) for row in listed)
    assert {row["name"] for row in listed} == {str(path.relative_to(photos)) for path in photos.rglob("*.png")}
    for row in listed:
        data = (photos / row["name"]).read_bytes()
        assert row["class"] == Path(row["name"]).parent.name and row["weight"] == "1" and row["note"] == ""
        assert int(row["bytes"]) == len(data)
        assert row["blake2b"] == hashlib.blake2b(data, digest_size=16).hexdigest()
    summary = json.loads((run / "summary.json").read_text())
    description = json.loads((run / "data.json").read_text())
    assert description["path"] == os.path.realpath(photos) and description["target"] == "photos"
    for split in ("train", "val", "test"):
        counted = sum(row["split"] == split for row in listed)
        assert counted == summary[f"num_{split}"] == sum(row[split] for row in description["classes"].values())


def test_however_the_target_is_spelled_the_runs_own_test_images_are_evaluated(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = json.loads((run / "evaluation.json").read_text())
    (tmp_path / "link").symlink_to(photos)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    spellings = ["", "photos", "photos/", "./photos", "run/../photos", str(photos), "link", str(tmp_path / "link")]
    for folder, spelling in [*((tmp_path, one) for one in spellings), (elsewhere, "../photos"), (elsewhere, "")]:
        monkeypatch.chdir(folder)
        found = evaluated(run, tmp_path / "out", *(["--target", spelling] if spelling else []))
        assert found["own_data"] and (found["split"], found["images"]) == ("test", 6)
        assert [found[key] for key in ("accuracy", "loss", "confusion")] == [
            expected[key] for key in ("accuracy", "loss", "confusion")
        ]
        assert "the run's own images, 6 of its 6 test images recognised" in capsys.readouterr().out


def test_a_folder_that_has_moved_is_recognised_by_content(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = evaluated(run, tmp_path / "out")
    photos.rename(tmp_path / "disk")
    for path in list((tmp_path / "disk").rglob("*.png")):
        path.rename(path.with_name(f"renamed {path.name}"))
    assert evaluate([str(run), "--output", str(tmp_path / "gone")]) == 2
    assert "photos: no such folder; --target tells where the run's images are now" in capsys.readouterr().err
    found = evaluated(run, tmp_path / "out", "--target", "disk")
    assert found["own_data"] and found["differences"] == []
    assert [found[key] for key in ("images", "loss")] == [expected[key] for key in ("images", "loss")]
    assert "disk: the run's own images, 6 of its 6 test images recognised" in capsys.readouterr().out


def test_what_has_changed_since_is_said_and_not_evaluated(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = names(run, "test")
    deleted, _ = change(photos)
    found = evaluated(run, tmp_path / "out")
    assert found["images"] == len(tested) - 1 and not {deleted.name} & set(found["confusion"])
    said = capsys.readouterr().out
    assert "10 new (red/new 000.png, red/new 001.png, red/new 002.png), 1 missing (" in said
    assert "1 with another label, of which the run's counts (" in said and "/moved here.png)" in said
    # The manifest's label counts.
    own = {row["name"]: row["class"] for row in rows(run)}
    assert sum(row["images"] for row in found["classes"]) == 5
    counts = {row["name"]: row["images"] for row in found["classes"]}
    left = [own[name] for name in tested - {str(deleted.relative_to(photos))}]
    assert counts == {name: left.count(name) for name in counts}
    new = evaluated(run, tmp_path / "out", "--split", "new")
    assert (new["split"], new["images"]) == ("new", 10)
    (photos / "red" / "new 001.png").write_bytes((photos / next(iter(names(run, "train")))).read_bytes())
    evaluated(run, tmp_path / "out", "--split", "new")
    assert "1 further copies" in capsys.readouterr().out


def test_an_image_with_other_content_is_not_the_runs(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = sorted(names(run, "test"))[2]
    (photos / changed).write_bytes((photos / changed).read_bytes() + b"edited")
    found = evaluated(run, tmp_path / "out")
    assert found["images"] == 5 and found["differences"] == [f"1 with other content ({changed})"]
    # Images that were saved anew are no new ones: a network that was trained on them knows them.
    for name in names(run, "train") | names(run, "val"):
        (photos / name).write_bytes((photos / name).read_bytes() + b"edited")
    for split in ("new", "all"):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        status = evaluate([str(run), "--split", split, "--output", str(tmp_path / "out")])
        shown = capsys.readouterr()
        if split == "new":
            assert status == 2 and "no images to evaluate as new; expected one of test, all" in shown.err
        else:
            assert status == 0 and "24 of these images were trained or validated on (" in shown.out
            assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["images"] == 6
    shutil.copytree(photos, tmp_path / "copy")
    for name in names(run, "test"):
        (tmp_path / "copy" / name).unlink()
    evaluated(run, tmp_path / "out", "--target", "copy")
    assert "24 of these images have names of the run's images, and other content (" in capsys.readouterr().out


def resumed_flags(run: Path, *flags: str) -> list[str]:
    return ["--target", "photos", "--output", str(run), "--resume", "auto", *FLAGS, *flags]


def interrupt(run: Path) -> None:
    """Takes a run back to its second step."""
    (run / "checkpoints" / "step-000000004.safetensors").unlink()
    for name in ("summary.json", "model.safetensors", "evaluation.json"):
        (run / name).unlink()


def test_a_run_goes_on_wherever_its_images_are_now(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (run / "model.safetensors").read_bytes()
    interrupt(run)
    photos.rename(tmp_path / "disk")
    monkeypatch.chdir(run)
    assert train([*resumed_flags(run), "--target", "../disk"]) == 0
    assert "resuming at step 2 of 4" in capsys.readouterr().out
    assert (run / "model.safetensors").read_bytes() == whole


def test_a_run_whose_data_has_changed_is_resumed_only_where_that_is_asked_for(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((run / "summary.json").read_text())
    manifest = (run / "manifest.csv").read_bytes()
    interrupt(run)
    change(photos)
    gone = sorted(names(run, "train"))[0]
    (photos / gone).unlink()
    assert train(resumed_flags(run)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: resume: photos has changed since the run began: 10 new (")
    assert "2 missing (" in error and "1 with another label, of" in error and "--data-changed ignore" in error
    assert not (run / "summary.json").exists()
    assert train(resumed_flags(run, "--data-changed", "ignore")) == 0
    said = capsys.readouterr().out
    assert "resuming at step 2 of 4" in said and "1 missing training image: the next one of its class stands in" in said
    after = json.loads((run / "summary.json").read_text())
    assert (after["num_train"], after["num_val"]) == (before["num_train"], before["num_val"])
    assert after["num_test"] == before["num_test"] - 1 and after["steps"] == before["steps"]
    assert (run / "manifest.csv").read_bytes() == manifest


def test_a_run_without_its_manifest_is_refused_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = (run / "manifest.csv").read_text().splitlines(keepends=True)
    (run / "manifest.csv").write_text("".join(manifest[:-3]))
    assert train(resumed_flags(run)) == 2 and evaluate([str(run)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all("manifest.csv: is not what the run wrote" in line for line in errors)
    (run / "manifest.csv").unlink()
    assert train(resumed_flags(run)) == 2 and evaluate([str(run)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(
        "has no manifest.csv: restore it; or, if an earlier version made the run, train" in line for line in errors
    )


def test_images_that_were_trained_on_are_counted_and_left_out_unless_asked_for(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = write_folder(tmp_path / "mixed", TARGET, 6, seed=5)
    trained = [*sorted(names(run, "train"))[:3], sorted(names(run, "val"))[0]]
    for i, name in enumerate(trained):
        shutil.copyfile(photos / name, mixed / Path(name).parent / f"copy {i}.png")
    found = evaluated(run, tmp_path / "out", "--target", "mixed")
    assert not found["own_data"] and (found["split"], found["images"]) == ("all", 18)
    assert found["trained_images"] == {"count": 4, "kept": False}
    said = capsys.readouterr().out
    assert "4 of these images were trained or validated on (" in said and "left out; --trained keep" in said
    kept = evaluated(run, tmp_path / "out", "--target", "mixed", "--trained", "keep")
    assert kept["images"] == 22 and kept["trained_images"] == {"count": 4, "kept": True}
    # The same beside the weights alone, but not once they have left the run's folder.
    assert evaluated(run / "model.safetensors", tmp_path / "out", "--target", "mixed")["images"] == 18
    shutil.copyfile(run / "model.safetensors", tmp_path / "alone.safetensors")
    capsys.readouterr()
    assert evaluated(tmp_path / "alone.safetensors", tmp_path / "out", "--target", "mixed")["images"] == 22
    assert "no manifest.csv beside" in capsys.readouterr().out
    assert evaluated(run, tmp_path / "out", "--split", "all")["images"] == 6
    assert evaluated(run, tmp_path / "out", "--split", "train")["images"] == 18


def test_auxiliary_images_that_are_tested_on_are_left_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, source = tmp_path / "target", tmp_path / "source"
    shutil.copytree(data / "source", source)
    for seed, split in enumerate(("train", "val", "test")):
        write_folder(target / split, TARGET, 3, seed=seed)
    for name in os.listdir(source):
        shutil.copyfile(target / "test" / "red" / "000.png", source / name / "seen.png")
    for selection in ({}, {"selection": "sample", "top_images": 20}):
        output = tmp_path / f"run{len(selection)}"
        fit(**arguments(data, output, target=str(target), source=str(source), **selection))
        said = capsys.readouterr().out
        assert "equal to validation or test images, and left out (" in said and "seen.png" in said
        (line,) = [line for line in said.splitlines() if line.startswith("auxiliary images: ")]
        assert int(line.split()[2]) % 4 == 0  # four of each source class are left


def test_without_a_test_nothing_is_put_aside(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, flags in (("run", ["--test", "hold"]), ("none", ["--no-test"])):
        assert train(["--target", "photos", "--output", name, *FLAGS, *flags]) == 0
    assert not names(tmp_path / "none", "test") and names(tmp_path / "none", "val") == names(tmp_path / "run", "val")
    freed = names(tmp_path / "none", "train") - names(tmp_path / "run", "train")
    assert freed == names(tmp_path / "run", "test")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["num_test"] == 6


def test_the_same_run_makes_the_same_files(photos: Path, tmp_path: Path, data: Path) -> None:
    same = ("model.safetensors", "manifest.csv", "data.json", "selection.json", "evaluation.json", "batch.png")
    for name in ("one", "two"):
        fit(**arguments(data, tmp_path / name, target=str(photos)))
    for name in same:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_manifest_is_a_target_with_its_splits(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deleted, _ = change(photos)
    command = ["--target", "run/manifest.csv", "--output", "again", *FLAGS]
    assert train(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 2 bad files; ") and f"{deleted.relative_to(photos)}: not there any more" in error
    assert train([*command, "--bad-files", "skip"]) == 0
    for split, gone in (("train", 0), ("val", 0), ("test", 2)):
        assert names(tmp_path / "again", split) <= names(run, split)
        assert len(names(tmp_path / "again", split)) == len(names(run, split)) - gone
    (run / "data.json").unlink()
    assert train(["--target", "run/manifest.csv", "--output", "third", *FLAGS]) == 2
    assert "run/data.json: no such file; it tells where the images of run/manifest.csv are" in capsys.readouterr().err


def test_weights_of_a_run_that_saw_the_test_images_are_said(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag if flag != "none" else "run" for flag in FLAGS]
    capsys.readouterr()
    for number, (more, seen) in enumerate(((["--seed", "1"], True), (["--target", "run/manifest.csv"], False))):
        assert train(["--target", "photos", *flags, "--output", str(number), *more]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "was trained or validated on" in line]
        assert bool(lines) == seen
        if seen:
            before = names(run, "train")
            tested = names(tmp_path / "0", "test") & (before | names(run, "val"))
            validated = names(tmp_path / "0", "val") & before
            assert f"on {len(tested)} test and {len(validated)} validation images of this run (" in lines[0]
            assert lines[0].endswith("; --target run/manifest.csv keeps its splits")


def test_a_class_whose_one_validation_image_is_broken_says_what_to_do(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (photos / "val" / "red").mkdir(parents=True)
    for name in ("blue", "green"):
        (photos / "val" / name).mkdir()
        (photos / name / "009.png").rename(photos / "val" / name / "009.png")
    (photos / "train").mkdir()
    for name in TARGET:
        (photos / name).rename(photos / "train" / name)
    (photos / "val" / "red" / "broken.jpg").write_bytes(b"404 not found")
    command = ["--target", "photos", "--output", "run", *FLAGS, "--no-test", "--bad-files", "skip"]
    assert train(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: class red: none of its val images can be decoded; mend or remove these files")
    assert "broken.jpg" in error and "--bad-files" not in error
