"""--help of all commands: at once, without torch, in one style; and errors that say what to do instead."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from xmixup_fast.__main__ import COMMANDS, main
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.groups import GROUPS, METHOD_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
HELP = """
import json, sys
from xmixup_fast.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    print(json.dumps([ended.code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
REQUIRED = ["--target", "t", "--model", "m"]
WITH_SETTINGS = ("train", "select", "find-lr", "compare")
SECONDS = 0.6
"""How much longer than the interpreter alone --help may take."""


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints for --help."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_torch(command: str) -> None:
    done = subprocess.run([sys.executable, "-c", HELP, command, "--help"], capture_output=True, text=True, cwd=ROOT)
    text, _, found = done.stdout.rstrip().rpartition("\n")
    code, modules = json.loads(found)
    assert code == 0 and text.startswith(f"usage: xmixup {command} ")
    assert not {"torch", "timm", "numpy", "torchvision", "matplotlib"} & set(modules)


def cpu_seconds(*arguments: str) -> float:
    """What a Python process takes of the processor, which other processes on a busy machine do not change much."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_appears_at_once() -> None:
    commands = [("-m", "xmixup_fast.train", "--help"), ("-m", "xmixup_fast", "--help")]
    alone = min(cpu_seconds("-c", "pass") for _ in range(3))
    for command in commands:
        assert min(cpu_seconds(*command) for _ in range(3)) - alone < SECONDS, command


def test_every_setting_is_in_exactly_one_group() -> None:
    grouped = [name for names in (*GROUPS.values(), *METHOD_SETTINGS.values()) for name in names]
    assert sorted(grouped) == sorted(field.name for field in fields(Settings))


@pytest.mark.parametrize("command", ["train", "find-lr", "select"])
def test_help_all_shows_every_setting(capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = shown(capsys, command, "--help", "all")
    for field in fields(Settings):
        assert re.search(rf"^  --(\[no-\])?{field.name.replace('_', '-')}( |$)", text, re.MULTILINE), field.name


def test_settings_of_single_methods_are_shown_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    own = [f"--{name.replace('_', '-')}" for names in METHOD_SETTINGS.values() for name in names]
    plain = shown(capsys, "train", "--help")
    assert not any(flag in plain for flag in own) and "\nMore settings: --help METHOD" in plain[-400:]
    asking = (["--help", "bss"], ["-h", "bss"], ["--help=bss"], ["--method", "bss", "--help"], ["-h", "--method=bss"])
    for arguments in asking:
        text = shown(capsys, "train", *arguments)
        assert [flag for flag in own if flag in text] == ["--bss-eta", "--bss-k"], arguments
    assert main(["train", "--help", "bsss"]) == 2
    assert capsys.readouterr().err.startswith("error: help: expected all, finetune, ")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [60, 200])
def test_all_helps_are_in_one_style(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown(capsys, command, "--help", *(["all"] if command in WITH_SETTINGS else []))
    assert not re.search(r"\{None\}|\b(STR|INT|FLOAT|None|True|False)\b|==", text)
    usage, _, summary, *_, rest = text.split("\n", 3)
    assert usage.startswith(f"usage: xmixup {command}") and usage.endswith("[FLAG ...]")
    assert summary == COMMANDS[command]
    _, *flags = re.split(r"\n(?:flags|general):\n", rest)
    assert len(flags) == 1
    # Each flag has a sentence, on its right or below it.
    entries = re.split(r"\n  (?=-)", "\n" + flags[0])[1:]
    assert entries and all(re.search(r"  [A-Za-z$0-9/]", entry) for entry in entries)


def test_the_list_of_commands_is_what_their_modules_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert main(["--help"]) == 0 and capsys.readouterr().out == text
    for command, what in COMMANDS.items():
        room = "xmixup_fast" if command == "train" else "xmixup_fast.commands"
        module = import_module(f"{room}.{command.replace('-', '_')}")
        assert (module.__doc__ or "").splitlines()[0] == what
        assert re.search(rf"^  {command} +{re.escape(what)}$", text, re.MULTILINE)


def test_usage_says_what_the_user_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (["xmixup_fast.train"], ["xmixup_fast", "train"]):
        done = subprocess.run([sys.executable, "-m", *typed, "-h"], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.startswith(f"usage: python -m {' '.join(typed)} [DATASET] [FLAG ...]\n")
    assert shown(capsys, "find_lr", "-h").startswith("usage: xmixup find_lr [DATASET] [FLAG ...]\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tran"], "xmixup has no command tran; did you mean train?"),
        (["eval"], "xmixup has no command eval; did you mean evaluate?"),
        (["find-rl"], "xmixup has no command find-rl; did you mean find-lr?"),
        (["serve"], f"xmixup has no command serve; expected one of {', '.join(COMMANDS)}"),
        (["--target", "photos"], f"expected a command before --target: xmixup {', '.join(COMMANDS)}"),
        (["train", "--bs", "8"], "--bs is no flag of xmixup train; did you mean --batch-size?"),
        (["train", "-b", "8"], "-b is no flag of xmixup train; did you mean --batch-size?"),
        (["train", "--learning_rate=1"], "--learning-rate is no flag of xmixup train; did you mean --lr?"),
        (["train", "--no-pretrained"], "--no-pretrained is no flag of xmixup train; did you mean --weights?"),
        (["train", "--optimzer", "sgd"], "--optimzer is no flag of xmixup train; did you mean --optimizer?"),
        (
            ["train", "--num-classes", "3"],
            "--num-classes is no flag of xmixup train; the classes are those of the target",
        ),
        (["train", "--find-lr"], "--find-lr is no flag of xmixup train; the command find-lr suggests a learning rate"),
        (["train", "--zzz"], "--zzz is no flag of xmixup train"),
        (["train", "--batch", "8"], "--batch is no flag of xmixup train; did you mean --batch-size?"),
        (["compare", "--arch", "m"], "--arch is no flag of xmixup compare; did you mean --model?"),
        (["evaluate", "run", "--bs", "8"], "--bs is no flag of xmixup evaluate; did you mean --batch-size?"),
        (["predict", "--bs", "8"], "--bs is no flag of xmixup predict; did you mean --batch-size?"),
        (["export", "run", "--out", "x"], "--out is no flag of xmixup export; did you mean --output?"),
        (["train", "photos", "more"], "unrecognized arguments: more; see xmixup train --help"),
        (["train", "photos", "--target", "t"], "target: expected one, got photos and --target t"),
        (["train", "--epochs"], "--epochs: expected one argument"),
        (["train", "--epochs", "x", *REQUIRED], "epochs: expected a whole number, got 'x'"),
        (["train", "--flip=no", *REQUIRED], "--flip/--no-flip: ignored explicit argument 'no'"),
        (["train", "--seed", "1"], "target: must be given; see xmixup train --help"),
        (["predict", "run"], "the following arguments are required: FILE_OR_FOLDER"),
        (["predict", "run", "a", "--top-k", "few"], "top_k: expected a whole number, got 'few'"),
        (
            ["export", "run", "--output", "o"],
            "format: must be given (safetensors, torch, torchscript, onnx); see xmixup export --help",
        ),
        (
            ["export", "run", "--output", "o", "--format", "tf"],
            "format: expected some of safetensors, torch, torchscript, onnx, got tf; export onnx, then: ",
        ),
        (["compare", "--tune", "--time"], "expected one of --tune, --time and --table, got several"),
        (["compare", "--shots", "1", "x"], "shots: expected a whole number, got 'x'"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], expected: str
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"error: {expected}") and said.err.count("\n") == 1
