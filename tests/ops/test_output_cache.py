"""The memory of `mix`'s outputs on the CPU: taken again once nothing refers to it, and never before."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import random
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from samples import FORMATS, IMAGENET, MixInputs
from torch import Tensor

from xmixup_fast import _C, Crops, free_outputs, ops
from xmixup_fast.ops import operators

BYTES = 2 * 3 * 224 * 224 * 4
MAPPED = -(-BYTES // resource.getpagesize()) * resource.getpagesize()
"""Bytes of an output of `INPUTS`, and of its block."""

INPUTS = MixInputs.make(2, (224, 224))
SMALLER = MixInputs.make(2, (212, 212))


def batch(number: int, inputs: MixInputs = INPUTS) -> MixInputs:
    """Arguments whose outputs differ from number to number in almost every element."""
    return replace(inputs, lam=torch.full_like(inputs.lam, (number % 64) / 64))


def mixed(number: int, inputs: MixInputs = INPUTS) -> Tensor:
    return batch(number, inputs).call(ops.mix)


def expected(number: int, inputs: MixInputs = INPUTS) -> Tensor:
    """The same in memory that the caller owns."""
    wanted = batch(number, inputs)
    return wanted.call(ops.mix, out=wanted.empty_out())


def use_up() -> None:
    """Overwrites all free blocks, by calls of which two outputs at a time are there."""
    previous = mixed(60)
    for number in range(61, 66):
        previous = mixed(number)
    del previous


@pytest.fixture(autouse=True, scope="module")
def quick_collections() -> Iterator[None]:
    """Keeps the objects of all imported modules out of the tests' garbage collections."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def used() -> Iterator[Callable[[], int]]:
    """Bytes that are in use more than before the test, which begins without free blocks and must leave none in use."""
    gc.collect()
    free_outputs()
    before, _ = _C.output_cache_bytes()
    yield lambda: _C.output_cache_bytes()[0] - before
    gc.collect()
    assert _C.output_cache_bytes()[0] <= before  # less, where a test that failed before was holding some


def cycle_of(image: Tensor) -> list[Any]:
    cycle: list[Any] = [image]
    cycle.append(cycle)
    return cycle


HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "slice": lambda x: x[1, :, 5:, ::3],
    "transposed": lambda x: x.transpose(1, 3),
    "other dtype": lambda x: x.view(torch.int32 if x.itemsize == 4 else torch.int16)[:, 1],
    "detached": lambda x: x.requires_grad_().detach(),
    "storage": lambda x: x.untyped_storage(),
    "array": lambda x: x.numpy(),
    "array of a slice": lambda x: x[1].numpy()[2:, 5:],
    "memoryview": lambda x: memoryview(x.numpy()),
    "DLPack, torch": torch.from_dlpack,
    "DLPack, NumPy": np.from_dlpack,
    "reference cycle": cycle_of,
}
"""What may refer to an output."""


