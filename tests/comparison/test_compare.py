"""The command compare: results when processes die or share the work."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparisons import compare, lines
from made import SOURCE, TARGET, write_folder, write_plan

from xmixup_fast import fit
from xmixup_fast.commands.compare import main
from xmixup_fast.comparison import workers
from xmixup_fast.comparison.results import Results, without_folders
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.target import listing_now
from xmixup_fast.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]


def test_a_finished_run_is_not_run_again(tmp_path: Path, plan: dict[str, Any], started: Any) -> None:
    assert compare(tmp_path, plan) == 0
    assert len(started()) == len(lines(plan)) == 12
    assert started()[0][0]["target"] == "/data/b" and {settings["test"] for (settings,) in started()} == {"run"}
    assert compare(tmp_path, plan) == 0 and compare(tmp_path, plan, "--split", "val") == 0 and len(started()) == 12
    text = Path(plan["results"]).read_text()
    assert "/mnt" not in text and "/data" not in text and '"target": "boats"' in text


def test_runs_on_different_images_are_not_compared(
    tmp_path: Path,
    plan: dict[str, Any],
    started: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = write_folder(tmp_path / "photos", TARGET, 3)
    settings = {"target": str(target), "model": "m", "cache": "none"}
    plan |= {"targets": {"photos": {"target": str(target)}}, "cache": "none"}
    monkeypatch.setenv("DATA", listing_now(Settings(**settings)))
    assert compare(tmp_path, plan, "--seeds", "0") == 0 and compare(tmp_path, plan, "--seeds", "0", "1") == 0
    runs = len(started())
    assert runs == 6
    # Found before another run is made.
    next(target.rglob("*.png")).unlink()
    assert compare(tmp_path, plan, "--seeds", "0", "1", "2") == 2 and len(started()) == runs
    assert "error: results: the images of target photos have changed since its first runs (finger" in (
        capsys.readouterr().err
    )
    assert compare(tmp_path, plan, "--table") == 0
    # Found in the file.
    lines = [json.loads(line) for line in Path(plan["results"]).read_text().splitlines()]
    lines[-1]["data"] = "b" * 15
    Path(plan["results"]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert compare(tmp_path, plan, "--table") == 2
    message = (
        rf"results: the images of target photos have changed between its runs \(fingerprint \w+ in 5, {'b' * 15} in 1"
    )
    assert re.search(message, capsys.readouterr().err)


def test_changed_settings_make_new_runs_and_old_lines_are_not_in_the_table(
    tmp_path: Path, plan: dict[str, Any], started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(tmp_path, plan)
    capsys.readouterr()
    plan["lr"] = 0.9
    assert compare(tmp_path, plan, "--table") == 0 and len(started()) == 12
    assert "0 of 12 runs are done; 0 have failed. 12 other lines of the file" in capsys.readouterr().out
    # The test accuracies were seen: a table of the new settings is no test, and says so.
    assert compare(tmp_path, plan) == 2 and len(started()) == 12
    message = (
        "results: expected settings that were chosen before a method's test runs, got settings that were chosen after"
    )
    assert f"{message} them: finetune on birds, 5 shots; finetune on boats; mixup on" in capsys.readouterr().err
    assert compare(tmp_path, plan, "--post-hoc") == 0 and len(started()) == 24
    assert compare(tmp_path, plan, "--table") == 2
    table = (tmp_path / "results.md").read_text()
    assert table.count("**Post hoc**") == 1 and "| birds, boats |" in table
    assert "12 of 12 runs are done; 0 have failed. 12 other lines of the file" in table
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    finetune = next(row for row in rows if row["method"] == "finetune")
    assert {row["post_hoc"] for row in rows} == {"birds, boats", "birds", "boats"}
    assert float(finetune["accuracy"]) == pytest.approx(69.5)  # 60 + 10 lr + the seeds' mean


def test_validation_alone_never_tests(tmp_path: Path, plan: dict[str, Any], started: Any) -> None:
    assert compare(tmp_path, plan, "--split", "val") == 0
    assert {settings["test"] for (settings,) in started()} == {"hold"}
    assert all(line["test_accuracy"] is None for line in lines(plan)) and (tmp_path / "results.val.md").exists()
    assert compare(tmp_path, plan) == 0 and len(started()) == 24 and (tmp_path / "results.md").exists()


def test_failed_runs_are_recorded_and_tried_again_by_the_next_call(
    tmp_path: Path, plan: dict[str, Any], started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan["methods"]["mixup"] = {"lr": 1.5}
    assert compare(tmp_path, plan) == 1
    assert Counter(line.get("error") for line in lines(plan)) == {None: 8, "lr: lr is too large": 4}
    assert "8 of 12 runs are done; 4 have failed." in capsys.readouterr().out
    assert compare(tmp_path, plan) == 1 and len(started()) == 16


def test_a_worker_that_dies_is_a_failed_run(
    tmp_path: Path, plan: dict[str, Any], started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stand_in.py").write_text("import os; os.kill(os.getpid(), 9)")
    assert compare(tmp_path, plan, "--targets", "boats", "--methods", "finetune", "--seeds", "0") == 1
    (tmp_path / "stand_in.py").write_text("print('no such thing'); raise SystemExit(3)")
    assert compare(tmp_path, plan, "--targets", "boats", "--methods", "finetune", "--seeds", "0") == 1
    assert [line["error"] for line in lines(plan)] == ["killed by signal 9", "exit status 3: no such thing"]


@pytest.mark.parametrize("end", ["", "{", '{"key": "b", "n": 1}'])
def test_an_incomplete_last_line_is_removed(tmp_path: Path, end: str) -> None:
    results = Results(tmp_path / "r.jsonl")
    results.append({"key": "a"})
    with results.path.open("a") as file:
        file.write(end)
    assert results.lines() == [{"key": "a"}]
    results.append({"key": "c"})
    assert results.lines() == [{"key": "a"}, {"key": "c"}] and results.path.read_text().count("\n") == 2


@pytest.mark.parametrize("line", ["{", "3", "\0\0"])
def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.jsonl").write_text(f'{{"key": "a"}}\n{line}\n{{"key": "b"}}\n')
    with pytest.raises(ValueError, match=r"r\.jsonl: line 2 is no JSON object"):
        Results(tmp_path / "r.jsonl").lines()


def start(folder: Path, plan: dict[str, Any], *, stand_in: bool, **environment: str) -> subprocess.Popen[str]:
    """A comparison in a process of its own."""
    replace = f"workers.COMMAND = {workers.COMMAND!r}" if stand_in else ""
    # A shell starts background processes with SIGINT ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"import sys; from xmixup_fast.comparison import workers; {replace}\n"
    code += "from xmixup_fast.commands.compare import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, write_plan(folder, plan), "--data", str(folder)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_share_the_work(tmp_path: Path, plan: dict[str, Any], started: Any) -> None:
    both = [start(tmp_path, plan, stand_in=True, SECONDS="0.4") for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    keys = [line["key"] for line in lines(plan)]
    assert len(keys) == len(set(keys)) == len(started()) == 12
    assert sum(output.count("test_accuracy") for output in outputs) == 12


def test_a_stopped_or_killed_comparison_is_resumed(tmp_path: Path, plan: dict[str, Any], started: Any) -> None:
    for done, with_signal, status in ((1, signal.SIGINT, 130), (2, signal.SIGKILL, -signal.SIGKILL)):
        with start(tmp_path, plan, stand_in=True, SECONDS="0.2") as process:
            wait_until(lambda done=done: len(lines(plan)) >= done)  # then it is between two runs or in the next one
            process.send_signal(with_signal)
        assert process.returncode == status
    before, finished = len(started()), len(lines(plan))
    assert 2 <= finished <= before < 12
    assert compare(tmp_path, plan) == 0
    keys = [line["key"] for line in lines(plan)]
    again = len(started()) - before
    assert len(keys) == len(set(keys)) == 12
    assert (
        12 - finished <= again <= 12 - finished + 1
    )  # + 1: a worker may have been started when its comparison was killed


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_folder(folder / "target", TARGET, 10)
    write_folder(folder / "source", SOURCE, 4)
    return folder


@pytest.fixture
def real(tmp_path: Path) -> dict[str, Any]:
    """A plan for real workers."""
    return {
        "results": str(tmp_path / "results.jsonl"),
        "model": "test_resnet",
        "weights": "none",
        "source": "{data}/source",
        "image_size": 32,
        "batch_size": 8,
        "steps": 5,
        "device": "cpu",
        "threads": 1,
        "decoder": "torchvision",
        "targets": {"colours": {"target": "{data}/target"}},
        "methods": {"finetune": {}, "xmixup-random": {}},
        "seeds": [0],
    }


def running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_worker_ends_with_its_comparison(tmp_path: Path, real: dict[str, Any], images: Path) -> None:
    real["steps"] = 10**6
    for name in ("source", "target"):
        (tmp_path / name).symlink_to(images / name)
    with start(tmp_path, real, stand_in=False) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: list((tmp_path / "results.work").glob("*/run0/config.yaml")))  # training has begun
        (worker,) = map(int, children.read_text().split())
        process.kill()
    wait_until(lambda: not running(worker))
    assert lines(real) == []


def test_a_real_comparison(
    tmp_path: Path, real: dict[str, Any], images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, flags = write_plan(tmp_path, real), ["--data", str(images)]
    assert main([file, *flags]) == 0 and main([file, *flags, "--time"]) == 0
    baseline, control, timing = lines(real)
    assert (baseline["method"], control["method"], timing["method"]) == ("finetune", "xmixup-random", "xmixup-random")
    assert baseline["images_seen"] == 40 and 100 < baseline["peak_memory_mib"] < 10_000
    assert control["versions"]["xmixup_fast"] and control["device"] == "cpu" and control["threads"] == 1
    assert timing["rounds"] == 3 and 0.1 < timing["relative_seconds"] < 10
    settings = {name: real[name] for name in ("model", "weights", "image_size", "batch_size", "steps", "threads")}
    settings |= {"target": str(images / "target"), "source": str(images / "source"), "selection": "random"}
    summary = fit(**settings, device="cpu", report=False, output=str(tmp_path / "fit")).summary
    for name in ("val_accuracy", "test_accuracy", "images_seen"):
        assert control[name] == summary[name]
    text = Path(real["results"]).read_text()
    assert str(images) not in text and str(tmp_path) not in text
    row = list(csv.DictReader((tmp_path / "results.csv").open()))[1]
    assert float(row["relative_seconds"]) == timing["relative_seconds"]
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert f"{timing['relative_seconds']:.2f} | 40 | {control['peak_memory_mib']} |" in capsys.readouterr().out


def test_without_the_test_no_test_image_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []  # the number of images of each evaluation
    original = Trainer.evaluate

    def evaluate(self: Trainer, images: Any, **options: Any) -> Any:
        sizes.append(len(images))
        return original(self, images, **options)

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    settings = {"model": "test_resnet", "weights": "none", "method": "finetune", "image_size": 32, "steps": 1}
    (tmp_path / "data").mkdir()
    for seed, (split, count) in enumerate((("train", 4), ("val", 2), ("test", 3))):
        write_folder(tmp_path / "data" / split, TARGET, count, seed=seed)
    for test in ("run", "hold", "none"):
        output = str(tmp_path / test)
        settings |= {"target": str(tmp_path / "data"), "device": "cpu", "output": output, "report": False}
        assert (fit(**settings, test=test).summary["test_accuracy"] is not None) == (test == "run")
    # Each run validates once, and once more to fit a temperature.
    assert sizes == [6, 6, 9, 6, 6, 6, 6] and "not tested" in capsys.readouterr().out


def test_a_missing_data_folder_is_named_before_anything_runs(
    tmp_path: Path, plan: dict[str, Any], started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write_plan(tmp_path, plan)]) == 2
    assert capsys.readouterr().err == "error: target: {data}/b needs the data folder; give --data DIR\n"
    assert started() == []


def test_messages_lose_their_folders() -> None:
    assert without_folders("target: /mnt/data/birds: no such folder") == "target: birds: no such folder"
    assert without_folders("'/a/b.png' and /c") == "'b.png' and c"
    assert without_folders("{data}/birds, a/b, 3 / 4, 1/2") == "{data}/birds, a/b, 3 / 4, 1/2"
