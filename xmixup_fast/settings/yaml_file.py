"""Settings in YAML files, and the recipes among them that the package ships."""

from __future__ import annotations

import os
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from .fields import Settings
from .values import as_type, check_names, expanded

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
    return {name: as_type(name, value, hints[name]) for name, value in values.items()}


def recipes() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """The settings that a recipe gives, by name. ValueError for an unknown recipe, and as :func:`read_yaml`."""
    if name not in recipes():
        raise ValueError(f"recipe: expected one of {', '.join(recipes())}, got {name}")
    return read_yaml(RECIPES / f"{name}.yaml")


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a YAML file says by name, with underscores for dashes; FileNotFoundError, ValueError for other content."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"config: {path}: no such file")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected lines of 'name: value', got {type(values).__name__}")
    return {str(name).replace("-", "_"): value for name, value in values.items()}
