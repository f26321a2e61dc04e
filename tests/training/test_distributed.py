"""Runs of several processes, as torchrun starts them: they end as those of one process do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import many_runs
import pytest
import torch
import torch.distributed as dist
from made import SOURCE, TARGET, write_folder
from safetensors.torch import load_file
from selecting import NETWORKS, STRATEGIES, RecordingSelector, choose, pixel_network, settings_for
from small_runs import flags

from xmixup_fast import cli, train
from xmixup_fast.data.dataset import BadFile, Dataset
from xmixup_fast.data.formats import NOT_AN_IMAGE
from xmixup_fast.data.readers.folder import read_folder
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save
from xmixup_fast.selection.choice import Selection
from xmixup_fast.selection.statistics import class_means

ROOT = Path(__file__).resolve().parents[2]
RUNS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("delta", "bss", "mixup", "cotuning", "cotrain", "seqtrain", "xmixup")},
    "streamed": {"method": "cutmix", "storage": "stream"},
    "in parts": {"method": "xmixup", "grad_accum_steps": 2},
    "fitted heads": {"method": "finetune", "head_init": "probe", "refit_head": True},
    "uncached": {"method": "finetune", "cache": "none"},
    "averaged": {"method": "xmixup", "ema_decay": 0.9, "clip_grad": 1.0},
    "uneven": {"method": "xmixup", "batch_size": 5},
    "bf16": {"method": "xmixup", "amp": "bf16"},
    "fp16": {"method": "xmixup", "amp": "fp16", "grad_accum_steps": 2, "clip_grad": 1.0, "ema_decay": 0.5},
}
"""What is run with 1 and 2 processes, on a network without statistics of batches."""
FOUR = ("bss", "uneven")
"""Those of them that are run with 4 as well."""
LONG = {"method": "xmixup", "steps": 60}
"""What is run with 2 processes alone."""
RESUMED = {"method": "xmixup", "resume": "auto"}
"""What one process began, and 2 go on with."""
CASES = [(2, name) for name in RUNS] + [(4, name) for name in FOUR]


def settings(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    common: dict[str, Any] = {"target": str(data / "target"), "source": str(data / "source"), "model": "test_convnext"}
    sizes = {"image_size": 32, "batch_size": 8, "steps": 6, "checkpoint_steps": 2, "checkpoints_kept": 9}
    weights = data / "test_convnext.safetensors"
    if not weights.exists():
        save(build("test_convnext", "none", sorted(SOURCE)), weights, image_size=32)
    common |= {"report": False, "threads": 1}
    return {**common, **sizes, "weights": str(weights), "output": str(output), "seed": 3, **changes}


def torchrun(processes: int, *arguments: str, **options: Any) -> list[str]:
    flags = [item for name, value in options.items() for item in (f"--{name.replace('_', '-')}", str(value))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, *flags, *arguments]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "XMIXUP_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def started(command: list[str], cache: Path, run: Path) -> subprocess.Popen[str]:
    """A command that is under way, once its run has a checkpoint."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=environment(cache), stdout=pipe, stderr=pipe, text=True)
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    return process


def send(process: subprocess.Popen[str], number: int) -> None:
    """Sends a signal to the second of torchrun's processes."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), number)


def run(command: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(cache), timeout=900)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folders of the runs with 1, 2 and 4 processes, of a range test, and of what the images took (memory.json)."""
    folder = tmp_path_factory.mktemp("runs")
    folders = {processes: folder / str(processes) for processes in (1, 2, 4)}
    for processes, output in folders.items():
        wanted = {name: RUNS[name] for name in (FOUR if processes == 4 else RUNS)}
        if processes == 2:
            wanted = {"long": LONG, "resumed": RESUMED, **wanted}
            shutil.copytree(folders[1] / "xmixup", output / "resumed")
            for step in (4, 6):
                (output / "resumed" / "checkpoints" / f"step-00000000{step}.safetensors").write_bytes(b"damaged")
        asked = {
            "runs": [settings(data, output / name, **changes) for name, changes in wanted.items()],
            "find_lr": settings(data, output / "find_lr", steps=8),
        }
        if processes == 1:
            many_runs.run(asked)
            continue
        file = output.with_suffix(".json")
        file.write_text(json.dumps(asked))
        done = run(torchrun(processes, "tests/support/many_runs.py", str(file)), folder / "cache")
        assert done.returncode == 0, done.stderr
        # Each line once: the first process speaks for all.
        assert done.stdout.count("s of training") == len(wanted) and done.stdout.count("suggest") == 1
        assert done.stdout.count("each process decodes all images") == ("uncached" in wanted)
        (output / "stdout.txt").write_text(done.stdout)
        (output / "memory.json").write_text(done.stdout.splitlines()[-1])
    return folders


