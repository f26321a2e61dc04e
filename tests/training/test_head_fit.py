"""Target heads by logistic regression: against an optimum of the test's own, in runs, and where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interrupted_runs import STEPS, assert_same, interrupted
from interrupted_runs import run as longer_run
from small_runs import run, without_times
from torch import Tensor
from transfer import Case

import xmixup_fast
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import load_network
from xmixup_fast.training import head_fit
from xmixup_fast.training.head_fit import HeadFit, fit_head, logistic_regression
from xmixup_fast.training.trainer import Trainer


def points(n: int, width: int, classes: int, spread: float = 2.0, seed: int = 0) -> tuple[Any, Any]:
    """Features of overlapping classes, float64[n, width], far from zero and of unequal scale; and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    features = generator.normal(size=(n, width)) * np.linspace(0.1, 3, width) + 5
    return features + spread * generator.normal(size=(classes, width))[labels], labels


def optimum(features: Any, labels: Any, weights: Any, strength: float, with_bias: bool) -> Tensor:
    """Logits of all points by the head with the smallest penalised loss, in float64: by Newton's method of PyTorch."""
    x, y, w = torch.tensor(features), torch.tensor(labels), torch.tensor(weights)
    x = x - (w @ x / w.sum() if with_bias else 0)
    x = x / x.square().sum(1).mean().sqrt()
    classes = int(y.max()) + 1
    rows = 1 if classes == 2 else classes  # of two classes, the penalty is that of their difference
    parameters = torch.zeros(rows, x.shape[1] + 1, dtype=torch.float64, requires_grad=True)

    def logits() -> Tensor:
        out = x @ parameters[:, :-1].T + (parameters[:, -1] if with_bias else 0)
        return torch.cat([-out, out], 1) / 2 if rows == 1 else out

    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(logits(), y, reduction="none")
        loss = strength * (w * losses).sum() + parameters[:, :-1].square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits().detach()


def logits_of(fitted: HeadFit, features: Any) -> Tensor:
    bias = 0 if fitted.bias is None else fitted.bias.double()
    return torch.tensor(features) @ fitted.weight.double().T + bias


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("sizes", [(40, 6, 3), (12, 30, 3), (30, 4, 2), (9, 20, 2)])
def test_a_head_is_the_optimum(
    sizes: tuple[int, int, int], weighted: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more points than features and fewer, whose fit is rotated."""
    n, width, classes = sizes
    features, labels = points(n, width, classes)
    weights = np.linspace(0.2, 3, n) if weighted else np.ones(n)
    monkeypatch.setattr(head_fit, "STRENGTHS", (3.0,))
    fitted = logistic_regression(features, labels, weights, seed=0, with_bias=with_bias)
    assert fitted.weight.shape == (classes, width) and (fitted.bias is None) == (not with_bias)
    found, expected = logits_of(fitted, features), optimum(features, labels, weights, 3.0, with_bias)
    torch.testing.assert_close(found.log_softmax(1), expected.log_softmax(1), rtol=0, atol=2e-2)
    losses = F.cross_entropy(expected, torch.tensor(labels), reduction="none")
    assert fitted.loss == pytest.approx(float(np.average(losses, weights=weights)), rel=1e-2)


@pytest.mark.parametrize(("spread", "width"), [(0.0, 6), (0.3, 60), (4.0, 6)])
def test_the_strength_is_that_of_the_lowest_loss_on_images_held_out(spread: float, width: int) -> None:
    """Labels that mean nothing take the strongest penalty; classes that are apart take a weak one."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    features, labels = points(30, width, 3, spread=spread)
    fitted = logistic_regression(features, labels, np.ones(30), seed=7)
    scaled = features - features.mean(0)
    scaled /= np.sqrt(np.square(scaled).sum(1).mean())
    folds = StratifiedKFold(5, shuffle=True, random_state=7)
    losses = []
    with threadpool_limits(1):
        for strength in head_fit.STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=1000)
            chances = cross_val_predict(model, scaled, labels, cv=folds, method="predict_proba")
            losses.append(-np.log(chances[np.arange(30), labels]).sum())
    assert fitted.strength == head_fit.STRENGTHS[int(np.argmin(losses))] and fitted.folds == 5
    if spread == 0:
        assert fitted.strength == head_fit.STRENGTHS[0]
    if spread == 4:
        assert fitted.strength > head_fit.STRENGTHS[0]


FEW: dict[str, tuple[list[int], int]] = {
    "one image of each class": ([1, 1, 1], 0),
    "one class with two": ([1, 2, 1], 0),
    "two classes with two": ([1, 2, 2], 2),
    "a class with one, others with more": ([1, 3, 9], 5),
    "two classes, one image each": ([1, 1], 0),
    "three images at most": ([2, 3], 3),
}


