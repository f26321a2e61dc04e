"""How functions of the package take settings: a target, an object, names, or several of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.given import given_settings

PHOTOS = Settings(target="photos", epochs=7)


@pytest.mark.parametrize(
    ("first", "settings", "names", "expected"),
    [
        ("photos", None, {"epochs": 7}, PHOTOS),
        (Path("photos"), None, {"epochs": 7}, PHOTOS),
        (None, None, {"target": "photos", "epochs": 7}, PHOTOS),
        (PHOTOS, None, {}, PHOTOS),
        (None, PHOTOS, {}, PHOTOS),
        (PHOTOS, None, {"seed": 3}, Settings(target="photos", epochs=7, seed=3)),
        ("photos", Settings(target="others", epochs=7), {}, PHOTOS),
    ],
)
def test_all_ways_give_the_same_settings(first: object, settings: object, names: dict, expected: Settings) -> None:
    assert given_settings("fit", first, settings, names) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "settings", "names", "message"),
    [
        ("photos", None, {"target": "others"}, "fit: target: expected one, got 'photos' and 'others'"),
        (PHOTOS, PHOTOS, {}, "fit: settings: expected one object, got two"),
        ("photos", None, {"epoch": 3}, "fit: epoch is no setting; did you mean epochs?"),
        (None, None, {"epochs": 3}, "target"),
    ],
)
def test_what_is_given_twice_or_unknown_is_named(first: object, settings: object, names: dict, message: str) -> None:
    with pytest.raises(TypeError) as raised:
        given_settings("fit", first, settings, names)  # type: ignore[arg-type]
    assert message in str(raised.value)