def content(held: Any) -> Tensor:
    """A copy of what a holder refers to."""
    if isinstance(held, torch.UntypedStorage):
        return torch.empty(0, dtype=torch.uint8).set_(held).clone()
    if isinstance(held, np.ndarray | memoryview):
        return torch.from_numpy(np.array(held))
    return (held[0] if isinstance(held, list) else held).clone()


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("holder", "dtype"),
    [*((holder, torch.float32) for holder in HOLDERS), ("slice", torch.bfloat16), ("array", torch.float16)],
)
def test_what_is_held_is_never_overwritten(
    holder: str, memory_format: torch.memory_format, dtype: torch.dtype, used: Callable[[], int]
) -> None:
    inputs = replace(INPUTS, dtype=dtype, memory_format=memory_format, size=(224, 224 * 4 // dtype.itemsize))
    image = mixed(1, inputs)
    address, wanted = image.data_ptr(), expected(1, inputs)
    assert torch.equal(image, wanted) and image.stride() == wanted.stride()
    held = HOLDERS[holder](image)
    kept = content(held)
    del image
    gc.collect()
    others = [mixed(number, inputs) for number in range(2, 6)]
    del others
    use_up()
    assert all(mixed(number, inputs).data_ptr() != address for number in range(4))
    assert torch.equal(content(held), kept) and used() > 0
    del held
    gc.collect()
    assert used() == 0 and mixed(2, inputs).data_ptr() == address


@pytest.mark.parametrize("consumed", [False, True])
def test_a_dlpack_capsule_holds_its_batch(consumed: bool, used: Callable[[], int]) -> None:
    capsule = mixed(1).__dlpack__()
    use_up()
    if consumed:
        other = torch.from_dlpack(capsule)
        del capsule
        use_up()
        assert torch.equal(other, expected(1))
        del other
    else:
        assert used() == MAPPED
        del capsule
    assert used() == 0


def test_backward_sees_the_batch_of_its_forward(used: Callable[[], int]) -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))

    def loss(image: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(image, kernel, stride=4).square().mean()

    ours, theirs = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    first, second = loss(mixed(1), ours), loss(mixed(2), ours)
    assert used() == 2 * MAPPED  # by autograd alone
    use_up()
    (first + second).backward()
    (loss(expected(1), theirs) + loss(expected(2), theirs)).backward()
    assert torch.equal(ours.grad, theirs.grad)
    del first, second
    assert used() == 0


def test_a_freed_block_is_taken_again() -> None:
    image = mixed(1)
    address = image.data_ptr()
    del image
    for number in range(5):
        image = mixed(number)
        assert image.data_ptr() == address and torch.equal(image, expected(number))
        del image
    assert _C.output_cache_bytes()[1] == MAPPED
    as_halves = replace(MixInputs.make(4, (224, 224)), dtype=torch.float16, memory_format=torch.contiguous_format)
    assert mixed(1, as_halves).data_ptr() == address  # the bytes count, not the type


def test_no_more_than_two_blocks_are_free() -> None:
    images = [mixed(number) for number in range(5)]
    assert len({image.data_ptr() for image in images}) == 5
    assert all(torch.equal(image, expected(number)) for number, image in enumerate(images))
    del images
    assert _C.output_cache_bytes()[1] == 2 * MAPPED


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux about memory")


@linux
def test_a_training_loop_stays_within_three_outputs(used: Callable[[], int]) -> None:
    """Its names and its graph hold a batch until the next one is there."""
    net = torch.nn.Conv2d(3, 4, 3, stride=4)
    arguments = [batch(number) for number in range(60)]
    calls, resident = [], []
    for inputs in arguments:
        before = faults()
        image = inputs.call(ops.mix)
        calls.append(faults() - before)
        loss = net(image).square().mean()
        loss.backward()
        assert used() + _C.output_cache_bytes()[1] <= 3 * MAPPED
        resident.append(resident_bytes())
    if "XMIXUP_SANITIZE" not in os.environ:  # whose allocator keeps freed activations, and has faults of its own
        pages = MAPPED / resource.getpagesize()
        assert sum(calls[10:]) < 0.1 * len(calls[10:]) * pages  # new memory has a fault for each page
        assert resident[-1] - resident[9] < 25 * MAPPED  # a block lost in each step would make 50
    del image, loss


@linux
def test_free_outputs_gives_memory_back(used: Callable[[], int]) -> None:
    inputs = MixInputs.make(16, (224, 224))
    images = [mixed(number, inputs) for number in range(3)]
    kept = images.pop()
    del images
    _, free = _C.output_cache_bytes()
    assert free >= 2 * 8 * BYTES
    before = resident_bytes()
    assert free_outputs() == free and free_outputs() == 0
    assert before - resident_bytes() > 0.9 * free
    assert torch.equal(kept, expected(2, inputs)) and used() > 0


def test_outputs_below_1_mib_are_torchs(used: Callable[[], int]) -> None:
    small, large = MixInputs.make(1, (295, 296)), MixInputs.make(1, (296, 296))
    image = mixed(1, small)
    assert image.untyped_storage().resizable() and used() == 0
    assert torch.equal(image, expected(1, small))
    image = mixed(1, large)
    assert not image.untyped_storage().resizable() and used() > 2**20
    assert mixed(1, MixInputs.make(0, (224, 224))).shape == (0, 3, 224, 224)


def test_sizes_that_alternate_keep_a_block_each() -> None:
    seen = [(mixed(number).data_ptr(), mixed(number, SMALLER).data_ptr()) for number in range(6)]
    assert all(pair == next_pair for pair, next_pair in pairwise(seen)) and len(set(seen[0])) == 2
    both = _C.output_cache_bytes()[1]
    assert MAPPED < both < 2 * MAPPED
    for number in range(15):
        mixed(number)
    assert _C.output_cache_bytes()[1] == both
    for number in range(3):
        mixed(number)
    assert _C.output_cache_bytes()[1] == MAPPED  # the other one was in nobody's way for 16 calls


@pytest.mark.parametrize("wrong", ["index", "window", "lam"])
def test_a_call_that_fails_leaves_its_block_free(wrong: str, used: Callable[[], int]) -> None:
    held = mixed(1)
    index, window, flip = INPUTS.target_crops
    spoiled = {
        "index": replace(INPUTS, target_crops=Crops(index + 100, window, flip)),
        "window": replace(INPUTS, target_crops=Crops(index, window + 100, flip)),
        "lam": replace(INPUTS, lam=INPUTS.lam + 2),
    }[wrong]
    for _ in range(4):
        with pytest.raises(RuntimeError, match=wrong):
            spoiled.call(ops.mix)
        assert used() == MAPPED and _C.output_cache_bytes()[1] <= MAPPED
    use_up()
    assert torch.equal(held, expected(1))


@pytest.mark.parametrize("seed", range(4))
def test_batches_held_and_dropped_at_random(seed: int) -> None:
    rng = random.Random(seed)
    batches: list[tuple[Any, Tensor]] = []
    for _ in range(100):
        number, inputs = rng.randrange(64), rng.choice([INPUTS, INPUTS, SMALLER])
        held = HOLDERS[rng.choice(list(HOLDERS))](mixed(number, inputs))
        batches.append((held, content(held)))
        while batches and rng.random() < 0.5:
            held, kept = batches.pop(rng.randrange(len(batches)))
            assert torch.equal(content(held), kept)
        if rng.random() < 0.05:
            free_outputs()
    assert all(torch.equal(content(held), kept) for held, kept in batches)
    assert _C.output_cache_bytes()[1] <= 2 * MAPPED


def test_many_threads_call_at_once(used: Callable[[], int]) -> None:
    wanted = [expected(number) for number in range(8)]
    start = threading.Barrier(8)

    def work(own: int) -> None:
        start.wait()
        held = mixed(own)
        for call in range(40):
            image = mixed((own + call) % 8)
            assert torch.equal(image, wanted[(own + call) % 8])
            if call % 5 == own % 5:
                assert torch.equal(held, wanted[own])
                held = mixed(own)
            if call % 13 == own:
                free_outputs()

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(work, own) for own in range(8)]:
            done.result()
    assert used() == 0 and _C.output_cache_bytes()[1] <= 2 * MAPPED


