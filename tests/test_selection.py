"""Properties of the selection of source classes and images."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from made import SOURCE, TARGET, write_folder
from torch import Tensor, nn
from torchvision.io import encode_png

from xmixup_fast.class_statistics import Images, cache_key, cached, class_means, nearest_images
from xmixup_fast.data.dataset import Dataset, FileImage, Image, Sample
from xmixup_fast.data.folder import read_folder
from xmixup_fast.models import Network
from xmixup_fast.sampling import Auxiliary
from xmixup_fast.selection import Selection, at_random, cosine, most_similar, one_to_one, read_selection
from xmixup_fast.selector import report, select, stream
from xmixup_fast.settings import Settings

INF = float("inf")


class Pixels(nn.Module):
    """A body whose features are the images' mean colours, so that the source head alone decides."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.classifier = nn.Linear(3, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.scale * x.mean((2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
        return x

    def get_classifier(self) -> nn.Linear:
        return self.classifier


def colour_network(matched: list[bool]) -> Network:
    """Source classes 0, 1 and 2 are red, green and blue; further ones see nothing."""
    head = nn.Linear(3, len(matched), bias=False)
    with torch.no_grad():
        head.weight.copy_(5 * torch.eye(len(matched), 3))
    return Network(
        *(Pixels(), head, torch.tensor(matched)), model_name="pixels", classes=["a", "b"], mean=[0] * 3, std=[1] * 3
    )


