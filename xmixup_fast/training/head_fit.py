"""The target head by logistic regression on the features of unmixed training images, which the backbone makes as it is.

Before the first step of fine-tuning with the setting ``head_init`` probe (Kumar et al. 2022, arXiv 2202.10054), after
the last one with ``refit_head``, and in place of steps with the method linear-probe. The features are computed once.
The strength of the L2 penalty is chosen by cross-validation inside the training images.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.center_crops import center_crop_batches
from ..models.classifiers import check_linear, output_layers
from ..models.network import Network
from ..runtime import distributed
from ..runtime.progress import progress
from ..selection.statistics import all_features
from ..settings.fields import Settings
from .trainer import Trainer

Array = NDArray[np.float64]

FOLDS = 5
"""Parts of the training images for cross-validation; fewer where no class has so many images."""
STRENGTHS = tuple(10.0**power for power in range(-1, 5))
"""What the sum of losses is multiplied by, against half the squared norm of the weights. Features are scaled so that
their mean squared distance from their mean is 1."""
WAIT = 2
"""Strengths in a row that are no better than one before, after which larger ones, whose fits take longest, are left."""
WITHOUT_VALIDATION = 10.0
"""The strength where there is nothing to validate on, as no two classes have two images."""
ITERATIONS = 1000
"""The most iterations of L-BFGS."""


class HeadFit(NamedTuple):
    """A target head of K classes for D features."""

    weight: Tensor
    """float32[K, D]"""
    bias: Tensor | None
    """float32[K]; None for a head without one."""
    strength: float
    """The one of STRENGTHS that was chosen."""
    folds: int
    """Of how many parts the cross-validation was; 0 where there was none."""
    loss: float
    """Mean cross entropy of the training images."""
    seconds: float = 0.0
    """How long the fit took, features included."""


def check(settings: Settings, network: Network) -> None:
    """Raises ValueError where the settings ask for a fit that the network's classifier cannot take over."""
    for what, asked in (("head_init: probe", settings.head_init == "probe"), ("refit_head", settings.refit_head)):
        if asked:
            check_linear(what, network.body, network.model_name)


def fits(settings: Settings, takes_steps: bool) -> int:
    """How many times a run fits its head; ``takes_steps`` is that of its method."""
    return (settings.head_init == "probe" or not takes_steps) + settings.refit_head


def fit_head(trainer: Trainer, log: Callable[[str], object], *, final: bool = False) -> HeadFit:
    """Fits the target head of the trainer's network and puts it in; with ``final``, that of the final network alone.

    One process fits, and all take the result over. Images count as often as the sampler shows them, times the weight of
    their class.

    Raises ValueError for features that are not finite.
    """
    started = time.perf_counter()
    network = trainer.final_network if final else trainer.network
    fitted = distributed.broadcast_object(_fit(trainer, network) if distributed.rank() == 0 else None)
    assert fitted is not None
    for each in {id(one): one for one in (network, trainer.final_network)}.values():
        _put(fitted, each)
    fitted = fitted._replace(seconds=time.perf_counter() - started)
    chosen = f"by {fitted.folds}-fold cross-validation"
    if not fitted.folds:
        chosen = "without cross-validation, as no two classes have two images"
    title = "head fitted anew" if final else "head fitted to pretrained features"
    log(f"{title}: strength {fitted.strength:g} {chosen}, training loss {fitted.loss:.3f}, {fitted.seconds:.1f} s")
    return fitted


def _fit(trainer: Trainer, network: Network) -> HeadFit:
    form = network.image_format(trainer.form.size)
    crops = center_crop_batches(trainer.images, form, trainer.batch_size)
    crops = progress(crops, len(trainer.images), "features of training images", count=lambda batch: len(batch[1]))
    features, labels = all_features(network, crops)
    if not features.isfinite().all():
        raise ValueError("lr: the network's features are no longer finite; try a smaller learning rate, other weights")
    (layer,) = output_layers(network.body)
    weights = _image_weights(trainer).numpy()
    return logistic_regression(
        features.double().numpy(), labels.numpy(), weights, seed=trainer.seed, with_bias=layer.bias is not None
    )


def _image_weights(trainer: Trainer) -> Tensor:
    """How much each training image counts, float64[n], 1 on average: as in the mean of an epoch's losses."""
    sampler, class_weights = trainer.sampler, trainer.method.class_weights
    labels, weight = sampler.labels.cpu(), sampler.weight.cpu().double()
    if sampler.balanced is not None:
        weight /= torch.bincount(labels, weight)[labels]
    if class_weights is not None:
        weight *= class_weights.cpu()[labels]
    return weight / weight.mean()


