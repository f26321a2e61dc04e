"""Random arguments of `draw`, for fuzz.py."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from draw_inputs import DrawInputs

from xmixup_fast import Augmentation


def draw_augmentation(rng: random.Random) -> Augmentation:
    """Any augmentation; what is rare in a run is frequent here."""
    share, ratio = sorted([rng.uniform(0.001, 1), rng.uniform(0.001, 1)]), sorted([rng.uniform(0.1, 9), 1.0])
    return Augmentation(
        scale=rng.choice([None, tuple(share)]),
        ratio=tuple(ratio),
        **{name: rng.choice([0.0, 0.4, 1.5]) for name in ("brightness", "contrast", "saturation")},
        hue=rng.choice([0.0, 0.1, 0.5]),
        jitter_probability=rng.choice([0.0, 0.5, 1.0]),
        erase=rng.choice([0.0, 0.5, 1.0]),
        erase_scale=tuple(share),
        erase_ratio=tuple(ratio),
    )


def draw_arguments(rng: random.Random) -> dict[str, Any]:
    """Valid arguments of `draw`. Half of the calls have an augmentation, whose tables are arguments of their own."""
    augmentation = rng.choice([None, draw_augmentation(rng)])
    inputs = DrawInputs.make(
        batch=rng.choice([0, 1, 2, 3, 300]),
        size=(rng.randint(1, 300), rng.randint(1, 300)),
        room=rng.choice([0, 1, 30, 2**24 - 301 if augmentation else 2**31 - 301]),
        aux_images=rng.randint(0, 5),
        intervals=rng.choice([rng.randint(1, 20), rng.randint(1, 5000)]),
        seed=rng.getrandbits(31),
    )
    if augmentation:
        inputs = inputs.augmented(augmentation, rng.getrandbits(31), rng.choice([3, 500, 2**24]))
    inputs = inputs.with_mixed(rng.getrandbits(31)) if rng.random() < 0.5 else inputs
    inputs = inputs.with_partners(rng.getrandbits(31)) if rng.random() < 0.3 else inputs
    flags = {name: rng.random() < 0.5 for name in ("flip", "box", "one_lam")}
    tables = augmentation.draw_arguments() if augmentation else {}
    tables = {name: tables[name] for name in AUGMENTATION_TABLES if tables.get(name) is not None}
    return {**vars(inputs), "seed": rng.randint(-(2**63), 2**63 - 1), **flags, **tables}


AUGMENTATION_TABLES = ("ratios", "turns", "erase_ratios")


def call_draw(draw: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Calls `draw` with an augmentation whose tables are those among the arguments."""
    given = {name: value for name, value in arguments.items() if name not in AUGMENTATION_TABLES}
    augmentation = given.get("augmentation")
    if isinstance(augmentation, Augmentation):
        given["augmentation"] = augmentation = copy.copy(augmentation)
        for name in AUGMENTATION_TABLES:
            object.__setattr__(augmentation, name, arguments.get(name, getattr(augmentation, name)))
    return draw(**given)
