"""Recipes: settings that the package ships under a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmixup_fast.settings import yaml_file
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.yaml_file import read_recipe, recipes


@pytest.mark.parametrize("name", recipes())
def test_a_shipped_recipe_says_what_it_is_and_makes_settings(name: str) -> None:
    head = (yaml_file.RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert head[0].startswith(f"# xmixup train --recipe {name} --target ") and head[1] == "#"
    assert head[2].startswith("# ") and head[2][2:].strip()
    values = read_recipe(name)
    assert values and not {"target", "model", "output", "seed", "device"} & set(values)
    settings = Settings(target="t", source="s", model="m", **values)
    assert all(getattr(settings, setting) == value for setting, value in values.items())


def test_there_are_recipes() -> None:
    assert {"l2sp", "xcutmix-l2sp"} <= set(recipes())


@pytest.mark.parametrize("name", ["absent", "../recipes/l2sp", "l2sp.yaml", ""])
def test_an_unknown_recipe_names_those_that_there_are(name: str) -> None:
    with pytest.raises(ValueError) as error:
        read_recipe(name)
    assert str(error.value) == f"recipe: expected one of {', '.join(recipes())}, got {name}"


def test_what_a_recipe_gets_wrong_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.yaml").write_text("bs: 3\n")
    monkeypatch.setattr(yaml_file, "RECIPES", tmp_path)
    with pytest.raises(ValueError, match=r"odd\.yaml: bs is no setting; did you mean batch_size\?"):
        read_recipe("odd")
