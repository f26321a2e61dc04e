""".ci/gpu and bench/gpu.py: what is packed, parts with limits, and results that are kept and gone on with."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu
import pytest
from gpu_runs.parts import LEAST, PARTS, TOTAL, Part
from made_machine import MACHINE

ROOT = Path(__file__).resolve().parents[2]

# --- Packing ---


FAKE_PYTHON = """#!/usr/bin/env bash
# Stands in for the Python that packs: notes what it is asked for, and writes files of the sizes that it is told.
echo "$XMIXUP_CUDA $TORCH_CUDA_ARCH_LIST $*" >> asked
folder=build/gpu
case "$*" in
  *'pip wheel'*) mkdir -p $folder/wheels; head -c "$WHEEL_BYTES" /dev/zero > $folder/wheels/ours.whl ;;
  *'pip download'*) touch $folder/wheels/theirs.whl ;;
  *photos*) mkdir -p $folder/photos ;;
esac
"""


def pack(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Packs in a copy of the script's tree, with a Python that does nothing of itself."""
    (tree / ".ci").mkdir(exist_ok=True)
    shutil.copy(ROOT / ".ci" / "gpu", tree / ".ci")
    (tree / "python").write_text(FAKE_PYTHON)
    (tree / "python").chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name not in ("TORCH_CUDA_ARCH_LIST", "PACKAGES")}
    own = {"PYTHON": str(tree / "python"), "WHEEL_BYTES": "1000", "XMIXUP_CUDA": "OFF", **environment}
    return subprocess.run([tree / ".ci" / "gpu", "pack"], env={**clean, **own}, capture_output=True, text=True)


def test_a_wheel_with_kernels_packages_and_photographs_are_packed(tmp_path: Path) -> None:
    (tmp_path / "build" / "gpu" / "site").mkdir(parents=True)  # of an earlier run
    done = pack(tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "build" / "gpu").iterdir()) == ["photos", "wheels"]
    wheel, packages, photos = (tmp_path / "asked").read_text().split("\n", 2)
    assert wheel == "ON 9.0 -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/gpu/wheels ."
    assert packages.endswith("--dest build/gpu/wheels expecttest") and "--only-binary=:all: --platform any" in packages
    program = photos[photos.index(" -c ") + 4 :]
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    assert any(isinstance(call.func, ast.Attribute) and call.func.attr == "write_all" for call in calls)


def test_architectures_and_packages_can_be_chosen(tmp_path: Path) -> None:
    done = pack(tmp_path, TORCH_CUDA_ARCH_LIST="8.0", PACKAGES="expecttest tyro")
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("ON 8.0 ") and "wheels expecttest tyro\n" in asked


def test_more_than_can_travel_is_refused(tmp_path: Path) -> None:
    done = pack(tmp_path, WHEEL_BYTES=str(61 * 2**20))
    assert done.returncode == 1 and ".ci/gpu: build/gpu: expected at most 60 MiB, got 62\n" in done.stdout


def test_other_words_are_refused() -> None:
    done = subprocess.run([ROOT / ".ci" / "gpu", "bench"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ".ci/gpu: expected pack, run or write, got 'bench'\n"


# --- The parts ---


CALLS = "tests/ops/test_kernel_calls.py"


def test_what_matters_most_comes_first_and_in_time() -> None:
    names = [part.name for part in PARTS]
    assert names[:4] == ["operators", "kernels", "streams", "steps"] and names[-1] == "sanitizer"
    assert len(set(names)) == len(names)
    limits = [part.limit for part in PARTS]
    assert sum(limits[:3]) <= 150, "of three minutes, some go to the start"
    assert sum(limits[:-1]) <= TOTAL and all(limit > LEAST for limit in limits)


def test_every_test_that_needs_a_gpu_is_in_a_part() -> None:
    named = " ".join(word for part in PARTS if part.is_tests for word in part.command)
    for path in (ROOT / "tests").rglob("test_*.py"):
        text, place = path.read_text(), str(path.relative_to(ROOT))
        if re.search(r"mark\.gpu|def test_\w+\([^)]*\bdevice: torch\.device", text) and path != Path(__file__):
            assert place in named or place.startswith("tests/ops/"), place
    chosen = [part.command[-1] for part in PARTS if part.command[-3:-1] == (CALLS, "-k")]
    words = {word for choice in chosen for word in choice.split(" or ")}
    tests = re.findall(r"^def (test_\w+)", (ROOT / CALLS).read_text(), re.M)
    for test in tests:
        assert "emulated" in test or sum(word in test for word in words) == 1, test
    for part in PARTS:
        assert all((ROOT / word).exists() for word in part.command if word.startswith("tests/"))


def test_the_documentation_has_the_parts_in_their_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", (ROOT / "docs" / "cuda.md").read_text(), re.M)
    assert rows == [(part.name, str(part.limit)) for part in PARTS]


# --- Results that are kept ---


REPORTING = """
import sys, time
from pathlib import Path
from gpu_runs.lines import append, read
file = Path(sys.argv[sys.argv.index("--lines") + 1])
known = len(read(file))
append(file, {{"name": f"figure {{known}}", "seconds": 1.0}})
{then}
"""


def part(name: str, then: str = "", limit: int = 60) -> Part:
    """A part that reports one figure more than it has already, and then does something."""
    return Part(name, "made", limit, ("-c", REPORTING.format(then=then)))


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Part]]:
    """The parts that are run, without an installation."""
    made: list[Part] = []
    monkeypatch.setattr(gpu, "PARTS", made)
    monkeypatch.setattr(gpu, "install", lambda packed: {**os.environ, "PYTHONPATH": str(ROOT / "bench")})
    monkeypatch.setattr(gpu, "machine", lambda device, environment: {**MACHINE, "device": device})
    monkeypatch.setattr(gpu, "LEAST", 1)
    before = signal.getsignal(signal.SIGTERM)
    yield made
    signal.signal(signal.SIGTERM, before)


