"""Outputs that cannot be written, or are in use, are found before the work; results are printed in any case."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import TARGET
from small_runs import arguments, flags

from xmixup_fast.commands import compare, evaluate, export, find_lr, index, predict, select
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save
from xmixup_fast.runtime.claims import claimed
from xmixup_fast.train import main as train


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save(build("test_resnet", "none", sorted(TARGET)), path, image_size=32)
    return path


def command_lines(data: Path, weights: Path, output: str) -> dict[str, tuple[Callable[[list[str]], int], list[str]]]:
    """Each command that writes, with its arguments for an output."""
    training = flags(arguments(data, Path(output), "finetune"))
    target = str(data / "target")
    return {
        "train": (train, training),
        "find-lr": (find_lr.main, training),
        "select": (select.main, flags(arguments(data, Path(output)))),
        "evaluate": (evaluate.main, [str(weights), "--target", target, "--output", output]),
        "export": (export.main, [str(weights), "--format", "safetensors", "--output", output]),
        "predict": (predict.main, [str(weights), target, "--output", f"{output}/p.csv"]),
        "index": (index.main, ["{shard}", "--output", f"{output}/index.parquet"]),
        "compare": (compare.main, ["--targets", target, *PLAN, "--results", f"{output}/r.jsonl"]),
        "compare photos": (compare.main, [target, *PLAN, "mixup", "--results", f"{output}/r.jsonl"]),
    }


PLAN = ["--model", "test_resnet", "--weights", "none", "--methods", "finetune"]
COMMANDS = list(command_lines(Path(), Path(), ""))
WORK = (
    "xmixup_fast.data.sources.read_dataset",
    "xmixup_fast.training.prepare.target_data",
    "xmixup_fast.training.target.target_data",
    "xmixup_fast.data.remote.indexing.read_shards",
    "xmixup_fast.commands.predict.predict",
    "xmixup_fast.commands.export.Exporter",
    "xmixup_fast.comparison.workers.Workers.train",
)
"""What no command may begin."""
PLACES = {
    "a file": lambda folder: _file(folder),
    "below a file": lambda folder: f"{_file(folder)}/deeper",
    "/proc": lambda folder: "/proc/nowhere/output",
    "a link to nowhere": lambda folder: _link(folder, "nowhere/at/all"),
    "a link to itself": lambda folder: _link(folder, "link"),
    "below a link to itself": lambda folder: f"{_link(folder, 'link')}/deeper",
    "a long name": lambda folder: f"{folder}/{'n' * 300}",
}


def _file(folder: Path) -> str:
    (folder / "file").write_text("kept")
    return str(folder / "file")


def _link(folder: Path, to: str) -> str:
    (folder / "link").symlink_to(to)
    return str(folder / "link")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", PLACES)
def test_an_output_that_cannot_be_written_stops_a_command_at_once(
    data: Path, weights: Path, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: str, place: str
) -> None:
    for work in WORK:
        monkeypatch.setattr(work, lambda *_, **__: pytest.fail("began to work"))
    main, words = command_lines(data, weights, PLACES[place](tmp_path))[command]
    assert main(words) == 2
    said = capsys.readouterr()
    name = "results" if command.startswith("compare") else "output"
    assert said.err.startswith(f"error: {name}: ") and said.err.count("\n") == 1, said
    assert "% of" not in said.out
    left = {path.name: path.read_text() for path in tmp_path.iterdir() if not path.is_symlink()}
    assert left in ({}, {"file": "kept"})


WRITING = {
    "train": "xmixup_fast.training.run_folder.RunFolder.summary",
    "find-lr": "xmixup_fast.commands.find_lr.draw",
    "select": "xmixup_fast.commands.select.write_json",
    "evaluate": "xmixup_fast.commands.evaluate.write_json",
    "export": "xmixup_fast.commands.export.atomic_write",
}
"""Commands that write several files to a folder, and what writes one of them."""


@pytest.mark.parametrize("command", WRITING)
def test_a_folder_that_another_process_uses_stops_a_command_at_once(
    data: Path, weights: Path, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: str
) -> None:
    for work in WORK:
        monkeypatch.setattr(work, lambda *_, **__: pytest.fail("began to work"))
    main, words = command_lines(data, weights, str(tmp_path / "out"))[command]
    with claimed(tmp_path / "out"):
        before = sorted(tmp_path.rglob("*"))
        assert main(words) == 2
        assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().err
    start = f"error: output: {tmp_path}/out is in use by process {os.getpid()} on "
    assert said.startswith(start) and said.count("\n") == 1, said


@pytest.mark.parametrize("command", WRITING)
def test_a_command_has_its_folder_while_it_works_and_no_longer(
    data: Path, weights: Path, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    main, words = command_lines(data, weights, str(tmp_path / "out"))[command]
    refused = []

    def other(*_: Any, **__: Any) -> None:
        with pytest.raises(FileExistsError, match="is in use by"), claimed(tmp_path / "out"):
            pass
        refused.append(True)
        full()

    monkeypatch.setattr(WRITING[command], other)
    assert main(words) == 2 and refused
    with claimed(tmp_path / "out") as warning:
        assert warning is None


def test_a_folder_is_no_file(data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.csv").mkdir()
    assert predict.main([str(weights), str(data / "target"), "--output", str(tmp_path / "p.csv")]) == 2
    assert capsys.readouterr().err == f"error: output: expected a file, got the folder {tmp_path}/p.csv\n"


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")


RESULTS = {
    "train": r"^test \d+\.\d\d %  .* s of training",
    "find-lr": r"^(suggested: --lr|no suggestion: )",
    "select": r"^  blue +<- ",
    "evaluate": r"\d+\.\d\d % of 30 images",
}
"""Commands, and what they print even if the disk is full."""


@pytest.mark.parametrize("command", RESULTS)
def test_results_are_printed_where_they_cannot_be_written(
    data: Path, weights: Path, tmp_path: Path, *, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: str
) -> None:
    main, words = command_lines(data, weights, str(tmp_path / "out"))[command]
    monkeypatch.setattr(WRITING[command], full)
    assert main(words) == 2
    said = capsys.readouterr()
    assert re.search(RESULTS[command], said.out, re.MULTILINE), said.out
    assert said.err == "error: [Errno 28] No space left on device: 'a file'\n"
