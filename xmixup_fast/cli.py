"""The command line: settings as flags, exit status, one line for each error."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import tyro

from .runtime import distributed
from .runtime.signals import Interrupted
from .settings.fields import Settings
from .settings.yaml_file import read_yaml


@dataclass(frozen=True, kw_only=True)
class _Command(Settings):
    """The settings as flags. They are checked when the Settings are made of them, so that an error is one line."""

    config: str | None = None
    """YAML file of settings, such as a run's config.yaml; flags come on top."""

    def __post_init__(self) -> None:
        return


def parse(
    arguments: Sequence[str], prog: str = "python -m xmixup_fast.train", description: str | None = None
) -> Settings:
    """The settings that the command line of a program gives, by default this one's.

    Raises ValueError and FileNotFoundError as Settings and read_yaml do; exits for --help and for unknown flags.
    """
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config")
    known, flags = before.parse_known_args(arguments)
    default = None
    if known.config is not None:
        default = _Command(**{"target": tyro.MISSING, "model": tyro.MISSING, **read_yaml(known.config)})
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    command = tyro.cli(_Command, prog=prog, description=description, args=flags, default=default, console_outputs=first)
    settings = Settings(**{field.name: getattr(command, field.name) for field in fields(Settings)})
    if settings.steps is not None and any(flag.split("=")[0] == "--epochs" for flag in flags):
        raise ValueError(
            f"epochs: expected no steps besides (or --steps None), got epochs {settings.epochs} and steps "
            f"{settings.steps}"
        )
    return settings


def command(what: Callable[[Settings], object], arguments: Sequence[str], prog: str, description: str | None) -> int:
    """Does something with the settings that the command line gives, in all processes that torchrun started.

    Returns as :func:`exit_status` does.
    """

    def work() -> None:
        settings = parse(arguments, prog, description)
        with distributed.processes():
            what(settings)

    return exit_status(work)


def exit_status(work: Callable[[], object]) -> int:
    """Does a command's work, and says on stderr what is wrong.

    Returns the exit status: 0, 2 for what the user can mend, or 128 and a signal's number.
    """
    try:
        work()
    except (ValueError, OSError) as error:
        if int(os.environ.get("RANK", "0")) > 0:
            time.sleep(10)  # what is wrong in all processes is said by the first: torchrun then ends the others
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 128 + error.number
    return 0