def run(output: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and the parts in results.json."""
    status = gpu.main(["run", "--output", str(output), *(more or ("--device", "cpu"))])
    return status, json.loads((output / "results.json").read_text())["parts"]


def test_parts_that_are_done_are_not_run_again(parts: list[Part], tmp_path: Path) -> None:
    parts += [part("one"), part("two", "sys.exit(3)"), part("three")]
    status, found = run(tmp_path)
    assert status == 1 and [found[name]["state"] for name in ("one", "two", "three")] == ["done", "failed", "done"]
    assert found["two"]["exit"] == 3 and len(found["two"]["lines"]) == 1
    parts[1] = part("two")
    status, found = run(tmp_path)
    assert status == 0 and {entry["state"] for entry in found.values()} == {"done"}
    assert [len(entry["lines"]) for entry in found.values()] == [1, 2, 1], "the second goes on with what it had"
    assert "| two | made | done |" in (tmp_path / "results.md").read_text()


def test_a_part_is_cut_at_its_limit_with_all_that_it_started(parts: list[Part], tmp_path: Path) -> None:
    file = tmp_path / "id"
    child = f"import subprocess; Path({str(file)!r}).write_text(str(subprocess.Popen(['sleep', '60']).pid))"
    parts += [part("long", f"{child}; time.sleep(60)", limit=3), part("short")]
    began = time.monotonic()
    status, found = run(tmp_path / "out")
    assert status == 0 and time.monotonic() - began < 20
    assert (found["long"]["state"], found["short"]["state"]) == ("cut", "done")
    assert found["long"]["exit"] is None and len(found["long"]["lines"]) == 1
    assert not is_running(int(file.read_text()))


def is_running(process: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_does_not_fit_into_the_time_is_not_begun(parts: list[Part], tmp_path: Path) -> None:
    parts += [part("one", "time.sleep(2.5)"), part("two")]
    status, found = run(tmp_path, "--seconds", "3")
    assert status == 0 and [entry["state"] for entry in found.values()] == ["done", "not begun"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_keeps_what_was_reported(tmp_path: Path, number: signal.Signals) -> None:
    folders = [str(ROOT / folder) for folder in ("tests/project", "tests/support", "bench")]
    program = f"""
import sys
sys.path[:0] = {folders!r}
import gpu
import test_gpu_script as script
note = "import os; Path({str(tmp_path / "id")!r}).write_text(str(os.getpid())); time.sleep(60)"
gpu.PARTS = [script.part("one"), script.part("two", note)]
gpu.install = lambda packed: {{**script.os.environ, "PYTHONPATH": {folders[-1]!r}}}
gpu.machine = lambda device, environment: script.MACHINE
gpu.main(["run", "--output", {str(tmp_path)!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, cwd=ROOT)
    file, deadline = tmp_path / "results.json", time.monotonic() + 30
    while not ((tmp_path / "id").exists() and json.loads(file.read_text())["parts"]["two"]["lines"]):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    process.wait()
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
    found = json.loads(file.read_text())["parts"]
    assert [entry["state"] for entry in found.values()] == ["done", "cut"]
    assert len(found["two"]["lines"]) == 1 and "| two | made | cut |" in (tmp_path / "results.md").read_text()
    part_of_it = int((tmp_path / "id").read_text())
    while is_running(part_of_it):
        assert time.monotonic() < deadline, "the part goes on"
        time.sleep(0.1)


def test_results_of_another_device_are_not_gone_on_with(parts: list[Part], tmp_path: Path) -> None:
    run(tmp_path, "--device", "cpu")
    with pytest.raises(ValueError, match=rf"output: expected a folder for cuda, got {tmp_path} with results of cpu"):
        run(tmp_path, "--device", "cuda")


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "bench")])
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    with pytest.raises(SystemExit, match=r"(?s)device: .*--device cuda cannot be used here; --device cpu rehearses"):
        gpu.machine("cuda", environment)


def test_nothing_packed_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"packed: expected wheels in .*, which .ci/gpu pack makes; found none"):
        gpu.install(tmp_path)
