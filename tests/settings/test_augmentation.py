"""The settings of augmentation: what they may be, and that runs without it are the runs they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from xmixup_fast import Augmentation
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash
from xmixup_fast.settings.yaml_file import read_recipe

PLAIN = Settings(target="t", source="s", model="m")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": [0.2, 1]}, "scale: expected nothing with crop random, got [0.2, 1.0]"),
        ({"ratio": [1, 2]}, "ratio: expected nothing with crop random, got [1.0, 2.0]"),
        ({"crop": "center"}, "crop: expected one of random, resized, got 'center'"),
        ({"crop": "resized", "scale": [0.2]}, "scale: expected a positive number and one no less, up to 1, got [0.2]"),
        ({"crop": "resized", "scale": [0.0, 1]}, "scale: expected a positive number and one no less, up to 1"),
        ({"crop": "resized", "scale": [0.5, 0.2]}, "scale: expected a positive number and one no less, up to 1"),
        ({"crop": "resized", "scale": [0.5, 1.2]}, "scale: expected a positive number and one no less, up to 1"),
        ({"crop": "resized", "ratio": [2, 1]}, "ratio: expected a positive number and one no less, got [2.0, 1.0]"),
        ({"color_jitter": -0.1}, "color_jitter: expected 1, 3 or 4 numbers from 0 on, the fourth up to 0.5, got -0.1"),
        ({"color_jitter": [0.1, 0.1]}, "color_jitter: expected 1, 3 or 4 numbers from 0 on"),
        ({"color_jitter": [0.1, 0.1, 0.1, 0.6]}, "color_jitter: expected 1, 3 or 4 numbers from 0 on"),
        ({"color_jitter_prob": 1.5}, "color_jitter_prob: expected a number from 0 to 1, got 1.5"),
        ({"erase": -1}, "erase: expected a number from 0 to 1, got -1.0"),
        ({"erase_fill": "pixel"}, "erase_fill: expected one of mean, noise, got 'pixel'"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        replace(PLAIN, **values)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"scale": None, "brightness": 0.0, "erase": 0.0}),
        ({"crop": "resized"}, {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}),
        ({"crop": "resized", "scale": [0.3, 0.9], "ratio": [1, 1]}, {"scale": (0.3, 0.9), "ratio": (1.0, 1.0)}),
        ({"color_jitter": 0.4}, {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0}),
        ({"color_jitter": [0.4]}, {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0}),
        ({"color_jitter": [0.1, 0.2, 0.3, 0.4]}, {"brightness": 0.1, "contrast": 0.2, "saturation": 0.3, "hue": 0.4}),
        ({"erase": 0.25, "erase_fill": "noise"}, {"erase": 0.25, "fill": "noise"}),
        ({"antialias": True, "color_jitter_prob": 0.5}, {"antialias": True, "jitter_probability": 0.5}),
    ],
)
def test_settings_make_an_augmentation(values: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = replace(PLAIN, **values)
    made = Augmentation.of(**settings.augmentation)
    assert {name: getattr(made, name) for name in expected} == expected


def test_the_timm_recipe_is_timms() -> None:
    made = Augmentation.of(**replace(PLAIN, **read_recipe("timm")).augmentation)
    assert (made.scale, made.contrast, made.hue, made.erase, made.fill) == ((0.08, 1.0), 0.4, 0.0, 0.25, "noise")
    assert made.antialias
    assert made.ratio == pytest.approx((3 / 4, 4 / 3))


def test_only_what_changes_images_changes_a_runs_key() -> None:
    neutral = {"crop": "random", "color_jitter_prob": 1.0, "erase": 0.0, "erase_fill": "mean", "antialias": False}
    assert run_hash(replace(PLAIN, **neutral)) == run_hash(PLAIN)
    for values in ({"crop": "resized"}, {"color_jitter": 0.4}, {"erase": 0.25}, {"antialias": True}):
        assert run_hash(replace(PLAIN, **values)) != run_hash(PLAIN)
    jitters = [replace(PLAIN, color_jitter=0.4, color_jitter_prob=share) for share in (0.0, 0.5, 1.0)]
    assert len({run_hash(settings) for settings in jitters}) == 3


# --- the same by keyword ---


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"crop": "center"}, ValueError, "crop: expected random or resized, got 'center'"),
        ({"ratio": (1, 2)}, ValueError, "ratio: expected nothing with crop random"),
        (
            {"crop": "resized", "scale": (1, 2)},
            ValueError,
            "scale: expected a positive number and one no less, up to 1",
        ),
        ({"crop": "resized", "scale": 0.5}, TypeError, "scale: expected a positive number and one no less"),
        ({"color_jitter": "0.4"}, TypeError, "color_jitter: expected a finite number, got '0.4'"),
        ({"color_jitter": (0.4, 0.4)}, ValueError, "color_jitter: expected 1, 3 or 4 numbers, got (0.4, 0.4)"),
        ({"color_jitter": (0, 0, 0, 0.7)}, ValueError, "hue: expected a number from 0 to 0.5, got 0.7"),
        ({"erase": 2}, ValueError, "erase: expected a number from 0 to 1, got 2"),
        ({"erase_fill": "pixel"}, ValueError, "fill: expected mean, noise or R, G, B, got 'pixel'"),
        ({"erase_fill": (0, 0, 2)}, ValueError, "fill[2]: expected a number from 0 to 1, got 2"),
        ({"antialias": 1}, TypeError, "antialias: expected True or False, got 1"),
    ],
)
def test_wrong_keywords_are_named(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        Augmentation.of(**values)
    assert str(raised.value).startswith(message)
