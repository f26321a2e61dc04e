"""Properties of the selection of source classes and images."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from made import SOURCE, TARGET, write_folder
from torch import Tensor, nn
from torchvision.io import encode_png

from xmixup_fast.class_statistics import Found, cache_key, cached, class_means, nearest_images
from xmixup_fast.data.dataset import BadFile, Dataset, FileImage, Image, Sample
from xmixup_fast.data.decode import TorchvisionDecoder, make_decoder
from xmixup_fast.data.folder import read_folder
from xmixup_fast.data.pools import PoolBuilder
from xmixup_fast.models import Network
from xmixup_fast.sampling import Auxiliary
from xmixup_fast.selection import Selection, at_random, cosine, most_similar, one_to_one, read_selection
from xmixup_fast.selector import Selector, report
from xmixup_fast.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
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


def colour_network(matched: list[bool], classifier: nn.Linear | None = None) -> Network:
    """Source classes 0, 1 and 2 are red, green and blue; further ones see nothing."""
    head = nn.Linear(3, len(matched), bias=False)
    with torch.no_grad():
        head.weight.copy_(5 * torch.eye(len(matched), 3))
    return Network(
        *(Pixels(), head, torch.tensor(matched)),
        **{"model_name": "pixels", "classes": ["a", "b"], "mean": [0] * 3, "std": [1] * 3, "classifier": classifier},
    )


def other_classifier() -> nn.Linear:
    """Outputs that are none of the source's classes: dark, red, green, blue, white."""
    outputs = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    layer = nn.Linear(3, 5)
    with torch.no_grad():
        layer.weight.copy_(20 * outputs)
        layer.bias.copy_(-10 * outputs.square().sum(1))
    return layer


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
    network = colour_network([True, True, False, True])
    means = class_means(network, batches(), 3, network.known_source_logits)
    blue, green = [0.3, 0.0, 1.0], [0.0, 1.0, 0.0]
    torch.testing.assert_close(means.features, torch.tensor([blue, green, [0] * 3]).double())
    expected = torch.tensor([[1.5, 0, -INF, 0], [0, 5, -INF, 0], [-INF] * 4], dtype=torch.float64).softmax(1)
    assert means.probabilities is not None
    torch.testing.assert_close(means.probabilities, expected.nan_to_num(0))
    assert means.counts.tolist() == [3, 2, 0]
    assert class_means(network, batches(), 3).probabilities is None


def test_passes_leave_the_network_as_it_was() -> None:
    network = colour_network([True] * 3).train()
    class_means(network, batches(), 2, network.source_logits)
    nearest_images(network, batches(), torch.eye(3, dtype=torch.float64), 1)
    assert network.training and all(parameter.grad is None for parameter in network.parameters())


def test_the_most_similar_classes_come_first_and_equal_ones_in_order() -> None:
    similarity = torch.tensor([[0.1, 0.7, 0.7, 0.2], [0.0, -INF, 0.0, -1.0]], dtype=torch.float64)
    selection = most_similar(similarity, 3)
    assert selection.chosen == [[1, 2, 3], [0, 2, 3]] and selection.scores == [[0.7, 0.7, 0.2], [0, 0, -1]]
    with pytest.raises(ValueError, match="top_k: expected at most 3, the number of usable source classes, got 4"):
        most_similar(similarity, 4)


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
    with pytest.raises(ValueError, match="top_k: expected at most 6, the number of usable source classes, got 7"):
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


def pixel_network(known: int = 4, classifier: nn.Linear | None = None) -> Network:
    """Its source head sees which source class's colour is nearest; the first ``known`` count as pretrained."""
    network = colour_network([i < known for i in range(4)], classifier)
    colours = torch.tensor([SOURCE[name] for name in sorted(SOURCE)]) / 255
    network.source_head = nn.Linear(3, 4)
    with torch.no_grad():
        network.source_head.weight.copy_(20 * colours)
        network.source_head.bias.copy_(-10 * colours.square().sum(1))
    return network


