"""The operator `mix_plan`, on every backend: a plan of given columns is mixed as `mix` mixes the columns."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from samples import MixInputs
from test_mix import mix_inputs

from xmixup_fast import ops
from xmixup_fast.ops.mix_plan import MixPlan


def plan_of(inputs: MixInputs) -> MixPlan:
    return MixPlan.of(inputs.target_crops, inputs.aux_crops, inputs.lam, box=inputs.box)


@given(inputs=mix_inputs())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_plan_is_mixed_as_its_columns_are(device: torch.device, inputs: MixInputs) -> None:
    inputs = inputs.to(device)
    plan = plan_of(inputs)
    options = {"size": inputs.size, "dtype": inputs.dtype, "memory_format": inputs.memory_format}
    options |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    mixed = ops.mix_plan(inputs.target, inputs.aux, plan, **options)
    assert torch.equal(mixed, inputs.call(ops.mix))
    out = inputs.empty_out()
    assert ops.mix_plan(inputs.target, inputs.aux, plan, **options, out=out) is out
    assert torch.equal(out, mixed)
