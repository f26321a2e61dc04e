"""Every way out of a run gives the same answer, whatever the photo: a table of ways and photos, which is printed.

python -m pytest tests/evaluation/test_ways_out.py -s
    prints it: the largest difference of a probability from predict's, for each way and photo
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import awkward_photos
import numpy as np
import PIL.Image
import pytest
import timm
import torch
from awkward_photos import opened_as_told
from safetensors import safe_open
from torch import Tensor
from torchvision.transforms import v2

from xmixup_fast import evaluate, fit
from xmixup_fast.commands.export import export
from xmixup_fast.commands.predict import Prediction, predict
from xmixup_fast.models.network import Network

onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install onnx onnxscript onnxruntime")
pytest.importorskip("onnxscript", reason="needs pip install onnx onnxscript onnxruntime")

CLASSES = ("1", "2", "9", "10")
SETTINGS: dict[str, Any] = {
    **{"method": "finetune", "model": "test_resnet", "weights": "none", "image_size": 32, "resize": 40, "steps": 40},
    **{"lr": 0.05, "label_smoothing": 0.3, "batch_size": 8, "device": "cpu", "report": False, "val_fraction": 0.25},
}
ROUNDING = 1e-5
"""Of a probability, where the same pixels go through the same network, in batches of another size."""
PILLOW = 0.005
"""Of a probability, where Pillow resizes, whose pixels differ from torchvision's by one of 255 levels at most."""
HALF = 0.01
"""Of a probability, where weights are float16."""

Answers = dict[str, Tensor]
"""The probabilities of all classes, float32[K], by the name of the photo."""