class Chooser(Selector):
    """A selector with what it says and finds bad, the target's images included."""

    def __init__(self, settings: Settings, network: Network | None = None) -> None:
        self.said: list[str] = []
        decoder = make_decoder(settings.decoder, settings.short_side, torch.device("cpu"), 2, self.said.append)
        super().__init__(settings, network or pixel_network(), decoder, self.said.append, [])

    def choose(self, data: tuple[Dataset, Dataset]) -> Selection:
        return self.select(self.stream(data[0].train, "target images", self.bad), *data)


def choose(settings: Settings, data: tuple[Dataset, Dataset], network: Network | None = None) -> Selection:
    chooser = Chooser(settings, network)
    selection = chooser.choose(data)
    assert not chooser.bad
    return selection


STRATEGIES: dict[str, dict[str, Any]] = {
    "prediction": {"how": "prediction"},
    "feature": {"how": "feature", "top_k": 2},
    "assignment by prediction": {"how": "assignment"},
    "assignment by feature": {"how": "assignment", "similarity": "feature"},
    "sample": {"how": "sample"},
}
NETWORKS = {"prediction of other classes": lambda: pixel_network(0, other_classifier())}
STRATEGIES |= {"prediction of other classes": {"how": "prediction", "top_k": 2}}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finds_the_obvious(strategy: str, data: tuple[Dataset, Dataset]) -> None:
    settings = settings_for(**STRATEGIES[strategy])
    selection = choose(settings, data, NETWORKS.get(strategy, pixel_network)())
    first = [row[0] if selection.kind == "class" else data[1].train[row[0]].label for row in selection.chosen]
    assert [data[1].classes[i] for i in first] == ["sky", "grass", "rose"]
    count = 5 if strategy == "sample" else settings.top_k
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


def test_predictions_of_other_classes_are_compared_by_cosine(data: tuple[Dataset, Dataset]) -> None:
    network = pixel_network(0, other_classifier())
    chooser = Chooser(settings_for("prediction", top_k=4), network)
    selection = chooser.choose(data)
    assert chooser.said == [
        "selection: prediction needs a pass over the source's images, since 0 of its 4 classes are outputs of the "
        "pretrained classifier"
    ]
    target, source = (
        class_means(network, chooser.stream(part.train, "", []), len(part.classes), network.classifier_logits)
        for part in data
    )
    for row, classes, scores in zip(target.probabilities, selection.chosen, selection.scores, strict=True):
        expected = [row @ other / row.norm() / other.norm() for other in source.probabilities[classes]]
        torch.testing.assert_close(scores, [float(value) for value in expected], rtol=1e-12, atol=0)
        assert scores == sorted(scores, reverse=True) and sorted(classes) == [0, 1, 2, 3]


def test_for_perfectly_recognised_classes_the_order_is_that_of_the_predictions(tmp_path: Path) -> None:
    # Saturated colours, so that each source class is predicted as one output, and each target image as several.
    sure = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}
    mixed = {"x": (120, 118, 116), "y": (116, 120, 118)}
    for name, colours in (("source", sure), ("target", mixed)):
        for label, colour in colours.items():
            (tmp_path / name / label).mkdir(parents=True)
            pixels = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, 40, 40).contiguous()
            (tmp_path / name / label / "0.png").write_bytes(bytes(encode_png(pixels).numpy()))
    data = read_folder(tmp_path / "target"), read_folder(tmp_path / "source")
    rows = 60 * torch.eye(3)
    network = colour_network([True] * 3)
    network.source_head.weight.data.copy_(rows)
    known = choose(settings_for("prediction", top_k=3), data, network)
    classifier = nn.Linear(3, 3, bias=False)
    classifier.weight.data.copy_(rows)
    other = choose(settings_for("prediction", top_k=3), data, colour_network([False] * 3, classifier))
    assert other.chosen == known.chosen == [[0, 1, 2], [1, 2, 0]]
    assert known.scores is not None and other.scores is not None
    for scores, values in zip(other.scores, known.scores, strict=True):
        assert scores == pytest.approx([value / math.hypot(*values) for value in values], abs=1e-6)