@pytest.mark.parametrize(("processes", "name"), CASES)
def test_weights_and_metrics_do_not_depend_on_the_number_of_processes(
    runs: dict[int, Path], processes: int, name: str
) -> None:
    one, many = (load_file(runs[count] / name / "model.safetensors") for count in (1, processes))
    start = load_file(runs[1] / name / "checkpoints" / "step-000000002.safetensors")
    moved = False
    # bfloat16 has 8 bits; which fp16 gradients are summed in one go depends on the number of processes.
    tolerance = 5e-3 if "amp" in RUNS[name] else 2e-5
    for key, tensor in one.items():
        torch.testing.assert_close(many[key], tensor, rtol=1e-4, atol=tolerance)
        moved = moved or bool(((tensor - start[f"network.body.{key}"]).abs() > 1e-3).any())
    assert moved  # far more than what is tolerated
    lines = [[json.loads(line) for line in (runs[n] / name / "metrics.jsonl").open()] for n in (1, processes)]
    for line, other in zip(*lines, strict=True):
        # Losses of weights that differ by up to the tolerance differ by a little more.
        assert other["train_loss"] == pytest.approx(line["train_loss"], abs=max(1e-4, 2 * tolerance))
        assert (other["epoch"], other["step"], other["lr"]) == (line["epoch"], line["step"], line["lr"])
    summaries = [json.loads((runs[n] / name / "summary.json").read_text()) for n in (1, processes)]
    for key in ("val_accuracy", "test_accuracy", "images_seen", "num_train", "steps"):
        assert summaries[0][key] == summaries[1][key]


