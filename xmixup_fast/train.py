"""Fine-tune a pretrained network on labelled images.

python -m xmixup_fast.train
    the embedded default: fine-tuning and XMixup side by side, in a minute or two, with nothing to download

python -m xmixup_fast.train --target photos/ --source imagenet/train/ --model resnet50
    XMixup with ImageNet as its source, class folders named by WordNet ids

python -m xmixup_fast.train --target torchvision:Flowers102:data --source 'shards/train-{000..012}.tar' more/ ...
    target and source as tables, tar shards, published or Hugging Face datasets; several sources at once

python -m xmixup_fast.train --config runs/NAME/config.yaml --seed 1 --output runs/again
    a run again, with another seed

--find-lr only suggests a learning rate, as python -m xmixup_fast.find_lr does. --profile tells where a step's time
goes. python -m xmixup_fast.predict and python -m xmixup_fast.export take a run's folder.
"""

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
    arguments: Sequence[str], prog: str = "python -m xmixup_fast.train", description: str | None = __doc__
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 2 for what the user can mend."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        from .demo import main as demo

        demo()
        return 0
    others = [flag for flag in arguments if flag not in ("--find-lr", "--find_lr")]
    if len(others) < len(arguments):
        from .find_lr import main as find_lr

        return find_lr(others)
    return command(_fit, arguments, "python -m xmixup_fast.train", __doc__)


def _fit(settings: Settings) -> None:
    from .training.run import fit  # late, so that --help need not wait for timm

    fit(settings)


if __name__ == "__main__":
    sys.exit(main())