def test_feature_after_prediction_reads_nothing_of_the_source(
    data: tuple[Dataset, Dataset], reads: list[str], fresh_cache: Path
) -> None:
    network = pixel_network(0, other_classifier())
    settings = [settings_for("prediction"), settings_for("feature"), settings_for("assignment")]
    chosen = [choose(each, data, network) for each in settings]
    assert len(reads) == 3 * len(data[0].train) + len(data[1].train) and len(list(fresh_cache.iterdir())) == 1
    assert chosen[1] == choose(settings_for("feature", cache="none"), data, network)
    changed = other_classifier()
    nn.init.zeros_(changed.weight)
    reads.clear()
    choose(settings_for("prediction"), data, pixel_network(0, changed))
    assert len(reads) == len(data[0].train) + len(data[1].train), "the classifier is part of the predictions"


@pytest.mark.parametrize("strategy", ["feature", "sample", "assignment by feature"])
def test_source_images_are_read_once_and_then_come_from_the_cache(
    strategy: str, data: tuple[Dataset, Dataset], reads: list[str], fresh_cache: Path, tmp_path: Path
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
    other_cache = settings_for(**STRATEGIES[strategy], cache=str(tmp_path / "other"))
    assert read_by(other_cache) == (first, True) and read_by(other_cache) == (first, False)
    assert len(list((tmp_path / "other" / "selection").iterdir())) == 1
    before = set(fresh_cache.iterdir())
    for _ in range(2):
        assert read_by(settings_for(**STRATEGIES[strategy], cache="none")) == (first, True)
    assert set(fresh_cache.iterdir()) == before
    other_decoder = settings_for(**STRATEGIES[strategy], decoder="torchvision")
    assert read_by(other_decoder)[1] == (Chooser(settings).decoder.name != "torchvision")
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
    samples = [Sample(Counted(i), 0) for i in range(600)]
    images = iter(Chooser(settings_for("feature")).stream(samples, "images", []))
    next(images)
    assert 4 <= Counted.reads <= 300
    assert sum(len(labels) for _, labels in images) == 596 and Counted.reads == 600


MEMORY = """
import sys
from pathlib import Path
import torch
from xmixup_fast import models
from xmixup_fast.data.dataset import Dataset, FileImage, Sample
from xmixup_fast.data.decode import make_decoder
from xmixup_fast.selector import Selector
from xmixup_fast.settings import Settings

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

settings = Settings(target="t", source="s", model="test_resnet", image_size=32, resize=256, batch_size=16,
                    device="cpu", cache="none", selection=sys.argv[2])
network = models.build("test_resnet", "none", ["a"], ["b"])
network.register_buffer("classifier_weight", torch.zeros(1000, network.source_head.in_features))
decoder = make_decoder("torchvision", settings.short_side, torch.device("cpu"), 2, print)
peaks = []
for count in (100, 700):
    source = Dataset(["b"], [Sample(FileImage(Path(sys.argv[1])), 0)] * count, [], [])
    chooser = Selector(settings, network, decoder, print, [])
    chooser.select(iter([(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64))]), source, source)
    peaks.append(peak())
print(*peaks)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("strategy", ["prediction", "sample"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, strategy: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).resize((256, 256)).save(tmp_path / "photo.jpg", quality=30)
    arguments = [sys.executable, "-c", MEMORY, str(tmp_path / "photo.jpg"), strategy]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = map(float, done.stdout.splitlines()[-1].split())
    assert many - few < 60  # the images between take 112 MiB


def remember(cache: Path, value: float, still_bad: bool = True) -> float:
    found = cached(
        cache, "key", lambda: Found({"x": torch.tensor(value)}, [BadFile("a", "b")]), lambda bad: bad and still_bad
    )
    assert found.bad == [BadFile("a", "b")]
    return float(found.tensors["x"])


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    assert [remember(tmp_path, 1), remember(tmp_path, 2)] == [1, 1]
    (path,) = (tmp_path / "selection").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    assert [remember(tmp_path, 3), remember(tmp_path, 4)] == [3, 3]
    assert list((tmp_path / "selection").iterdir()) == [path]


def test_what_is_no_longer_bad_makes_the_cache_again(tmp_path: Path) -> None:
    assert [remember(tmp_path, 1), remember(tmp_path, 2, still_bad=False), remember(tmp_path, 3)] == [1, 2, 2]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cache: .*file/selection: .*; name another folder, or none"):
        remember(tmp_path / "file", 1)


@pytest.mark.parametrize("strategy", ["feature", "sample", "prediction of other classes"])
def test_bad_source_images_are_named_and_left_out(
    strategy: str, data: tuple[Dataset, Dataset], reads: list[str], fresh_cache: Path
) -> None:
    target, source = data
    settings = settings_for(**STRATEGIES[strategy])
    broken, gone = (Path(source.train[position].image.name) for position in (2, 20))
    good, mended = broken.read_bytes(), broken.stat()
    broken.write_bytes(bytes(len(good)))
    os.utime(broken, ns=(0, mended.st_mtime_ns))
    gone.unlink()
    expected = [BadFile(str(broken), "not a JPEG, PNG or WebP image"), BadFile(str(gone), "No such file or directory")]
    chosen = []
    for count in (28, 2):  # by the pass, and by another look at the bad ones
        reads.clear()
        chooser = Chooser(settings, NETWORKS.get(strategy, pixel_network)())
        chosen.append(chooser.choose(data))
        assert chooser.bad == expected and len(reads) == 15 + count
    assert chosen[0] == chosen[1]
    without = Dataset(source.classes, [source.train[i] for i in range(28) if i not in (2, 20)], [], [])
    by_name, expected_by_name = (
        selection.to_json(target.classes, part)
        for selection, part in (
            (chosen[0], source),
            (choose(settings, (target, without), NETWORKS.get(strategy, pixel_network)()), without),
        )
    )
    assert by_name == expected_by_name

    broken.write_bytes(good)
    os.utime(broken, ns=(0, mended.st_mtime_ns))  # its stamp is what it was
    reads.clear()
    chooser = Chooser(settings, NETWORKS.get(strategy, pixel_network)())
    chooser.choose(data)
    assert chooser.bad == expected[1:] and len(reads) == 15 + 2 + 28


def test_source_classes_without_a_good_image_are_not_chosen(data: tuple[Dataset, Dataset]) -> None:
    for sample in data[1].train[21:]:  # snow
        Path(sample.image.name).write_text("no image")
    chooser = Chooser(settings_for("feature", top_k=3))
    assert all(sorted(row) == [0, 1, 2] for row in chooser.choose(data).chosen) and len(chooser.bad) == 7
    with pytest.raises(ValueError, match="top_k: expected at most 3, the number of usable source classes, got 4"):
        Chooser(settings_for("feature", top_k=4)).choose(data)
    for sample in data[0].train[5:10]:
        Path(sample.image.name).write_text("no image")
    with pytest.raises(ValueError, match="class green: none of its training images can be decoded"):
        Chooser(settings_for("feature")).choose(data)


def test_labels_and_order_are_part_of_the_key(data: tuple[Dataset, Dataset]) -> None:
    network, train = pixel_network(), data[1].train
    relabelled = [Sample(train[0].image, 3), *train[1:]]
    variants = [[train], [train[::-1]], [relabelled], [train[:9], train[9:]], [train, []]]
    keys = [cache_key(network, samples, ["p"]) for samples in variants] + [cache_key(network, [train], ["q"])]
    assert len(set(keys)) == len(keys) and keys[0] == cache_key(network, [list(train)], ["p"])


@pytest.mark.parametrize(
    ("strategy", "known", "message"),
    [
        ({"how": "prediction", "top_k": 3}, 2, r"needs a network with a pretrained classifier, .* --selection random"),
        ({"how": "prediction"}, 0, r"needs a network with a pretrained classifier"),
        ({"how": "assignment"}, 2, r"needs a network with a pretrained classifier"),
        ({"how": "prediction", "top_k": 5}, 4, r"selection: prediction needs at least top_k = 5 .*there are 4"),
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
    selection = choose(settings_for("sample"), data)
    samples = selection.samples(data[1])
    pool = PoolBuilder(TorchvisionDecoder(37, 1), None, None, print).build(samples, "images")
    auxiliary = Auxiliary.of_images(pool, selection.places())
    assert auxiliary.offsets.tolist() == [0, 5, 10, 15] and len(pool) == len(samples)
    for target, row in enumerate(selection.chosen):
        members = auxiliary.members[5 * target : 5 * target + 5].tolist()
        assert [samples[member] for member in members] == [data[1].train[position] for position in row]
        assert auxiliary.labels[members].tolist() == [data[1].train[position].label for position in row]


def choose_each(data: tuple[Dataset, Dataset]) -> dict[str, Selection]:
    return {
        name: choose(settings_for(**strategy), data, NETWORKS.get(name, pixel_network)())
        for name, strategy in STRATEGIES.items()
    }


def one_process(rank: int, folder: Path) -> None:
    """One of two processes: every strategy, and the class means alone."""
    torch.set_num_threads(1)
    os.environ["XMIXUP_CACHE"] = str(folder / "cache-of-two")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    data = read_folder(folder / "target"), read_folder(folder / "source")
    selections = choose_each(data)
    again = choose(settings_for(**STRATEGIES["sample"]), data)  # out of the cache
    chooser = Chooser(settings_for("feature"))
    logits = chooser.network.source_logits
    share = sum(len(labels) for _, labels in chooser.stream(data[1].train, "images", []))
    means = class_means(chooser.network, chooser.stream(data[1].train, "images", []), 4, logits)
    # The last batch alone is a share without an image for one process.
    tail = Chooser(settings_for("feature", batch_size=100)).stream(data[1].train, "images", [])
    tail_means = class_means(chooser.network, tail, 4, logits)
    Path(data[1].train[27 * rank].image.name).write_text("no image")
    dist.barrier()
    chooser.choose(data)
    result = (selections, again, means, tail_means, share, chooser.bad)
    torch.save(result, folder / f"result-{rank}")
    dist.destroy_process_group()


def test_two_processes_choose_as_one(data: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    alone = choose_each(data)
    chooser = Chooser(settings_for("feature"))
    images = chooser.stream(data[1].train, "images", [])
    means = class_means(chooser.network, images, 4, chooser.network.source_logits)
    torch.multiprocessing.spawn(one_process, (tmp_path,), nprocs=2)
    results = [torch.load(tmp_path / f"result-{rank}", weights_only=False) for rank in range(2)]
    bad = [BadFile(data[1].train[i].image.name, "not a JPEG, PNG or WebP image") for i in (0, 27)]
    for selections, again, theirs, tail_means, _, found in results:
        for name, selection in selections.items():
            assert selection.chosen == alone[name].chosen, name
            torch.testing.assert_close(
                torch.tensor(selection.scores).double(), torch.tensor(alone[name].scores).double(), rtol=1e-12, atol=0
            )
        assert again == selections["sample"]
        torch.testing.assert_close(tuple(theirs), tuple(means), rtol=1e-12, atol=0)
        torch.testing.assert_close(tuple(tail_means), tuple(means), rtol=1e-6, atol=0)
        assert found == bad
    assert results[0][:2] == results[1][:2] and sum(result[4] for result in results) == 28
    assert all(0 < result[4] < 28 for result in results)
