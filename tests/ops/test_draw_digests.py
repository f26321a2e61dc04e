"""The bits of `draw` for a few fixed inputs, which no change may move: runs can be repeated with any later version."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from draw_inputs import DrawInputs
from torch import Tensor

from xmixup_fast import ops
from xmixup_fast.ops.reference_draw import Key, centers

INPUTS = {
    "usual": DrawInputs.make(300, (224, 224), room=288, images=50, aux_images=400, classes=20, intervals=4096),
    "small": DrawInputs.make(500, (5, 7), room=9, seed=1),
    "tall": replace(DrawInputs.make(64, (4000, 301), room=2**20, intervals=1, seed=-5), flip=False),
    "alone": DrawInputs.make(100, (32, 32), room=40, aux_images=0, intervals=33, seed=2**31),
}
DIGESTS = {
    ("usual", "target"): "c9bd59828ce893f361bbfc973c2f6c2e",
    ("usual", "aux"): "5205b29e40f48793c0a889862a734679",
    ("usual", "weights"): "63eb2f314d8b626a47f13427836af237",
    ("small", "target"): "cb9a38eade2f56cc358a201c20958e17",
    ("small", "aux"): "49fe5b7f42eedc19b8ecf71486b3f92a",
    ("small", "weights"): "9a75b8708e10712d1e3f97de63b2bd3c",
    ("tall", "target"): "e46aa3a986cfe96a6d40cd1f2b51441c",
    ("tall", "aux"): "2e23af8a0bdd9ae9b495b2f58ed624d8",
    ("tall", "weights"): "dd264dbfb7620a8becf065e5bf42cd91",
    ("alone", "target"): "8e7d9eec49187f45499d20c54d6a89dc",
    ("alone", "weights"): "dba1eee79e2ed900f0b66d677f93650b",
}


def digest(*tensors: Tensor) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()[:32]


@pytest.mark.parametrize(("name", "what"), DIGESTS)
def test_draws_are_those_of_the_first_version(device: torch.device, name: str, what: str) -> None:
    inputs = INPUTS[name].to(device)
    plan, pasted = inputs.call(ops.draw), replace(inputs, box=True).call(ops.draw)
    center = centers(Key(inputs.seed, inputs.sample, inputs.epoch))
    tensors = {
        "target": [plan.target_crops.window, plan.target_crops.flip],
        "aux": [*plan.aux_crops],
        "weights": [plan.lam, center, pasted.box, pasted.lam],
    }
    assert digest(*(tensor.cpu() for tensor in tensors[what])) == DIGESTS[name, what]
