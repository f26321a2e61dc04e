"""How heads start, statistics that are renewed at the end, and how much of the source a network still knows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made import SOURCE, write_folder
from small_runs import arguments, run
from torch import Tensor
from transfer import Case

from xmixup_fast.data.center_crops import center_crop_batches
from xmixup_fast.models.build import build
from xmixup_fast.models.network import Network
from xmixup_fast.ops.image_format import OutputBuffers
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.optimizer import parameter_groups
from xmixup_fast.training.prepare import TrainingSetup, prepare
from xmixup_fast.training.resolve import resolved
from xmixup_fast.training.trainer import Trainer

CLASSES = sorted(SOURCE)


def prepared(data: Path, tmp_path: Path, method: str, **settings: Any) -> TrainingSetup:
    return prepare(resolved(Settings(**arguments(data, tmp_path / "run", method, **settings))), print)


def pretrained(data: Path) -> Network:
    """The network of the fixture's weights, with its classifier as the source head."""
    return build("test_resnet", str(data / "weights.safetensors"), ["x", "y"], source_classes=CLASSES).eval()


def training_images(setup: TrainingSetup) -> tuple[Tensor, Tensor]:
    """All training images as one batch of centre crops, with their labels."""
    form = setup.parts.network.image_format(32)
    ((images, labels),) = center_crop_batches(setup.images.train, form, len(setup.images.train))
    return images, labels


def rate_of(setup: TrainingSetup) -> float:
    """The learning rate of the source head, in multiples of that of pretrained weights."""
    network = setup.parts.network
    assert network.source_head is not None
    groups = parameter_groups(network, setup.images.settings, 0.0)
    (rate,) = (g["lr_scale"] for g in groups if any(p is network.source_head.weight for p in g["params"]))
    return float(rate)


@pytest.mark.parametrize("method", ["finetune", "xmixup", "cutmix"])
def test_the_target_head_starts_from_the_classifiers_rows_by_its_predictions(
    data: Path, tmp_path: Path, method: str
) -> None:
    setup = prepared(data, tmp_path, method, head_init="source")
    network, known = setup.parts.network, pretrained(data)
    images, labels = training_images(setup)
    assert known.source_head is not None
    with torch.no_grad():
        probabilities = known.source_logits(known.features(images)).softmax(1)
    for label, row in enumerate(network.body.get_classifier().weight):
        weights = probabilities[labels == label].mean(0)
        torch.testing.assert_close(row, weights @ known.source_head.weight, atol=1e-6, rtol=1e-4)
        bias = network.body.get_classifier().bias[label]
        torch.testing.assert_close(bias, weights @ known.source_head.bias, atol=1e-6, rtol=1e-4)
    assert len(parameter_groups(network, setup.images.settings, 0.0)) == 2  # its learning rate is a new head's


def test_rows_of_classes_that_are_known_stay(data: Path, tmp_path: Path) -> None:
    target = write_folder(tmp_path / "target", {name: SOURCE[name] for name in ("rose", "sky")} | {"x": (9, 9, 9)}, 10)
    heads = [
        prepared(data, tmp_path, "finetune", target=str(target), head_init=start).parts.network.body.get_classifier()
        for start in ("fresh", "source")
    ]
    assert torch.equal(heads[0].weight[:2], heads[1].weight[:2]) and not torch.equal(heads[0].weight, heads[1].weight)


def test_a_fresh_source_head_is_new_after_the_selection(data: Path, tmp_path: Path) -> None:
    plain, fresh = (prepared(data, tmp_path, "xmixup", source_head=start) for start in ("classifier", "fresh"))
    assert plain.report == fresh.report  # the classifier has chosen
    heads = [setup.parts.network.source_head for setup in (plain, fresh)]
    assert heads[0] is not None and heads[1] is not None
    assert torch.equal(heads[0].weight, pretrained(data).source_head.weight)  # type: ignore[union-attr]
    assert not torch.isclose(heads[0].weight, heads[1].weight).any()
    assert [rate_of(setup) for setup in (plain, fresh)] == [1.0, 10.0]
    again = prepared(data, tmp_path, "xmixup", source_head="fresh").parts.network.source_head
    other = prepared(data, tmp_path, "xmixup", source_head="fresh", seed=1).parts.network.source_head
    assert again is not None and other is not None
    assert torch.equal(again.weight, heads[1].weight) and not torch.equal(other.weight, heads[1].weight)


@pytest.mark.parametrize("settings", [{}, {"regularizer": "l2sp"}])
def test_a_frozen_source_head_stays(data: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    start = pretrained(data).source_head
    trained = {
        kind: run(data, tmp_path / kind, "cotrain", source_head=kind, **settings).network.source_head
        for kind in ("classifier", "frozen")
    }
    assert start is not None
    assert torch.equal(trained["frozen"].weight, start.weight) and torch.equal(trained["frozen"].bias, start.bias)
    assert not torch.equal(trained["classifier"].weight, start.weight)


def test_statistics_are_those_of_all_training_images_in_mixed_batches(data: Path, tmp_path: Path) -> None:
    setup = prepared(data, tmp_path, "finetune", batch_size=6)  # 18 images, class by class
    trainer = Trainer(setup.parts, setup.images.settings)
    network = trainer.network
    layer = next(module for module in network.body.modules() if isinstance(module, torch.nn.BatchNorm2d))
    given: list[Tensor] = []
    seen: list[Tensor] = []
    weights = {name: parameter.clone() for name, parameter in network.named_parameters()}
    with (
        network.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].clone())),
        layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone())),
    ):
        trainer.renew_statistics()
    assert [len(batch) for batch in seen] == [6, 6, 6] and network.training and layer.momentum == 0.1
    everything = torch.cat(seen)
    torch.testing.assert_close(layer.running_mean, everything.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
    images, labels = training_images(setup)
    classes = [
        {int(label) for one in batch for image, label in zip(images, labels, strict=True) if torch.equal(one, image)}
        for batch in given
    ]
    assert all(len(found) > 1 for found in classes)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in network.named_parameters())


