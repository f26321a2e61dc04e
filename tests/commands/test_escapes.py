"""How commands end that are interrupted, that nobody reads, or whose console does not know all letters."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked_commands
import pytest
from forked_commands import ENDED, INTERRUPTED, UNREAD

from xmixup_fast.runtime.files import writing_to_cache

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs code in a process of its own, which imports neither torch nor much else."""
    path = os.pathsep.join([str(ROOT), str(folder)] if folder else [str(ROOT)])
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"
    places: dict[str, Any] = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": path, **environment}}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, **places)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], dict[str, Any]]:
    """How each case has ended, by its command and its moment or output."""
    folder = tmp_path_factory.mktemp("commands")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["tests/support", str(ROOT)])}
    program = [sys.executable, forked_commands.__file__, str(folder)]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {tuple(line["case"]): line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", [*INTERRUPTED, *ENDED], ids="-".join)
def test_an_interrupted_command_says_so_in_a_line_and_leaves_nothing_half_written(
    ended: dict[tuple[str, ...], dict[str, Any]], case: tuple[str, ...]
) -> None:
    end = ended[case]
    assert end["came"], end
    number = signal.Signals[case[2]] if len(case) > 2 else signal.SIGINT
    assert (end["status"], end["half"]) == (128 + number, []), end
    assert end["err"].startswith("stopped") and end["err"].count("\n") == 1, end["err"]


@pytest.mark.parametrize("case", UNREAD, ids="-".join)
def test_a_command_whose_output_nobody_reads_is_silent(
    ended: dict[tuple[str, ...], dict[str, Any]], case: tuple[str, str]
) -> None:
    end = ended[case]
    command, output = case
    quiet = {"predict", "help", "help of a command"}  # argparse itself says nothing of a pipe that is closed
    status = {"an error": 2, **dict.fromkeys(quiet, 0)}.get(command, 141)
    assert end["status"] in (status, 141) and end["half"] == [], end
    told = "error: " if command == "an error" and output == "stdout" else ""
    assert end["err"].startswith(told) and end["err"].count("\n") == bool(told), end["err"]


SWALLOWED = {
    "bare except": "try:\n    import interrupting\nexcept:\n    pass",
    "another error": "try:\n    import interrupting\nexcept BaseException as error:\n    raise ImportError from error",
    "traceback": "import traceback\ntry:\n    import interrupting\nexcept BaseException:\n    traceback.print_exc()",
    "nested": "import importlib\ntry:\n    importlib.import_module('interrupting')\nexcept:\n    pass",
    "part of a package": "try:\n    from interrupting import part\nexcept:\n    part = None",
}
"""What libraries do with an interrupt while they are imported."""
INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor number in range(1000): pass\n"


@pytest.mark.parametrize("name", SWALLOWED)
def test_libraries_cannot_swallow_an_interrupt(tmp_path: Path, name: str) -> None:
    (tmp_path / "interrupting.py").write_text(INTERRUPT)
    (tmp_path / "library.py").write_text(SWALLOWED[name])
    code = "from xmixup_fast.cli import exit_status\ndef work(): import library\nraise SystemExit(exit_status(work))"
    done = python(code, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (130, b"stopped\n", b"")


LOST = {
    "destructor": "class Lost:\n    def __del__(self): kill()\ndef work(): Lost()",
    "callback": "import weakref\nclass Lost: pass\ndef work():\n    lost = Lost()\n"
    "    kept = weakref.ref(lost, lambda _: kill())\n    del lost",
    "another error": "def work():\n    try: kill()\n    except KeyboardInterrupt: raise RuntimeError('of a library')",
    "ImportError": "def work():\n    try: kill()\n    except KeyboardInterrupt as error: raise ImportError from error",
}
"""Where Python, or a library, loses a KeyboardInterrupt."""


@pytest.mark.parametrize("name", LOST)
def test_an_interrupt_is_not_lost(tmp_path: Path, name: str) -> None:
    """A file that is being written goes, too."""
    code = (
        "import os, signal, pathlib\nfrom xmixup_fast.cli import exit_status\n"
        "from xmixup_fast.runtime.files import atomic_write\n"
        "def kill():\n    os.kill(os.getpid(), signal.SIGINT)\n    for number in range(1000): pass\n"
        f"{LOST[name]}\n"
        "def writing():\n    with atomic_write(pathlib.Path('a')) as aside:\n        aside.touch()\n        work()\n"
        "    return 7\n"
        "raise SystemExit(exit_status(writing))"
    )
    done = python(code, tmp_path)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (130, b"stopped\n", [])


def test_an_interrupt_while_something_is_imported_leaves_no_folder_behind(tmp_path: Path) -> None:
    (tmp_path / "interrupting.py").write_text(INTERRUPT)
    (tmp_path / "mine").mkdir()
    code = (
        "import pathlib\nfrom xmixup_fast.cli import exit_status\n"
        "from xmixup_fast.runtime.claims import owned_output\n"
        "def work():\n"
        "    with owned_output(pathlib.Path('a/b/c'), print), owned_output(pathlib.Path('mine'), print):\n"
        "        import interrupting\n"
        "raise SystemExit(exit_status(work))"
    )
    done = python(code, tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert (done.returncode, done.stderr) == (130, b"stopped\n")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["interrupting.py", "mine"]


def test_an_interrupt_after_the_work_changes_nothing() -> None:
    code = (
        "import atexit, os, signal\nfrom xmixup_fast.runtime.process import run_process\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\nrun_process(lambda: 0)"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_where_signals_are_ignored_they_stay_so(name: str) -> None:
    """As Ctrl-C in the background of a shell, and the end of the terminal with nohup; also while steps are made."""
    code = (
        f"import os, signal\nsignal.signal(signal.{name}, signal.SIG_IGN)\nfrom xmixup_fast.cli import exit_status\n"
        "from xmixup_fast.runtime.signals import catching_signals\n"
        "def work():\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        f"    with catching_signals() as caught: os.kill(os.getpid(), signal.{name}); return caught()\n"
        "raise SystemExit(exit_status(work))"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_processes_of_torchrun_end_as_they_are_told(name: str) -> None:
    code = (
        "import os, signal\nfrom xmixup_fast.cli import exit_status\n"
        f"exit_status(lambda: os.kill(os.getpid(), signal.{name}))"
    )
    done = python(code, WORLD_SIZE="2", RANK="1")
    assert (done.returncode, done.stderr) == (-signal.Signals[name], b"")


NAMES = ["café", "猫", "caf\\udce9", "🦊", "a\\tb"]
ENCODINGS = ["ascii", "latin-1", "cp1252", "shift_jis", "utf-8", "ascii:surrogateescape"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_consoles_that_lack_letters_get_escapes(encoding: str) -> None:
    """On stdout, and in an error."""
    lines = "; ".join(f"print('{name}')" for name in NAMES)
    code = (
        f"from xmixup_fast.cli import exit_status\ndef work():\n    {lines}\n"
        f"    raise ValueError('{' '.join(NAMES)}')\nraise SystemExit(exit_status(work))"
    )
    done = python(code, PYTHONIOENCODING=encoding)
    assert done.returncode == 2, done.stderr
    expected = [name.encode().decode("unicode_escape") if "\\" in name else name for name in NAMES]
    codec = encoding.partition(":")[0]
    shown = [name.encode(codec, "backslashreplace") for name in expected]
    assert done.stdout == b"\n".join(shown) + b"\n" and done.stderr == b"error: " + b" ".join(shown) + b"\n"


def test_a_way_of_encoding_that_the_user_chose_stays() -> None:
    code = "from xmixup_fast.cli import exit_status\nraise SystemExit(exit_status(lambda: print('café')))"
    done = python(code, PYTHONIOENCODING="ascii:replace")
    assert (done.returncode, done.stdout) == (0, b"caf?\n")


CLOSED: dict[str, Sequence[int]] = {"stdout": [1], "stderr": [2], "both": [1, 2], "all": [0, 1, 2]}


@pytest.mark.parametrize("name", CLOSED)
def test_outputs_may_be_closed_from_the_start(tmp_path: Path, name: str) -> None:
    """As with >&- and 2>&- in a shell: what is written to them goes nowhere, and to no file that is opened later."""
    code = (
        "import sys\nfrom xmixup_fast.cli import exit_status\n"
        "def work():\n    print('line')\n    raise ValueError('an error')\n"
        "open('status', 'w').write(str(exit_status(work)))"
    )
    closing = " ".join(f"{number}>&-" if number else "<&-" for number in CLOSED[name])
    command = f'"{sys.executable}" -c "$CODE" {closing}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": code}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True)
    assert (tmp_path / "status").read_text() == "2"
    expected = (b"" if 1 in CLOSED[name] else b"line\n", b"" if 2 in CLOSED[name] else b"error: an error\n")
    assert (done.stdout, done.stderr) == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, as Linux has it")
def test_a_full_disk_under_stdout_is_an_error() -> None:
    code = "from xmixup_fast.cli import exit_status; raise SystemExit(exit_status(lambda: print('line')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (2, b"error: standard output: No space left on device\n")


def test_a_pipe_that_nobody_reads_is_no_fault_of_the_cache(tmp_path: Path) -> None:
    """Lines are printed while images are written there."""
    with pytest.raises(BrokenPipeError), writing_to_cache(tmp_path):
        raise BrokenPipeError
    told = r"^cache: .*: No space left on device; name another folder, or none$"
    with pytest.raises(OSError, match=told), writing_to_cache(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
