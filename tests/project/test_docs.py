"""The documentation's code blocks are run, each page's in order, and the errors that it quotes are those of the code.

Shell blocks call the commands' own main functions. Photos are small and made, and networks are replaced by a small one,
as their weights would have to be downloaded; all else is as on the page. A block that is not run has an HTML comment
before it: "not run: " and why.
"""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from hub_server import HubServer, write_tiny_imagenet
from made import write_folder
from PIL import Image

from xmixup_fast.__main__ import main
from xmixup_fast.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(ROOT)): path for path in (*ROOT.glob("*.md"), *sorted(DOCS.rglob("*.md")))}
NOT_RUN = {
    "CONTRIBUTING.md": 2,
    "README.md": 1,
    "docs/cuda.md": 1,
    "docs/faq.md": 1,
    "docs/index.md": 2,
    "docs/performance.md": 2,
    "docs/scaling.md": 1,
}
"""How many blocks of each page are not run."""
FENCE = re.compile(r"^(?:<!-- not run: (.+) -->\n)?```(\w*)(?: title=\"(.+)\")?\n([\s\S]*?)^```$", re.M)
PHOTOS = {"daisy": (230, 230, 220), "rose": (200, 30, 50), "tulip": (240, 170, 40)}
SOURCE = {"n01440764": (120, 130, 90), "n02099601": (200, 150, 80), "n07745940": (210, 40, 50)}
"""Some of ImageNet's classes."""
OPERATOR = """
#include <optional>
#include <string>
#include "csrc/brightness.cpp"
#include "{root}/csrc/checks.cpp"
#include "csrc/{kernel}"
#include "schema.h"
XMIXUP_DEFINE_LIBRARY(XMIXUP_LIBRARY, m) {{ {schema} }}
"""


def blocks(page: str, *languages: str) -> Iterator[tuple[str, str, str]]:
    """Language, title and text of the blocks that are run."""
    for why, language, title, code in FENCE.findall(PAGES[page].read_text(encoding="utf-8")):
        if language in languages and not why:
            yield language, title, code


NEEDS_HUB = "xmixup train photos/ --yes"
"""The line of pages that have to be run with a hub."""
WITH_HUB = "XMIXUP_TEST_WITH_HUB"
"""Environment variable of tests that are run with a hub on the loopback address."""
RUN = [page for page in PAGES if any(blocks(page, "python", "sh"))]


