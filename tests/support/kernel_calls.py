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
    ("inputs.mix.target_crops.index[1] = 3", "target_index: expected an image of the target's pool", 1),
    ("inputs.mix.aux_crops.index[2] = -1", "aux_index: expected an image of the auxiliary pool", 2),
    ("inputs.mix.target_crops.window[0, 1] = 2**31 - 1", "target_window: expected a window inside its image", 0),
    ("inputs.mix.aux_crops.window[2, 2] = -1", "aux_window: expected a window inside its image", 2),
    ("inputs.mix.lam[1] = 1.5", "lam: expected a number from 0 to 1", 1),
    ("inputs.mix.lam[1] = torch.nan", "lam: expected a number from 0 to 1", 1),
    ("inputs.box[1, 3] = 8", "box: expected a rectangle inside the output", 1),
    ("inputs.erased[0][2, 0] = -1", "target_erased: expected a rectangle inside the output", 2),
    ("inputs.erased[1][0, 1] = 2**31 - 1", "aux_erased: expected a rectangle inside the output", 0),
]
"""Statements that spoil a row of a plan, what is expected of its column, and the sample."""

IMAGE_FAULTS = [
    (f"inputs.{{}}{side}.offsets[inputs.{{}}{side}_crops.index[2]] = 10**15", f"{side}_offsets, {side}_sizes", side)
    for side in ("target", "aux")
]
FIT = "expected an image that holds its window, and is not too large"

FAULTS = [
    ("mix", "inputs.target_crops.index[1] = 3", "mix: target_index: expected an image of the target's pool", 1),
    ("mix", "inputs.aux_crops.index[2] = -1", "mix: aux_index: expected an image of the auxiliary pool", 2),
    ("mix", "inputs.target_crops.window[2] *= 0", "mix: target_window: expected a window inside its image", 2),
    ("mix", "inputs.aux_crops.window[0, 1] = 2**31 - 1", "mix: aux_window: expected a window inside its image", 0),
    ("mix", "inputs.lam[1] = 1.5", "mix: lam: expected a number from 0 to 1", 1),
    ("mix", "inputs.lam[1] = torch.nan", "mix: lam: expected a number from 0 to 1", 1),
    ("mix", "inputs.box[1, 3] = 8", "mix: box: expected a rectangle inside the output", 1),
    *(
        (name, change.format(place, place), f"{op}: {arguments}: expected images inside {side}_pixels", None)
        for name, op, place in (("mix", "mix", ""), ("mix_plan", "mix_plan", "mix."))
        for change, arguments, side in IMAGE_FAULTS
    ),
    *(
        (name, change, f"mix_plan: plan: {message}", sample)
        for name in ("mix_plan", "mix_plan with colors")
        for change, message, sample in ROW_FAULTS
    ),
    ("draw", "inputs.epoch[0] = -1", "draw: epoch: expected a number from 0 to 2**32 - 1", 0),
    ("draw", "inputs.target_index[2] = 4", "draw: target_index: expected an image of target_sizes", 2),
    ("draw", "inputs.target_sizes[:] = 4", f"draw: target_sizes: {FIT}", None),
    ("draw", "inputs.label[0] = 3", "draw: label: expected a class of offsets", 0),
    ("draw", "inputs.offsets -= 99", "draw: offsets: expected numbers from 0 to the number of members", None),
    ("draw", "inputs.offsets += 99", "draw: offsets: expected numbers from 0 to the number of members", None),
    ("draw", "inputs.offsets[:] = 0", "draw: label: expected a class with members", None),
    ("draw", "inputs.members[:] = 10", "draw: members: expected images of aux_sizes", None),
    ("draw", "inputs.aux_sizes[:] = 4", f"draw: aux_sizes: {FIT}", None),
    ("draw", "inputs.lam_quantiles[:] = 2", "draw: lam_quantiles: expected numbers from 0 to 1", None),
    ("augmented draw", "inputs.target_sizes[:] = 2**24 + 1", f"draw: target_sizes: {FIT}", None),
    ("augmented draw", "inputs.aux_sizes[:] = 0", f"draw: aux_sizes: {FIT}", None),
    ("augmented draw", "inputs.augmentation.ratios[:] = -1", "draw: ratios: expected positive numbers", None),
    ("augmented draw", "inputs.augmentation.erase_ratios[:] = torch.inf", "draw: erase_ratios: expected", None),
    ("augmented draw", "inputs.augmentation.turns[:, 1] = 2", "draw: turns: expected cosines and sines", None),
    ("draw with partners", "inputs.partner[1] = 3", "draw: partner: expected a sample of the batch", 1),
    ("draw with partners", "inputs.partner[2] = -1", "draw: partner: expected a sample of the batch", 2),
    ("draw with partners", "inputs.epoch[2] = -1", "draw: epoch: expected a number from 0 to 2**32 - 1", 2),
    ("dual_head_cross_entropy", "inputs.lam[0] = -0.5", "dual_head_cross_entropy: lam: expected a number", 0),
    (
        "dual_head_cross_entropy",
        "inputs.target_labels[2] = 5",
        "dual_head_cross_entropy: target_labels: expected a class of target_logits",
        2,
    ),
    (
        "dual_head_cross_entropy",
        "inputs.source_labels[1] = -1",
        "dual_head_cross_entropy: source_labels: expected a class of source_logits",
        1,
    ),
]
"""Names of MAKERS, statements that spoil what these make, how the assert's message begins, which names operator and
argument, and the sample that is wrong; None where several are."""


def call(name: str, device: torch.device, change: str = "") -> None:
    """Calls the operator with the arguments that MAKERS has by this name, after the statement ``change``."""
    operator, make = MAKERS[name]
    inputs = make().to(device)
    exec(change, {"inputs": inputs, "torch": torch})
    inputs.call(operator)
