"""Run folders belong to one run at a time, and a run that fails before its first step takes none."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import arguments, run

from xmixup_fast.report import figures
from xmixup_fast.runtime.claims import LOCK, claimed
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.resolve import run_name
from xmixup_fast.training.run import fit
from xmixup_fast.training.run_folder import RunFolder
from xmixup_fast.training.trainer import Trainer


def in_child(work: Callable[[], object]) -> int:
    """Calls ``work``, which needs neither torch nor threads, in a child process; returns the child's id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_a_second_run_stops_at_once_and_says_who_has_the_folder(data: Path, tmp_path: Path, resume: str) -> None:
    with claimed(tmp_path / "run"):
        before = contents(tmp_path)
        with pytest.raises(
            FileExistsError, match=rf"output: .*run is in use by process {os.getpid()} on \S+, since 20"
        ):
            run(data, tmp_path / "run", "finetune", resume=resume)
        assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()
    assert run(data, tmp_path / "run", "finetune", resume=resume).summary["steps"] == 5


def test_a_run_has_its_folder_while_it_trains_and_no_longer(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def step(self: RunFolder, images: int, loss: float) -> None:
        with pytest.raises(FileExistsError, match="is in use by"):
            run(data, tmp_path / "run", "finetune")
        seen.append(loss)

    monkeypatch.setattr(RunFolder, "step", step)
    run(data, tmp_path / "run", "finetune", steps=2)
    assert len(seen) == 2 and not (tmp_path / "run" / LOCK).exists()
    with pytest.raises(FileExistsError, match="already holds a run"):
        run(data, tmp_path / "run", "finetune")


def test_a_claim_dies_with_its_process(tmp_path: Path) -> None:
    def hold() -> None:
        with claimed(tmp_path / "run"):
            time.sleep(60)

    child = in_child(hold)
    deadline = time.monotonic() + 30
    while not ((tmp_path / "run" / LOCK).exists() and (tmp_path / "run" / LOCK).read_text()):
        assert time.monotonic() < deadline
    with pytest.raises(FileExistsError, match=f"process {child} on "), claimed(tmp_path / "run"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "run" / LOCK).exists()  # a file without a lock holds nobody up
    with claimed(tmp_path / "run"):
        pass


def test_no_two_processes_have_a_claim_at_once(tmp_path: Path) -> None:
    """Also while the folder and its lock are removed and made again all the time."""

    def work() -> None:
        done = 0
        while done < 40:
            try:
                with claimed(tmp_path / "runs" / "run"):
                    # Fails where another one is inside.
                    os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
                    (tmp_path / "inside").unlink()
                    done += 1
            except FileExistsError as error:
                assert "is in use by" in str(error)

    children = [in_child(work) for _ in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_file_systems_without_locks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        monkeypatch.setattr(fcntl, "flock", stops(OSError(number, os.strerror(number))))
        with claimed(tmp_path / "run") as warning:
            assert warning is not None and "its file system has no locks" in warning and "\n" not in warning
    monkeypatch.setattr(fcntl, "flock", stops(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"), claimed(tmp_path / "run"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_the_output_s(tmp_path: Path, number: int) -> None:
    """Errors that name a file, or are others, stay what they are."""
    full = OSError(number, os.strerror(number))
    with pytest.raises(OSError, match=rf"^output: {tmp_path}/run: {os.strerror(number)}$"), claimed(tmp_path / "run"):
        raise full
    for error in (OSError(number, os.strerror(number), "image.png"), OSError(errno.EIO, os.strerror(errno.EIO))):
        with pytest.raises(OSError) as found, claimed(tmp_path / "run"):
            raise error
        assert found.value is error


def stops(error: BaseException) -> Callable[..., Any]:
    def stop(*_: object, **__: object) -> Any:
        raise error

    return stop


FAILURES: dict[str, tuple[object, str, BaseException]] = {
    "while images are listed": ("xmixup_fast.training.prepare", "target_data", ValueError("no")),
    "while images are decoded": ("xmixup_fast.training.prepare", "SplitImages", KeyboardInterrupt()),
    "while the manifest is written": (RunFolder, "data", OSError("no")),
    "while the picture is drawn": (figures, "save", ValueError("mathtext")),
    "in the first step": (Trainer, "step", RuntimeError("out of memory")),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_run_that_fails_before_its_first_step_takes_no_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_there: bool
) -> None:
    output = tmp_path / "runs" / "run"
    if is_there:
        output.mkdir(parents=True)
        (output / "note.txt").write_text("mine")
    where, what, error = FAILURES[name]
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        place = f"{where}.{what}" if isinstance(where, str) else None
        patch.setattr(place, stops(error)) if place else patch.setattr(where, what, stops(error))
        run(data, output, "finetune", loggers="tensorboard")
    assert contents(tmp_path) == ({"runs/run/note.txt": b"mine"} if is_there else {})
    assert (tmp_path / "runs").exists() == is_there
    assert run(data, output, "finetune", steps=1).summary["steps"] == 1


def test_what_a_run_left_that_was_killed_before_its_first_step_is_no_run(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole", "finetune", steps=1)
    for resume in ("never", "auto"):
        output = tmp_path / resume
        output.mkdir()
        (output / LOCK).write_text("process 1 on elsewhere\n")
        for name in ("manifest.csv", "data.json"):
            (output / name).write_bytes((whole.folder / name).read_bytes())
        assert run(data, output, "finetune", steps=1, resume=resume, seed=5).summary["seed"] == 5


def test_runs_that_begin_in_one_second_have_names_of_their_own(data: Path, tmp_path: Path) -> None:
    settings = Settings(**arguments(data, tmp_path))
    assert len({run_name("finetune", settings) for _ in range(2000)}) == 2000


def test_runs_without_an_output_have_folders_of_their_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20261130-234500")
    settings = arguments(data, tmp_path, "finetune", steps=1) | {"output": None}
    results = [fit(**settings) for _ in range(2)]
    assert (
        sorted(result.folder.name for result in results) == sorted(os.listdir("runs")) and len(os.listdir("runs")) == 2
    )
