"""Calls the operators with random arguments, valid and wrong, and fails where one does what it does not document.

    python tests/support/fuzz.py --calls 100000 --seed 0 --cuda-emulation
    python tests/support/fuzz.py --calls 1 --first 4711 --seed 0 --cuda-emulation    # one call again

An operator must accept arguments that nothing has spoiled. Its results must have the right shape, dtype and range and,
for a part of the calls, the values of the reference. It must refuse wrong arguments with a RuntimeError, ValueError or
TypeError that names the argument, unless torch itself refuses them because they do not fit the operator's schema; then
`out` and all other arguments must be unchanged. Child processes make the calls, so that a crash is noticed.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pickle
import random
import re
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import emulation
import torch
from fuzz_depthwise import check_depthwise, compare_depthwise, depthwise_arguments
from fuzz_draw import call_draw, draw_arguments
from fuzz_plan import call_mix_plan, error_of_mix_plan, is_comparable, plan_arguments
from samples import LossInputs, MixInputs, is_within, unchecked_pool
from spoiling import spoil
from torch import Tensor

from xmixup_fast import Crops, ops
from xmixup_fast.ops import depthwise, operators, outputs, reference

CALLS_PER_PROCESS = 5000
TORCH_ALLOCATES_SHARE = 0.3  # of the calls of CPU kernels: as on a GPU
EMULATED_SHARE = 0.05  # the emulation is slow: kernels with barriers take a CPU thread for each thread of a block
COMPARED_SHARE = 0.3  # of all calls
META_SHARE = 0.03  # of the calls with nothing spoiled

SIDE = ("pixels", "offsets", "sizes", *Crops._fields)
MIX_TENSORS = [*(f"{side}_{name}" for side in ("target", "aux") for name in SIDE), "lam", "box"]


def mix_arguments(rng: random.Random) -> dict[str, Any]:
    """Valid arguments of `mix`; the tensors of pools and crops are arguments of their own, as in the schema."""
    size = (rng.randint(1, 6), rng.choice([rng.randint(1, 40), rng.randint(500, 600)]))
    inputs = MixInputs.make(
        batch=rng.choice([0, 1, 2, 3, 4]),
        size=size,
        sizes=[(size[0] + rng.randint(0, 4), size[1] + rng.randint(0, 4)) for _ in range(rng.randint(1, 3))],
        memory_format=rng.choice([torch.channels_last, torch.contiguous_format]),
        seed=rng.getrandbits(31),
        dtype=rng.choice([torch.float32, torch.bfloat16, torch.float16]),
        resampled=(rng.random() < 0.3, rng.random() < 0.3),
        boxes=rng.random() < 0.3,
        antialias=rng.random() < 0.3,
    )
    inputs.lam[: rng.randint(0, 2)] = rng.choice([0.0, 1.0])
    arguments = dict(zip([*MIX_TENSORS, "mean", "std", "size"], inputs.raw(), strict=True))
    arguments |= {"dtype": inputs.dtype, "memory_format": inputs.memory_format, "antialias": inputs.antialias}
    if rng.random() < 0.5:
        arguments |= {"out": inputs.empty_out()}
    return arguments


def call_mix(mix: Callable[..., Any], arguments: dict[str, Any], **more: Any) -> Any:
    """Calls `mix` with pools and crops made of their tensors; ``more`` adds arguments or replaces them."""
    options = {name: value for name, value in arguments.items() if name not in MIX_TENSORS or name in ("lam", "box")}
    options |= more
    sides = []
    for side in ("target", "aux"):
        pixels, offsets, sizes, *crops = (arguments[f"{side}_{name}"] for name in SIDE)
        sides += [unchecked_pool(pixels, offsets, sizes), Crops(*crops)]
    return mix(*sides, **options)


def loss_arguments(rng: random.Random) -> dict[str, Any]:
    inputs = LossInputs.make(
        batch=rng.choice([0, 1, 2, 3, 5]),
        classes=(rng.randint(1, 40), rng.choice([rng.randint(1, 40), rng.randint(120, 300)])),
        dtype=rng.choice([torch.float32, torch.bfloat16, torch.float16]),
        spread=rng.choice([0.0, 1.0, 10.0, 1e4]),
        seed=rng.getrandbits(31),
    )
    inputs.lam[: rng.randint(0, 2)] = rng.choice([0.0, 1.0])
    weights = {"source_weight": rng.choice([0.0, 0.5, 3.0]), "label_smoothing": rng.choice([0.0, 0.1, 1.0])}
    return {**vars(inputs), **weights}


MAKERS = {
    "mix": mix_arguments,
    "mix_plan": plan_arguments,
    "draw": draw_arguments,
    "dual_head_cross_entropy": loss_arguments,
    "depthwise_conv2d_weight_grad": depthwise_arguments,
}
CPU_ALONE = {"depthwise_conv2d_weight_grad"}
"""Operators without a CUDA kernel."""

TORCH_REFUSES = (
    r"xmixup_fast(_cuda_emulation)?::\w+\(\) "  # what does not fit the schema
    r"|Could not run 'xmixup_fast"  # layouts that no kernel is for
    r"|call, .*Not yet supported ScalarType UNKNOWN_SCALAR"  # integers that are no dtype
    r"|[\s\S]*can't allocate memory"  # huge expansions of one number, which are copied
)


class Call:
    """One call of an operator, made from a seed and a number. ``spoiled`` names the arguments that may be wrong."""

    def __init__(self, seed: int, number: int, cuda_emulation: bool) -> None:
        rng = random.Random(f"{seed}/{number}")
        self.op = rng.choice(list(MAKERS))
        self.arguments = MAKERS[self.op](rng)
        self.spoiled = rng.sample(sorted(self.arguments), rng.choice([0, 0, 1, 1, 1, 2]))
        for name in self.spoiled:
            self.arguments[name] = spoil(name, self.arguments[name], rng)
        if not self.spoiled and rng.random() < META_SHARE:
            tensors = {name: value for name, value in self.arguments.items() if isinstance(value, Tensor)}
            self.arguments |= {name: tensor.to("meta") for name, tensor in tensors.items()}
        self.on_meta = [value.is_meta for value in self.arguments.values() if isinstance(value, Tensor)]
        has_kernel = cuda_emulation and self.op not in CPU_ALONE and not any(self.on_meta)
        self.emulated = has_kernel and rng.random() < EMULATED_SHARE
        self.is_compared = rng.random() < COMPARED_SHARE
        self.torch_allocates = self.emulated or rng.random() < TORCH_ALLOCATES_SHARE

    def run(self) -> str:
        """Makes the call and returns its outcome, in words.

        Raises AssertionError for an undocumented result, and the operator's error where that is undocumented.
        """
        before = copy_tensors(self.arguments)
        try:
            result = self.call()
        except Exception as error:
            outcome = self.explain(error)
            if outcome is None or not self.spoiled:
                raise
            if outcome == "device-side assert":  # a GPU's threads do not wait for one another's checks
                before.pop("out", None)
            assert_unchanged(self.arguments, before)
            return outcome
        before.pop("out", None)
        assert_unchanged(self.arguments, before)
        if any(self.on_meta):  # fake kernels check devices only
            assert all(self.on_meta)
            return "taken on meta"
        self.check(result)
        if self.is_compared:
            self.compare(result)
            return "compared"
        return "taken"

    def call(self) -> Any:
        library = torch.ops.xmixup_fast_cuda_emulation if self.emulated else torch.ops.xmixup_fast
        operators._library = library  # type: ignore[assignment]
        outputs.ALLOCATED_ON = "cpu" if self.torch_allocates else "cuda"
        if self.op == "mix":
            return call_mix(ops.mix, self.arguments)
        if self.op == "draw":
            return call_draw(ops.draw, self.arguments)
        if self.op == "mix_plan":
            return call_mix_plan(ops.mix_plan, self.arguments)
        if self.op == "depthwise_conv2d_weight_grad":
            return depthwise.depthwise_conv2d_weight_grad(**self.arguments)
        return getattr(ops, self.op)(**self.arguments)

    def explain(self, error: Exception) -> str | None:
        """The outcome that an error stands for; None for an undocumented error."""
        message = str(error)
        names = "|".join(map(re.escape, self.arguments))
        if isinstance(error, RuntimeError) and re.match(rf"xmixup_fast\.{self.op}: ({names})\b", message):
            return "refused by name"
        if isinstance(error, (TypeError, ValueError)) and re.match(rf"({names}): expected", message):
            return "refused by name"
        one_message = rf"device-side assert triggered: (xmixup_fast\.{self.op}: ({names})\b.*)"
        if self.emulated and (printed := re.fullmatch(one_message, message)):
            recorded = torch.ops.xmixup_fast_cuda_emulation.device_assert()
            return "device-side assert" if recorded.startswith(f"{printed[1]} (sample ") else None
        if isinstance(error, (RuntimeError, TypeError)) and re.match(TORCH_REFUSES, message):
            return "refused by torch"
        return None

    def check(self, result: Any) -> None:
        """Checks shape, dtype and range of a result."""
        given = self.arguments
        if self.op in ("mix", "mix_plan"):
            out = given.get("out")
            assert out is None or result is out
            assert result.dtype == (given["dtype"] if out is None else out.dtype)
            batch = len(given["lam" if self.op == "mix" else "plan"])
            assert result.shape == (batch, 3, *sides(given["size"]))
            assert result.numel() == 0 or result.is_contiguous(memory_format=given["memory_format"])
            usual = not {"mean", "std", "fill", "noise_quantiles"} & {*self.spoiled}
            assert not usual or result.isfinite().all()
        elif self.op == "draw":
            batch = len(given["sample"])
            assert (result.rows.dtype, result.rows.shape) == (torch.int32, (batch, 32))
            colored = batch if len(result.color) else 0
            assert (result.color.dtype, result.color.shape) == (torch.float32, (colored, 2, 3, 4))
            assert ((result.lam >= 0) & (result.lam <= 1)).all()
            assert result.color.isfinite().all()
        elif self.op == "depthwise_conv2d_weight_grad":
            check_depthwise(result, given)
        else:
            assert result.dtype == torch.float32 and result.shape == ()
            usual = len(given["lam"]) > 0 and not {"target_logits", "source_logits", "source_weight"} & {*self.spoiled}
            assert not usual or result.isfinite().all()

    def compare(self, result: Any) -> None:
        """Compares a result with the reference, with the tolerance of the operators' tests."""
        given = self.arguments
        if self.op == "mix":
            given = {name: value for name, value in given.items() if name != "out"}
            given |= {"size": sides(given["size"]), "antialias": bool(given["antialias"])}
            expected = call_mix(reference.mix, given, dtype=torch.float32)
            error = 2 * call_mix(error_of_mix, given) + TINY
            assert is_within(result, expected, error), "mix: other numbers than the reference's"
        elif self.op == "mix_plan":
            if not is_comparable(given):
                return
            given = {name: value for name, value in given.items() if name != "out"}
            given |= {"size": sides(given["size"]), "antialias": bool(given["antialias"])}
            given["plan"] = given["plan"].clone(memory_format=torch.contiguous_format)  # else it has no columns
            expected = call_mix_plan(reference.mix_plan, given, dtype=torch.float32)
            error = 2 * call_mix_plan(error_of_mix_plan, given) + TINY
            assert is_within(result, expected, error), "mix_plan: other numbers than the reference's"
        elif self.op == "draw":
            given = given | {name: bool(given[name]) for name in ("flip", "box", "one_lam")}
            given["size"] = sides(given["size"])
            expected = call_draw(reference.draw, given)
            assert all(map(torch.equal, result, expected)), "draw: other numbers than the reference's"
        elif self.op == "depthwise_conv2d_weight_grad":
            compare_depthwise(result, given)
        else:
            inputs = LossInputs(**given)
            # Labels, and lam, may be sequences of numbers.
            inputs.target_labels, inputs.source_labels, inputs.lam = map(
                torch.as_tensor, (inputs.target_labels, inputs.source_labels, inputs.lam)
            )
            inputs.target_labels, inputs.source_labels = inputs.target_labels.long(), inputs.source_labels.long()
            inputs.label_smoothing = float(torch.tensor(inputs.label_smoothing))  # as the kernels hold it
            # Whether a sum of extreme numbers overflows in float32 depends on the order of its terms.
            expected = [i.call(reference.dual_head_cross_entropy).float() for i in (inputs, inputs.double())]
            close = [torch.isclose(result, one, rtol=1e-5, atol=1e-5, equal_nan=True) for one in expected]
            assert any(close), f"dual_head_cross_entropy: {result}, and the reference's {expected}"


