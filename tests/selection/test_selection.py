"""The strategies that choose source classes, and reading and writing selection.json."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from xmixup_fast.data.dataset import Dataset, FileImage, Sample
from xmixup_fast.selection.choice import Selection, read_selection
from xmixup_fast.selection.strategies import (
    assignment_selection,
    cosine,
    least_similar,
    most_similar,
    random_classes,
    transport_plan,
    transport_selection,
)

INF = float("inf")


def test_the_most_similar_classes_come_first_and_equal_ones_in_order() -> None:
    similarity = torch.tensor([[0.1, 0.7, 0.7, 0.2], [0.0, -INF, 0.0, -1.0]], dtype=torch.float64)
    selection = most_similar(similarity, 3)
    assert selection.chosen == [[1, 2, 3], [0, 2, 3]] and selection.scores == [[0.7, 0.7, 0.2], [0, 0, -1]]
    with pytest.raises(ValueError, match="top_k: expected at most 3, the number of usable source classes, got 4"):
        most_similar(similarity, 4)


def test_the_least_similar_classes_come_first_and_those_that_cannot_be_chosen_never() -> None:
    similarity = torch.tensor([[0.1, 0.7, 0.1, 0.2], [0.0, -INF, 0.5, -1.0]], dtype=torch.float64)
    selection = least_similar(similarity, 3)
    assert selection.chosen == [[0, 2, 3], [3, 0, 2]] and selection.scores == [[0.1, 0.1, 0.2], [-1, 0, 0.5]]
    with pytest.raises(ValueError, match="top_k: expected at most 3, the number of usable source classes, got 4"):
        least_similar(similarity, 4)


def test_assignment_is_the_best_of_all_permutations() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        similarity = torch.rand(3, 6, generator=generator, dtype=torch.float64)
        similarity[:, 4] = -INF  # no output of the pretrained classifier
        selection = assignment_selection(similarity)
        best = max(itertools.permutations((0, 1, 2, 3, 5), 3), key=lambda p: sum(similarity[range(3), p].tolist()))
        assert selection.chosen == [[i] for i in best]
        assert selection.scores == similarity[range(3), best].unsqueeze(1).tolist()
    with pytest.raises(ValueError, match="at least as many source classes as target classes, 3, and 2 can be used"):
        assignment_selection(similarity[:, [0, 1, 4]])


@pytest.mark.parametrize(("targets", "sources"), [(2, 3), (3, 5), (4, 3), (1, 6)])
def test_transport_is_the_cheapest_plan(targets: int, sources: int) -> None:
    """Of those that give each target class its share, found by gradients in the test; columns of -inf get nothing."""
    generator = torch.Generator().manual_seed(targets)
    similarity = 0.5 + 0.2 * torch.rand(targets, sources, generator=generator, dtype=torch.float64)
    cost = 1 - similarity
    logits = torch.zeros_like(cost, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=400, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )

    def plan() -> torch.Tensor:
        return logits.softmax(1) / targets

    def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p * (p / q).log() - p + q).sum()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        p, b = plan(), torch.full((sources,), 1 / sources, dtype=torch.float64)
        loss = (p * cost).sum() + 0.1 * divergence(p.sum(0), b) + 0.01 * divergence(p, (b / targets).expand_as(p))
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(transport_plan(cost), plan().detach(), rtol=1e-3, atol=1e-5)
    unusable = torch.cat([similarity, torch.full((targets, 1), -INF, dtype=torch.float64)], 1)
    selection = transport_selection(unusable, min(3, sources))
    order = plan().detach().argsort(dim=1, descending=True)[:, :3]
    assert selection.chosen == order.tolist()
    assert selection.scores == similarity.gather(1, order).tolist()
    with pytest.raises(ValueError, match=f"top_k: expected at most {sources}, the number of usable source classes"):
        transport_selection(unusable, sources + 1)


def test_transport_leaves_a_source_class_to_those_that_have_no_other() -> None:
    """All target classes are most like the first source class; all but the last have another that is nearly as good."""
    similarity = torch.tensor([[0.9, 0.88, 0.2, 0.1], [0.9, 0.2, 0.87, 0.1], [0.9, 0.2, 0.1, 0.3]]).double()
    assert most_similar(similarity, 1).chosen == [[0], [0], [0]]
    assert transport_selection(similarity, 1).chosen == [[1], [2], [0]]


def test_transport_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ot", None)
    with pytest.raises(ValueError, match=r"selection: transport needs the package POT: pip install 'xmixup_fast\[tr"):
        transport_selection(torch.zeros(2, 3).double(), 1)


def test_cosine_does_not_depend_on_the_vectors_lengths() -> None:
    target, source = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, 0.0]]).double()
    torch.testing.assert_close(cosine(target, source), torch.tensor([[1, 0.5**0.5, 0]]).double())


def test_random_classes_are_distinct_and_repeatable() -> None:
    selection = random_classes(50, 6, 4, seed=3)
    assert all(len(set(row)) == 4 for row in selection.chosen)
    assert {i for row in selection.chosen for i in row} == set(range(6))
    assert selection == random_classes(50, 6, 4, seed=3) != random_classes(50, 6, 4, seed=4)
    with pytest.raises(ValueError, match="top_k: expected at most 6, the number of usable source classes, got 7"):
        random_classes(50, 6, 7, seed=0)


def made_dataset(labels: list[int]) -> Dataset:
    """A dataset with the classes x and y, whose training images 0.png, 1.png, ... have these labels."""
    images = [Sample(FileImage(Path(f"{i}.png")), label) for i, label in enumerate(labels)]
    return Dataset(["x", "y"], images, [], [])


SELECTIONS = [
    Selection("class", [[1, 0], [0]], [[0.75, 0.25], [0.5]]),
    Selection("class", [[1], [1]], None),
    Selection("image", [[2, 0], [2, 3]], [[0.75, 0.25], [0.5, -0.5]]),
]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_selection_is_read_as_it_was_written(selection: Selection, tmp_path: Path) -> None:
    source = made_dataset([0, 0, 1, 1])
    rows = selection.to_json(["s", "t"], source)
    path = tmp_path / "selection.json"
    path.write_text(json.dumps({"how": "prediction", "classes": rows}))
    assert read_selection(str(path), ["s", "t"], source) == selection
    if selection.kind == "image":
        assert rows["s"] == [
            {"class": "y", "image": "2.png", "score": 0.75},
            {"class": "x", "image": "0.png", "score": 0.25},
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected the selection.json of a run"),
        ("[]", "expected the selection.json of a run"),
        ('{"classes": {"s": [{"class": "x"}, {"image": "2.png"}]}}', "expected the selection.json of a run"),
        ('{"classes": {}}', "expected the selection.json of a run"),
        ('{"classes": {"s": [{"class": "x"}]}}', "has nothing for the target class t"),
        ('{"classes": {"s": [{"class": "x"}], "t": []}}', "has nothing for the target class t"),
        ('{"classes": {"s": [{"class": "z"}], "t": [{"class": "x"}]}}', "the source has no training class z"),
        ('{"classes": {"s": [{"image": "9.png"}], "t": [{"image": "1.png"}]}}', "the source has no training image 9.p"),
    ],
)
def test_other_selection_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "selection.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_selection(str(path), ["s", "t"], made_dataset([0, 0, 1, 1]))
    with pytest.raises(FileNotFoundError, match="selection_file: absent: no such file"):
        read_selection("absent", ["s", "t"], made_dataset([0, 1]))


def test_chosen_samples_come_once_and_are_found_by_their_positions() -> None:
    source = made_dataset([0, 0, 1, 1])
    by_image = Selection("image", [[3, 0], [3, 1]], None)
    samples = by_image.samples(source)
    assert [sample.image.name for sample in samples] == ["0.png", "1.png", "3.png"]
    assert [[samples[i] for i in row] for row in by_image.sample_positions()] == [
        [source.train[3], source.train[0]],
        [source.train[3], source.train[1]],
    ]
    assert Selection("class", [[1], [1]], None).samples(source) == source.train[2:]
