"""Properties of exported networks: the same logits for any batch, the preprocessing with them, or no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from made import TARGET, write_folder
from safetensors import safe_open

from xmixup_fast.commands import export as exporting
from xmixup_fast.commands.export import Exporter, export, main
from xmixup_fast.commands.predict import predict
from xmixup_fast.data.decoding.steps import LONGEST
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.models.trained import load_network, save

pytest.importorskip("onnxscript", reason="needs pip install onnx onnxscript onnxruntime")
onnxruntime = pytest.importorskip("onnxruntime")

SIZE = 32
FORMATS = ["safetensors", "torch", "torchscript", "onnx"]
ALL = {"model.safetensors", "config.json", "model.pt2", "model.pt", "model.onnx"}
BATCHES = (1, 3, 8)
DEPRECATED = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
STEPS = [
    "turn the image upright as its EXIF orientation says",
    "convert it to RGB: what is transparent on white, the first page or frame, the upper byte of 16-bit samples",
    f"keep the middle {LONGEST} short sides of an image that is longer",
    "resize the short side to 40 pixels, bilinear, antialiased, as uint8",
    "crop the middle 32 x 32 pixels, half pixels rounded to even numbers",
    "divide by 255, subtract mean, and divide by std",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = build("test_resnet", "none", ["a", "b", "n07745940"], seed=3)
    network.mean, network.std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save(network, path, SIZE, 40)
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["floats", "bytes"])
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory, request: Any) -> tuple[Path, bool]:
    """The folder of all formats, and whether programs take bytes."""
    folder = tmp_path_factory.mktemp("exported") / "new"
    flags = ["--with-preprocessing"] if request.param else []
    assert main([str(weights), "--format", *FORMATS, "--output", str(folder), *flags]) == 0
    assert {path.name for path in folder.iterdir()} == ALL
    return folder, request.param


def network_and_inputs(weights: Path, batch: int, as_bytes: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's logits of random crops, and the crops as a program takes them."""
    network: Network = load_network(weights)[0].eval()
    crops = torch.randint(256, (batch, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    normalised = ((crops / 255 - torch.tensor(network.mean)) / torch.tensor(network.std)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return network(normalised), crops if as_bytes else normalised.contiguous()


def told(weights: Path, as_bytes: bool) -> dict[str, Any]:
    kind = "uint8[B, 32, 32, 3]" if as_bytes else "float32[B, 3, 32, 32], normalised"
    return {
        **{"model": "test_resnet", "classes": '["a", "b", "n07745940"]', "mean": "[0.4, 0.5, 0.6]"},
        **{"std": "[0.2, 0.25, 0.3]", "image_size": "32", "resize": "40"},
        **{"interpolation": "bilinear, antialiased", "input": kind},
        "steps": json.dumps(STEPS[: -1 if as_bytes else None]),
    }


def test_a_torch_program_gives_the_networks_logits(weights: Path, exported: tuple[Path, bool]) -> None:
    folder, as_bytes = exported
    files = {"preprocessing.json": ""}
    program = torch.export.load(folder / "model.pt2", extra_files=files).module()
    assert json.loads(files["preprocessing.json"]) == told(weights, as_bytes)
    for batch in BATCHES:
        logits, inputs = network_and_inputs(weights, batch, as_bytes)
        torch.testing.assert_close(program(inputs), logits, rtol=0, atol=1e-5)


@DEPRECATED
def test_a_torchscript_program_gives_the_networks_logits(weights: Path, exported: tuple[Path, bool]) -> None:
    folder, as_bytes = exported
    files = {"preprocessing.json": ""}
    program = torch.jit.load(folder / "model.pt", _extra_files=files)
    assert json.loads(files["preprocessing.json"]) == told(weights, as_bytes)
    for batch in BATCHES:
        logits, inputs = network_and_inputs(weights, batch, as_bytes)
        torch.testing.assert_close(program(inputs), logits, rtol=0, atol=1e-5)


def test_an_onnx_model_gives_the_networks_logits(weights: Path, exported: tuple[Path, bool]) -> None:
    folder, as_bytes = exported
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map.items() >= told(weights, as_bytes).items()
    for batch in BATCHES:
        logits, inputs = network_and_inputs(weights, batch, as_bytes)
        (got,) = session.run(["logits"], {"images": inputs.numpy()})
        np.testing.assert_allclose(got, logits.numpy(), rtol=0, atol=1e-5)


def test_safetensors_are_timms_and_predict_as_before(
    weights: Path, exported: tuple[Path, bool], tmp_path: Path
) -> None:
    folder, _ = exported
    photos = write_folder(tmp_path / "photos", TARGET, 2, (50, 60))
    assert list(predict(folder / "model.safetensors", photos)) == list(predict(weights, photos))
    model = timm.create_model("test_resnet", num_classes=3, checkpoint_path=str(folder / "model.safetensors"))
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(model.eval()(images), load_network(weights)[0].eval()(images))
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = file.metadata()
    assert stored == told(weights, as_bytes=False) | {"format": "pt"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_that_differs_is_not_kept(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    def wrong(self: Exporter, path: Path) -> exporting.Run:
        path.write_text("a model")
        return lambda images: self.network(images) + torch.tensor([0.0, 1e-3, 0.0])

    monkeypatch.setattr(Exporter, f"write_{name}", wrong)
    assert main([str(weights), "--format", name, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: format: {name}: logits differ from the network's by ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("got", [torch.full((5, 3), torch.nan), torch.zeros(5, 2)])
def test_odd_outputs_are_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, got: torch.Tensor
) -> None:
    def odd(self: Exporter, path: Path) -> exporting.Run:
        path.write_text("a model")
        return lambda images: got[: len(images)]

    monkeypatch.setattr(Exporter, "write_torch", odd)
    with pytest.raises(ValueError, match=r"differ from the network's by nan|expected \[1, 3\] logits, got \[1, 2\]"):
        export(weights, ["torch"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said_in_a_line(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operation\nand much more")

    monkeypatch.setattr(torch.export, "export", fails)
    assert main([str(weights), "--format", "torch", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: format: torch fails for test_resnet: no such operation\n"
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_and_what_is_missing_are_named(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match=r"output: .*model\.onnx is there already"):
        export(weights, FORMATS, tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.onnx": "mine"}
    with pytest.raises(ValueError, match="format: expected some of safetensors, torch, torchscript, onnx, got pickle"):
        export(weights, ["torch", "pickle"], tmp_path)
    assert main([str(weights), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: format: must be given (safetensors, torch, torchscript, onnx); ")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ValueError, match=r"^format: onnx needs onnxscript; pip install onnxscript$"):
        export(weights, ["onnx"], tmp_path / "new")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"output: .*config\.json is there already"):
        export(weights, ["safetensors"], tmp_path / "other")
    assert (tmp_path / "other" / "config.json").read_text() == "mine"


PROGRAMS = {"torch": "model.pt2", "torchscript": "model.pt", "onnx": "model.onnx"}


def loaded(path: Path) -> exporting.Run:
    """A program, whatever its format."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    return torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)


@DEPRECATED
@pytest.mark.parametrize(
    ("as_bytes", "half", "programs"),
    [(False, False, ["torch", "torchscript"]), (True, True, ["torch", "torchscript", "onnx"])],
    ids=["float32", "bytes, float16"],
)
def test_programs_of_any_size_and_in_half(tmp_path: Path, as_bytes: bool, half: bool, programs: list[str]) -> None:
    weights, tolerance = tmp_path / "w.safetensors", 2e-2 if half else 1e-4
    save(build("test_resnet", "none", ["a", "b", "c"], seed=3), weights, 64)
    options = {"with_preprocessing": as_bytes, "half": half, "dynamic_size": True}
    found = export(weights, ["safetensors", *programs], tmp_path, **options)
    assert max(found.values()) <= tolerance and (min(found.values()) > 1e-6) == half
    network = load_network(weights)[0]
    for name in programs:
        program = loaded(tmp_path / PROGRAMS[name])
        for batch, height, width in ((1, 64, 64), (4, 64, 64), (1, 89, 72), (3, 72, 163)):
            generator = torch.Generator().manual_seed(width)
            crops = torch.randint(256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)
            images = ((crops / 255 - torch.tensor(network.mean)) / torch.tensor(network.std)).permute(0, 3, 1, 2)
            with torch.no_grad():
                expected, got = network(images), program(crops if as_bytes else images.contiguous())
            assert got.dtype == torch.float32
            assert (got - expected).abs().max() <= tolerance * expected.abs().max(), (name, batch, height, width)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["input"] == "float32[B, 3, 64, 64], normalised"
        dtypes = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118  (not a mapping)
    assert dtypes - {torch.int64} == {torch.float16 if half else torch.float32}
    files = {"preprocessing.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=files)
    form = json.loads(files["preprocessing.json"])
    assert form["input"] == ("uint8[B, H, W, 3]" if as_bytes else "float32[B, 3, H, W], normalised")
    assert form.get("dtype") == ("float16" if half else None)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_network_of_one_size_says_so(tmp_path: Path, name: str) -> None:
    save(build("test_vit3", "none", ["a", "b"], image_size=32), tmp_path / "model.safetensors", 32)
    with pytest.raises(
        ValueError, match=rf"format: {name} fails for test_vit3: .*; without --dynamic-size, it is written"
    ):
        export(tmp_path / "model.safetensors", [name], tmp_path / "out", dynamic_size=True)
    assert not (tmp_path / "out").exists()
    assert export(tmp_path / "model.safetensors", [name], tmp_path / "out")[name] <= 1e-4


OTHER_TOOLS = {
    **dict.fromkeys(("openvino", "OpenVINO", "open-vino"), "ovc model.onnx"),
    **dict.fromkeys(("tensorrt", "TensorRT", "engine"), "trtexec --onnx=model.onnx"),
    **dict.fromkeys(("tflite", "TFLite", "litert", "tensorflow", "saved_model", "keras"), "onnx2tf -i model.onnx"),
    **dict.fromkeys(("coreml", "core-ml", "CoreML", "Core_ML", "mlmodel", "mlpackage"), "coremltools.convert("),
    "ncnn": "pnnx model.onnx",
}


@pytest.mark.parametrize("name", OTHER_TOOLS)
def test_other_tool_chains_are_told_how(weights: Path, tmp_path: Path, capsys: Any, name: str) -> None:
    assert main([str(weights), "--format", "onnx", name, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    formats = "safetensors, torch, torchscript, onnx"
    assert (
        error.startswith(f"error: format: expected some of {formats}, got {name}; export ") and error.count("\n") == 1
    )
    assert OTHER_TOOLS[name] in error and not (tmp_path / "out").exists()
