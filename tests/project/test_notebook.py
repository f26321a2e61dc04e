"""A notebook, run by a kernel: what a user types first, and what stands below each cell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from made import write_folder

from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = {"daisy": (230, 230, 220), "rose": (200, 30, 50), "tulip": (240, 170, 40)}
SOURCE = {"n01440764": (120, 130, 90), "n02099601": (200, 150, 80), "n07745940": (210, 40, 50)}
"""Some of ImageNet's classes."""
SETTINGS = """
import xmixup_fast

small = {"source": "imagenet/train/", "model": "test_resnet", "weights": "imagenet.safetensors", "image_size": 32}
"""
NETWORK = """
import torch, torchvision

class Small(torch.nn.Sequential):
    def __init__(self, weights):
        super().__init__(torch.nn.Conv2d(3, 8, 7, stride=8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        self.fc = torch.nn.Linear(8, 1000)

torchvision.models.resnet50 = Small
"""


def readme_loop() -> str:
    """The README's loop, with small images and the network above."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## In your own training loop\n")[1]
    code = text.split("```python\n")[1].split("```")[0]
    small = {
        'source="tiny-imagenet", model="resnet50"': "**small",
        "size=224": "size=32",
        '"photos/")': '"photos/", resize=36)',
        "chosen.pool()": "chosen.pool(resize=36)",
        "range(10)": "range(2)",
    }
    for before, after in small.items():
        assert before in code
        code = code.replace(before, after)
    return code


CELLS = {
    "settings": SETTINGS,
    "fit": 'result = xmixup_fast.fit("photos/", epochs=2, batch_size=4, device="cpu", **small)\nresult',
    "select": 'xmixup_fast.select("photos/", top_k=2, **small)',
    "evaluate": "xmixup_fast.evaluate(result)",
    "predict": 'xmixup_fast.predict(result, "photos/")',
    "pool": 'xmixup_fast.ImagePool.from_folder("photos/", resize=36)',
    "network": NETWORK,
    "loop": readme_loop(),
    "error": 'xmixup_fast.fit("photos/", epoch=3)',
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What the kernel sent for each cell."""
    folder = tmp_path_factory.mktemp("notebook")
    write_folder(folder / "photos", PHOTOS, 5)
    write_folder(folder / "imagenet" / "train", SOURCE, 2)
    save(build("test_resnet", "none", [*sorted(SOURCE), *map(str, range(997))]), folder / "imagenet.safetensors", 32)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in CELLS.values()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        client = nbclient.NotebookClient(
            notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
    return {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}


def printed(cell: list[Any]) -> str:
    return "".join(output.text for output in cell if output.output_type == "stream")


def test_only_the_last_cell_fails_and_names_the_setting(outputs: dict[str, list[Any]]) -> None:
    errors = {name: [one for one in cell if one.output_type == "error"] for name, cell in outputs.items()}
    assert [name for name, found in errors.items() if found] == ["error"], errors
    assert errors["error"][0].evalue == "fit: epoch is no setting; did you mean epochs?"


@pytest.mark.parametrize(
    ("name", "pictures", "text"),
    [
        ("fit", 5, "xmixup on photos/ with test_resnet: test "),
        ("select", 1, "Selection by prediction: 3 target classes, "),
        ("evaluate", 1, "Evaluation of "),
        ("predict", 12, "15 predictions"),
    ],
)
def test_a_result_below_its_cell_has_text_and_pictures(
    outputs: dict[str, list[Any]], name: str, pictures: int, text: str
) -> None:
    (result,) = (output.data for output in outputs[name] if output.output_type == "execute_result")
    assert result["text/plain"].startswith(text) and result["text/plain"].count("\n") <= 13
    assert result["text/html"].count("<img ") == pictures


def test_lines_are_as_the_commands_print_them_and_bars_leave_nothing(outputs: dict[str, list[Any]]) -> None:
    for name, cell in outputs.items():
        lines = printed(cell).splitlines()
        assert len(lines) <= 30, name
        assert not re.search(r"[\r\x1b\x08]|it/s|\d%\|", printed(cell)), name
        assert all(output.name == "stdout" for output in cell if output.output_type == "stream"), (name, printed(cell))
    assert len(re.findall(r"^epoch +\d+ +step", printed(outputs["fit"]), re.M)) == 2


def test_the_readmes_loop_runs_from_the_same_folders(outputs: dict[str, list[Any]]) -> None:
    assert len(re.findall(r"^epoch \d: loss \d+\.\d+$", printed(outputs["loop"]), re.M)) == 2
    (result,) = (output.data["text/plain"] for output in outputs["pool"] if output.output_type == "execute_result")
    assert result.startswith("ImagePool(15 images, 3 classes, ")
