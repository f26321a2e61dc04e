"""Weights, boxes and partners of `draw`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from draw_inputs import DrawInputs

from xmixup_fast import Augmentation, ops
from xmixup_fast.ops.lam import beta_quantiles
from xmixup_fast.ops.reference_draw import Key, centers, cutmix_boxes


def made(batch: int = 2000, size: tuple[int, int] = (224, 160)) -> DrawInputs:
    return replace(DrawInputs.make(batch, size), lam_quantiles=beta_quantiles(1.0, fold=False))


def boxes_by_hand(lam: np.ndarray, center: np.ndarray, size: tuple[int, int]) -> tuple[list[list[int]], list[float]]:
    """CutMix's boxes and weights, one after the other."""
    boxes, weights = [], []
    for one, middle in zip(lam, center, strict=True):
        sides = [int(np.rint(np.sqrt(np.float32(1) - one) * np.float32(pixels))) for pixels in size]
        begin = [int(m * np.float32(pixels)) - side // 2 for m, pixels, side in zip(middle, size, sides, strict=True)]
        end = [min(b + side, pixels) for b, side, pixels in zip(begin, sides, size, strict=True)]
        begin = [max(b, 0) for b in begin]
        extent = [e - b for b, e in zip(begin, end, strict=True)]
        boxes.append([*begin, *extent])
        weights.append(np.float32(1) - np.float32(extent[0] * extent[1]) / np.float32(size[0] * size[1]))
    return boxes, weights


@pytest.mark.parametrize("size", [(224, 160), (1, 1), (7, 300)])
def test_boxes_are_cutmixs_to_the_bit(device: torch.device, size: tuple[int, int]) -> None:
    inputs = made(size=size).to(device)
    plain, pasted = inputs.call(ops.draw), replace(inputs, box=True).call(ops.draw)
    center = centers(Key(inputs.seed, inputs.sample, inputs.epoch))
    boxes, weights = cutmix_boxes(plain.lam, center, size)
    assert torch.equal(pasted.box, boxes) and torch.equal(pasted.lam, weights)
    by_hand, weights_by_hand = boxes_by_hand(plain.lam.cpu().numpy(), center.cpu().numpy(), size)
    assert pasted.box.tolist() == by_hand and pasted.lam.tolist() == weights_by_hand
    assert pasted.boxed.all() and not plain.boxed.any() and not plain.box.any()
    assert all(map(torch.equal, pasted.target_crops, plain.target_crops))


def test_the_largest_boxes_do_not_overflow(device: torch.device) -> None:
    size = (2**31 - 1, 2**31 - 1)
    inputs = made(size=(1, 1))
    inputs = replace(inputs, size=size, box=True, target_sizes=inputs.target_sizes * 0 + 2**31 - 1).to(device)
    inputs = replace(inputs, aux_sizes=inputs.aux_sizes * 0 + 2**31 - 1)
    plan = inputs.call(ops.draw)
    assert (plan.box >= 0).all() and (plan.box[:, :2].long() + plan.box[:, 2:] <= 2**31 - 1).all()
    assert plan.lam.min() >= 0 and plan.lam.max() <= 1 and plan.lam.std() > 0.1


@pytest.mark.parametrize("box", [False, True])
def test_samples_that_are_not_mixed_have_weight_one(device: torch.device, box: bool) -> None:
    inputs = replace(made(), box=box).to(device)
    expected, plan = inputs.call(ops.draw), inputs.with_mixed().to(device).call(ops.draw)
    mixed = inputs.with_mixed().mixed
    assert 500 < mixed.sum() < 1500
    assert torch.equal(plan.rows[mixed], expected.rows[mixed])
    assert (plan.lam[~mixed] == 1).all() and not plan.box[~mixed][:, 2:].any() and (plan.boxed == box).all()


@pytest.mark.parametrize("box", [False, True])
def test_one_weight_for_all_is_that_of_the_first_sample(device: torch.device, box: bool) -> None:
    inputs = replace(made(), one_lam=True).to(device)
    lam = replace(inputs, one_lam=False).call(ops.draw).lam
    assert torch.equal(inputs.call(ops.draw).lam, lam[:1].expand_as(lam))
    if box:
        plan = replace(inputs, box=True).call(ops.draw)
        boxes, weights = cutmix_boxes(
            lam[:1].expand_as(lam), centers(Key(inputs.seed, inputs.sample, inputs.epoch)), inputs.size
        )
        assert torch.equal(plan.box, boxes) and torch.equal(plan.lam, weights) and weights.unique().numel() > 10


def test_a_partners_target_side_is_the_auxiliary_side(device: torch.device) -> None:
    inputs = DrawInputs.make(500, (40, 30)).augmented(most=60).with_partners().to(device)
    plan, partner = inputs.call(ops.draw), inputs.partner
    for aux, target in zip(plan.aux_crops, plan.target_crops, strict=True):
        assert torch.equal(aux, target[partner])
    assert torch.equal(plan.aux_erased, plan.target_erased[partner]) and plan.aux_erased.any()
    assert torch.equal(plan.color[:, 1], plan.color[partner, 0])
    assert torch.equal(plan.aux_label, inputs.label[partner])
    alone = replace(inputs, partner=None).call(ops.draw)
    assert all(map(torch.equal, plan.target_crops, alone.target_crops)) and torch.equal(plan.noise, alone.noise)
    assert torch.equal(plan.lam, alone.lam) and (partner != torch.arange(500, device=device)).any()


def test_labels_are_those_of_the_auxiliary_images(device: torch.device) -> None:
    inputs = DrawInputs.make(300).augmented(Augmentation()).to(device)
    plan = inputs.call(ops.draw)
    assert torch.equal(plan.aux_label, inputs.aux_labels[plan.aux_crops.index]) and plan.aux_label.unique().numel() > 5
    assert (replace(inputs, aux_labels=None).call(ops.draw).aux_label == -1).all()
