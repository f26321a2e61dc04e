"""Evaluation: the figures of a few numbers counted by hand, and the command on runs, weights and other datasets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made import SOURCE, TARGET, write_folder
from PIL import Image
from safetensors.torch import save_file
from small_runs import arguments
from torch import Tensor

from xmixup_fast.commands.evaluate import main
from xmixup_fast.data.center_crops import center_crop_batches
from xmixup_fast.data.dataset import FileImage, Sample
from xmixup_fast.data.decoding.decoder import TorchvisionDecoder
from xmixup_fast.data.streamed import StreamedImages
from xmixup_fast.evaluation import Evaluation, evaluate_network, merge_evaluations
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import load_network, save
from xmixup_fast.ops.image_pool import ImagePool
from xmixup_fast.training.run import Result, fit


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return fit(**arguments(data, tmp_path_factory.mktemp("run") / "run", "finetune"))


def evaluation(labels: list[int], predicted: list[int], losses: list[float]) -> Evaluation:
    count = len(labels)
    names = [f"{i}.png" for i in range(count)]
    tensors = (torch.arange(count), torch.tensor(labels), torch.tensor(predicted), torch.full((count,), 0.5))
    ranks = (tensors[1] != tensors[2]).long()
    return Evaluation(["a", "b", "c", "d"], *tensors, torch.tensor(losses), ranks, names)


def test_figures_are_those_counted_by_hand() -> None:
    found = evaluation([0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 2, 1, 1, 0, 0], [1, 2, 9, 4, 5, 3, 9, 8])
    assert found.confusion_matrix().tolist() == [[2, 1, 1, 0], [0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]
    assert found.accuracy == 50.0
    assert found.balanced_accuracy == pytest.approx(100 * (0.5 + 1 + 0) / 3)
    assert found.loss == pytest.approx(41 / 8)
    assert [tuple(row) for row in found.per_class()] == [
        ("a", 4, 50.0, 50.0, 50.0, "b", 1),
        ("b", 2, pytest.approx(200 / 3), 100.0, pytest.approx(80.0), None, 0),
        ("c", 2, 0.0, 0.0, 0.0, "a", 2),
        ("d", 0, None, None, None, None, 0),
    ]
    assert found.macro_f1 == pytest.approx((50 + 80 + 0) / 3)
    top = found.top_losses(3)
    assert [(row.name, row.label, row.predicted, row.loss) for row in top] == [
        ("2.png", "a", "b", 9.0),
        ("6.png", "c", "a", 9.0),
        ("7.png", "c", "a", 8.0),
    ]
    assert found.lines() == [
        "class  images  precision    recall        F1  most often confused with",
        "a           4    50.00 %   50.00 %   50.00 %  b (1)",
        "b           2    66.67 %  100.00 %   80.00 %",
        "c           2     0.00 %    0.00 %    0.00 %  a (2)",
        "d           0          -         -         -",
    ]
    content = json.loads(json.dumps(found.to_json()))
    assert content["confusion"] == {"a": {"a": 2, "b": 1, "c": 1}, "b": {"b": 2}, "c": {"a": 2}}
    assert (content["accuracy"], content["images"]) == (50.0, 8) and len(content["highest_losses"]) == 8


def test_mirror_images_are_the_same_in_memory_and_streaming(data: Path, run: Result) -> None:
    pool, stream = collections(data)
    form = run.network.image_format(32)
    one, other = (evaluate_network(run.network, images, form, 7, flip=True) for images in (pool, stream))
    for name in ("labels", "predicted", "probabilities", "losses", "ranks"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert not torch.equal(one.losses, evaluate_network(run.network, pool, form, 7).losses)


def images_of(folder: Path) -> list[Sample]:
    return [
        Sample(FileImage(path), label)
        for label, name in enumerate(sorted(TARGET))
        for path in sorted((folder / name).iterdir())
    ]


def collections(data: Path) -> Iterator[ImagePool | StreamedImages]:
    """The same images in memory, and decoded anew."""
    samples = images_of(data / "target")
    decoder = TorchvisionDecoder(37, 1)
    pixels = [image for image in decoder.decode(sample.image for sample in samples) if isinstance(image, Tensor)]
    pool = ImagePool.from_images(pixels, [sample.label for sample in samples])
    yield pool
    yield StreamedImages(samples, pool.sizes, decoder)


def test_a_pass_gives_what_the_network_gives_in_memory_and_streaming(data: Path, run: Result) -> None:
    network = run.network.train()
    found = []
    for images in collections(data):
        form = network.image_format(32)
        found.append(evaluate_network(network, images, form, 7))
        assert network.training
        parts = [evaluate_network(network, images, form, 4, torch.arange(len(images))[i::3]) for i in range(3)]
        merged = merge_evaluations([parts[2], parts[0], parts[1]])
        for name in ("positions", "labels", "predicted"):
            assert torch.equal(getattr(merged, name), getattr(found[0], name))
        for name in ("probabilities", "losses"):  # batches of other sizes round otherwise
            torch.testing.assert_close(getattr(merged, name), getattr(found[0], name), atol=1e-5, rtol=1e-5)
        none = evaluate_network(network, images, form, 4, torch.arange(0))
        assert len(none) == 0 and torch.equal(merge_evaluations([none, *parts]).predicted, merged.predicted)
        with pytest.raises(ValueError, match="parts: expected each image in one part"):
            merge_evaluations([parts[0], parts[0]])
        (batch, labels), *_ = center_crop_batches(images, form, len(images))
        with torch.no_grad():
            probabilities = network.eval()(batch).softmax(1)
        network.train()
        torch.testing.assert_close(merged.probabilities, probabilities.max(1).values, atol=1e-5, rtol=1e-5)
        expected = -probabilities[torch.arange(len(labels)), labels].log()
        torch.testing.assert_close(merged.losses, expected, atol=1e-4, rtol=1e-4)
        assert merged.accuracy == 100 * int((probabilities.argmax(1) == labels).sum()) / len(labels)
    assert all(
        torch.equal(getattr(found[0], name), getattr(found[1], name)) for name in ("predicted", "losses", "labels")
    )


def test_a_run_keeps_its_evaluation(data: Path, run: Result) -> None:
    assert run.evaluation is not None
    content = json.loads((run.folder / "evaluation.json").read_text())
    assert content == {"split": "test", **run.evaluation.to_json()}
    assert content["accuracy"] == run.summary["test_accuracy"] and content["images"] == run.summary["num_test"]
    assert all(Path(row["name"]).is_file() for row in content["highest_losses"])
    assert all(Path(row.name).parent.name == row.label for row in run.evaluation.top_losses(6))


def test_the_command_evaluates_a_run_on_its_own_images(
    run: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = json.loads((run.folder / "evaluation.json").read_text())
    for split in ("test", "val", "all"):
        command = [str(run.folder), "--split", split, "--trained", "keep", "--output", str(tmp_path / split)]
        assert main(command) == 0
    found = {split: json.loads((tmp_path / split / "evaluation.json").read_text()) for split in ("test", "val", "all")}
    for name in ("split", "images", "accuracy", "confusion"):
        assert found["test"][name] == expected[name]
    assert found["val"]["accuracy"] == run.summary["val_accuracy"]
    assert found["all"]["images"] == 30
    assert [row["name"] for row in found["test"]["highest_losses"]] == [
        row["name"] for row in expected["highest_losses"]
    ]
    assert Image.open(tmp_path / "test" / "confusion.png").size > (200, 200)
    said = capsys.readouterr().out
    assert f"test: {run.summary['test_accuracy']:.2f} % of 6 images" in said and "most often confused with" in said
    assert main([str(run.folder), "--output", str(tmp_path / "test")]) == 2
    assert "already holds an evaluation" in capsys.readouterr().err


def test_weights_are_evaluated_on_another_dataset(
    run: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(run.folder / "model.safetensors")
    some = {name: TARGET[name] for name in ("red", "green")}
    target = write_folder(tmp_path / "some", some, 5)
    (target / "red" / "000.png").write_text("broken")
    command = [weights, "--target", str(target), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "1 bad file; --bad-files skip evaluates without them:" in capsys.readouterr().err
    assert main([*command, "--bad-files", "skip"]) == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (content["split"], content["images"], content["bad_files"]["count"]) == ("all", 9, 1)
    assert [(row["name"], row["images"]) for row in content["classes"]] == [("blue", 0), ("green", 5), ("red", 4)]
    assert content["confusion"].keys() == set(some)


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_dataset_of_one_split_alone_is_evaluated(run: Result, tmp_path: Path, split: str) -> None:
    write_folder(tmp_path / "photos" / split, TARGET, 3, seed=7)
    command = [str(run.folder), "--target", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (content["split"], content["images"]) == ("test" if split == "test" else "all", 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "target: expected a dataset, since .* is no run folder; got none"),
        (
            {"--target": "source"},
            "does not know the classes grass, rose, sky, snow; its 3 classes are blue, green, red",
        ),
        (
            {"--target": "target", "--split": "new"},
            "has no images to evaluate as new; expected one of train, val, test, all",
        ),
        ({"--target": "absent"}, "absent: no such folder"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    data: Path,
    run: Result,
    tmp_path: Path,
    *,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    message: str,
) -> None:
    flags = [part for name, value in changes.items() for part in (name, value.replace("source", f"{data}/source"))]
    flags = [f"{data}/{part}" if part in ("target", "absent") else part for part in flags]
    assert main([str(run.folder / "model.safetensors"), *flags, "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_weights_alone_tell_the_short_side_too(data: Path, tmp_path: Path) -> None:
    result = fit(**arguments(data, tmp_path / "run", "finetune", resize="full"))
    weights = str(result.folder / "model.safetensors")
    assert main([weights, "--target", str(data / "target"), "--output", str(tmp_path / "weights")]) == 0
    assert main([str(result.folder), "--split", "all", "--output", str(tmp_path / "own")]) == 0
    found = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("weights", "own")]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], abs=1e-5)
    command = [weights, "--target", str(data / "target"), "--resize", "37", "--output", str(tmp_path / "other")]
    assert main(command) == 0
    other = json.loads((tmp_path / "other" / "evaluation.json").read_text())
    assert abs(other["loss"] - found[0]["loss"]) > 1e-4  # other pixels are seen


def test_a_trained_network_is_loaded_again(run: Result, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    for path in (run.folder, run.folder / "model.safetensors", str(run.folder)):
        network, image_size = load_network(path)
        assert image_size == 32 and network.classes == sorted(TARGET) and not network.training
        assert network.mean == run.network.mean and network.source_head is None
        torch.testing.assert_close(network(images), run.network.eval()(images))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("absent", FileNotFoundError, "absent: no such file; expected a run folder that holds model.safetensors"),
        ("", FileNotFoundError, "no such file; expected a run folder"),
        ("weights.pth", ValueError, "weights.pth: expected a run folder"),
        ("text.safetensors", ValueError, "text.safetensors: cannot be read"),
        ("foreign.safetensors", ValueError, "its metadata lack model, classes, mean, std, image_size"),
        ("unknown.safetensors", ValueError, "timm has no 'nonsense'"),
        ("few.safetensors", ValueError, "the metadata name 2 classes, and the network has 3 outputs"),
        ("other.safetensors", ValueError, "does not fit test_vit"),
    ],
)
def test_other_files_are_refused_by_name(
    run: Result, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    metadata: dict[str, Any] = {"mean": "[0, 0, 0]", "std": "[1, 1, 1]", "image_size": "32", "model": "test_resnet"}
    state = {name: tensor.contiguous() for name, tensor in run.network.body.state_dict().items()}
    (tmp_path / "weights.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("words")
    save_file(state, tmp_path / "foreign.safetensors")
    save_file(state, tmp_path / "unknown.safetensors", {**metadata, "model": "nonsense", "classes": "[]"})
    save_file(state, tmp_path / "few.safetensors", {**metadata, "classes": '["a", "b"]'})
    save_file(state, tmp_path / "other.safetensors", {**metadata, "model": "test_vit", "classes": '["a", "b", "c"]'})
    with pytest.raises(error, match=message):
        load_network(tmp_path / name)


def test_classes_keep_their_names_where_they_are_no_words(tmp_path: Path) -> None:
    network = build("test_resnet", "none", ["<b>", 'a "quote"', "ünïcödé"])
    save(network, tmp_path / "model.safetensors", 48)
    loaded, image_size = load_network(tmp_path)
    assert (loaded.classes, image_size) == (["<b>", 'a "quote"', "ünïcödé"], 48) and len(SOURCE) == 4


@pytest.mark.parametrize("cache", ["kept", "none"])
def test_images_are_hashed_once(
    run: Result, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    monkeypatch.setattr("xmixup_fast.data.image_store.read_contents", lambda *_: pytest.fail("read again"))
    place = str(tmp_path / "cache") if cache == "kept" else cache
    words = [str(run.folder), "--target", str(data / "target"), "--cache", place, "--output", str(tmp_path / "out")]
    assert main(words) == 0
