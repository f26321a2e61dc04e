"""What the commands set before torch loads OpenMP, in every way of starting them; as a library, nothing is set.

Most processes find a torch that prints what it would read of the environment, and ends them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made import write_plan

from xmixup_fast.runtime import openmp
from xmixup_fast.runtime.device import default_threads, reproducible

ROOT = Path(__file__).resolve().parents[2]
SET = f"GOMP_SPINCOUNT={openmp.SPIN_COUNT}"
NAMES = (*openmp.WAITING, *openmp.THREADS)
FAKE_TORCH = f"""
import os
print("torch reads", *(f"{{name}}={{os.environ[name]}}" for name in {NAMES} if name in os.environ), flush=True)
os._exit(0)
"""
CONSOLE_SCRIPT = "import sys; from xmixup_fast.__main__ import main; sys.exit(main())"
"""What pip makes of the entry in pyproject.toml."""
WITH_QUOTA = "from xmixup_fast.runtime import openmp; openmp.cpu_quota = lambda: 1.9; openmp.cpu_count = lambda: 64; "

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="torch brings libgomp on Linux")


def output(folder: Path, *arguments: str, real: bool = False, **variables: str) -> str:
    """What a new Python prints, in an environment with no other variables of OpenMP than these."""
    fakes = folder / "fakes"
    fakes.mkdir(exist_ok=True)
    (fakes / "torch.py").write_text(FAKE_TORCH)
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment |= {"PYTHONPATH": str(ROOT) if real else f"{fakes}:{ROOT}", **variables}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr if "OMP_DISPLAY_ENV" in variables else done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", CONSOLE_SCRIPT, "info"),
        ("-m", "xmixup_fast", "predict", "runs/first", "photos"),
        ("-m", "xmixup_fast", "train", "photos"),
        ("-m", "xmixup_fast.train", "photos"),
        ("-m", "xmixup_fast.train"),
    ],
    ids=["xmixup info", "predict", "train", "train as a module", "demo"],
)
def test_a_command_sets_the_spin_before_torch(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert output(tmp_path, *arguments).splitlines()[-1] == f"torch reads {SET}"


@pytest.mark.parametrize("given", ["GOMP_SPINCOUNT=7", "OMP_WAIT_POLICY=active", "KMP_BLOCKTIME=1"])
def test_what_the_user_has_set_stays(tmp_path: Path, given: str) -> None:
    name, value = given.split("=")
    assert output(tmp_path, "-m", "xmixup_fast", "info", **{name: value}) == f"torch reads {given}\n"


@pytest.mark.parametrize("use", ["import torch", "xmixup_fast.fit", "from xmixup_fast import cli"])
def test_the_library_sets_nothing(tmp_path: Path, use: str) -> None:
    assert output(tmp_path, "-c", f"import xmixup_fast; {use}; import torch") == "torch reads\n"


def test_nothing_is_set_where_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openmp, "cpu_quota", lambda: 0.5)
    openmp.set_environment()
    assert not any(name in os.environ for name in NAMES)


def test_workers_of_compare_inherit_it(tmp_path: Path) -> None:
    plan = {
        **{"results": "results.jsonl", "model": "test_resnet", "weights": "none", "seeds": [0]},
        **{"targets": {"colours": {"target": "photos"}}, "methods": {"finetune": {}}},
    }
    # The worker alone finds the torch that prints.
    path = f"import os; os.environ['PYTHONPATH'] = '{tmp_path / 'fakes'}'; "
    compare = f"from xmixup_fast.__main__ import main; assert main(['compare', {write_plan(tmp_path, plan)!r}])"
    output(tmp_path, "-c", path + compare, real=True)
    (log,) = tmp_path.rglob("*.log")
    assert log.read_text() == f"torch reads {SET}\n"


def test_libgomp_reads_it_in_the_processes_of_torchrun(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    shown = output(tmp_path, *launcher, "-m", "xmixup_fast", "--version", real=True, OMP_DISPLAY_ENV="verbose")
    counts = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", shown)
    # torch's libgomp and, where other packages bring their own, those; the launcher loads torch with the default.
    assert counts.count(str(openmp.SPIN_COUNT)) >= 2 and counts[0] != str(openmp.SPIN_COUNT)


def test_a_command_takes_no_more_threads_than_the_quota_feeds(tmp_path: Path) -> None:
    console_script = f"{WITH_QUOTA}{CONSOLE_SCRIPT}"
    assert output(tmp_path, "-c", console_script, "info") == f"torch reads {SET} OMP_NUM_THREADS=1\n"
    for given in ("OMP_NUM_THREADS=3", "MKL_NUM_THREADS=3"):
        name, value = given.split("=")
        assert output(tmp_path, "-c", console_script, "info", **{name: value}) == f"torch reads {SET} {given}\n"


def test_info_says_what_was_chosen_and_why(tmp_path: Path) -> None:
    lines = output(tmp_path, "-c", f"{WITH_QUOTA}{CONSOLE_SCRIPT}", "info", real=True).splitlines()
    threads = "1 (of 64 CPUs; quota of 1.9 CPUs; OMP_NUM_THREADS=1 (set by xmixup: what the quota feeds))"
    assert f"threads       {threads}" in lines
    assert f"waiting       {SET} (set by xmixup: a short spin, then sleep)" in lines
    lines = output(tmp_path, "-m", "xmixup_fast", "info", real=True, OMP_WAIT_POLICY="passive").splitlines()
    assert "waiting       OMP_WAIT_POLICY=passive (set by you)" in lines


@pytest.mark.parametrize(("quota", "expected"), [(2.7, 2), (0.3, 1), (8.0, 4), (float("inf"), 4)])
def test_functions_take_no_more_threads_than_the_quota_feeds(
    monkeypatch: pytest.MonkeyPatch, quota: float, expected: int
) -> None:
    for name in openmp.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openmp, "cpu_quota", lambda: quota)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with reproducible(0, None):
            assert torch.get_num_threads() == default_threads() == expected
        with reproducible(0, 3):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 4
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        with reproducible(0, None):
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_the_documentation_names_the_same_count() -> None:
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    assert f'os.environ.setdefault("GOMP_SPINCOUNT", "{openmp.SPIN_COUNT}")' in page
