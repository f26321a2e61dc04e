"""The memory of `mix`'s outputs in processes of their own: forks, the end, the switch, and no memory left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

COMMON = """
import os, signal, sys, threading
import torch
from dataclasses import replace
from samples import MixInputs
from xmixup_fast import _C, free_outputs, ops

torch.set_num_threads(1)  # a child of fork has none of OpenMP's threads
INPUTS = MixInputs.make(2, (224, 224))

def batch(number):
    return replace(INPUTS, lam=torch.full_like(INPUTS.lam, number / 64))

def mixed(number):
    return batch(number).call(ops.mix)

def is_right(image, number):
    return torch.equal(image, batch(number).call(ops.mix, out=INPUTS.empty_out()))
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", COMMON + code]
    return subprocess.run(command, env=variables, capture_output=True, text=True, cwd=ROOT, timeout=120)


FORK = """
held, dropped = mixed(1), mixed(2)
del dropped

def child():
    assert _C.output_cache_bytes()[1] == 0, "the free blocks are the parent's"
    others = [mixed(number) for number in range(3, 7)]
    assert all(is_right(image, number) for number, image in enumerate(others, start=3))
    assert is_right(held, 1)
    address = held.data_ptr()
    globals().pop("held")
    assert mixed(8).data_ptr() == address

pids = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # ends a child that waits for ever
        status = 1
        try:
            child()
            status = 0
        finally:
            os._exit(status)
    pids.append(pid)
    others = [mixed(number) for number in range(10, 14)]
    assert all(is_right(image, number) for number, image in enumerate(others, start=10))
    del others
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
assert is_right(held, 1) and _C.output_cache_bytes()[1] > 0
print("done")
"""

FORK_WHILE_OTHERS_CALL = """
ended = threading.Event()
small = MixInputs.make(1, (300, 300))

def work(number):
    while not ended.is_set():
        image = mixed(number)
        small.call(ops.mix)
        free_outputs()
        assert is_right(image, number)

threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
held = mixed(9)
found = []
for number in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # ends a child that waits for ever
        status = 1
        try:
            image = mixed(number)
            assert is_right(image, number) and is_right(held, 9)
            del image
            free_outputs()
            status = 0
        finally:
            os._exit(status)
    found.append(os.waitpid(pid, 0)[1])
    if found[-1]:
        break
ended.set()
for thread in threads:
    thread.join()
assert found == [0] * 20, found
assert is_right(held, 9)
print("done")
"""

EXIT = """
import builtins
import numpy as np

held, array, cycle = mixed(1), mixed(2)[1].numpy(), [mixed(3)]
cycle.append(cycle)
builtins.kept = mixed(4)
weight = torch.ones((), requires_grad=True)
graph = (mixed(5) * weight).sum()

is_kept = threading.Event()

def keep():
    local = mixed(6)
    is_kept.set()
    threading.Event().wait()

threading.Thread(target=keep, daemon=True).start()
is_kept.wait()
free = mixed(7)
del free
print("done")
"""

CALLS = """
from samples import IMAGENET

def mix(inputs):
    return inputs.call(ops.mix)

def mix_plan(inputs):
    plan = ops.MixPlan.of(inputs.target_crops, inputs.aux_crops, inputs.lam, box=inputs.box)
    return ops.mix_plan(inputs.target, inputs.aux, plan, size=inputs.size, **IMAGENET)
"""

NO_MEMORY = """
import resource

def limit(room):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))

large, larger = (MixInputs.make(1, (side, side)) for side in (2000, 2300))
expected = larger.call(ops.mix, out=larger.empty_out())
pair = [large.call(ops.mix) for _ in range(2)]
del pair
before = _C.output_cache_bytes()[1]
limit(16 << 20)
image = call(larger)
assert _C.output_cache_bytes()[1] == 0 < before, "the free blocks make room"
try:
    call(larger)
except RuntimeError as error:
    print(error)
assert _C.output_cache_bytes()[0] == image.nbytes // 4096 * 4096 + 4096
assert torch.equal(image, expected)
print("done")
"""


@pytest.mark.parametrize("code", [FORK, FORK_WHILE_OTHERS_CALL], ids=["fork", "fork_while_others_call"])
def test_parent_and_child_keep_their_batches(code: str) -> None:
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_the_process_ends_while_outputs_are_alive() -> None:
    done = run(EXIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory is mapped")
@pytest.mark.parametrize("op", ["mix", "mix_plan"])
def test_no_memory_is_said(op: str) -> None:
    done = run(f"{CALLS}\ncall = {op}\n{NO_MEMORY}")
    assert done.returncode == 0, done.stderr
    message = f"xmixup_fast.{op}: can't allocate memory: you tried to allocate "
    assert done.stdout.startswith(message) and done.stdout.endswith("(Cannot allocate memory)\ndone\n")


USE_AFTER_FREE = """
import ctypes

image = mixed(1)
memory = (ctypes.c_byte * image.nbytes).from_address(image.data_ptr())
stale = torch.frombuffer(memory, dtype=torch.float32).view(2, 224, 224, 3).permute(0, 3, 1, 2)
batch(2).call(ops.mix, out=stale)
print("held", flush=True)
del image
batch(3).call(ops.mix, out=stale)
print("free")
"""


@pytest.mark.skipif("address" not in os.environ.get("XMIXUP_SANITIZE", ""), reason="runs under .ci/sanitize")
def test_address_sanitizer_sees_who_writes_to_a_free_block() -> None:
    done = run(USE_AFTER_FREE)
    assert done.returncode != 0 and done.stdout == "held\n" and "use-after-poison" in done.stderr


USE = "image = mixed(1); print(image.untyped_storage().resizable(), is_right(image, 1), *_C.output_cache_bytes())"


def test_the_switch() -> None:
    assert run(USE, XMIXUP_OUTPUT_CACHE="0").stdout == "True True 0 0\n"
    on = run(USE, XMIXUP_OUTPUT_CACHE="1").stdout
    assert on == run(USE, XMIXUP_OUTPUT_CACHE="").stdout and on.startswith("False True 1204224 ")
    wrong = run(USE, XMIXUP_OUTPUT_CACHE="off")
    assert wrong.returncode != 0
    assert "ImportError: XMIXUP_OUTPUT_CACHE: expected 0 (off) or 1 (on), got 'off'" in wrong.stderr