def batches() -> list[tuple[Tensor, Tensor]]:
    """Target class 0 is blue with some red, class 1 is green; each comes in both batches."""
    blue, green = torch.tensor([0.3, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    images = torch.stack([blue, green, blue]).view(3, 3, 1, 1).expand(3, 3, 4, 4)
    return [(images, torch.tensor([0, 1, 0])), (images[:2], torch.tensor([0, 1]))]


def numbered_batches(features: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Images of one pixel, in batches, with their positions."""
    images = features.float().view(-1, 3, 1, 1)
    return list(zip(images.split(size), torch.arange(len(images)).split(size), strict=True))


def test_class_means_are_the_means_of_features_and_known_probabilities() -> None:
    means = class_means(colour_network([True, True, False, True]), batches(), 3, predictions=True)
    blue, green = [0.3, 0.0, 1.0], [0.0, 1.0, 0.0]
    torch.testing.assert_close(means.features, torch.tensor([blue, green, [0] * 3]).double())
    expected = torch.tensor([[1.5, 0, -INF, 0], [0, 5, -INF, 0], [-INF] * 4], dtype=torch.float64).softmax(1)
    assert means.probabilities is not None
    torch.testing.assert_close(means.probabilities, expected.nan_to_num(0))
    assert class_means(colour_network([False] * 3), batches(), 2, predictions=False).probabilities is None


def test_passes_leave_the_network_as_it_was() -> None:
    network = colour_network([True] * 3).train()
    class_means(network, batches(), 2, predictions=True)
    nearest_images(network, batches(), torch.eye(3, dtype=torch.float64), 1)
    assert network.training and all(parameter.grad is None for parameter in network.parameters())


def test_the_most_similar_classes_come_first_and_equal_ones_in_order() -> None:
    similarity = torch.tensor([[0.1, 0.7, 0.7, 0.2], [0.0, -INF, 0.0, -1.0]], dtype=torch.float64)
    selection = most_similar(similarity, 3)
    assert selection.chosen == [[1, 2, 3], [0, 2, 3]] and selection.scores == [[0.7, 0.7, 0.2], [0, 0, -1]]
    with pytest.raises(ValueError, match="top_k: expected at most 4, the number of source classes, got 5"):
        most_similar(similarity, 5)


def test_assignment_is_the_best_of_all_permutations() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        similarity = torch.rand(3, 6, generator=generator, dtype=torch.float64)
        similarity[:, 4] = -INF  # a class that the pretrained classifier lacks
        selection = one_to_one(similarity)
        best = max(itertools.permutations((0, 1, 2, 3, 5), 3), key=lambda p: sum(similarity[range(3), p].tolist()))
        assert selection.chosen == [[i] for i in best]
        assert selection.scores == similarity[range(3), best].unsqueeze(1).tolist()
    with pytest.raises(ValueError, match="at least as many source classes as target classes, 3, and 2 can be used"):
        one_to_one(similarity[:, [0, 1, 4]])


def test_cosine_does_not_depend_on_length() -> None:
    target, source = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, 0.0]]).double()
    torch.testing.assert_close(cosine(target, source), torch.tensor([[1, 0.5**0.5, 0]]).double())


@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_nearest_images_are_those_of_a_full_sort(size: int) -> None:
    random = np.random.default_rng(0)
    features = torch.from_numpy(random.integers(0, 4, (40, 3)) + 1.0)  # few values, so that many are equally near
    directions = torch.from_numpy(random.random((5, 3)))
    images, cosines = nearest_images(colour_network([True]), numbered_batches(features, size), directions, 12)
    expected = F.normalize(directions, dim=1) @ F.normalize(features, dim=1).T
    order = expected.round(decimals=12).sort(dim=1, descending=True, stable=True).indices[:, :12]
    torch.testing.assert_close(cosines, expected.gather(1, order), rtol=0, atol=1e-12)
    exact = nearest_images(colour_network([True]), numbered_batches(features, 40), directions, 12)[0]
    assert torch.equal(images, exact) and all(len(set(row)) == 12 for row in images.tolist())
    assert nearest_images(colour_network([True]), [], directions, 3)[0].shape == (5, 0)


def test_of_equally_near_images_the_first_are_taken() -> None:
    same = torch.ones(6, 3)
    for size in (1, 4, 6):
        images, _ = nearest_images(colour_network([True]), numbered_batches(same, size), torch.ones(1, 3).double(), 4)
        assert images.tolist() == [[0, 1, 2, 3]]


def test_random_classes_are_distinct_and_repeatable() -> None:
    selection = at_random(50, 6, 4, seed=3)
    assert all(len(set(row)) == 4 for row in selection.chosen)
    assert {i for row in selection.chosen for i in row} == set(range(6))
    assert selection == at_random(50, 6, 4, seed=3) != at_random(50, 6, 4, seed=4)
    with pytest.raises(ValueError, match="top_k: expected at most 6, the number of source classes, got 7"):
        at_random(50, 6, 7, seed=0)


def made_dataset(labels: list[int]) -> Dataset:
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


def test_chosen_samples_come_once_and_places_lead_to_them() -> None:
    source = made_dataset([0, 0, 1, 1])
    by_image = Selection("image", [[3, 0], [3, 1]], None)
    samples = by_image.samples(source)
    assert [sample.image.name for sample in samples] == ["0.png", "1.png", "3.png"]
    assert [[samples[place] for place in row] for row in by_image.places()] == [
        [source.train[3], source.train[0]],
        [source.train[3], source.train[1]],
    ]
    assert Selection("class", [[1], [1]], None).samples(source) == source.train[2:]


@pytest.fixture
def data(tmp_path: Path) -> tuple[Dataset, Dataset]:
    """Target and source of made colours: blue, green, red; grass, rose, sky, snow."""
    write_folder(tmp_path / "target", TARGET, 5)
    write_folder(tmp_path / "source", SOURCE, 7)
    return read_folder(tmp_path / "target"), read_folder(tmp_path / "source")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are read, as they are."""
    names: list[str] = []
    read = FileImage.read

    def counting(image: FileImage) -> bytes:
        names.append(image.name)
        return read(image)

    monkeypatch.setattr(FileImage, "read", counting)
    return names


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XMIXUP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "selection"


def settings_for(how: str, **others: Any) -> Settings:
    common = {"target": "t", "source": "s", "model": "m", "image_size": 32, "batch_size": 4, "device": "cpu"}
    return Settings(**{**common, "selection": how, "top_images": 5, **others})


def pixel_network(known: int = 4) -> Network:
    """Its source head sees which source class's colour is nearest; the first ``known`` count as pretrained."""
    network = colour_network([i < known for i in range(4)])
    colours = torch.tensor([SOURCE[name] for name in sorted(SOURCE)]) / 255
    network.source_head = nn.Linear(3, 4)
    with torch.no_grad():
        network.source_head.weight.copy_(20 * colours)
        network.source_head.bias.copy_(-10 * colours.square().sum(1))
    return network


def choose(settings: Settings, data: tuple[Dataset, Dataset], network: Network | None = None) -> Selection:
    network = network or pixel_network()
    images = stream(settings, network, data[0].train, "target images")
    return select(settings, network, images, *data)


STRATEGIES: dict[str, dict[str, Any]] = {
    "prediction": {"how": "prediction"},
    "feature": {"how": "feature", "top_k": 2},
    "assignment by prediction": {"how": "assignment"},
    "assignment by feature": {"how": "assignment", "similarity": "feature"},
    "sample": {"how": "sample"},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finds_the_obvious(strategy: str, data: tuple[Dataset, Dataset]) -> None:
    settings = settings_for(**STRATEGIES[strategy])
    selection = choose(settings, data)
    first = [row[0] if selection.kind == "class" else data[1].train[row[0]].label for row in selection.chosen]
    assert [data[1].classes[i] for i in first] == ["sky", "grass", "rose"]
    count = {"feature": 2, "sample": 5}.get(strategy, 1)
    assert selection.scores is not None and all(len(row) == count for row in selection.chosen + selection.scores)
    assert all(row == sorted(row, reverse=True) for row in selection.scores)
    lines = selection.lines(data[0].classes, data[1])
    assert len(lines) == 3 and lines[0].split()[:2] == ["blue", "<-"] and "sky" in lines[0]
    written = report(settings, selection, *data)
    assert written["how"] == settings.selection and list(written["classes"]) == sorted(TARGET)


def test_the_target_is_seen_in_any_batches(data: tuple[Dataset, Dataset]) -> None:
    a, b = (choose(settings_for("prediction", batch_size=size), data) for size in (1, 100))
    assert a.chosen == b.chosen
    torch.testing.assert_close(torch.tensor(a.scores), torch.tensor(b.scores))


@pytest.mark.parametrize("how", ["prediction", "random", "assignment"])
def test_no_source_image_is_read_where_none_is_needed(
    how: str, data: tuple[Dataset, Dataset], reads: list[str]
) -> None:
    choose(settings_for(how), data)
    assert sorted(reads) == sorted(sample.image.name for sample in data[0].train if how != "random")


@pytest.mark.parametrize("strategy", ["feature", "sample", "assignment by feature"])
def test_source_images_are_read_once_and_then_come_from_the_cache(
    strategy: str, data: tuple[Dataset, Dataset], reads: list[str], fresh_cache: Path
) -> None:
    target, source = data
    settings = settings_for(**STRATEGIES[strategy])
    images = {
        part: sorted(sample.image.name for sample in dataset.train) for part, dataset in (("t", target), ("s", source))
    }

    def read_by(settings: Settings, network: Network | None = None) -> tuple[Selection, bool]:
        """What is chosen, and whether the source was read."""
        reads.clear()
        selection = choose(settings, data, network)
        assert sorted(reads) in (images["t"], sorted(images["t"] + images["s"]))
        return selection, len(reads) > len(images["t"])

    first, read = read_by(settings)
    assert read and len(list(fresh_cache.iterdir())) == 1
    assert read_by(settings) == (first, False)
    other_head = pixel_network()
    nn.init.zeros_(other_head.body.classifier.weight)
    assert read_by(settings, other_head) == (first, False), "the target head is no part of the features"

    other_weights = pixel_network()
    other_weights.body.scale.data.fill_(0.5)
    assert read_by(settings, other_weights)[1]
    assert read_by(settings_for(**STRATEGIES[strategy], resize=40))[1]
    Path(source.train[3].image.name).touch()
    assert read_by(settings)[1]
    assert not read_by(settings)[1]
    source.train.pop()
    images["s"].pop()
    assert read_by(settings)[1]
    if strategy == "sample":
        assert read_by(settings_for("sample", top_images=6))[1]
        Path(target.train[0].image.name).touch()
        assert read_by(settings)[1]


class Counted(Image):
    """The same picture under many names; counts how often it is read."""

    encoded = bytes(encode_png(torch.full((3, 40, 40), 128, dtype=torch.uint8)).numpy())
    reads = 0

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def name(self) -> str:
        return f"{self.number:04d}"

    def read(self) -> bytes:
        Counted.reads += 1
        return self.encoded

    def stamp(self) -> str:
        return ""


def test_a_pass_decodes_images_as_it_goes() -> None:
    images = iter(
        stream(settings_for("feature"), pixel_network(), [Sample(Counted(i), 0) for i in range(600)], "images")
    )
    next(images)
    assert 4 <= Counted.reads <= 300
    assert sum(len(labels) for _, labels in images) == 596 and Counted.reads == 600


def test_a_damaged_cache_is_named(fresh_cache: Path) -> None:
    assert cached("key", lambda: {"x": torch.ones(2)})["x"].tolist() == [1, 1]
    assert cached("key", lambda: {})["x"].tolist() == [1, 1]
    (path,) = fresh_cache.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"key.safetensors: cannot be read .*; remove it"):
        cached("key", lambda: {})


def test_a_pass_that_fails_leaves_no_cache(data: tuple[Dataset, Dataset], fresh_cache: Path) -> None:
    for position in (2, 20):
        Path(data[1].train[position].image.name).write_text("no image")
    with pytest.raises(ValueError, match=r"^2 of 28 source images cannot be decoded:\n.*002.png: .*\n.*006.png: .*$"):
        choose(settings_for("feature"), data)
    assert not fresh_cache.exists()


def test_labels_and_order_are_part_of_the_key(data: tuple[Dataset, Dataset]) -> None:
    network, train = pixel_network(), data[1].train
    relabelled = [Sample(train[0].image, 3), *train[1:]]
    variants = [[train], [train[::-1]], [relabelled], [train[:9], train[9:]], [train, []]]
    keys = [cache_key(network, samples, ["p"]) for samples in variants] + [cache_key(network, [train], ["q"])]
    assert len(set(keys)) == len(keys) and keys[0] == cache_key(network, [list(train)], ["p"])


@pytest.mark.parametrize(
    ("strategy", "known", "message"),
    [
        ({"how": "prediction", "top_k": 3}, 2, r"top_k = 3 .* and 2 are; .* --selection random"),
        ({"how": "prediction"}, 0, r"top_k = 1 .* and 0 are"),
        ({"how": "assignment"}, 2, r"at least 3, the number of target classes, .* and 2 are"),
        ({"how": "feature", "top_k": 5}, 4, r"selection: feature needs at least top_k = 5 .*there are 4"),
        ({"how": "sample", "top_images": 29}, 4, r"top_images: expected at most 28, .* got 29"),
        ({"how": "random", "top_k": 5}, 4, r"top_k: expected at most 4"),
    ],
)
def test_too_small_a_source_is_refused_before_any_image_is_read(
    strategy: dict[str, Any], known: int, message: str, data: tuple[Dataset, Dataset], reads: list[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        choose(settings_for(**strategy), data, pixel_network(known))
    assert not reads


def test_assignment_needs_enough_source_classes_by_feature_too(data: tuple[Dataset, Dataset]) -> None:
    target, source = data
    few = Dataset(source.classes[:2], source.train[:14], [], [])
    with pytest.raises(ValueError, match=r"assignment needs at least 3, the number of target classes, .* there are 2"):
        choose(settings_for("assignment", similarity="feature"), (target, few))
    with pytest.raises(ValueError, match="top_k: expected 1, as assignment gives"):
        settings_for("assignment", top_k=2)


def test_auxiliary_images_can_be_single_ones(data: tuple[Dataset, Dataset]) -> None:
    from xmixup_fast.data.pools import decode

    selection = choose(settings_for("sample"), data)
    samples = selection.samples(data[1])
    pool = decode(samples, 37, "images")
    auxiliary = Auxiliary.of_images(pool, selection.places())
    assert auxiliary.offsets.tolist() == [0, 5, 10, 15] and len(pool) == len(samples)
    for target, row in enumerate(selection.chosen):
        members = auxiliary.members[5 * target : 5 * target + 5].tolist()
        assert [samples[member] for member in members] == [data[1].train[position] for position in row]
        assert auxiliary.labels[members].tolist() == [data[1].train[position].label for position in row]


def one_process(rank: int, folder: Path) -> None:
    """One of two processes: every strategy, and the class means alone."""
    torch.set_num_threads(1)
    os.environ["XMIXUP_CACHE"] = str(folder / "cache-of-two")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    data = read_folder(folder / "target"), read_folder(folder / "source")
    selections = {name: choose(settings_for(**strategy), data) for name, strategy in STRATEGIES.items()}
    again = choose(settings_for(**STRATEGIES["sample"]), data)  # out of the cache

    def images() -> Images:
        return stream(settings_for("feature"), pixel_network(), data[1].train, "source images")

    share = sum(len(labels) for _, labels in images())
    means = class_means(pixel_network(), images(), 4, predictions=True)
    # The last batch alone is a share without an image for one process.
    tail = stream(settings_for("feature", batch_size=100), pixel_network(), data[1].train, "source images")
    tail_means = class_means(pixel_network(), tail, 4, predictions=True)
    Path(data[1].train[27 * rank].image.name).write_text("no image")
    dist.barrier()
    with pytest.raises(ValueError, match="2 of 28 source images cannot be decoded") as caught:
        list(images())
    result = (selections, again, means, tail_means, share, str(caught.value))
    torch.save(result, folder / f"result-{rank}")
    dist.destroy_process_group()


def test_two_processes_choose_as_one(data: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    alone = {name: choose(settings_for(**strategy), data) for name, strategy in STRATEGIES.items()}
    images = stream(settings_for("feature"), pixel_network(), data[1].train, "source images")
    means = class_means(pixel_network(), images, 4, predictions=True)
    torch.multiprocessing.spawn(one_process, (tmp_path,), nprocs=2)
    results = [torch.load(tmp_path / f"result-{rank}", weights_only=False) for rank in range(2)]
    for selections, again, theirs, tail_means, _, message in results:
        for name, selection in selections.items():
            assert selection.chosen == alone[name].chosen, name
            torch.testing.assert_close(
                torch.tensor(selection.scores).double(), torch.tensor(alone[name].scores).double(), rtol=1e-12, atol=0
            )
        assert again == selections["sample"]
        torch.testing.assert_close(tuple(theirs), tuple(means), rtol=1e-12, atol=0)
        torch.testing.assert_close(tuple(tail_means), tuple(means), rtol=1e-6, atol=0)
        assert message == results[0][-1] and message.count("\n") == 2
    assert results[0][:2] == results[1][:2] and sum(result[4] for result in results) == 28
    assert all(0 < result[4] < 28 for result in results)
