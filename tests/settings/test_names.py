"""Names of settings: what other programs call them, and the keyword arguments that editors complete."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
from write_kwargs import SETTINGS, kwargs_text

from xmixup_fast import fit
from xmixup_fast.settings import values
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.kwargs import SettingsKwargs
from xmixup_fast.settings.values import OTHER_NAMES
from xmixup_fast.settings.yaml_file import read_yaml

NAMES = [field.name for field in fields(Settings)]
MEANT = [
    ("bs", "batch_size"),
    ("b", "batch_size"),
    ("batch", "batch_size"),
    ("learning-rate", "lr"),
    ("learning_rate", "lr"),
    ("arch", "model"),
    ("epoch", "epochs"),
    ("num_epochs", "epochs"),
    ("wd", "weight_decay"),
    ("workers", "threads"),
    ("data", "target"),
    ("dataset", "target"),
    ("img_size", "image_size"),
    ("output_dir", "output"),
    ("pretrained", "weights"),
    ("mixup_alpha", "alpha"),
    ("smoothing", "label_smoothing"),
    ("opt", "optimizer"),
    ("sched", "schedule"),
    ("amp_dtype", "amp"),
    ("model_kwargs", "model_args"),
    ("gpu", "device"),
    ("Seeed", "seed"),
]


def test_other_names_stand_for_one_setting_each() -> None:
    assert set(OTHER_NAMES) - set(NAMES) == {"config", "recipe"}  # flags that are no settings
    others = Counter(other for names in OTHER_NAMES.values() for other in names.split())
    assert not others.keys() & set(NAMES) and set(others.values()) == {1}


@pytest.mark.parametrize(("name", "meant"), MEANT)
def test_unknown_names_suggest_what_is_meant(tmp_path: Path, name: str, meant: str) -> None:
    assert values.meant(name, NAMES) == meant
    path = tmp_path / "run.yaml"
    path.write_text(f"{name}: 8\n")
    with pytest.raises(ValueError) as of_yaml:
        read_yaml(path)
    assert str(of_yaml.value) == f"{path}: {name.replace('-', '_')} is no setting; did you mean {meant}?"
    with pytest.raises(TypeError) as of_fit:
        fit(**{name: 8})  # type: ignore[arg-type]
    assert str(of_fit.value) == f"fit: {name} is no setting; did you mean {meant}?"


def test_a_suggestion_is_among_the_known_names() -> None:
    assert values.meant("bs", ["lr", "epochs"]) is None
    assert values.meant("zzz", NAMES) is None and values.way("zzz") == ""
    for name in ("drop_path_rate", "in_chans", "global_pool"):
        with pytest.raises(TypeError, match=f"fit: {name} is no setting; model_args gives the network its arguments"):
            fit(**{name: 0.1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fit: num_classes is no setting; the classes are those of the target"):
        fit(num_classes=3)  # type: ignore[call-arg]


def test_keyword_arguments_are_the_settings() -> None:
    text = (SETTINGS / "kwargs.py").read_text(encoding="utf-8")
    assert text == kwargs_text(), "run tests/support/write_kwargs.py"
    assert list(SettingsKwargs.__annotations__) == NAMES
