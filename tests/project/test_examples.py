"""The examples of docs/examples, with the real libraries: what reaches network and loss is what the reference mixes."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

import xmixup_fast.ops.xmixup
from xmixup_fast import ImagePool
from xmixup_fast.integrations import huggingface
from xmixup_fast.ops import reference

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
TWO_HEADS = ["plain_loop", "lightning_module", "huggingface_trainer", "feature_mixing"]
SOFT_LABELS = ["timm_loop", "torchvision_collate"]
STEPS, BATCH, TARGET_CLASSES, SOURCE_CLASSES = 18, 16, 3, 5


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield
    for name in (*TWO_HEADS, *SOFT_LABELS, "made_images"):
        sys.modules.pop(name, None)


class Recorder:
    """What an example draws and mixes, and what its network and its loss are given."""

    def __init__(self, example: ModuleType, patch: pytest.MonkeyPatch) -> None:
        self.draws: list[tuple[Any, ...]] = []
        self.mixes: list[tuple[Any, ...]] = []  # of a plan; or of windows alone, of which the first are target images
        self.inputs: list[Tensor] = []
        self.labels: list[tuple[Tensor, ...]] = []
        for name, calls in (("draw", self.draws), ("mix", self.mixes), ("mix_plan", self.mixes)):
            patch.setattr(xmixup_fast.ops.xmixup, name, recorded(getattr(xmixup_fast.ops.xmixup, name), calls))
        for module in (example, huggingface):
            if hasattr(module, "dual_head_cross_entropy"):
                patch.setattr(module, "dual_head_cross_entropy", self.loss(module.dual_head_cross_entropy))

    def pools(self) -> list[ImagePool]:
        """The target images of each draw."""
        per_draw = len(self.mixes) // len(self.draws)
        return [args[0] for args, _, _ in self.mixes[::per_draw]]

    def loss(self, call: Any) -> Any:
        def run(target_logits: Tensor, source_logits: Tensor, *labels: Tensor) -> Tensor:
            assert target_logits.shape == (BATCH, TARGET_CLASSES) and source_logits.shape == (BATCH, SOURCE_CLASSES)
            self.labels.append(labels)
            return call(target_logits, source_logits, *labels)

        return run

    def look(self, _module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        """Before any module's forward: images are what the first one is given, soft labels what the loss is given."""
        if not inputs or not isinstance(inputs[0], Tensor):
            return
        if inputs[0].is_floating_point() and inputs[0].shape[1:2] == (3,):
            if not self.inputs or inputs[0] is not self.inputs[-1]:
                self.inputs.append(inputs[0])
        elif len(inputs) == 2:
            self.labels.append(inputs[1:])


def recorded(call: Any, calls: list[tuple[Any, ...]]) -> Any:
    def run(*args: Any, **settings: Any) -> Any:
        calls.append((args, settings, call(*args, **settings)))
        return calls[-1][2]

    return run


@pytest.mark.parametrize("name", TWO_HEADS + SOFT_LABELS)
def test_example_trains_on_what_the_reference_mixes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    example = importlib.import_module(name)
    recorder = Recorder(example, monkeypatch)
    hook = register_module_forward_pre_hook(recorder.look)
    try:
        losses = example.main(STEPS)
    finally:
        hook.remove()
    assert len(losses) == STEPS and sum(losses[-4:]) < 0.9 * sum(losses[:4])

    aux = example.auxiliary()
    assert len(recorder.draws) == len(recorder.labels) == STEPS
    expected_inputs = []
    for (args, settings, drawn), pool, labels in zip(recorder.draws, recorder.pools(), recorder.labels, strict=True):
        expected = reference.draw(*args, **settings)
        assert all(map(torch.equal, drawn, expected))
        inside = name == "feature_mixing"  # of the network, where features are blended
        lam, source = expected.lam, aux.labels[expected.aux_crops.index]
        if name in TWO_HEADS:
            assert all(map(torch.equal, labels, (settings["label"], source, lam)))
        else:
            target, source = (F.one_hot(k, TARGET_CLASSES + SOURCE_CLASSES) for k in (settings["label"], source + 3))
            weight = lam[:, None]
            assert torch.equal(labels[0], weight * target + (1 - weight) * source)
        for weight in (torch.ones(BATCH), torch.zeros(BATCH)) if inside else (lam,):
            images = (pool, expected.target_crops, aux, expected.aux_crops, weight)
            expected_inputs.append(reference.mix(*images, size=example.SIZE, **example.NORMALISE))
    torch.testing.assert_close(torch.cat(recorder.inputs), torch.cat(expected_inputs), rtol=0, atol=4e-6)


def test_feature_mixing_blends_the_maps_of_both_images_with_lam(monkeypatch: pytest.MonkeyPatch) -> None:
    example = importlib.import_module("feature_mixing")
    network = example.timm.create_model("test_resnet", num_classes=0)
    monkeypatch.setattr(example.timm, "create_model", lambda *_, **__: network)
    recorder = Recorder(example, monkeypatch)
    before: list[Tensor] = []
    after: list[Tensor] = []
    network.layer1.register_forward_hook(lambda _, __, maps: before.append(maps.detach().clone()))
    network.layer2.register_forward_pre_hook(lambda _, inputs: after.append(inputs[0].detach().clone()))
    example.main(2)
    assert len(before) >= 2
    for maps, mixed, (*_, lam) in zip(before, after, recorder.labels, strict=True):
        target, aux = maps.chunk(2)
        expected = torch.stack([w * t + (1 - w) * a for w, t, a in zip(lam.tolist(), target, aux, strict=True)])
        torch.testing.assert_close(mixed, expected)
        assert not torch.allclose(target, aux) and not torch.allclose(mixed, target)


def test_draws_differ_between_the_loaders_workers() -> None:
    example = importlib.import_module("torchvision_collate")
    torch.manual_seed(0)
    batches = [soft for _, soft in example.make_loader(workers=2)]
    assert len({tuple(soft.max(1).values.tolist()) for soft in batches}) == len(batches) == 6


def test_evaluation_of_the_hugging_face_trainer_does_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = importlib.import_module("huggingface_trainer")
    recorder = Recorder(example, monkeypatch)
    trainer = example.make_trainer(str(tmp_path), 1)
    images = torch.randn(4, 3, 32, 32)
    metrics = trainer.evaluate(torch.utils.data.StackDataset(pixel_values=images, labels=torch.tensor([0, 1, 2, 0])))
    assert metrics["eval_loss"] > 0 and not recorder.draws


def test_the_table_counts_the_lines_that_change() -> None:
    rows = dict(re.findall(r"\[`(\w+)\.py`\].*\| (\d+) \|$", (FOLDER / "README.md").read_text(), re.M))
    assert set(rows) == {path.stem for path in FOLDER.glob("*.py")} - {"made_images"}
    for name, count in rows.items():
        _, code = (FOLDER / f"{name}.py").read_text().split("from __future__", 1)
        assert code.count("# XMixup") == int(count), name
