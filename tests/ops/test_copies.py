"""Copies, files and workers: what is copied, saved, sent to a process or moved to a device draws and mixes the same."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from draw_inputs import RECIPE, DrawInputs
from draw_inputs import assert_same as assert_same_plans
from plan_samples import PlanInputs
from samples import MixInputs
from test_arguments import assert_same, made, made_aux, made_batch
from torch import Tensor
from torch.utils.data import DataLoader

from xmixup_fast import Augmentation, MixedLabels, MixPlan, ops


def through_torch_save(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer)


COPIES = [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)), through_torch_save]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_copies_and_files_give_the_same(copied: Callable[[Any], Any], memory_format: torch.memory_format) -> None:
    xmixup = made(dtype=torch.bfloat16, memory_format=memory_format, cutmix=True, seed=5)
    again = copied(xmixup)
    assert_same(again, xmixup)
    assert again.memory_format == memory_format and again.aux is not xmixup.aux
    pool, mixed = copied(xmixup.aux), copied(xmixup(*made_batch())[1])
    for name in ("pixels", "offsets", "sizes", "labels"):
        assert torch.equal(getattr(pool, name), getattr(xmixup.aux, name))
    assert isinstance(mixed, MixedLabels)


@pytest.mark.parametrize("copied", COPIES)
def test_copies_of_augmentations_and_plans_draw_and_render_the_same(copied: Callable[[Any], Any]) -> None:
    draws = DrawInputs.make().augmented(replace(RECIPE, fill="noise"))
    plan = draws.call(ops.draw)
    again = copied(plan)
    assert type(again) is MixPlan and again.rows.data_ptr() != plan.rows.data_ptr()
    assert_same_plans(again, plan)
    augmentation = copied(draws.augmentation)
    assert type(augmentation) is Augmentation and augmentation is not draws.augmentation
    assert_same_plans(replace(draws, augmentation=augmentation).call(ops.draw), plan)
    inputs = PlanInputs.make(MixInputs.make(), fill="noise")
    expected = inputs.call(ops.mix_plan)
    assert torch.equal(replace(inputs, augmentation=copied(inputs.augmentation)).call(ops.mix_plan), expected)


JITTERED: dict[str, Any] = {"crop": "resized", "color_jitter": (0.4, 0.4, 0.4, 0.1), "erase": 0.5}


@pytest.mark.parametrize("copied", COPIES)
def test_copies_that_change_contrast_give_the_same(copied: Callable[[Any], Any]) -> None:
    xmixup = made(**JITTERED)
    assert_same(copied(xmixup), xmixup)
    with pytest.raises(AssertionError):
        assert_same(made(**JITTERED | {"color_jitter": 0.4}), xmixup)


def test_all_tensors_move_to_another_device(device: torch.device) -> None:
    xmixup = made(target=made_aux(), **JITTERED)
    images, labels, sample, epoch = made_batch()
    mixed, _ = xmixup.to(device)(*(tensor.to(device) for tensor in (images, labels, sample)), epoch)
    torch.testing.assert_close(mixed.cpu(), xmixup(images, labels, sample, epoch)[0], rtol=0, atol=1e-3)
    moved = xmixup.to("meta")
    own = [*vars(moved).values(), *moved._index]
    parts = [
        *own,
        *(value for part in own if not isinstance(part, tuple) for value in getattr(part, "__dict__", {}).values()),
    ]
    tensors = [part for part in parts if isinstance(part, Tensor)]
    assert len(tensors) >= 18 and {tensor.device.type for tensor in tensors} == {"meta"}
    assert xmixup.to("cpu") is xmixup


class Collate:
    """A collate function, for workers that get it by pickle."""

    def __init__(self) -> None:
        self.xmixup = made()
        self.images, self.labels, _, _ = made_batch()

    def __call__(self, index: list[int]) -> tuple[Tensor, MixedLabels]:
        return self.xmixup(self.images[index], self.labels[index], index, 3)


def test_workers_that_are_spawned_mix_the_same() -> None:
    collate = Collate()
    loader = DataLoader(
        range(6), batch_size=3, num_workers=1, collate_fn=collate, multiprocessing_context="spawn"
    )  # fmt: skip
    for (images, labels), index in zip(loader, ([0, 1, 2], [3, 4, 5]), strict=True):
        expected, expected_labels = collate(index)
        assert torch.equal(images, expected) and all(map(torch.equal, labels, expected_labels))
