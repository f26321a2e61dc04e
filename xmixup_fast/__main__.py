"""The command xmixup, which is python -m xmixup_fast, too: picks a command, and imports it alone."""

from __future__ import annotations

# As little as can be, since an interrupt while this is imported is a traceback of Python's.
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "train": "Fine-tune a pretrained network on labelled images.",
    "find-lr": "Find a learning rate: a range test on a run's own data, with its own network and method.",
    "sources": "List sources of auxiliary images that go by a name, with their sizes and licences.",
    "cache": "List what the cache keeps, or remove it.",
    "select": "Show what selection chooses for each target class, without training.",
    "evaluate": "Evaluate a trained network on labelled images.",
    "predict": "Predict the classes of images with a trained network.",
    "export": "Export a trained network for use elsewhere.",
    "index": "Write the index of tar shards, so that chosen classes can be fetched from them.",
    "compare": "Compare transfer methods: methods x targets x shots x seeds.",
    "info": "Print what a report of a bug should hold: versions, build and devices.",
}
"""What each command does: the first line of its module."""


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup") -> int:
    """Runs a command; returns its exit status, 2 for an error that the user can mend."""
    try:
        from .runtime.signals import interruptible  # late, so that an interrupt within is a line, too

        with interruptible():
            return _run(sys.argv[1:] if arguments is None else arguments, prog)
    except KeyboardInterrupt as error:  # before a command's exit_status can tell
        print("stopped", file=sys.stderr)
        return 128 + getattr(error, "number", 2)


def command(prog: str = "xmixup") -> NoReturn:
    """Runs a command as a process, and ends it."""
    from .runtime.process import run_process

    run_process(lambda: main(prog=prog))


def _run(arguments: Sequence[str], prog: str) -> int:
    from .cli import exit_status
    from .runtime.openmp import set_environment

    set_environment()
    command, *rest = [*arguments, ""]
    module = command.replace("-", "_")
    if module.replace("_", "-") in COMMANDS:
        room = "" if module == "train" else ".commands"
        status: int = import_module(f"{room}.{module}", __package__).main(rest[:-1], f"{prog} {command}")
        return status

    def work() -> None:
        if command in ("", "-h", "--help", "help"):
            print(help_text(prog))
        elif command == "--version":
            from .runtime.extension import __version__  # needs torch, which --help need not wait for

            print(f"xmixup_fast {__version__}")
        elif command.startswith("-"):
            raise ValueError(f"expected a command before {command}: {prog} {', '.join(COMMANDS)}")
        else:
            import difflib

            close = difflib.get_close_matches(command, COMMANDS, n=1)
            meant = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(COMMANDS)}"
            raise ValueError(f"{prog} has no command {command}; {meant}")

    return exit_status(work)


def help_text(prog: str) -> str:
    """All commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {prog} COMMAND [FLAG ...]",
            "",
            "Fine-tuning with auxiliary samples (XMixup), and plain fine-tuning, of pretrained networks.",
            "",
            "commands:",
            *lines,
            "",
            f"{prog} train, without flags, shows what XMixup does in a minute or two, with nothing to download.",
            f"{prog} COMMAND --help tells the flags of a command; {prog} --version the version.",
        ]
    )


if __name__ == "__main__":
    command("python -m xmixup_fast")