@pytest.mark.parametrize("name", FEW)
@pytest.mark.filterwarnings("error")
def test_few_images_have_as_many_folds_as_they_allow(name: str) -> None:
    counts, folds = FEW[name]
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.eye(len(counts), 9)[labels] + 0.01 * np.random.default_rng(1).normal(size=(len(labels), 9))
    fitted = logistic_regression(features, labels, np.ones(len(labels)), seed=0)
    assert fitted.folds == folds and (folds or fitted.strength == head_fit.WITHOUT_VALIDATION)
    assert logits_of(fitted, features).argmax(1).tolist() == labels.tolist()


def test_features_that_are_all_equal_give_the_shares_of_the_classes() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2] * 3)
    fitted = logistic_regression(np.full((18, 4), 2.5), labels, np.ones(18), seed=0)
    chances = logits_of(fitted, np.full((1, 4), 2.5)).softmax(1)
    torch.testing.assert_close(chances, torch.tensor([[3, 2, 1]]).double() / 6, rtol=0, atol=0.02)


WEIGHTS: dict[str, tuple[dict[str, Any], list[int], Tensor | None]] = {
    "plain": ({}, [1] * 12, None),
    "repeated": ({}, [1, 2, 5] * 4, None),
    "balanced": ({"sampler": "balanced"}, [1, 2, 5] * 4, None),
    "classes": ({}, [1] * 12, torch.tensor([0.5, 1.0, 4.0])),
    "all": ({"sampler": "balanced"}, [1, 2, 3, 4] * 3, torch.tensor([0.5, 1.0, 4.0])),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_images_count_as_in_an_epoch(name: str) -> None:
    """As in the mean of the losses over all the steps of a run that shows each image equally often."""
    settings, repeated, class_weights = WEIGHTS[name]
    case = Case(steps=sum(repeated) * 3, batch_size=4, **settings)
    case.sampler = head_sampler(case, repeated)
    method = case.method("finetune")
    if class_weights is not None:
        method.weigh_classes(class_weights)
    found = head_fit._image_weights(Trainer(case.parts(method), case.settings))
    shown = torch.zeros(12, dtype=torch.float64)
    for step in range(case.settings.steps or 0):
        plan = case.sampler.plan(step)
        weight = torch.ones(4) if class_weights is None else class_weights[plan.label]
        shown.index_add_(0, plan.sample, weight.double())
    tolerance = 0.2 if "balanced" in settings.values() else 1e-9
    torch.testing.assert_close(found, shown / shown.mean(), rtol=tolerance, atol=0)
    assert found.mean() == pytest.approx(1)


def head_sampler(case: Case, repeated: list[int]) -> Any:
    from xmixup_fast.batches.sampler import Sampler

    return Sampler(case.target, case.index, case.settings, weights=repeated)


NETWORKS = {"test_resnet": 32, "test_vit": 160, "test_convnext": 32, "resnetv2_18d": 32}
"""The classifier of the last one is a convolution."""


@pytest.mark.parametrize("model", NETWORKS)
def test_a_fitted_head_is_the_networks_own(model: str) -> None:
    """Where it was, so that optimizer and graphs have it, and in the average of the weights, too."""
    case = Case(model, NETWORKS[model], ema_decay=0.9)
    trainer = case.trainer("finetune")
    before = {name: tensor.data_ptr() for name, tensor in case.network.named_parameters()}
    states = {name: tensor.clone() for name, tensor in case.network.state_dict().items()}
    lines: list[str] = []
    fitted = fit_head(trainer, lines.append)
    assert case.network.training and len(lines) == 1 and "strength" in lines[0]
    assert {name: tensor.data_ptr() for name, tensor in case.network.named_parameters()} == before
    changed = {name for name, tensor in case.network.state_dict().items() if not torch.equal(tensor, states[name])}
    assert len(changed) == 2 and not any("source" in name for name in changed)
    images, labels = next(case.batches(12))
    for network in (case.network.eval(), trainer.final_network.eval()):
        assert network is case.network or trainer.average is not None
        with torch.no_grad():
            expected = network.features(images) @ fitted.weight.T + fitted.bias
            torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
        assert F.cross_entropy(expected, labels).item() == pytest.approx(fitted.loss, rel=1e-3)


def test_the_final_head_alone_is_refitted_to_the_final_network() -> None:
    case = Case(ema_decay=0.5, lr=0.05, steps=4)
    trainer = case.trainer("finetune")
    for _ in range(4):
        trainer.step()
    head_now = case.network.body.fc.weight.clone()
    fitted = fit_head(trainer, print, final=True)
    assert torch.equal(case.network.body.fc.weight, head_now)
    assert torch.equal(trainer.final_network.body.fc.weight, fitted.weight)


def test_features_that_are_not_finite_are_named() -> None:
    trainer = Case().trainer("finetune")
    torch.nn.init.constant_(trainer.network.body.conv1[0].weight, float("nan"))
    with pytest.raises(ValueError, match="lr: the network's features are no longer finite; try a smaller learning"):
        fit_head(trainer, print)


ASKED: dict[str, dict[str, Any]] = {
    "method: linear-probe": {"method": "linear-probe"},
    "head_init: probe": {"method": "finetune", "head_init": "probe"},
    "refit_head": {"method": "finetune", "refit_head": True},
}


@pytest.mark.parametrize("what", ASKED)
def test_a_classifier_of_several_layers_is_refused_before_images_are_read(
    what: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmixup_fast.training.prepare.SplitImages", lambda *_: pytest.fail("read images"))
    settings = {"model": "repvit_m0_9", "weights": "none", **ASKED[what]}
    with pytest.raises(ValueError, match=f"{what} needs a classifier of one layer, and repvit_m0_9 ends in 2 heads; "):
        run(data, tmp_path / "run", **settings)


# --- Runs ---


def test_a_linear_probe_is_a_run_like_any(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", "linear-probe", report=True, batch_size=1, warmup_epochs=9, epochs=10)
    summary = result.summary
    assert (summary["steps"], summary["kept"]["step"], summary["num_train"]) == (0, 0, 18)
    assert summary["val_accuracy"] == summary["last_val_accuracy"] == summary["best_val_accuracy"]
    assert summary["train_seconds"] == pytest.approx(summary["seconds_per_step"], abs=1e-3)
    assert summary["train_seconds"] > 0
    assert {"report.html", "model.safetensors", "evaluation.json", "metrics.csv", "batch.png"} <= {
        path.name for path in result.folder.iterdir()
    }
    start = build("test_resnet", str(data / "weights.safetensors"), ["blue", "green", "red"])
    loaded, _ = load_network(result.folder)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, start.state_dict()[name]) == ("fc" not in name), name
    assert xmixup_fast.evaluate(result).accuracy == pytest.approx(summary["test_accuracy"], abs=1e-4)
    assert summary["test_accuracy"] > 50  # three colours
    again = run(data, tmp_path / "again", "linear-probe", batch_size=1)
    assert torch.equal(again.network.body.fc.weight, result.network.body.fc.weight)


def test_a_finished_linear_probe_is_not_fitted_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(data, tmp_path / "run", "linear-probe", resume="auto")
    with monkeypatch.context() as patch:
        patch.setattr(head_fit, "_fit", lambda *_: pytest.fail("fitted"))
        assert_same(first, run(data, tmp_path / "run", "linear-probe", resume="auto"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # killed while it fits
        patch.setattr(head_fit, "_strength", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(data, tmp_path / "killed", "linear-probe")
    assert_same(first, run(data, tmp_path / "killed", "linear-probe", resume="auto"))


def test_a_probed_head_starts_the_steps_and_a_refitted_one_ends_them(data: Path, tmp_path: Path) -> None:
    """At a rate of nearly zero both are the linear probe's."""
    settings = {"lr": 1e-12, "keep": "last", "no_norm_decay": True}
    for name, more in {"init": {"head_init": "probe"}, "refit": {"refit_head": True}}.items():
        result = run(data, tmp_path / name, "finetune", model="test_convnext", weights="none", **settings, **more)
        alone = run(data, tmp_path / f"{name}-alone", "linear-probe", model="test_convnext", weights="none")
        rows, expected = (one.network.body.get_classifier().weight for one in (result, alone))
        torch.testing.assert_close(rows, expected, rtol=1e-3, atol=1e-3)
        assert result.summary["val_accuracy"] == alone.summary["val_accuracy"]
        assert result.summary["test_accuracy"] == alone.summary["test_accuracy"]


def test_a_refitted_head_counts_in_the_accuracy_and_the_time(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any, **options: Any) -> HeadFit:
        return fit_head(*args, **options)._replace(seconds=1000.0)

    monkeypatch.setattr("xmixup_fast.training.run.fit_head", slow)
    plain, refitted = (
        run(data, tmp_path / f"refit-{refit}", "finetune", refit_head=refit, lr=1e-9) for refit in (False, True)
    )
    assert refitted.summary["best_val_accuracy"] == plain.summary["best_val_accuracy"]
    expected = refitted.summary["val_accuracy"]
    assert xmixup_fast.evaluate(refitted, split="val").accuracy == pytest.approx(expected, abs=1e-4)
    assert expected > plain.summary["val_accuracy"]
    assert plain.summary["train_seconds"] < 1000 < refitted.summary["train_seconds"]
    assert refitted.summary["seconds_per_step"] < 1000


def test_a_probed_head_begins_the_second_phase(data: Path, tmp_path: Path) -> None:
    """And is fitted again to the same bits by a run that was stopped right before."""
    settings: dict[str, Any] = {"method": "seqtrain", "head_init": "probe"}
    steps: list[int] = []
    original = fit_head

    def counted(trainer: Trainer, *args: Any, **options: Any) -> HeadFit:
        steps.append(trainer.steps_done)
        return original(trainer, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xmixup_fast.training.run.fit_head", counted)
        whole = longer_run(data, tmp_path / "whole", **settings)
        interrupted(data, tmp_path / "run", STEPS // 2, **settings)
        again = longer_run(data, tmp_path / "run", resume="auto", **settings)
    assert steps == [STEPS // 2] * 2
    assert_same(whole, again)
    assert without_times(whole.summary) == without_times(again.summary)
