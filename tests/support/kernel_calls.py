"""Calls of every CUDA kernel, and calls with one wrong value. Tests make them on a GPU in processes of their own, as a
device-side assert ends a process's CUDA context; and on the emulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from draw_inputs import DrawInputs
from plan_samples import PlanInputs
from samples import FORMATS, LossInputs, MixInputs
from torch import Tensor

from xmixup_fast import Augmentation, ops

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = ((5, 7), (16, 32))
"""Of outputs: of single elements, and of whole vectors in every layout and dtype."""


def set_bounds(lam: Tensor) -> None:
    """Makes the first weight 1, with which no second image or source logit is read, and the last 0."""
    lam[0], lam[-1] = 1, 0


def results_of_all_kernels(device: torch.device) -> Iterator[Tensor]:
    """What calls give that launch every kernel, and every part of it, at least once."""
    for dtype, layout, size, resampled in product(DTYPES, FORMATS, SIZES, (False, True)):
        options: dict[str, Any] = {"dtype": dtype, "resampled": (resampled, resampled)}
        for boxes in (False, True):
            plain = MixInputs.make(3, size, [size], layout, boxes=boxes, **options)
            set_bounds(plain.lam)
            yield plain.to(device).call(ops.mix)
        images = [(3 * size[0], 2 * size[1])] if resampled else [size]
        for antialias, color in product({False, resampled}, (False, True)):
            mix = MixInputs.make(6, size, images, layout, antialias=antialias, **options)
            set_bounds(mix.lam)
            yield PlanInputs.make(mix, color=color, fill="noise").to(device).call(ops.mix_plan)
    for batch in (1, 129):
        drawn = DrawInputs.make(batch)
        augmented = drawn.augmented().with_mixed()
        for inputs in (drawn, drawn.with_partners(), augmented, augmented.with_partners()):
            yield from inputs.to(device).call(ops.draw)
    for dtype in DTYPES:
        loss = LossInputs.make(5, (3, 300), dtype)
        set_bounds(loss.lam)
        yield from loss.to(device).with_gradients(ops.dual_head_cross_entropy)


def boxed_plan(color: bool) -> PlanInputs:
    """Three samples with a box each: for the kernel of colours, or for the one of plain images."""
    inputs = PlanInputs.make(MixInputs.make(3), color=color)
    inputs.boxed[:] = True
    return inputs


def augmented_draw() -> DrawInputs:
    """Three samples in which every table of an augmentation is used for each image."""
    return DrawInputs.make().augmented(Augmentation(scale=(0.1, 1.0), contrast=0.1, hue=0.1, erase=1.0))


MAKERS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "mix": (ops.mix, lambda: MixInputs.make(boxes=True)),
    "mix_plan": (ops.mix_plan, lambda: boxed_plan(color=False)),
    "mix_plan with colors": (ops.mix_plan, lambda: boxed_plan(color=True)),
    "draw": (ops.draw, DrawInputs.make),
    "augmented draw": (ops.draw, augmented_draw),
    "draw with partners": (ops.draw, lambda: augmented_draw().with_partners()),
    "dual_head_cross_entropy": (ops.dual_head_cross_entropy, LossInputs.make),
}
"""By name: an operator, and what makes valid arguments of it."""

ROW_FAULTS = [
    ("inputs.mix.target_crops.index[1] = 3", "mix: an index is outside its image pool"),
    ("inputs.mix.aux_crops.index[2] = -1", "mix: an index is outside its image pool"),
    ("inputs.mix.target_crops.window[0, 1] = 2**31 - 1", "mix: a window is outside its image"),
    ("inputs.mix.aux_crops.window[2, 2] = -1", "mix: a window is outside its image"),
    ("inputs.mix.lam[1] = 1.5", "mix: a lam is outside 0 to 1"),
    ("inputs.mix.lam[1] = torch.nan", "mix: a lam is outside 0 to 1"),
    ("inputs.box[1, 3] = 8", "mix: a box is outside the output"),
    ("inputs.erased[0][2, 0] = -1", "mix: an erased rectangle is outside the output"),
    ("inputs.erased[1][0, 1] = 2**31 - 1", "mix: an erased rectangle is outside the output"),
]
"""Statements that spoil a row of a plan, and the assertions that name what is wrong."""

FAULTS = [
    ("mix", "inputs.target_crops.index[1] = 3", "mix: an index is outside its image pool"),
    ("mix", "inputs.aux_crops.index[2] = -1", "mix: an index is outside its image pool"),
    (
        "mix",
        "inputs.target.offsets[inputs.target_crops.index[0]] = 10**15",
        "mix: an image is outside its pool's pixels",
    ),
    ("mix", "inputs.aux_crops.window[0, 1] = 2**31 - 1", "mix: a window is outside its image"),
    ("mix", "inputs.lam[1] = 1.5", "mix: a lam is outside 0 to 1"),
    ("mix", "inputs.lam[1] = torch.nan", "mix: a lam is outside 0 to 1"),
    ("mix", "inputs.box[1, 3] = 8", "mix: a box is outside the output"),
    *((name, *fault) for name in ("mix_plan", "mix_plan with colors") for fault in ROW_FAULTS),
    ("draw", "inputs.epoch[0] = -1", "draw: an epoch is outside 0 to 2**32 - 1"),
    ("draw", "inputs.target_index[2] = 4", "draw: a target_index is outside target_sizes"),
    ("draw", "inputs.target_sizes[:] = 4", "draw: a target image is smaller than its window, or too large"),
    ("draw", "inputs.label[0] = 3", "draw: a label is outside the classes"),
    ("draw", "inputs.offsets -= 99", "draw: an offset is outside members"),
    ("draw", "inputs.offsets += 99", "draw: an offset is outside members"),
    ("draw", "inputs.offsets[:] = 0", "draw: a class has no members"),
    ("draw", "inputs.members[:] = 10", "draw: a member is outside aux_sizes"),
    ("draw", "inputs.aux_sizes[:] = 4", "draw: an auxiliary image is smaller than its window, or too large"),
    ("draw", "inputs.lam_quantiles[:] = 2", "draw: a lam is outside 0 to 1"),
    ("augmented draw", "inputs.target_sizes[:] = 2**24 + 1", "draw: a target image is smaller than its window, or too"),
    ("augmented draw", "inputs.aux_sizes[:] = 0", "draw: an auxiliary image is smaller than its window, or too large"),
    ("augmented draw", "inputs.augmentation.ratios[:] = -1", "draw: ratios are not positive"),
    ("augmented draw", "inputs.augmentation.erase_ratios[:] = torch.inf", "draw: erase_ratios are not positive"),
    ("augmented draw", "inputs.augmentation.turns[:, 1] = 2", "draw: turns are not cosines and sines"),
    ("draw with partners", "inputs.partner[1] = 3", "draw: a partner is outside the batch"),
    ("draw with partners", "inputs.partner[2] = -1", "draw: a partner is outside the batch"),
    ("dual_head_cross_entropy", "inputs.lam[0] = -0.5", "dual_head_cross_entropy: a lam is outside 0 to 1"),
    (
        "dual_head_cross_entropy",
        "inputs.target_labels[2] = 5",
        "dual_head_cross_entropy: a target label has no logit",
    ),
    (
        "dual_head_cross_entropy",
        "inputs.source_labels[1] = -1",
        "dual_head_cross_entropy: a source label has no logit",
    ),
]
"""Names of MAKERS, statements that spoil what these make, and the assertions that name what is wrong."""


def call(name: str, device: torch.device, change: str = "") -> None:
    """Calls the operator with the arguments that MAKERS has by this name, after the statement ``change``."""
    operator, make = MAKERS[name]
    inputs = make().to(device)
    exec(change, {"inputs": inputs, "torch": torch})
    inputs.call(operator)
