"""The command line: flags out of dataclasses, grouped help, exit status, one line for each error.

Nothing here needs torch, so that --help appears at once.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import re
import shutil
import signal
import textwrap
import time
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NoReturn, TypeVar

from .runtime.console import BROKEN_PIPE, accept_any_text, complain, flush_fault
from .runtime.device_asserts import DeviceAssertError, named_device_asserts
from .runtime.signals import STOPPED, Interrupted, interruptible
from .settings.fields import Settings
from .settings.groups import GROUPS, METAVARS, METHOD_SETTINGS
from .settings.values import as_type, from_pairs, from_text, meant, options, way
from .settings.yaml_file import read_recipe, read_yaml, recipes

T = TypeVar("T")
WAIT_SECONDS = 10
"""How long processes other than the first wait before they report an error: torchrun ends them meanwhile."""
HELP_WIDTH, FLAG_WIDTH = 110, 28
"""The most columns of --help, and of the flags on its left."""
LONG_CHOICES = 40
"""Choices of more characters are listed in the text of a flag instead of beside it."""
NUMBERS: list[tuple[set[Any], str]] = [({int, list[int]}, "N"), ({float, list[float]}, "X")]
"""Types of numbers, and what --help calls their values."""
OFF = {"test": "none"}
"""Settings with several values that --no-NAME turns off, and the value that it stands for."""
NONE: Mapping[str, str] = types.MappingProxyType({})


def exit_status(work: Callable[[], int | None]) -> int:
    """Does a command's work, and reports an error in one line on stderr.

    Returns the exit status: what the work returns, with 0 for None; 2 for an error that the user can mend; 128 and the
    number of the signal that stopped it. An error that all of torchrun's processes have is reported by the first.
    """
    accept_any_text()
    with interruptible() as interrupted:
        try:
            try:
                with named_device_asserts():
                    status = work() or 0
            finally:  # also where --help ends the process
                fault = flush_fault()
            if fault is not None:
                raise fault
            return status
        except BrokenPipeError:  # whoever read the output, such as head, has enough
            return BROKEN_PIPE
        except KeyboardInterrupt as error:
            complain(str(error) or STOPPED)
            return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)
        except Exception as error:
            if number := interrupted():  # and a library has made this error of it
                complain(STOPPED)
                return 128 + number
            if not isinstance(error, (ValueError, OSError, ImportError, DeviceAssertError)):
                raise
            if not _is_first_process():
                time.sleep(WAIT_SECONDS)
            complain(f"error: {error}")
            return 2


def require_one_process() -> None:
    """For commands that share no work. Raises ValueError where torchrun has started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("torchrun: this command runs in one process; start it without torchrun")


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"  # of torchrun's processes


def parse_settings(
    arguments: Sequence[str], prog: str, doc: str | None, *, groups: Collection[str] = tuple(GROUPS)
) -> Settings:
    """The settings that a command line gives: a recipe's, with those of --config and then the flags on top.

    ``prog`` is what the user typed before the arguments, ``doc`` the command's docstring, and ``groups`` are the groups
    of settings that its --help shows.

    Raises ValueError and FileNotFoundError for what cannot be used; exits for --help.
    """
    parser = Parser(prog, doc, of_training=True)
    about = f"Settings that the package ships: {', '.join(recipes())}. Those of --config and flags come on top."
    parser.flags.add_argument("--recipe", metavar="NAME", help=about)
    about = "YAML file of settings, such as a run's config.yaml; flags come on top."
    parser.flags.add_argument("--config", metavar="FILE", help=about)
    about = "The target; --target DATASET is the same."
    parser.add_argument("positional_target", metavar=METAVARS["target"], nargs="?", help=about)
    parser.add_settings(arguments, groups)
    given = parser.values(arguments)
    recipe, config, target = (given.pop(name, None) for name in ("recipe", "config", "positional_target"))
    if target is not None:
        if "target" in given:
            raise ValueError(f"target: expected one, got {target} and --target {given['target']}")
        given["target"] = target
    values = ({} if recipe is None else read_recipe(recipe)) | ({} if config is None else read_yaml(config)) | given
    _check_required(Settings, values, prog)
    settings = Settings(**values)
    if settings.steps is not None and "epochs" in given:
        raise ValueError(
            f"epochs: expected no steps besides (or --steps None), got epochs {settings.epochs} and steps "
            f"{settings.steps}"
        )
    return settings