def test_a_run_validates_and_keeps_what_it_has_renewed(data: Path, tmp_path: Path) -> None:
    plain, renewed = (
        run(data, tmp_path / str(on), "xmixup", keep="last", renew_batch_norm=on).network.state_dict()
        for on in (False, True)
    )
    changed = {name.rpartition(".")[2] for name in plain if not torch.equal(plain[name], renewed[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.fixture(scope="module")
def split_source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture's source, with test images of other noise."""
    folder = tmp_path_factory.mktemp("split")
    shutil.copytree(data / "source", folder / "train")
    write_folder(folder / "test", SOURCE, 3, seed=5)
    return folder


@pytest.mark.parametrize("method", ["finetune", "xmixup", "cotuning"])
def test_source_accuracy_is_that_of_held_out_images_before_and_after(
    data: Path, tmp_path: Path, split_source: Path, method: str
) -> None:
    settings = {"source": str(split_source), "source_accuracy": True}
    setup = prepared(data, tmp_path, method, **settings)
    assert setup.source_accuracy is not None
    images = setup.source_accuracy.images
    assert len(images) == 12
    ((crops, labels),) = center_crop_batches(images, setup.parts.network.image_format(32), 12)

    def accuracy(network: Network, head: torch.nn.Module) -> float:
        with torch.no_grad():
            return 100 * float((head(network.eval().features(crops)).argmax(1) == labels).double().mean())

    known = pretrained(data)
    assert known.source_head is not None
    result = run(data, tmp_path / "trained", method, lr=0.05, **settings)
    head = result.network.source_head or known.source_head
    summary = result.summary
    assert summary["source_accuracy_before"] == pytest.approx(accuracy(known, known.source_head), abs=1e-3)
    assert summary["source_accuracy"] == pytest.approx(accuracy(result.network, head), abs=1e-3)
    assert "source_accuracy" not in run(data, tmp_path / "plain", method, source=str(split_source)).summary


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("finetune", {"weights": "none", "head_init": "source"}, "head_init: source: needs a pretrained classifier of one"),
    ("finetune", {"model": "test_efficientnet", "weights": "none", "head_init": "source"}, "head_init: source: needs"),
    (
        "cotrain",
        {"weights": "none", "selection": "random", "source_head": "frozen"},
        "source_head: frozen: needs a",
    ),
    (
        "finetune",
        {"source": None, "source_accuracy": True},
        "source_accuracy: expected a source to measure on, got",
    ),
    ("finetune", {"source_accuracy": True}, "source_accuracy: .*: expected a source with test or val images"),
    ("finetune", {"renew_batch_norm": True, "freeze": "backbone"}, "freeze: expected nothing with renew_batch_norm"),
    ("finetune", {"renew_batch_norm": True, "patience": 2}, "patience: expected nothing with renew_batch_norm, got 2"),
    ("finetune", {"renew_batch_norm": True, "ema_decay": 0.9}, "ema_decay: expected nothing with renew_batch_norm"),
    (
        "finetune",
        {"model": "test_vit", "weights": "none", "image_size": 160, "renew_batch_norm": True},
        "renew_batch_norm: expected a network with batch normalisation, and test_vit has none",
    ),
    ("xmixup", {"lam": 1.5}, "lam: expected a number from 0 to 1, got 1.5"),
]


@pytest.mark.parametrize(("method", "settings", "message"), REFUSED)
def test_what_cannot_be_is_said(
    data: Path, tmp_path: Path, method: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(data, tmp_path, method, **settings)


def test_a_classifier_that_lacks_a_source_class_is_not_frozen(data: Path, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", SOURCE | {"mud": (90, 60, 30)}, 4)
    with pytest.raises(ValueError, match=r"source_head: frozen: .* it knows 4 of 5"):
        prepared(data, tmp_path, "xmixup", source=str(source), source_head="frozen")


@pytest.mark.parametrize("name", ["mixup", "xmixup"])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_a_fixed_lam_is_the_weight_of_every_target_image(name: str, lam: float) -> None:
    case = Case(lam=lam)
    for step in range(3):
        assert torch.equal(case.plan(name, step).lam, torch.full((6,), lam))
    assert set(Case(lam=lam, mix_probability=0.5).plan(name, 0).lam.tolist()) <= {torch.tensor(lam).item(), 1.0}


@pytest.mark.parametrize("settings", [{}, {"alpha": 1.0, "fold": False}, {"lam": 0.5}, {"lam": 1.0}])
def test_contrast_is_kept_as_the_formula_says(settings: dict[str, Any]) -> None:
    plain, kept = Case(**settings), Case(**settings, keep_contrast=True)
    for name in ("mixup", "xmixup", "xcutmix", "finetune", "cotrain"):
        plan = plain.plan(name, 1)
        (before, *rest), (after, *others) = (
            [images.clone() for images in case.method(name).images(plan, case.pools, case.form, OutputBuffers())]
            for case in (plain, kept)
        )
        lam = plan.lam.double()
        factor = 1 / (lam**2 + (1 - lam) ** 2).sqrt() if name in ("mixup", "xmixup") else torch.ones(6).double()
        torch.testing.assert_close(after.double(), before.double() * factor.view(-1, 1, 1, 1), atol=1e-6, rtol=1e-6)
        assert torch.equal(after[lam == 1], before[lam == 1])
        assert all(torch.equal(a, b) for a, b in zip(rest, others, strict=True))
