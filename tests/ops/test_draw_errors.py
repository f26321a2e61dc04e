"""The operator `draw` names every argument that is not what it has to be."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from draw_inputs import DrawInputs, assert_same
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from xmixup_fast import Augmentation, ops
from xmixup_fast.ops import operators, reference

Spoil = Callable[[Tensor], Tensor]


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("sample", lambda t: t.view(1, -1), r"expected int64\[any\], got int64\[1, 3\]"),
        ("sample", lambda t: t.int(), r"expected int64\[any\], got int32\[3\]"),
        ("epoch", lambda t: t[:2], r"expected int64\[3\], got int64\[2\]"),
        ("label", lambda t: t.double(), r"expected int64\[3\], got float64\[3\]"),
        ("target_index", lambda t: t.int(), r"expected int64\[3\], got int32\[3\]"),
        ("target_sizes", lambda t: t.long(), r"expected int32\[any, 2\], got int64\[4, 2\]"),
        ("target_sizes", lambda t: t.view(-1), r"expected int32\[any, 2\], got int32\[8\]"),
        ("offsets", lambda t: t.int(), r"expected int64\[any\], got int32\[4\]"),
        ("offsets", lambda t: t[:0], "expected one number more than there are classes, got none"),
        ("members", lambda t: t.int(), r"expected int64\[any\], got int32"),
        ("aux_sizes", lambda t: t[:, :1], r"expected int32\[any, 2\], got int32\[10, 1\]"),
        ("lam_quantiles", lambda t: t.double(), r"expected float32\[any\], got float64\[17\]"),
        ("lam_quantiles", lambda t: t[:1], "expected 2 to 16777217 numbers, got 1"),
        ("lam_quantiles", lambda t: t[:1].repeat(2**24 + 2), "expected 2 to 16777217 numbers, got 16777218"),
        ("size", lambda _: (5,), r"expected height and width, 1 to 2147483647 pixels each, got \[5\]"),
        ("size", lambda _: (5, 0), r"expected height and width.*got \[5, 0\]"),
        ("size", lambda _: (2**31, 7), r"expected height and width.*got \[2147483648, 7\]"),
    ],
)
def test_wrong_arguments_are_named(device: torch.device, name: str, spoil: Spoil, message: str) -> None:
    inputs = DrawInputs.make().to(device)
    with pytest.raises(RuntimeError, match=f"xmixup_fast.draw: {name}: {message}"):
        replace(inputs, **{name: spoil(getattr(inputs, name))}).call(ops.draw)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("epoch", lambda t: t * 0 - 1, r"epoch\[0\]: expected .* 0 to 2\*\*32 - 1, got -1"),
        ("epoch", lambda t: t * 0 + 2**32, r"epoch\[0\]: expected .*, got 4294967296"),
        ("target_index", lambda t: t + 4, r"target_index\[0\]: expected .* 0 to 3, got [4-7]"),
        ("target_index", lambda t: t * 0 - 1, r"target_index\[0\]: expected .* 0 to 3, got -1"),
        ("target_sizes", lambda t: t * 0 + 6, r"target_sizes\[\d\]: .* 5 x 7, got 6 x 6"),
        ("target_sizes", lambda t: -t, r"target_sizes\[\d\]: .* a window of 5 x 7, got -"),
        ("label", lambda t: t * 0 + 3, r"label\[0\]: expected a class from 0 to 2, got 3"),
        ("label", lambda t: t * 0 - 1, r"label\[0\]: expected a class from 0 to 2, got -1"),
        ("label", lambda t: t * 0 - 100, r"label\[0\]: expected .*, got -100; no label can have its sample ignored"),
        ("offsets", lambda t: t * (t == t[-1]), r"label\[\d\]: expected a class with members"),
        ("offsets", lambda t: t - 99, r"offsets\[\d\] and .*\]: expected .* from 0 to \d+, .*, got -\d+"),
        ("offsets", lambda t: t + 99, r"offsets\[\d\] and .*\]: expected .* from 0 to \d+, .*, got \d+"),
        ("members", lambda t: t + 10, "members: expected images from 0 to 9, got 1\\d for"),
        ("members", lambda t: t * 0 - 1, "members: expected images from 0 to 9, got -1 for"),
        ("aux_sizes", lambda t: t - 100, r"aux_sizes\[\d\]: .* a window of 5 x 7, got -"),
        ("lam_quantiles", lambda t: t - 2, "lam_quantiles: expected .* 0 to 1, got .* a lam of -"),
        ("lam_quantiles", lambda t: t + 2, "lam_quantiles: expected .* 0 to 1, got .* a lam of 2"),
        ("lam_quantiles", lambda t: t * torch.nan, "lam_quantiles: expected .*, got .* a lam of nan"),
    ],
)
def test_wrong_values_are_named(device: torch.device, name: str, spoil: Spoil, message: str) -> None:
    inputs = DrawInputs.make()
    assert_refused(device, replace(inputs, **{name: spoil(getattr(inputs, name))}), message)


def assert_refused(device: torch.device, inputs: DrawInputs, message: str) -> None:
    """Fails unless the CPU names what is wrong with these inputs, and a GPU's kernel stops with an assertion."""
    if device.type == "cuda":
        pytest.skip("a device-side assert ends the process's CUDA context")
    argument = re.split(r"\W", message)[0]
    expected = rf"^device-side assert triggered: xmixup_fast\.draw: {argument}: expected [^\n]*$"
    if operators._library is torch.ops.xmixup_fast:
        expected = f"xmixup_fast.draw: {message}"
    with pytest.raises(RuntimeError, match=expected):
        inputs.call(ops.draw)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("partner[1]", 3, r"partner\[1\]: expected a sample from 0 to 2, got 3"),
        ("partner[2]", -1, r"partner\[2\]: expected a sample from 0 to 2, got -1"),
        ("target_index[2]", 9, r"target_index\[2\]: expected an image from 0 to 3, got 9"),
        ("epoch[2]", -1, r"epoch\[2\]: expected .*, got -1"),
        ("target_sizes[:]", 0, r"target_sizes\[\d\]: expected .* of 1 to 16777216 .* got 0 x 0"),
        ("target_sizes[:]", 2**24 + 1, r"target_sizes\[\d\]: .*, got 16777217 x 16777217"),
        ("augmentation.ratios[:]", -1.0, "ratios: expected positive numbers"),
        ("augmentation.ratios[:]", torch.nan, "ratios: expected positive numbers"),
        ("augmentation.erase_ratios[:]", torch.inf, "erase_ratios: expected positive"),
        ("augmentation.turns[:]", 2.0, "turns: expected cosines and sines"),
        ("augmentation.turns[:, 1]", torch.nan, "turns: expected cosines and sines"),
    ],
)
def test_wrong_values_of_partners_and_augmentations_are_named(
    device: torch.device, place: str, value: float, message: str
) -> None:
    augmentation = Augmentation(scale=(0.1, 1.0), hue=0.1, contrast=0.1, erase=1.0)
    inputs = DrawInputs.make().augmented(augmentation).with_partners()
    inputs.partner[:] = torch.tensor([2, 0, 1])
    exec(f"inputs.{place} = value")
    assert_refused(device, inputs, message)