def parse_options(
    kind: type[T],
    arguments: Sequence[str],
    prog: str,
    doc: str | None,
    *,
    positional: Mapping[str, str] = NONE,
    metavars: Mapping[str, str] = NONE,
) -> T:
    """The options that a command line gives, as a dataclass whose fields have docstrings.

    Fields in ``positional`` are given without flags. Both mappings say what --help calls the values of fields.

    Raises ValueError for what cannot be used; exits for --help.
    """
    parser = Parser(prog, doc)
    parser.add_options(kind, positional=positional, metavars=metavars)
    return checked_options(kind, parser.values(arguments), prog)


def checked_options(kind: type[T], given: Mapping[str, Any], prog: str) -> T:
    """The options that are given, as a dataclass. Raises ValueError for one that is missing or of the wrong type."""
    _check_required(kind, given, prog)
    hints = typing.get_type_hints(kind)
    return kind(**{name: as_type(name, value, hints[name]) for name, value in given.items()})


def _check_required(kind: type, given: Collection[str], prog: str) -> None:
    for name, default in _defaults(kind).items():
        if default is MISSING and name not in given:
            choices = ", ".join(_choices(typing.get_type_hints(kind)[name]))
            raise ValueError(f"{name}: must be given{choices and f' ({choices})'}; see {prog} --help")


