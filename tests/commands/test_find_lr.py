"""Properties of the learning-rate range test: its suggestion, and that the seed alone decides."""

from __future__ import annotations

import json
import math
import random
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_runs import arguments, flags

from xmixup_fast.commands import find_lr
from xmixup_fast.commands.find_lr import RangeTest, longest_fall, main
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.run import fit


def range_test(data: Path, output: Path, method: str = "xmixup", **settings: Any) -> dict[str, Any]:
    """What a range test writes; the exit status is 1 without a suggestion."""
    status = main(flags(arguments(data, output, method, **settings)))
    written = json.loads((output / "lr.json").read_text())
    assert status == (written["suggestions"] is None)
    return written


def test_the_suggestion_is_where_the_loss_falls_and_the_seed_alone_decides(
    data: Path, tmp_path: Path, capsys: Any
) -> None:
    found = range_test(data, tmp_path / "a", steps=40)
    assert f"suggested: --lr {found['suggestions']['valley']:.1e} (" in capsys.readouterr().out
    assert range_test(data, tmp_path / "b", steps=40, lr=0.3, unmixed_share=0.5) == found
    assert range_test(data, tmp_path / "c", steps=8, seed=1)["losses"][0] != found["losses"][0]

    rates, smoothed = found["rates"], found["smoothed"]
    assert rates[0] == find_lr.LOWEST and all(math.isclose(b / a, rates[1] / rates[0]) for a, b in pairwise(rates))
    assert len(rates) < 40  # it diverged
    for rate in found["suggestions"].values():
        assert 1e-5 < rate < 0.1 and rate < rates[smoothed.index(min(smoothed))]
    with Image.open(tmp_path / "a" / "lr.png") as picture:
        assert min(picture.size) > 400


def test_training_at_the_suggestion_learns(data: Path, tmp_path: Path) -> None:
    valley = range_test(data, tmp_path / "test", "finetune", steps=40)["suggestions"]["valley"]
    assert fit(**arguments(data, tmp_path / "run", "finetune", steps=40, lr=valley)).summary["test_accuracy"] == 100


def test_heads_keep_their_multiple(data: Path, tmp_path: Path) -> None:
    own, tenfold = (
        range_test(data, tmp_path / str(multiple), "finetune", steps=8, head_lr_multiplier=multiple)
        for multiple in (1, 10)
    )
    assert own["rates"] == tenfold["rates"][: len(own["rates"])] and own["losses"][0] == tenfold["losses"][0]
    assert own["losses"][1] != tenfold["losses"][1]


def test_no_phase_begins_in_the_middle(data: Path, tmp_path: Path) -> None:
    plain, rifle = (range_test(data, tmp_path / name, name, steps=6) for name in ("finetune", "rifle"))
    assert plain == rifle
    few, many = (
        range_test(data, tmp_path / str(share), "seqtrain", steps=6, seqtrain_share=share) for share in (0.1, 3.0)
    )
    assert few == many and few["losses"] != plain["losses"]


def test_an_output_that_holds_a_test_is_refused(data: Path, tmp_path: Path, capsys: Any) -> None:
    range_test(data, tmp_path / "test", "finetune", steps=2)
    capsys.readouterr()
    assert main(flags(arguments(data, tmp_path / "test", "finetune"))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: output: ") and "already holds a range test" in error and error.count("\n") == 1


def test_the_longest_fall_is_a_strictly_falling_subsequence_that_none_exceeds() -> None:
    assert longest_fall([]) == [] and longest_fall([1.0, 1.0]) in ([0], [1])
    chance = random.Random(0)
    for _ in range(50):
        values = [float(chance.randrange(8)) for _ in range(chance.randrange(1, 12))]
        fall = longest_fall(values)
        assert all(a < b and values[a] > values[b] for a, b in pairwise(fall))
        longest = [1] * len(values)
        for i, j in combinations(range(len(values)), 2):
            if values[j] < values[i]:
                longest[j] = max(longest[j], longest[i] + 1)
        assert len(fall) == max(longest)


def test_suggestions_of_a_known_curve() -> None:
    rates = [10.0 ** (k / 10 - 6) for k in range(61)]
    smoothed = [2.0 if k < 20 else 2 - (k - 20) * 0.04 for k in range(41)] + [1.2 + 0.1 * k for k in range(1, 21)]
    smoothed[30] -= 0.03
    found = RangeTest(rates, smoothed, smoothed).suggestions()
    assert found is not None
    assert found.valley == rates[30] and found.steepest == rates[29] and found.minimum_over_10 == rates[40] / 10


@pytest.mark.parametrize("smoothed", [[], [1.0] * 30, [1.0 + k for k in range(30)], [0.0, *range(30, 0, -1)]])
def test_a_loss_that_does_not_fall_gives_no_suggestion(tmp_path: Path, smoothed: list[float]) -> None:
    swept = RangeTest([1e-6 * 1.5**k for k in range(len(smoothed))], smoothed, smoothed)
    assert swept.suggestions() is None and find_lr.describe(swept, None).startswith("no suggestion: ")
    find_lr.draw(swept, None, "title", tmp_path / "lr.png")
    assert (tmp_path / "lr.png").stat().st_size > 1000


def test_a_method_without_steps_has_no_rate_to_find(tmp_path: Path) -> None:
    settings = Settings(target="t", method="linear-probe", output=str(tmp_path / "lr"))
    with pytest.raises(ValueError, match="method: linear-probe takes no steps, so it has no learning rate to find"):
        find_lr.run(settings)


def test_a_probed_head_is_what_the_test_begins_with(data: Path, tmp_path: Path) -> None:
    losses = []
    for head in ("fresh", "probe"):
        given = arguments(data, tmp_path / head, "finetune", head_init=head, model="test_convnext", weights="none")
        swept, _ = find_lr.run(Settings(**given))
        losses.append(swept.losses[0])
    assert losses[1] < 0.8 * losses[0]


def noisy_test(steps: int, seed: int, noise: float, fall: float) -> RangeTest:
    """A test whose loss is 2, falls by ``fall`` between a third and two thirds, diverges at the end, and is noisy."""
    chance = random.Random(seed)
    swept, average = RangeTest([], [], []), 0.0
    for step in range(steps):
        part = step / steps
        loss = 2 - fall * min(max(3 * part - 1, 0), 1) + 9 * max(part - 0.9, 0) + noise * chance.gauss(0, 1)
        average = find_lr.SMOOTHING * average + (1 - find_lr.SMOOTHING) * loss
        swept.rates.append(10 ** (7 * part - 6))
        swept.losses.append(loss)
        swept.smoothed.append(average / (1 - find_lr.SMOOTHING ** (step + 1)))
    return swept


@pytest.mark.parametrize("steps", [50, 100, 300])
def test_a_flat_curve_gives_no_suggestion_and_a_clear_fall_does(steps: int) -> None:
    """Whatever the size of the noise."""
    for noise in (1e-3, 0.3):
        flat = [noisy_test(steps, seed, noise, 0.0).suggestions() for seed in range(200)]
        assert sum(found is not None for found in flat) <= 14
        falls = [noisy_test(steps, seed, noise, 5 * noise).suggestions() for seed in range(50)]
        assert all(falls)
        rates = sorted(found.valley for found in falls if found)
        assert rates[5] > 1e-5 and rates[-5] < 1
