"""A wrong value stops a CUDA kernel with one message that names operator and argument, and the error says both: shown
on the emulation, in which all other threads of the launch go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import emulation
import pytest
import torch
from draw_inputs import DrawInputs
from kernel_calls import FAULTS, MAKERS, call
from samples import LossInputs, MixInputs
from torch import Tensor

from xmixup_fast import ops
from xmixup_fast.cli import exit_status

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
DEVICE_ASSERT = torch.ops.xmixup_fast.device_assert
PREFIX = "device-side assert triggered: "


@pytest.fixture(autouse=True)
def emulated(cuda_emulation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls go to the emulation; so does the question what has stopped a kernel."""
    emulation.use(monkeypatch)
    library = torch.ops.xmixup_fast_cuda_emulation
    monkeypatch.setattr(torch.ops.xmixup_fast, "device_assert", library.device_assert)


def recorded() -> str:
    return str(torch.ops.xmixup_fast.device_assert())


@pytest.mark.parametrize(("name", "change", "message", "sample"), FAULTS)
def test_one_message_names_operator_argument_and_sample(
    name: str, change: str, message: str, sample: int | None
) -> None:
    with pytest.raises(RuntimeError) as error:
        call(name, CPU, change)
    printed = str(error.value).removeprefix(PREFIX)
    assert printed.startswith(f"xmixup_fast.{message}") and "\n" not in printed
    which = r"\d" if sample is None else str(sample)
    assert re.fullmatch(rf"{re.escape(printed)} \(sample {which} of the batch\)", recorded())


def test_every_message_of_the_kernels_is_tried() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "csrc" / "cuda").glob("*.[ch]*")))
    messages = {text for text in re.findall(r'"xmixup_fast\.([^"]+)"', source) if ": expected" in text}
    assert len(messages) > 30
    tried = [message for *_, message, _ in FAULTS]
    assert not [text for text in messages if not any(text.startswith(message) for message in tried)]


WRONG_EVERYWHERE = {
    "mix": "inputs.target_crops.index[:] = 99",
    "mix_plan": "inputs.mix.lam[:] = 2",
    "mix_plan with colors": "inputs.erased[1][:] = -1",
    "draw": "inputs.label[:] = -1",
    "augmented draw": "inputs.augmentation.ratios[:] = -1",
    "draw with partners": "inputs.partner[:] = 99",
    "dual_head_cross_entropy": "inputs.lam[:] = 2",
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_batch_of_wrong_samples_prints_one_message(name: str) -> None:
    with pytest.raises(RuntimeError) as error:
        call(name, CPU, WRONG_EVERYWHERE[name])
    assert str(error.value).startswith(PREFIX) and str(error.value).count("expected") == 1


def test_the_next_call_has_a_record_of_its_own() -> None:
    for name in ("mix", "draw", "dual_head_cross_entropy"):
        with pytest.raises(RuntimeError):
            call(name, CPU, WRONG_EVERYWHERE[name])
        assert recorded().startswith(f"xmixup_fast.{name}: ")
        call(name, CPU)
        assert recorded() == ""


# --- what other threads store ---

ROOM = 1000


class Guarded:
    """A tensor for results in the midst of a larger one, whose other elements tell stores out of its bounds."""

    def __init__(self, like: Tensor) -> None:
        self.whole = torch.full((ROOM + like.numel() + ROOM,), 7, dtype=like.dtype)
        self.inside = self.whole[ROOM:-ROOM].as_strided(like.shape, like.stride(), ROOM)

    def is_intact(self) -> bool:
        return bool((self.whole[:ROOM] == 7).all() and (self.whole[-ROOM:] == 7).all())

    def is_untouched(self, sample: int) -> bool:
        return bool((self.inside[sample] == 7).all())


def mix_into(size: tuple[int, int], memory_format: torch.memory_format) -> tuple[list[Guarded], Callable[[], object]]:
    inputs = MixInputs.make(3, size, memory_format=memory_format)
    inputs.target_crops.window[1] = 2**31 - 1
    out = Guarded(inputs.empty_out())
    return [out], lambda: inputs.call(ops.mix, out=out.inside)


def draw_into() -> tuple[list[Guarded], Callable[[], object]]:
    inputs = DrawInputs.make()
    right = inputs.call(ops.draw)
    outputs = [Guarded(right.rows), Guarded(right.color)]
    inputs.target_index[1] = 99
    library = torch.ops.xmixup_fast_cuda_emulation
    plan, color = (output.inside for output in outputs)
    return outputs[:1], lambda: library.draw_out(**inputs.raw(), plan=plan, color=color)


def lose_into() -> tuple[list[Guarded], Callable[[], object]]:
    inputs = LossInputs.make()
    inputs.target_labels[1] = 2**40
    loss, sample_loss, *grads = (
        Guarded(torch.empty(shape)) for shape in ((), (3,), inputs.target_logits.shape, inputs.source_logits.shape)
    )
    library = torch.ops.xmixup_fast_cuda_emulation
    outputs = [output.inside for output in (loss, sample_loss, *grads)]
    return [sample_loss, *grads], lambda: library.dual_head_cross_entropy_out(*inputs.raw(), *outputs)


CALLS: dict[str, Callable[[], tuple[list[Guarded], Callable[[], object]]]] = {
    "mix, element by element": lambda: mix_into((5, 7), torch.channels_last),
    "mix, vectors": lambda: mix_into((16, 32), torch.contiguous_format),
    "draw": draw_into,
    "loss": lose_into,
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_stored_for_a_wrong_sample_or_out_of_bounds(name: str) -> None:
    outputs, run = CALLS[name]()
    with pytest.raises(RuntimeError, match=PREFIX):
        run()
    for output in outputs:
        assert output.is_intact() and output.is_untouched(1)
        assert not output.is_untouched(0) and not output.is_untouched(2)


# --- the error ---


def test_a_command_says_in_one_line_what_stopped_the_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    inputs = LossInputs.make()
    inputs.target_labels[2] = 5

    def work() -> None:
        inputs.call(ops.dual_head_cross_entropy)

    assert exit_status(work) == 2
    assert capsys.readouterr().err == (
        "error: xmixup_fast.dual_head_cross_entropy: target_labels: expected a class of target_logits "
        "(sample 2 of the batch)\n"
    )


def test_the_cpus_kernels_record_nothing() -> None:
    """They raise what is wrong themselves."""
    inputs = MixInputs.make(3)
    inputs.lam[0] = 2
    with pytest.raises(RuntimeError, match=r"xmixup_fast\.mix: lam\[0\]: expected a number from 0 to 1, got 2"):
        torch.ops.xmixup_fast.mix(*inputs.raw(), torch.float32, True, False)
    assert DEVICE_ASSERT() == ""
