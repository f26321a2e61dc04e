"""What is timed of methods that fit the head, in place of steps or besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import arguments

from xmixup_fast.comparison import worker
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.head_fit import HeadFit, fit_head

FITTED: dict[str, tuple[dict[str, Any], int]] = {
    "linear-probe": ({"method": "linear-probe"}, 1),
    "head-init": ({"method": "finetune", "head_init": "probe"}, 1),
    "refit": ({"method": "finetune", "refit_head": True}, 1),
    "both": ({"method": "mixup", "head_init": "probe", "refit_head": True}, 2),
    "none": ({"method": "finetune"}, 0),
}


@pytest.mark.parametrize("name", FITTED)
def test_fits_are_spread_over_the_steps(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, count = FITTED[name]

    def slow(*args: Any, **options: Any) -> HeadFit:
        return fit_head(*args, **options)._replace(seconds=5000.0)

    monkeypatch.setattr(worker, "fit_head", slow)
    baseline, other = (
        Settings(**arguments(data, tmp_path / part, **more))
        for part, more in (("baseline", {"method": "finetune"}), ("other", changes))
    )
    timed = worker._time_in_turn(baseline, other)
    own = timed["seconds_per_step"] - 1000 * count  # five steps
    assert abs(own) < 1e-6 if name == "linear-probe" else 0 < own < 100
    assert timed["relative_seconds"] == pytest.approx(
        timed["seconds_per_step"] / timed["baseline_seconds_per_step"], rel=1e-2
    )
    assert 0 < timed["baseline_seconds_per_step"] < 100 and timed["rounds"] == 3