class Parser(argparse.ArgumentParser):
    """The arguments of a command. Underscores and dashes in flags are the same; flags are never abbreviated.

    Errors are ValueErrors, for :func:`exit_status` to report.
    """

    def __init__(self, prog: str, doc: str | None, *, of_training: bool = False) -> None:
        """``of_training``: settings of training are among the flags, and --help takes a method, or all."""
        super().__init__(
            prog=prog,
            description=(doc or "").strip(),
            formatter_class=_Formatter,
            argument_default=argparse.SUPPRESS,
            add_help=False,
            allow_abbrev=False,
        )
        self._positionals.title = "arguments"
        self._hints: dict[str, Any] = {}
        self.topics: list[str] = []
        self.flags = self.add_argument_group("general" if of_training else "flags")
        if not of_training:
            self.flags.add_argument("-h", "--help", action="store_true", help="Show this text.")
            return
        methods = typing.get_args(typing.get_type_hints(Settings)["method"])
        self.topics = list(dict.fromkeys(["all", *methods, *METHOD_SETTINGS]))
        about = "Show this text, and the settings that only METHOD has, or all settings."
        self.flags.add_argument("-h", "--help", nargs="?", metavar="METHOD|all", help=about)
        self.epilog = (
            f"More settings: --help METHOD adds those of one method ({', '.join(METHOD_SETTINGS)}), --help all shows "
            "every one. In YAML files and in Python, names have underscores: --batch-size is batch_size."
        )

    def add_settings(
        self, arguments: Sequence[str], groups: Collection[str], only: Collection[str] | None = None
    ) -> None:
        """Settings of training as flags: all, or ``only`` some. Where help is asked for, those of ``groups``."""
        topic = self._topic(arguments)
        of_methods = {_title(method): names for method, names in METHOD_SETTINGS.items()}
        for title, names in {**GROUPS, **of_methods}.items():
            wanted = [name for name in names if only is None or name in only]
            is_shown = topic in (None, "all") or title in groups or title == _title(topic)
            if wanted and is_shown:
                group = self.add_argument_group(title)
                self._add_flags(group, Settings, wanted, METAVARS, documented=topic is not None)

    def add_options(
        self, kind: type, *, positional: Mapping[str, str] = NONE, metavars: Mapping[str, str] = NONE
    ) -> None:
        """The fields of a dataclass as flags, and some as arguments without; the mappings name their values."""
        hints = typing.get_type_hints(kind)
        for name, metavar in positional.items():
            nargs = "+" if _takes_several(hints[name]) else "?" if _defaults(kind)[name] is None else None
            self.add_argument(name, metavar=metavar, nargs=nargs, help=_about(kind, name))
            self._hints[name] = hints[name]
        names = [name for name in hints if name not in positional]
        self._add_flags(self.flags, kind, names, metavars, documented=True)

    def _add_flags(
        self,
        group: argparse._ArgumentGroup,
        kind: type,
        names: Sequence[str],
        metavars: Mapping[str, str],
        *,
        documented: bool,
    ) -> None:
        """Reads the docstrings of fields only where they are to be shown."""
        hints = typing.get_type_hints(kind)
        for name in names:
            flag, hint, about = _flag(name), hints[name], _about(kind, name) if documented else ""
            self._hints[name] = hint
            if hint is bool and kind is not Settings and _defaults(kind)[name] is False:
                group.add_argument(flag, action="store_true", help=about)
            elif hint is bool:
                group.add_argument(flag, action=_Switch, help=about)
            else:
                metavar = metavars.get(name) or _metavar(name, hint)
                group.add_argument(flag, metavar=metavar, nargs="+" if _takes_several(hint) else None, help=about)
            if kind is Settings and name in OFF:
                group.add_argument(
                    f"--no-{flag[2:]}", action="store_const", dest=name, const=OFF[name], help=argparse.SUPPRESS
                )

    def values(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What is given, by name, as the values that the texts stand for. Exits for --help; ValueError for nonsense."""
        if self._topic(arguments) is not None:
            if _is_first_process():
                self.print_help()
            self.exit()
        words = [_with_dashes(word) for word in arguments]
        for word in words[: [*words, "--"].index("--")]:
            flag = word.partition("=")[0]
            if re.match(r"--?[A-Za-z]", flag) and flag not in self._option_string_actions:
                known = [action.dest for action in self._actions if action.option_strings]
                name = flag.lstrip("-").removeprefix("no-")
                if near := meant(name, known):
                    raise ValueError(f"{flag} is no flag of {self.prog}; did you mean {_flag(near)}?")
                raise ValueError(f"{flag} is no flag of {self.prog}{way(name)}")
        given = vars(self.parse_args(words))
        return {name: _converted(name, value, self._hints.get(name, str)) for name, value in given.items()}

    def _topic(self, arguments: Sequence[str]) -> str | None:
        """Which help is asked for: None for none; a method's, all, or "" for the command's alone."""
        for position, word in enumerate(arguments):
            flag, _, topic = word.partition("=")
            if flag not in ("-h", "--help"):
                continue
            after = arguments[position + 1 : position + 2]
            if not topic and self.topics and after and not after[0].startswith("-"):
                topic = after[0]
            if topic and topic not in self.topics:
                raise ValueError(f"help: expected {', '.join(self.topics) or 'nothing'}, got {topic}")
            named = re.search(r"--(?:method|regularizer)[ =](\w+)", " ".join(arguments))
            return topic or (named[1] if named else "")
        return None

    def format_help(self) -> str:
        """The help that --help shows."""
        arguments = [action for action in self._actions if not action.option_strings]
        values = {"?": "[{}]", "+": "{} ..."}
        words = [values.get(str(one.nargs), "{}").format(one.metavar) for one in arguments]
        self.usage = " ".join([self.prog, *words, "[FLAG ...]"])
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


class _Switch(argparse.Action):
    """--NAME and --no-NAME. argparse's own action takes flags that begin with --no- for off, --no-norm-decay too."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        off = [f"--no-{flag.removeprefix('--')}" for flag in option_strings]
        super().__init__([*option_strings, *off], dest, nargs=0, **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, option_string == self.option_strings[0])


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are; what flags do in a column beside them."""

    def __init__(self, prog: str, **options: Any) -> None:
        width = min(shutil.get_terminal_size().columns - 2, HELP_WIDTH)
        super().__init__(prog, max_help_position=FLAG_WIDTH, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, _Switch):
            return f"--[no-]{action.option_strings[0].removeprefix('--')}"
        value = f"{action.metavar}{' ...' * (action.nargs == '+')}" if action.metavar else ""
        if action.nargs == "?" and action.option_strings:
            value = f"[{value}]"
        return " ".join([", ".join(action.option_strings), value]).strip()

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        is_list = text.startswith("More settings")
        return textwrap.fill(text, width) if is_list else super()._fill_text(text, width, indent)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _with_dashes(word: str) -> str:
    """An argument with dashes for the underscores in the name of its flag."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _title(method: str | None) -> str:
    return f"settings of {method} alone"


def _defaults(kind: type) -> dict[str, Any]:
    return {field.name: field.default for field in fields(kind)}


def _takes_several(hint: Any) -> bool:
    return any(typing.get_origin(option) is list or option == dict[str, Any] for option in options(hint))


def _converted(name: str, given: Any, hint: Any) -> Any:
    """A flag's text or texts as a value; what is no value of the hint's types stays, for them to be refused."""
    if isinstance(given, str):
        return from_text(given, hint)
    if not isinstance(given, list):
        return given
    if dict[str, Any] in options(hint):
        return from_pairs(name, given)
    (items,) = (typing.get_args(option)[0] for option in options(hint) if typing.get_origin(option) is list)
    alone = [option for option in options(hint) if typing.get_origin(option) in (None, Literal)]
    if len(given) == 1 and (given[0] == "None" or any(option is not types.NoneType for option in alone)):
        return from_text(given[0], hint)
    return [from_text(text, items) for text in given]


def _choices(hint: Any) -> list[str]:
    kinds = [typing.get_args(kind)[0] if typing.get_origin(kind) is list else kind for kind in options(hint)]
    literals = [kind for kind in kinds if typing.get_origin(kind) is Literal]
    return list(dict.fromkeys(choice for kind in literals for choice in typing.get_args(kind)))


def _metavar(name: str, hint: Any) -> str:
    """What --help calls a value: its choices, unless they are many; N for a whole number, X for a number."""
    choices = _choices(hint)
    words = [word for kinds, word in NUMBERS if kinds & {*options(hint)}]
    if words:
        return "|".join([*words, *choices])
    listed = f"{{{','.join(choices)}}}"
    return listed if choices and len(listed) <= LONG_CHOICES else METAVARS.get(name, name.upper())


def _about(kind: type, name: str) -> str:
    """A field's docstring and default, as argparse takes them."""
    default, text, choices = _defaults(kind)[name], _docstrings(kind)[name], _choices(typing.get_type_hints(kind)[name])
    if len(",".join(choices)) > LONG_CHOICES:
        text += f" One of {', '.join(choices)}."
    if default is MISSING:
        text += " Required."
    elif isinstance(default, bool):
        text += "" if kind is not Settings and not default else f" Default: {'on' if default else 'off'}."
    elif default is not None:
        text += f" Default: {default:g}." if isinstance(default, float) else f" Default: {default}."
    return text.replace("%", "%%")


@cache
def _docstrings(kind: type) -> dict[str, str]:
    """The docstrings of a dataclass's fields, each in one line."""
    classes = [node for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef)]
    return {
        field.target.id: " ".join(ast.literal_eval(after.value).split())
        for field, after in pairwise(classes[0].body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr)
    }