@torch.no_grad()
def _put(fitted: HeadFit, network: Network) -> None:
    """Writes a head to where the network's own is, so that optimizer and CUDA graphs still have it."""
    (layer,) = output_layers(network.body)
    layer.weight.copy_(fitted.weight.view_as(layer.weight))
    if layer.bias is not None and fitted.bias is not None:
        layer.bias.copy_(fitted.bias)


def logistic_regression(
    features: Array, labels: NDArray[np.int64], weights: Array, *, seed: int, with_bias: bool = True
) -> HeadFit:
    """Multinomial logistic regression with an L2 penalty, by scikit-learn, in one thread.

    Products of such matrices take a tenth of the time in one thread where others are busy, and give the same bits on
    machines with more or fewer of them.

    Args:
        features: float64[n, D].
        labels: int64[n], 0 to K - 1, each at least once, K at least 2.
        weights: float64[n], how much each image counts.
        seed: decides the folds of cross-validation.
        with_bias: whether the head has a bias, which is not penalised.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return _logistic_regression(features, labels, weights, seed, with_bias)


def _logistic_regression(
    features: Array, labels: NDArray[np.int64], weights: Array, seed: int, with_bias: bool
) -> HeadFit:
    center = np.average(features, axis=0, weights=weights) if with_bias else np.zeros(features.shape[1])
    points = features - center
    size = float(np.sqrt(np.square(points).sum(1).mean())) or 1.0
    points /= size
    # The penalty does not change when features are rotated, and n points span no more than n dimensions.
    rotation = None
    if len(points) < points.shape[1]:
        rotation, upper = np.linalg.qr(points.T)
        points = np.ascontiguousarray(upper.T)
    strength, folds = _strength(points, labels, weights, seed, with_bias)
    model = _model(with_bias)
    model.set_params(C=strength).fit(points, labels, sample_weight=weights)
    loss = float(np.average(_losses(model, points, labels), weights=weights))
    rows, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(rows) == 1:  # of two classes scikit-learn gives the difference
        rows, bias = np.concatenate([-rows, rows]) / 2, np.concatenate([-bias, bias]) / 2
    if rotation is not None:
        rows = rows @ rotation.T
    rows = rows / size
    bias = bias - rows @ center
    as_tensors = [torch.from_numpy(np.ascontiguousarray(each)).float() for each in (rows, bias)]
    return HeadFit(as_tensors[0], as_tensors[1] if with_bias else None, strength, folds, loss)


def _model(with_bias: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(fit_intercept=with_bias, max_iter=ITERATIONS, warm_start=True)


def _strength(
    points: Array, labels: NDArray[np.int64], weights: Array, seed: int, with_bias: bool
) -> tuple[float, int]:
    """The strength with the lowest loss on images that were held out, and the number of folds, which may be 0.

    A class with a single image is left out: it is not known where this image is held out.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(labels)
    usable = counts[labels] > 1
    points, labels, weights = points[usable], labels[usable], weights[usable]
    if len(np.unique(labels)) < 2:
        return WITHOUT_VALIDATION, 0
    folds = StratifiedKFold(min(FOLDS, int(counts.max())), shuffle=True, random_state=seed % 2**32)
    losses: list[float] = []
    with warnings.catch_warnings():
        # A class with fewer images than folds is held out in some of them, and what has not converged is judged, too.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        parts = [(_model(with_bias), fitted, held) for fitted, held in folds.split(points, labels)]
        for strength in STRENGTHS:  # each fit begins where that of the strength before has ended
            losses.append(0.0)
            for model, fitted, held in parts:
                model.set_params(C=strength).fit(points[fitted], labels[fitted], sample_weight=weights[fitted])
                losses[-1] += float((weights[held] * _losses(model, points[held], labels[held])).sum())
            if len(losses) > WAIT and min(losses[-WAIT:]) >= min(losses[:-WAIT]):
                break
    return STRENGTHS[int(np.argmin(losses))], len(parts)


def _losses(model: Any, points: Array, labels: NDArray[np.int64]) -> Array:
    """The cross entropy of each point."""
    from scipy.special import log_softmax

    scores = model.decision_function(points)
    if scores.ndim == 1:
        scores = np.stack([-scores, scores], axis=1) / 2
    chances: Array = log_softmax(scores, axis=1)
    return -chances[np.arange(len(labels)), np.searchsorted(model.classes_, labels)]