def test_a_range_test_does_not_depend_on_the_number_of_processes(runs: dict[int, Path]) -> None:
    one, *others = (json.loads((folder / "find_lr" / "lr.json").read_text())["losses"] for folder in runs.values())
    for losses in others:
        assert losses == pytest.approx(one, rel=1e-3, abs=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_processes_of_a_machine_share_the_images(runs: dict[int, Path]) -> None:
    for processes, folder in list(runs.items())[1:]:
        memory = json.loads((folder / "memory.json").read_text())
        assert memory["mapped"] >= processes * memory["files"] > 100  # KiB
        # Rounded up to pages, of each of four files.
        assert memory["shares"] <= memory["files"] + 4 * 4


def test_a_killed_process_ends_the_run_by_name_and_a_restart_goes_on(
    runs: dict[int, Path], data: Path, tmp_path: Path
) -> None:
    """torchrun's own restart, after SIGKILL of a process in the middle of the run."""
    values = settings(data, tmp_path / "run", **LONG, resume="auto")
    command = torchrun(2, "-m", "xmixup_fast.train", *flags(values), max_restarts=1)
    with started(command, tmp_path / "cache", tmp_path / "run") as process:
        send(process, signal.SIGKILL)
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "resuming at step" in output and "exitcode: -9" in errors.replace("(", "").replace(")", "")
    killed, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", runs[2] / "long"))
    assert all(torch.equal(killed[key], tensor) for key, tensor in whole.items())


def test_a_restart_does_not_take_dead_processes_for_its_own(tmp_path: Path) -> None:
    """Where the first process is late, the others find the addresses of those before in torchrun's store."""
    (tmp_path / "late.py").write_text(
        "import os, signal, time\n"
        "from xmixup_fast.runtime.distributed import all_reduce_sum, processes\n"
        "rank, again = os.environ['RANK'], os.environ['TORCHELASTIC_RESTART_COUNT'] == '1'\n"
        "time.sleep(2 * (again and rank == '0'))\n"
        "with processes():\n"
        "    all_reduce_sum(1.0)\n"
        "    if rank == '1' and not again:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    (last,) = all_reduce_sum(1.0)\n"
        "    if rank == '0':\n"
        "        print('sum', last)\n"
    )
    done = run(torchrun(2, str(tmp_path / "late.py"), max_restarts=1), tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["sum", "2.0"]


def test_a_run_goes_on_with_another_number_of_processes(runs: dict[int, Path]) -> None:
    output = (runs[2] / "stdout.txt").read_text()
    assert output.count("resuming at step 2 of 6") == 1 and output.count("not used") == 2
    one, both = (load_file(runs[n] / name / "model.safetensors") for n, name in ((1, "xmixup"), (2, "resumed")))
    for key, tensor in one.items():
        torch.testing.assert_close(both[key], tensor, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("to", ["a process", "torchrun"])
def test_a_signal_stops_all_after_the_same_step(data: Path, tmp_path: Path, to: str) -> None:
    values = settings(data, tmp_path / "run", method="finetune", steps=100000, checkpoint_steps=1, checkpoints_kept=1)
    command = torchrun(2, "-m", "xmixup_fast.train", *flags(values))
    with started(command, tmp_path / "cache", tmp_path / "run") as process:
        if to == "torchrun":
            process.terminate()
        else:
            send(process, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("stopped after step") == 2
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*.safetensors")
    assert errors.count(f"stopped after step {int(saved.stem[5:])} of") == 2


def test_bad_settings_are_said_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = settings(data, tmp_path / "run", method="xmixup", image_size=0)
    done = run(torchrun(2, "-m", "xmixup_fast.train", *flags(values)), tmp_path / "cache")
    assert done.returncode != 0
    assert done.stderr.count("error: image_size: expected a positive number") == 1, done.stderr
    assert not (tmp_path / "run").exists()
    waited: list[float] = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    for rank, waits in (("0", []), ("1", [cli.WAIT_SECONDS])):
        monkeypatch.setenv("RANK", rank)
        assert train.main(["--no-such"]) == 2 and waited == waits
        with pytest.raises(SystemExit):
            train.main(["--help"])
        assert capsys.readouterr().out.startswith("usage: ") == (rank == "0")


@pytest.mark.parametrize("name", ["compare", "evaluate", "predict", "export"])
def test_commands_for_one_process_refuse_more(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    wanted = {
        "compare": ["--targets", "photos", "--model", "test_resnet", "--results", "results.jsonl"],
        "evaluate": ["run"],
        "predict": ["run", "photos"],
        "export": ["run", "--format", "torch", "--output", "out"],
    }
    assert import_module(f"xmixup_fast.commands.{name}").main(wanted[name]) == 2
    assert "error: torchrun: this command runs in one process" in capsys.readouterr().err


def choose_each(data: tuple[Dataset, Dataset]) -> dict[str, Selection]:
    return {
        name: choose(settings_for(**strategy), data, NETWORKS.get(name, pixel_network)())
        for name, strategy in STRATEGIES.items()
    }


def one_process(rank: int, folder: Path) -> None:
    """One of two processes: every strategy, and the class means alone."""
    torch.set_num_threads(1)
    os.environ["XMIXUP_CACHE"] = str(folder / "cache-of-two")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    data = read_folder(folder / "target"), read_folder(folder / "source")
    selections = choose_each(data)
    again = choose(settings_for(**STRATEGIES["sample"]), data)  # out of the cache
    chooser = RecordingSelector(settings_for("feature"))
    logits = chooser.network.source_logits
    share = sum(len(labels) for _, labels in chooser.stream(data[1].train, "images", []))
    means = class_means(chooser.network, chooser.stream(data[1].train, "images", []), 4, logits)
    # The last batch alone is a share without an image for one process.
    tail = RecordingSelector(settings_for("feature", batch_size=100)).stream(data[1].train, "images", [])
    tail_means = class_means(chooser.network, tail, 4, logits)
    Path(data[1].train[27 * rank].image.name).write_text("no image")
    dist.barrier()
    chooser.choose(data)
    result = (selections, again, means, tail_means, share, chooser.bad)
    torch.save(result, folder / f"result-{rank}")
    dist.destroy_process_group()


def test_two_processes_choose_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMIXUP_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "target", TARGET, 5)
    write_folder(tmp_path / "source", SOURCE, 7)
    data = read_folder(tmp_path / "target"), read_folder(tmp_path / "source")
    alone = choose_each(data)
    chooser = RecordingSelector(settings_for("feature"))
    images = chooser.stream(data[1].train, "images", [])
    means = class_means(chooser.network, images, 4, chooser.network.source_logits)
    torch.multiprocessing.spawn(one_process, (tmp_path,), nprocs=2)
    results = [torch.load(tmp_path / f"result-{rank}", weights_only=False) for rank in range(2)]
    bad = [BadFile(data[1].train[i].image.name, NOT_AN_IMAGE) for i in (0, 27)]
    for selections, again, theirs, tail_means, _, found in results:
        for name, selection in selections.items():
            assert selection.chosen == alone[name].chosen, name
            torch.testing.assert_close(
                torch.tensor(selection.scores).double(), torch.tensor(alone[name].scores).double(), rtol=1e-12, atol=0
            )
        assert again == selections["sample"]
        torch.testing.assert_close(tuple(theirs), tuple(means), rtol=1e-12, atol=0)
        torch.testing.assert_close(tuple(tail_means), tuple(means), rtol=1e-6, atol=0)
        assert found == bad
    assert results[0][:2] == results[1][:2] and sum(result[4] for result in results) == 28
    assert all(0 < result[4] < 28 for result in results)
