"""Labels and weights of the loss, as people pass them: taken for what they say, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from samples import LossInputs
from torch import Tensor

from xmixup_fast import dual_head_cross_entropy

KINDS = [np.asarray, lambda t: np.asarray(t, np.uint16), Tensor.int, Tensor.byte, Tensor.short, Tensor.tolist]


@pytest.mark.parametrize("kind", [*KINDS, lambda t: t.to(torch.uint64), lambda t: np.asarray(t, np.uint64)])
def test_the_loss_takes_integers_of_any_kind_as_labels(device: torch.device, kind: Callable[[Tensor], Any]) -> None:
    inputs = LossInputs.make()
    labels = {name: kind(getattr(inputs, name)) for name in ("target_labels", "source_labels")}
    on_device = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in labels.items()}
    actual = replace(inputs.to(device), **on_device).call(dual_head_cross_entropy)
    assert torch.equal(actual, inputs.to(device).call(dual_head_cross_entropy))


@pytest.mark.parametrize("kind", [np.asarray, Tensor.tolist, list, lambda t: tuple(t.tolist())])
def test_the_loss_takes_arrays_and_lists_of_weights(device: torch.device, kind: Callable[[Tensor], Any]) -> None:
    inputs = LossInputs.make()
    actual = replace(inputs.to(device), lam=kind(inputs.lam)).call(dual_head_cross_entropy)
    torch.testing.assert_close(actual, inputs.to(device).call(dual_head_cross_entropy))


@pytest.mark.parametrize("name", ["target_labels", "source_labels", "lam"])
@pytest.mark.parametrize("spoil", [lambda t: ["cat"] * len(t), lambda t: np.asarray(t, np.float16), lambda t: None])
def test_the_loss_names_what_are_no_labels_or_weights(name: str, spoil: Callable[[Tensor], Any]) -> None:
    inputs = LossInputs.make()
    with pytest.raises((RuntimeError, TypeError, ValueError), match=name):
        replace(inputs, **{name: spoil(getattr(inputs, name))}).call(dual_head_cross_entropy)