def sides(size: Any) -> tuple[int, ...]:
    """Height and width of an argument ``size``, which may be an integer for both."""
    return tuple(map(int, [size] * 2 if isinstance(size, int) else size))


TINY = 2.0**-126
"""The smallest normal number of float32, which has fewer digits below; added to errors for extreme ``std``."""


def error_of_mix(*sides: Any, lam: Tensor, mean: Any, std: Any, size: Any, antialias: bool, **_: Any) -> Tensor:
    return MixInputs(*sides, lam, size, antialias=antialias).error(mean, std)


def copy_tensors(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Copies of the tensors that have memory and are not huge expansions of one number."""
    tensors = {name: t for name, t in arguments.items() if isinstance(t, Tensor) and t.layout == torch.strided}
    return {name: t.detach().clone() for name, t in tensors.items() if not t.is_meta and t.numel() < 2**30}


def assert_unchanged(arguments: dict[str, Any], before: dict[str, Tensor]) -> None:
    """Raises AssertionError where an argument differs from its copy."""
    for name, tensor in before.items():
        assert ((arguments[name] == tensor) | (tensor != tensor)).all(), f"{name} was changed"


# --- chunks of calls, each in a process of its own ---


@dataclass
class Chunk:
    """The results of several calls: how often each outcome occurred, and the numbers of the calls that failed."""

    outcomes: Counter[tuple[str, str, str]]
    failed: list[int]


def run_chunk(numbers: range, options: argparse.Namespace) -> Chunk:
    """Runs calls in a child process. A call that ends the process has failed, and a new process goes on after it."""
    current = mmap.mmap(-1, 8)  # the number of the child's current call, in memory shared with the child
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            chunk = run_calls(numbers, options, current)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(pickle.dumps(chunk))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        written = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        return pickle.loads(written)
    (crashed,) = struct.unpack("q", current[:])
    print(f"call {crashed}: the process ended with {status}", flush=True)
    rest = run_chunk(range(crashed + 1, numbers.stop), options) if crashed + 1 < numbers.stop else Chunk(Counter(), [])
    return Chunk(rest.outcomes, [crashed, *rest.failed])


def run_calls(numbers: range, options: argparse.Namespace, current: mmap.mmap) -> Chunk:
    """Runs calls in this process, prints those that fail, and writes the current call's number to ``current``."""
    chunk = Chunk(Counter(), [])
    for number in numbers:
        current[:] = struct.pack("q", number)
        call = Call(options.seed, number, options.cuda_emulation)
        try:
            outcome = call.run()
        except Exception as error:
            outcome = "unexplained"
            chunk.failed.append(number)
            print(f"call {number}: {call.op}, emulated: {call.emulated}, spoiled: {call.spoiled}")
            for name in call.spoiled:
                print(f"  {name} = {call.arguments[name]!r:.400}")
            trace = "".join(traceback.format_tb(error.__traceback__, limit=-2))
            print(f"{trace}{type(error).__name__}: {error!s:.400}", flush=True)
        chunk.outcomes[call.op, "cuda_emulation" if call.emulated else "cpu", outcome] += 1
    return chunk


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000, help="number of calls")
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--seed", type=int, default=0, help="seed of all arguments")
    parser.add_argument("--cuda-emulation", action="store_true", help="call the emulated CUDA kernels too")
    options = parser.parse_args()
    if options.cuda_emulation:
        emulation.load()
    torch.set_num_threads(1)  # other threads would be missing in forked processes
    started = time.perf_counter()
    outcomes: Counter[tuple[str, str, str]] = Counter()
    failed: list[int] = []
    for begin in range(options.first, options.first + options.calls, CALLS_PER_PROCESS):
        end = min(begin + CALLS_PER_PROCESS, options.first + options.calls)
        chunk = run_chunk(range(begin, end), options)
        outcomes += chunk.outcomes
        failed += chunk.failed
    for (op, kernels, outcome), count in sorted(outcomes.items()):
        print(f"{op:24}{kernels:16}{outcome:20}{count:8}")
    print(f"{options.calls} calls in {time.perf_counter() - started:.0f} s, {len(failed)} failed")
    for number in failed:
        again = f"--calls 1 --first {number} --seed {options.seed}" + " --cuda-emulation" * options.cuda_emulation
        print(f"  again: python tests/support/fuzz.py {again}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