def test_a_partners_fault_is_named_as_its_own() -> None:
    inputs = DrawInputs.make().with_partners()
    inputs.partner[:] = 2
    inputs.target_index[2] = 4
    with pytest.raises(RuntimeError, match=r"draw: target_index\[2\]: expected an image from 0 to 3, got 4"):
        inputs.call(ops.draw)


def test_only_contrast_limits_images_that_are_not_resized(device: torch.device) -> None:
    large = DrawInputs.make(room=0).augmented(Augmentation(brightness=0.4, contrast=0.1)).to(device)
    large.target_sizes[:] = 2**24 + 1
    assert_refused(device, large, r"target_sizes\[\d\]: expected .* of 1 to 16777216")
    brighter = replace(large, augmentation=Augmentation(brightness=0.4).to(device))
    assert_same(brighter.call(ops.draw), brighter.call(reference.draw))


def test_a_seed_of_more_than_64_bits_is_refused() -> None:
    with pytest.raises((RuntimeError, OverflowError)):
        replace(DrawInputs.make(), seed=2**63).call(ops.draw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_means": None}, r"target_means: expected uint8\[images, 8, 8, 3\], as contrast .*, got None"),
        ({"aux_means": None}, r"aux_means: expected uint8\[images, 8, 8, 3\], as contrast .*, got None"),
        ({"target_means": torch.zeros(4, 8, 8, 3)}, r"target_means: expected uint8\[4, 8, 8, 3\], got float32"),
        ({"aux_means": torch.zeros(9, 8, 8, 3).byte()}, r"aux_means: expected uint8\[10, 8, 8, 3\], got uint8\[9,"),
        ({"aux_labels": torch.zeros(9).long()}, r"aux_labels: expected int64\[10\], got int64\[9\]"),
        ({"partner": torch.zeros(3).long()}, r"partner: expected None where members are given, .* \d+ members"),
        ({"partner": torch.zeros(2).long()}, r"partner: expected int64\[3\], got int64\[2\]"),
        ({"mixed": torch.zeros(3).long()}, r"mixed: expected bool\[3\], got int64\[3\]"),
        ({"ratios": None}, "ratios: expected a table, which scale needs, got None"),
        ({"scale": ()}, "ratios: expected None without scale, got a tensor"),
        ({"ratios": torch.ones(1)}, "ratios: expected 2 to 16777217 numbers, got 1"),
        ({"ratios": torch.ones(2, 2)}, r"ratios: expected float32\[any\], got float32\[2, 2\]"),
        ({"scale": (0.5,)}, r"scale: expected no numbers, or the least and the greatest area, got \[0.5\]"),
        ({"scale": (0.5, 0.4)}, "scale: expected a positive area and one no less, up to 1, got 0.5 and 0.4"),
        ({"scale": (0.0, 0.4)}, "scale: expected a positive area and one no less, up to 1, got 0 and 0.4"),
        ({"scale": (0.5, 1.1)}, "scale: expected a positive area and one no less, up to 1, got 0.5 and 1.1"),
        ({"turns": None}, "turns: expected a table, which hue needs, got None"),
        ({"jitter": ()}, "turns: expected None without hue, got a tensor"),
        ({"jitter": (0.1, 0.1, 0.1, 0.0, 1.0)}, "turns: expected None without hue, got a tensor"),
        ({"turns": torch.ones(5)}, r"turns: expected float32\[any, 2\], got float32\[5\]"),
        ({"turns": torch.ones(1, 2)}, "turns: expected 2 to 16777217 numbers, got 1"),
        ({"jitter": (0.1, 0.1)}, r"jitter: expected no numbers, or brightness, .*, got \[0.1, 0.1\]"),
        ({"jitter": (-0.1, 0.1, 0.1, 0.1, 1.0)}, "jitter: expected 0 or a positive number for brightness, got -0.1"),
        ({"jitter": (0.1, 1e39, 0.1, 0.1, 1.0)}, r"jitter: expected .* positive number for contrast, got 1e\+39"),
        ({"jitter": (0.1, 0.1, torch.nan, 0.1, 1.0)}, "jitter: expected .* positive number for saturation, got nan"),
        ({"jitter": (0.1, 0.1, 0.1, 0.6, 1.0)}, "jitter: expected a number from 0 to 0.5 for hue, got 0.6"),
        ({"jitter": (0.1, 0.1, 0.1, 0.1, 1.5)}, "jitter: expected a probability from 0 to 1, got 1.5"),
        ({"erase_ratios": None}, "erase_ratios: expected a table, which erase needs, got None"),
        ({"erase": ()}, "erase_ratios: expected None without erase, got a tensor"),
        ({"erase_ratios": torch.ones(1)}, "erase_ratios: expected 2 to 16777217 numbers, got 1"),
        ({"erase": (0.5, 0.1)}, r"erase: expected no numbers, or a probability .*, got \[0.5, 0.1\]"),
        ({"erase": (-0.5, 0.1, 0.2)}, "erase: expected a probability from 0 to 1, got -0.5"),
        ({"erase": (0.5, 0.3, 0.2)}, "erase: expected a positive area and one no less, up to 1, got 0.3 and 0.2"),
        ({"size": (5, 2**24 + 1)}, r"size: expected height and width, 1 to 16777216 .*, got \[5, 16777217\]"),
    ],
)
def test_wrong_settings_are_named(device: torch.device, changes: dict[str, Any], message: str) -> None:
    inputs = DrawInputs.make().augmented().to(device)
    on_device = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in changes.items()}
    with pytest.raises(RuntimeError, match=f"xmixup_fast.draw: {message}"):
        operators._library.draw(**inputs.raw() | on_device)