class Run(NamedTuple):
    """A trained network in all its forms, and photos to ask it about."""

    folder: Path
    network: Network
    photos: list[Path]
    floats: Path
    """Programs that take normalised crops."""
    programs: Path
    """Programs that take bytes."""
    metadata: dict[str, str]
    """Of the weights that are exported."""
    asked: Answers
    """What predict answers."""

    @property
    def steps(self) -> list[str]:
        found: list[str] = json.loads(self.metadata["steps"])
        return found

    def crop(self, path: Path) -> Tensor:
        """A photo as torchvision prepares it by the metadata alone: uint8[3, S, S]."""
        short_side, size = int(self.metadata["resize"]), int(self.metadata["image_size"])
        assert self.metadata["interpolation"] == "bilinear, antialiased"
        bilinear = v2.InterpolationMode.BILINEAR
        prepared = v2.Compose([v2.PILToTensor(), v2.Resize(short_side, bilinear, antialias=True), v2.CenterCrop(size)])(
            opened_as_told(path, self.steps)
        )
        assert isinstance(prepared, Tensor)
        return prepared

    def normalised(self, path: Path) -> Tensor:
        """The same as the network takes it: float32[1, 3, S, S]."""
        mean, std = (torch.tensor(json.loads(self.metadata[key])).view(3, 1, 1) for key in ("mean", "std"))
        return ((self.crop(path) / 255 - mean) / std)[None]

    def as_bytes(self, path: Path) -> Tensor:
        """The same as programs with preprocessing take it: uint8[1, S, S, 3]."""
        return self.crop(path).permute(1, 2, 0)[None].contiguous()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("ways")
    for number in range(32):  # nothing to learn, so that the network is never sure
        path = folder / "target" / CLASSES[number % len(CLASSES)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        awkward_photos.picture(60, 60, 100 + number).save(path)
    result = fit(folder / "target", **SETTINGS, output=str(folder / "run"))
    formats = ["safetensors", "torch", "torchscript", "onnx"]
    export(result, formats, folder / "floats")
    export(result, formats[1:], folder / "programs", with_preprocessing=True)
    photos = awkward_photos.write(folder / "photos")
    with safe_open(folder / "floats" / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    asked: Answers = {}
    for found in predict(result, photos, top_k=len(CLASSES)):
        assert isinstance(found, Prediction), found
        shares = {choice.name: choice.probability for choice in found.top}
        asked[Path(found.file).name] = torch.tensor([shares[name] for name in result.network.classes])
    return Run(result.folder, result.network, photos, folder / "floats", folder / "programs", metadata, asked)


def answers(run: Run, logits_of: Callable[[Path], Tensor]) -> Answers:
    """What a way out answers, photo by photo, from its logits, float32[1, K]."""
    with torch.no_grad():
        return {path.name: logits_of(path).softmax(1)[0] for path in run.photos}


def by_network(run: Run) -> Answers:
    """The network that fit returns, as it comes."""
    return answers(run, lambda path: run.network(run.normalised(path)))


def by_timm(run: Run, name: str) -> Answers:
    """timm alone, with nothing but the first two steps done before its transform."""
    network = timm.create_model(name, pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    return answers(run, lambda path: network(prepare(opened_as_told(path, run.steps))[None]))


def by_timms_weights(run: Run) -> Answers:
    """timm's network with the exported file, and torchvision's transforms by the file's metadata."""
    path = str(run.floats / "model.safetensors")
    network = timm.create_model(run.metadata["model"], num_classes=len(CLASSES), checkpoint_path=path).eval()
    return answers(run, lambda photo: network(run.normalised(photo)))


def by_torch(run: Run, folder: Path, load: Callable[[Path], Any], prepare: Callable[[Path], Tensor]) -> Answers:
    program = load(folder)
    return answers(run, lambda path: program(prepare(path)))


def by_onnx(run: Run, folder: Path, prepare: Callable[[Path], Tensor]) -> Answers:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return answers(run, lambda path: torch.from_numpy(session.run(None, {"images": prepare(path).numpy()})[0]))


def exported(folder: Path) -> Any:
    return torch.export.load(folder / "model.pt2").module()


def scripted(folder: Path) -> Any:
    return torch.jit.load(folder / "model.pt")


WAYS: dict[str, tuple[Callable[[Run], Answers], float]] = {
    "fit(...).network": (by_network, ROUNDING),
    "timm with the weights, torchvision by the metadata": (by_timms_weights, ROUNDING),
    "timm alone, local-dir:RUN": (lambda run: by_timm(run, f"local-dir:{run.folder}"), PILLOW),
    "timm alone, local-dir:EXPORTED": (lambda run: by_timm(run, f"local-dir:{run.floats}"), PILLOW),
    "torch": (lambda run: by_torch(run, run.floats, exported, run.normalised), ROUNDING),
    "torch, bytes": (lambda run: by_torch(run, run.programs, exported, run.as_bytes), ROUNDING),
    "torchscript": (lambda run: by_torch(run, run.floats, scripted, run.normalised), ROUNDING),
    "torchscript, bytes": (lambda run: by_torch(run, run.programs, scripted, run.as_bytes), ROUNDING),
    "onnx": (lambda run: by_onnx(run, run.floats, run.normalised), ROUNDING),
    "onnx, bytes": (lambda run: by_onnx(run, run.programs, run.as_bytes), ROUNDING),
}


def differences(run: Run, found: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference of a probability from predict's, by photo."""
    assert found.keys() == run.asked.keys()
    return {name: float((found[name] - expected).abs().max()) for name, expected in run.asked.items()}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_every_way_out_gives_the_same_answer(run: Run) -> None:
    table = {way: differences(run, ask(run)) for way, (ask, _) in WAYS.items()}
    width = max(map(len, run.asked))
    lines = [f"{number:2}  {way}, at most {bound:g}" for number, (way, (_, bound)) in enumerate(WAYS.items())]
    lines.append("  ".join([f"{'':{width}}", *(f"{number:>7}" for number in range(len(table)))]))
    for photo in run.asked:
        lines.append("  ".join([f"{photo:{width}}", *(f"{column[photo]:7.0e}" for column in table.values())]))
    print("", *lines, sep="\n")
    worst = {way: max(column, key=column.__getitem__) for way, column in table.items()}
    wrong = {way: photo for way, photo in worst.items() if table[way][photo] > WAYS[way][1]}
    assert not wrong, wrong


def test_the_photos_tell_ways_apart(run: Run) -> None:
    """Without a step that the metadata name, some answers are others: the table could fail."""
    probabilities = torch.stack(list(run.asked.values()))
    assert len(probabilities.argmax(1).unique()) > 1 and probabilities.std(0).max() > 0.1

    def asked_with(change: Callable[[PIL.Image.Image], PIL.Image.Image]) -> dict[str, float]:
        def logits(path: Path) -> Tensor:
            pixels = torch.from_numpy(np.array(change(PIL.Image.open(path)).convert("RGB"))).permute(2, 0, 1)
            crop = v2.Compose([v2.Resize(40, antialias=True), v2.CenterCrop(32)])(pixels)
            assert isinstance(crop, Tensor)
            mean, std = (torch.tensor(json.loads(run.metadata[key])).view(3, 1, 1) for key in ("mean", "std"))
            return run.network(((crop / 255 - mean) / std)[None])

        return differences(run, answers(run, logits))

    unturned = asked_with(lambda image: image)
    for name in ("exif-5.jpg", "exif-6.jpg", "grey-16.png", "alpha.png"):  # turned, of 16 bits, transparent
        assert unturned[name] > PILLOW, name
    assert unturned["odd-57.png"] <= ROUNDING


def test_evaluate_gives_predicts_answers(run: Run, tmp_path: Path) -> None:
    names = run.network.classes
    for path in run.photos:
        (tmp_path / names[int(run.asked[path.name].argmax())]).mkdir(exist_ok=True)
        (tmp_path / names[int(run.asked[path.name].argmax())] / path.name).symlink_to(path)
    found = evaluate(run.folder, tmp_path, split="all", log=lambda line: None)
    assert found.accuracy == 100 and len(found) == len(run.photos)
    for position, probability in zip(found.positions.tolist(), found.probabilities.tolist(), strict=True):
        assert probability == pytest.approx(float(run.asked[Path(found.names[position]).name].max()), abs=ROUNDING)


def test_the_tutorials_snippet_gives_predicts_answers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tutorial = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
    section = tutorial.read_text(encoding="utf-8").partition("## 8. Use the exported model")[2]
    (tmp_path / "snippet.py").write_text("import json\n" + section.partition("```python\n")[2].partition("```")[0])
    monkeypatch.chdir(tmp_path)
    files = {"preprocessing.json": ""}
    program = torch.export.load(run.programs / "model.pt2", extra_files=files)

    def load(path: str, extra_files: dict[str, str]) -> Any:
        extra_files.update(files)
        return program

    monkeypatch.setattr(torch.export, "load", load)  # once for all photos
    Path("exported").symlink_to(run.programs)
    Path("new-photos").mkdir()
    for path in run.photos:
        if path.name == "long.png":
            continue  # needs the step on very long images, as the text below the snippet says
        place = Path("new-photos/0001.jpg")
        place.unlink(missing_ok=True)
        place.symlink_to(path)
        names = runpy.run_path("snippet.py")
        assert names["classes"] == run.network.classes
        torch.testing.assert_close(names["probabilities"], run.asked[path.name], rtol=0, atol=ROUNDING, msg=path.name)


def test_weights_in_half_give_the_same_answers_within_a_bound(run: Run, tmp_path: Path) -> None:
    export(run.folder, ["safetensors"], tmp_path, half=True)
    found = differences(run, by_timm(run, f"local-dir:{tmp_path}"))
    assert ROUNDING < max(found.values()) <= PILLOW + HALF
