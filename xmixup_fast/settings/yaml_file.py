"""Settings in YAML files, and the recipes among them that the package ships."""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from .fields import Settings
from .values import as_type, check_names, expanded, options

STRING = "tag:yaml.org,2002:str"
"""YAML's tag of texts."""
RECIPES = Path(__file__).parent / "recipes"
"""Folder of the recipes: NAME.yaml holds the settings of ``--recipe NAME``."""


def read(path: str | os.PathLike[str], **overrides: Any) -> Settings:
    """Settings of a YAML file, such as a run's config.yaml; the overrides come on top.

    Raises FileNotFoundError, and ValueError for what :func:`read_yaml` and the settings themselves refuse.
    """
    return Settings(**{**read_yaml(path), **overrides})


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that a YAML file gives, by name; a dash in a name stands for an underscore.

    Raises FileNotFoundError, and ValueError where the file is no YAML mapping, has a name that is no setting, or a
    value of the wrong type.
    """
    values = load_yaml(expanded("config", os.fspath(path)))
    check_names(str(path), values, [field.name for field in fields(Settings)])
    hints = typing.get_type_hints(Settings)
    return {name: _as_setting(name, value, hints[name]) for name, value in values.items()}


def _as_setting(name: str, value: Any, hint: Any) -> Any:
    """A value as its setting's type. A ValueError says so where quotes would have made a text of it."""
    try:
        return as_type(name, value, hint)
    except ValueError as error:
        names = value if isinstance(value, dict) else [value]
        takes_text = any(option is str or option == dict[str, float] for option in options(hint))
        if takes_text and any(not isinstance(one, str | list) for one in names):
            raise ValueError(f"{error}; a text that YAML takes for something else is put into quotes") from None
        raise


def recipes() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """The settings that a recipe gives, by name. ValueError for an unknown recipe, and as :func:`read_yaml`."""
    if name not in recipes():
        raise ValueError(f"recipe: expected one of {', '.join(recipes())}, got {name}")
    return read_yaml(RECIPES / f"{name}.yaml")


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a YAML file says by name, with underscores for dashes.

    Raises FileNotFoundError, and ValueError for other content, for a name that comes twice in one mapping, and for
    numbers that YAML 1.1 reads otherwise than people: 010 as 8, and 1:30 as 90.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"config: {path}: no such file")
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8-sig"))
        node = loader.get_single_node()
        if faults := sorted(_faults(node, set())):
            raise ValueError("\n  ".join(f"{path}: line {line}: {fault}" for line, fault in faults))
        values = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8 ({error}); save the file as UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{path}: expected lines of 'name: value', got a deeply nested file") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected lines of 'name: value', got {type(values).__name__}")
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def _faults(node: yaml.Node | None, seen: set[yaml.Node]) -> Iterator[tuple[int, str]]:
    """Yields line and fault of each number that may be misread, and of each name that is twice in one mapping.

    Nodes in ``seen`` are passed over, and further ones come into it: aliases make a node appear several times.
    """
    if node is None or node in seen:
        return
    seen.add(node)
    if isinstance(node, yaml.ScalarNode):
        if fault := _misread(node):
            yield node.start_mark.line + 1, fault
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _faults(item, seen)
    elif isinstance(node, yaml.MappingNode):
        yield from _twice(node)
        for name, value in node.value:
            yield from _faults(name, seen)
            yield from _faults(value, seen)


def _twice(node: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    """Yields line and fault of each name that a mapping has twice. In names of settings, dash and underscore are equal.

    A name << takes over another mapping, whose names may be there as well.
    """
    known = {field.name for field in fields(Settings)}
    lines: dict[str, tuple[int, str]] = {}
    for name, _ in node.value:
        if not isinstance(name, yaml.ScalarNode) or name.tag == "tag:yaml.org,2002:merge":
            continue
        setting = name.value.replace("-", "_")
        key = setting if setting in known else name.value
        line = name.start_mark.line + 1
        if key in lines:
            before, spelled = lines[key]
            other = "" if spelled == name.value else f", as {spelled}"
            yield line, f"{name.value} is there twice, on line {before}{other} and on line {line}; expected it once"
        else:
            lines[key] = line, name.value


def _misread(node: yaml.ScalarNode) -> str | None:
    """Why a number without quotes may be meant otherwise than it is read; None where it cannot."""
    text = node.value
    if node.style is not None or not re.fullmatch(r"[-+]?[0-9][0-9_:.]*", text):
        return None
    if re.match(r"[-+]?0[0-9_]", text):
        meant = text[: text[0] == "-"] + (text.lstrip("+-0_") or "0")
        return f"{text} begins with a zero, as octal numbers do; write {meant}, or put it into quotes for a text"
    if ":" in text and node.tag != STRING:
        return f"{text} would be a number of base 60; put it into quotes for a text, or write the number"
    return None