def with_all_tensors() -> tuple[DrawInputs, DrawInputs]:
    """Inputs of which the first have all tensors but a partner, which the second have."""
    made = DrawInputs.make().augmented().with_mixed()
    return made, made.with_partners()


def having(name: str) -> DrawInputs:
    """Inputs with this tensor."""
    first, second = with_all_tensors()
    return second if name == "partner" else first


TENSORS = [name for name, value in vars(with_all_tensors()[1]).items() if isinstance(value, Tensor)]
OPTIONAL = {"target_means", "aux_means", "aux_labels", "partner", "mixed"}
TABLES = ["ratios", "turns", "erase_ratios"]


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("name", TENSORS[1:])
def test_tensors_on_another_device_are_named(name: str, fake: bool) -> None:
    inputs = having(name)
    spoiled = replace(inputs, **{name: getattr(inputs, name).to("meta")})
    with (
        FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(),
        pytest.raises(RuntimeError, match=f"draw: {name}: expected a tensor on cpu, as sample, got one on meta"),
    ):
        spoiled.call(ops.draw)


@pytest.mark.parametrize("name", TABLES)
def test_tables_on_another_device_are_named(name: str) -> None:
    arguments = DrawInputs.make().augmented().raw()
    with pytest.raises(RuntimeError, match=f"draw: {name}: expected a tensor on cpu, as sample, got one on"):
        torch.ops.xmixup_fast.draw(**arguments | {name: arguments[name].to("meta")})


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_with_gaps_are_taken_and_none_is_named(device: torch.device, name: str) -> None:
    inputs = having(name).to(device)
    gaps = replace(inputs, **{name: torch.stack([getattr(inputs, name)] * 2, -1)[..., 0]})
    assert_same(gaps.call(ops.draw), inputs.call(ops.draw))
    with pytest.raises(RuntimeError, match=rf"xmixup_fast.draw: {name}: expected a contiguous .*, got strides \["):
        operators._library.draw(**gaps.raw())
    if name not in OPTIONAL:
        with pytest.raises(RuntimeError, match=f"xmixup_fast.draw: {name}: expected a tensor, got None"):
            replace(inputs, **{name: None}).call(ops.draw)