def test_a_batch_made_in_a_thread_outlives_it(used: Callable[[], int]) -> None:
    with ThreadPoolExecutor(1) as thread:
        image = thread.submit(mixed, 1).result()
    use_up()
    assert torch.equal(image, expected(1)) and used() == MAPPED


def test_batches_are_copied_saved_and_shared(used: Callable[[], int]) -> None:
    image = mixed(1)
    file = io.BytesIO()
    torch.save(image, file)
    file.seek(0)
    copies = [copy.deepcopy(image), pickle.loads(pickle.dumps(image)), torch.load(file)]
    image.share_memory_()
    assert image.is_shared() and used() == 0  # it has moved
    use_up()
    for other in (image, *copies):
        assert torch.equal(other, expected(1))


def test_a_storage_does_not_grow() -> None:
    image, message = mixed(1), "resize storage that is not resizable"
    with pytest.raises(RuntimeError, match=message):
        image[:].resize_(3, 3, 224, 224)
    with pytest.raises(RuntimeError, match=message):
        image.untyped_storage().resize_(2 * BYTES)
    assert torch.equal(image, expected(1))
    assert torch.equal(image.resize_(1, 3, 224, 224), expected(1).resize_(1, 3, 224, 224))
    assert torch.equal(image.set_(torch.ones(3)), torch.ones(3))


def test_compiled_calls_take_blocks_too(used: Callable[[], int]) -> None:
    @torch.compile(fullgraph=True)
    def step(inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        image = ops.mix(*inputs, size=(224, 224), **IMAGENET)
        return image, image.square().mean()

    held = []
    for number in range(5):
        inputs = batch(number)
        image, mean = step((inputs.target, inputs.target_crops, inputs.aux, inputs.aux_crops, inputs.lam))
        torch.testing.assert_close(mean, expected(number).square().mean())
        held.append(image)
    assert used() == 5 * MAPPED
    assert all(torch.equal(image, expected(number)) for number, image in enumerate(held))


def test_transforms_and_inference_mode(used: Callable[[], int]) -> None:
    weight = torch.tensor(2.0)
    assert torch.func.grad(lambda w: (mixed(1) * w).sum())(weight) == expected(1).sum()
    with torch.inference_mode():
        image = mixed(1)
    assert image.is_inference() and used() == MAPPED
    lams = torch.tensor([[0.25, 0.5], [0.75, 1.0]])
    each = torch.vmap(lambda lam: replace(INPUTS, lam=lam).call(ops.mix))(lams)
    assert torch.equal(each[1], replace(INPUTS, lam=lams[1]).call(ops.mix, out=INPUTS.empty_out()))


def test_the_emulated_kernels_take_blocks_too(cuda_emulation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "_library", torch.ops.xmixup_fast_cuda_emulation)
    first = mixed(1)
    second = mixed(2)
    address = second.data_ptr()
    del second
    assert mixed(3).data_ptr() == address and torch.equal(first, expected(1))
