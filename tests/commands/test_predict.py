"""Properties of predictions: they are evaluation's, in order, for any number of images; bad files are named."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from made import TARGET, write_folder
from small_runs import arguments, run

from xmixup_fast.commands.predict import Prediction, main, predict
from xmixup_fast.data.center_crops import center_crop_batches
from xmixup_fast.data.dataset import BadFile
from xmixup_fast.data.formats import NO_CAMERA_RAW, NOT_AN_IMAGE
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import load_network, save
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.prepare import prepare
from xmixup_fast.training.resolve import resolved
from xmixup_fast.training.run import Result

NETWORK = "test_resnet"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/, val/ and test/; among the test images a photo that EXIF turns, with one side much longer."""
    folder = tmp_path_factory.mktemp("target")
    for name in ("train", "val", "test"):
        write_folder(folder / name, TARGET, 3)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture = PIL.Image.effect_mandelbrot((90, 40), (-2, -1.2, 1, 1.2), 100).convert("RGB")
    picture.save(folder / "test" / "blue" / "turned.jpg", exif=exif)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, target: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(data, tmp_path_factory.mktemp("trained") / "run", "finetune", target=str(target), steps=3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three classes, one of which is ImageNet's."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save(build(NETWORK, "none", ["a", "b", "n07745940"]), path, image_size=32)
    return path


def predicted(*arguments: Any, **options: Any) -> list[Prediction]:
    found = list(predict(*arguments, **options))
    assert all(isinstance(item, Prediction) for item in found)
    return found


@pytest.mark.parametrize("resize", [None, 48, "full"])
def test_predictions_are_what_evaluation_sees(data: Path, target: Path, tmp_path: Path, resize: Any) -> None:
    result = run(data, tmp_path / "run", "finetune", target=str(target), steps=3, resize=resize)
    found = predicted(result.folder, [target / "test"], batch_size=8, top_k=9)
    assert [item.file for item in found] == sorted(map(str, (target / "test").rglob("*.*")))
    right = [Path(item.file).parent.name == item.top[0].name for item in found]
    assert 100 * sum(right) / len(right) == pytest.approx(result.summary["test_accuracy"], abs=1e-4)

    again = arguments(data, tmp_path / "again", "finetune", target=str(target), steps=3, resize=resize)
    test = prepare(resolved(Settings(**again)), print).images.test
    with torch.no_grad():
        batches = center_crop_batches(test, result.network.image_format(32), 8)
        seen = torch.cat([result.network.eval()(batch).softmax(1) for batch, _ in batches])
    for item, row in zip(found, seen.tolist(), strict=True):
        assert [choice.probability for choice in item.top] == sorted(row, reverse=True)
        assert {choice.name: choice.probability for choice in item.top} == dict(zip(sorted(TARGET), row, strict=True))


def test_a_run_and_its_weights_predict_the_same(trained: Result, target: Path) -> None:
    one, other = (predicted(path, target / "test") for path in (trained.folder, trained.folder / "model.safetensors"))
    assert one == other and len(one) == 10


def test_files_are_rows_in_both_formats(trained: Result, target: Path, tmp_path: Path, capsys: Any) -> None:
    expected = predicted(str(trained.folder), target / "test", top_k=2)
    asked = [str(trained.folder), str(target / "test"), "--top-k", "2"]
    for suffix in ("csv", "jsonl"):
        assert main([*asked, "--output", str(tmp_path / f"p.{suffix}")]) == 0
        assert capsys.readouterr().out == f"10 images predicted: {tmp_path}/p.{suffix}\n"
    assert main(asked) == 0
    assert capsys.readouterr().out == (tmp_path / "p.csv").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv", "p.jsonl"}
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    for item, row, line in zip(expected, rows, lines, strict=True):
        first, second = item.top
        assert (row["file"], row["class"], row["class_2"]) == (item.file, first.name, second.name)
        assert float(row["probability"]) == pytest.approx(first.probability, abs=1e-6)
        assert float(row["probability_2"]) == pytest.approx(second.probability, abs=1e-6)
        assert (line["file"], line["class"]) == (item.file, first.name)
        assert [choice["class"] for choice in line["top"]] == [first.name, second.name]
        assert line["probability"] == line["top"][0]["probability"] == float(row["probability"])


def test_classes_are_described_and_probabilities_sum_to_one(weights: Path, target: Path) -> None:
    for item in predicted(weights, target / "test" / "red", top_k=7):
        assert sum(choice.probability for choice in item.top) == pytest.approx(1)
        meanings = {choice.name: choice.description for choice in item.top}
        assert meanings == {"a": "a", "b": "b", "n07745940": "strawberry (n07745940)"}


def test_folders_are_walked_as_datasets_are(weights: Path, tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    write_folder(photos, {"b": (200, 0, 0), "a": (0, 0, 200), ".hidden": (0, 0, 0)}, 2)
    write_folder(elsewhere, {"x": (0, 200, 0)}, 1)
    os.rename(photos / "b" / "001.png", photos / "b" / ".hidden.png")
    os.link(photos / "a" / "000.png", photos / "last.PNG")
    (photos / "notes.txt").write_text("no image")
    (photos / "a" / "within.png").symlink_to(photos / "b" / "000.png")
    (photos / "a" / "out.png").symlink_to(elsewhere / "x" / "000.png")
    (photos / "c").symlink_to(elsewhere)
    (photos / "b" / "loop").symlink_to(photos)
    found = list(predict(weights, [photos, elsewhere / "x" / "000.png"], bad_files="skip"))
    names = [item.file for item in found if isinstance(item, Prediction)]
    inside = ["last.PNG", "a/000.png", "a/001.png", "a/out.png", "a/within.png", "b/000.png", "c/x/000.png"]
    assert names == [*(str(photos / name) for name in inside), str(elsewhere / "x" / "000.png")]
    bad = {item.name for item in found if isinstance(item, BadFile)}
    assert bad == {str(photos / "b" / "loop")}


def test_bad_files_are_all_named_and_can_be_skipped(weights: Path, tmp_path: Path, capsys: Any) -> None:
    photos = write_folder(tmp_path / "photos", TARGET, 2)
    (photos / "green" / "000.png").write_text("broken")
    (photos / "red" / "001.png").write_bytes(b"")
    asked = [str(weights), str(photos), str(tmp_path / "absent.png"), "--batch-size", "2"]
    bad = [
        f"{photos}/green/000.png: {NOT_AN_IMAGE}",
        f"{photos}/red/001.png: empty",
        f"{tmp_path}/absent.png: no such file or folder",
    ]
    output = tmp_path / "p.csv"
    output.write_text("file,class,description,probability\nwhat was there")
    assert main([*asked, "--output", str(output)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0] == "error: 3 bad files; --bad-files skip predicts the others:"
    assert sorted(error[1:]) == sorted(f"  {line}" for line in bad)
    assert output.read_text().endswith("\nwhat was there")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "p.csv"}

    assert main([*asked, "--output", str(output), "--bad-files", "skip"]) == 0
    assert sorted(capsys.readouterr().err.splitlines()) == sorted([*bad, "3 bad files skipped"])
    with output.open() as file:
        names = [str(Path(row["file"]).relative_to(photos)) for row in csv.DictReader(file)]
    assert names == ["blue/000.png", "blue/001.png", "green/001.png", "red/000.png"]


def test_an_image_smaller_than_the_crop_is_a_bad_file(tmp_path: Path) -> None:
    save(build(NETWORK, "none", ["a", "b"]), tmp_path / "model.safetensors", 32, "full")
    photos = write_folder(tmp_path / "photos", {"a": (1, 2, 3)}, 1, (36, 31))
    (item,) = predict(tmp_path / "model.safetensors", photos, bad_files="skip")
    reason = "31 x 36 pixels, less than the network's 32 x 32, and the network was trained with --resize full: "
    assert item == BadFile(str(photos / "a" / "000.png"), f"{reason}scale it up, or train with --resize 37")


def test_camera_raw_is_a_bad_file(weights: Path, tmp_path: Path) -> None:
    names = ["a.NEF", "b.dng"]
    for name in names:
        PIL.Image.new("RGB", (40, 40)).save(tmp_path / name, "TIFF")
    found = list(predict(weights, [tmp_path / name for name in names], bad_files="skip"))
    assert found == [BadFile(str(tmp_path / name), NO_CAMERA_RAW) for name in names]


def test_images_are_read_as_they_are_needed(weights: Path, target: Path) -> None:
    asked = 0

    def endless() -> Iterator[Path]:
        nonlocal asked
        while True:
            asked += 1
            yield target / "test" / "red" / "000.png"

    predictions = predict(weights, endless(), batch_size=4, decoder="torchvision")
    seen = [asked for _ in itertools.islice(predictions, 40)]
    assert len(seen) == 40 and seen[0] < 4 + 4 * torch.get_num_threads() + 4 and asked - seen[0] <= 40


def test_names_that_are_no_unicode_are_escaped(weights: Path, target: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(odd)).write_bytes((target / "test" / "red" / "000.png").read_bytes())
    assert main([str(weights), os.fsdecode(odd), "--output", str(tmp_path / "p.jsonl")]) == 0
    assert json.loads((tmp_path / "p.jsonl").read_text())["file"] == f"{tmp_path}/caf\\udce9.png"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["{photos}", "--output", "p.txt"], "error: output: expected a file named .csv or .jsonl, got p.txt"),
        (["{photos}", "--output", "/absent/p.csv"], "error: output: /absent: no such folder"),
        (["{photos}", "--top-k", "0"], "error: top_k: expected a positive number, got 0"),
        (["{photos}", "--device", "abacus"], "error: device: expected auto, cpu, cuda or cuda:N, got abacus"),
        (
            ["{empty}", "{photos}"],
            "error: 1 bad file; --bad-files skip predicts the others:\n  {empty}: holds no images",
        ),
    ],
)
def test_errors_are_one_line(
    weights: Path, target: Path, tmp_path: Path, *, capsys: Any, more: list[str], expected: str
) -> None:
    places = {"photos": target / "test", "empty": tmp_path}
    assert main([str(weights), *(word.format(**places) for word in more)]) == 2
    said = capsys.readouterr()
    assert (said.err, said.out) == (expected.format(**places) + "\n", "")


def test_a_trained_network_is_loaded_whole(trained: Result, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    network, image_size = load_network(trained.folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (image_size, network.classes, network.mean) == (32, sorted(TARGET), trained.network.mean)
    state = trained.network.state_dict()
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_what_is_no_trained_network_is_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file; expected a run folder"):
        predict(tmp_path, data)
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors: no such file"):
        predict(tmp_path / "absent.safetensors", data)
    torch.save(build(NETWORK, "none", ["a"]).body.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth: expected a run folder that holds model\.safetensors"):
        predict(tmp_path / "weights.pth", data)


def test_files_that_are_no_images_are_counted(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "photos", TARGET, 1)
    for name in ("notes.txt", "red/a.txt", "red/b.txt", "red/raw.cr2", ".hidden", "Thumbs.db"):
        (folder / name).write_text("text")
    assert main([str(weights), str(folder), "--output", str(tmp_path / "out.csv")]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"3 images predicted: {tmp_path / 'out.csv'}\n"
    assert shown.err == f"4 files ignored: 2 .txt in {folder}/red, 1 .txt in {folder}, 1 .cr2 in {folder}/red\n"