def small_network(name: str, pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        config = json.loads((folder / "config.json").read_text())
        kwargs |= {"num_classes": config["num_classes"], "checkpoint_path": folder / "model.safetensors"}
        kwargs["pretrained_cfg_overlay"] = config["pretrained_cfg"]
    return _create_model("test_resnet", channels=(4, 8, 16, 32), stem_width=4, **kwargs)


def small_torchvision_network(weights: str) -> torch.nn.Module:
    layers = torch.nn.Conv2d(3, 4, 7, stride=8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    network = torch.nn.Sequential(*layers)
    network.fc = torch.nn.Linear(4, 1000)
    return network


_create_model = timm.create_model


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a reader is in: photos and some of ImageNet."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", PHOTOS, 5)
    write_folder(tmp_path / "imagenet" / "train", SOURCE, 2)
    write_folder(tmp_path / "places", {"beach": SOURCE["n02099601"], "forest": SOURCE["n01440764"]}, 2)
    write_folder(tmp_path, {"new-photos": PHOTOS["rose"]}, 2)
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as image:
            image.save(path.with_name(f"{int(path.stem) + 1:04d}.jpg"))
        path.unlink()
    monkeypatch.setattr(timm, "create_model", small_network)
    monkeypatch.setattr(torchvision.models, "resnet50", small_torchvision_network)
    methods = dict(METHODS)
    yield tmp_path
    METHODS.clear()  # of the one that docs/extending.md adds
    METHODS.update(methods)


def run_shell(code: str) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"] and words[2].startswith("xmixup_fast."):
            words[:3] = ["xmixup", words[2].removeprefix("xmixup_fast.")]
        assert words[0] == "xmixup", f"mark it as not run: {line}"
        if words[1] == "compare":
            words.append("--table")  # makes the table alone; tests/comparison/test_compare.py trains
        assert main(words[1:]) == 0, line


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_imagenet(tmp_path_factory.mktemp("hub"), count=4, side=32)


@pytest.mark.parametrize("page", [page for page in RUN if NEEDS_HUB in PAGES[page].read_text()])
def test_every_block_runs_with_a_hub(page: str, tmp_path: Path, tiny_imagenet: Path) -> None:
    """In a process of its own, as the Hub's library reads its address when it is imported."""
    test = f"{Path(__file__)}::{test_every_block_runs.__name__}[{page}]"
    with HubServer({"zh-plus/tiny-imagenet": tiny_imagenet}) as hub:
        own = {**hub.env(tmp_path / "hf"), "XMIXUP_CACHE": str(tmp_path / "cache"), WITH_HUB: "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0 and " skipped" not in done.stdout, done.stdout
    assert hub.count("/cdn/datasets/")


@pytest.mark.parametrize("page", RUN)
def test_every_block_runs(page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if NEEDS_HUB in PAGES[page].read_text() and WITH_HUB not in os.environ:
        pytest.skip("needs a hub: the test with one runs it")
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "docs"}
    for language, _, code in blocks(page, "python", "sh"):
        if language == "sh":
            run_shell(code)
        else:
            exec(compile(code, page, "exec", dont_inherit=True), names)
    printed = capsys.readouterr().out
    if page == "README.md":
        assert code.count("\n") - code.count("\n\n") <= 30, "the loop, which is short"
        losses = [float(loss) for loss in re.findall(r"^epoch \d: loss (\S+)$", printed, re.M)]
        assert len(losses) == 10 and losses[-1] < losses[0]
    if page == "docs/tutorial.md":
        with (place / "predictions.csv").open() as file:
            rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
        found = [float(text) for text in re.findall(rf"^{names['best']}: (\S+)$", printed, re.M)]
        assert found == pytest.approx([float(rows["0001.jpg"]["probability"])] * 2, abs=0.02), (
            "timm resizes with Pillow"
        )
    if page == "docs/faq.md":
        assert all(text in printed for text in quoted("xmixup_fast."))


def test_the_blocks_that_are_not_run_are_these() -> None:
    found = {page: sum(bool(why) for why, *_ in FENCE.findall(path.read_text())) for page, path in PAGES.items()}
    assert {page: count for page, count in found.items() if count} == NOT_RUN
    for page, path in PAGES.items():
        assert len(re.findall(r"^ *```", path.read_text(), re.M)) == 2 * len(FENCE.findall(path.read_text())), page


def test_every_method_has_its_section() -> None:
    assert sorted(re.findall(r"^### ([\w-]+)$", PAGES["docs/methods.md"].read_text(), re.M)) == sorted(METHODS)


# --- Errors ---


def quoted(start: str) -> list[str]:
    """The questions' messages that begin so."""
    texts = "".join(text for *_, text in blocks("docs/faq.md", "text"))
    return [line for line in texts.splitlines() if line.startswith(start)]


def pattern(node: ast.expr) -> str:
    """A regular expression for what a text in the code becomes; its groups are what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=values):
            return "".join(map(pattern, values))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return pattern(left) + pattern(right)
        case ast.IfExp(body=body, orelse=orelse):
            return f"(?:{pattern(body)}|{pattern(orelse)})"
    return "(.*)"


def fixed(code: re.Pattern[str], text: str) -> float:
    """Which part of a text is a pattern's own; 0 where they do not match."""
    match = code.fullmatch(text)
    return 1 - sum(map(len, filter(None, match.groups()))) / len(text) if match else 0


def test_quoted_errors_are_those_of_the_code() -> None:
    nodes = [node for path in (ROOT / "xmixup_fast").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    texts = {pattern(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)}
    known = [re.compile(text) for text in texts]
    messages = quoted("error: ") + quoted("ValueError: ") + quoted("ImportError: ")
    assert len(messages) > 20
    for message in messages:
        text = message.split(": ", 1)[1]
        assert max(fixed(code, text) for code in known) > 0.3, message


# --- The worked example of an operator ---


@pytest.fixture(scope="module", params=["cpu/brightness.cpp", "cuda/brightness.cu"])
def brightness(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The operator of docs/extending.md, of its CPU kernel and of its CUDA kernel on the CPU."""
    folder = tmp_path_factory.mktemp("operator")
    for _, title, code in blocks("docs/extending.md", "cpp"):
        (folder / title).parent.mkdir(parents=True, exist_ok=True)
        (folder / title).write_text(code)
    schema = (folder / "csrc" / "schema.cpp").read_text()
    library = f"xmixup_fast_docs_{request.param[:3]}"
    (folder / "all.cpp").write_text(OPERATOR.format(root=ROOT, kernel=request.param, schema=schema))
    torch_folder = Path(torch.__file__).parent
    subprocess.run(
        [
            *("c++", "-std=c++17", "-O0", "-fPIC", "-shared", "-o", folder / "all.so", folder / "all.cpp"),
            *("-DTORCH_TARGET_VERSION=0x020b000000000000", f"-DXMIXUP_LIBRARY={library}", f"-I{folder}"),
            *(f"-I{ROOT / 'csrc' / name}" for name in ("", "core", "cpu", "cuda")),
            *("-isystem", torch_folder / "include", torch_folder / "lib" / "libtorch_cpu.so"),
        ],
        check=True,
    )
    torch.ops.load_library(folder / "all.so")
    return getattr(torch.ops, library).brightness


def test_the_example_of_an_operator_equals_its_reference(brightness: Any) -> None:
    (definition,) = (code for *_, code in blocks("docs/extending.md", "python") if "def reference_brightness" in code)
    names: dict[str, Any] = {"torch": torch}
    exec(definition, names)
    images = torch.randint(256, (5, 7, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected, fake = names["reference_brightness"](images), names["fake_brightness"](images)
    result = brightness(images)
    assert torch.equal(result, expected) and fake.shape == result.shape and fake.dtype == result.dtype
    assert brightness(images[:0]).shape == (0,)
    with pytest.raises(RuntimeError, match=r"xmixup_fast.brightness: images: expected uint8\[any, any, any, 3\]"):
        brightness(images.float())
