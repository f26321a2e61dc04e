"""Which scores of chosen source classes are marked, as chance may explain them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xmixup_fast.data.dataset import Dataset
from xmixup_fast.selection.choice import Selection, read_selection
from xmixup_fast.selection.doubt import LEAST_CLASSES, judge
from xmixup_fast.selection.strategies import assignment_selection, cosine, most_similar


def features(count: int, width: int, seed: int, positive: bool) -> Tensor:
    values = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.relu() if positive else values


def exponential(rows: int, columns: int) -> Tensor:
    """Numbers whose shares of a row's sum are random, all ways to share it equally likely."""
    return features(rows, columns, 2, False).square() + features(rows, columns, 3, False).square()


def share_marked(selection: Selection) -> float:
    assert selection.doubtful is not None
    return sum(map(all, selection.doubtful)) / len(selection.chosen)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("source_classes", [20, 50, 200, 1000])
def test_of_unrelated_classes_the_stated_share_is_marked(source_classes: int, positive: bool) -> None:
    target, source = features(1000, 128, 0, positive), features(source_classes, 128, 1, positive)
    similarity = cosine(target, source)
    least = 0.15 if positive else 0.35  # a positive feature that is often zero makes cosines that are not quite normal
    assert least <= share_marked(judge(most_similar(similarity, 1), similarity, of_predictions=False)) <= 0.65
    parts = exponential(1000, source_classes)
    similarity = (7 if positive else 1) * parts / parts.sum(1, keepdim=True)
    assert 0.35 <= share_marked(judge(most_similar(similarity, 1), similarity, of_predictions=True)) <= 0.55
    second = judge(most_similar(similarity, 2), similarity, of_predictions=True).doubtful or []
    assert sum(row[1] for row in second) >= 640


@pytest.mark.parametrize("relatives", [1, 3, 10])
@pytest.mark.parametrize("of_predictions", [False, True])
def test_clear_relatives_are_not_marked_however_many_there_are(relatives: int, of_predictions: bool) -> None:
    """Up to a tenth of the source: it is as ImageNet's dogs are to a target's dogs."""
    target, source, common = features(100, 128, 0, False), features(100, 128, 1, False), features(1, 128, 3, False)
    source[:relatives] += 3 * common
    similarity = cosine(target + 3 * common, source)
    if of_predictions:
        similarity = exponential(100, 100)
        similarity[:, :relatives] += 100
    selection = judge(most_similar(similarity, relatives), similarity, of_predictions=of_predictions)
    assert selection.doubtful == [[False] * relatives] * 100 and not selection.doubt()
    selection = judge(most_similar(similarity, relatives + 1), similarity, of_predictions=of_predictions)
    assert share_marked(selection) == 0 and any(row[-1] for row in selection.doubtful or [])
    assert selection.doubt().startswith("(?): ")


def test_scale_and_classes_that_cannot_be_chosen_change_nothing() -> None:
    similarity = cosine(features(30, 64, 0, True), features(40, 64, 1, True))
    similarity[:10, 0] = 2
    plain = judge(most_similar(similarity, 2), similarity, of_predictions=False)
    other = 3 * similarity + 1
    assert plain.doubtful == judge(most_similar(other, 2), other, of_predictions=False).doubtful
    assert plain.doubtful is not None and [row[0] for row in plain.doubtful[:10]] == [False] * 10
    barred = torch.cat([similarity, torch.full((30, 5), -torch.inf)], 1)
    assert judge(most_similar(barred, 2), barred, of_predictions=False).doubtful == plain.doubtful
    assigned = judge(assignment_selection(similarity), similarity, of_predictions=False)
    assert assigned.doubtful is not None and 10 <= sum(map(all, assigned.doubtful)) <= 29


def test_what_cannot_be_judged_is_not_marked() -> None:
    few = torch.rand(4, LEAST_CLASSES - 1, dtype=torch.float64)
    assert judge(most_similar(few, 1), few, of_predictions=True).doubtful is None
    chosen_at_random = Selection("class", [[0]] * 4, None)
    many = torch.rand(4, LEAST_CLASSES, dtype=torch.float64)
    assert judge(chosen_at_random, many, of_predictions=True) == chosen_at_random


def test_marks_are_shown_written_and_read_again(tmp_path: Path) -> None:
    source = Dataset(["x", "y"], [], [], [])
    selection = Selection("class", [[1, 0], [0, 1]], [[0.7, 0.1], [0.2, 0.1]], [[False, True], [True, True]])
    lines = selection.lines(["s", "t"], source)
    assert lines[:2] == ["  s <- y 0.700, x 0.100 (?)", "  t <- x 0.200 (?), y 0.100 (?)"]
    assert lines[2:] == [f"  {selection.doubt()}"] and "look at these on the contact sheet" in lines[2]
    rows = selection.to_json(["s", "t"], source)
    assert rows["s"] == [{"class": "y", "score": 0.7}, {"class": "x", "score": 0.1, "doubtful": True}]
    (tmp_path / "selection.json").write_text(json.dumps({"classes": rows}))
    assert read_selection(str(tmp_path / "selection.json"), ["s", "t"], source) == selection
