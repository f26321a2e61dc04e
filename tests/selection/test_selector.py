"""Every strategy of selection: which classes or images it chooses, which images it reads, what it refuses."""

from __future__ import annotations

import io
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
from made import SOURCE, TARGET, write_folder
from selecting import (
    NETWORKS,
    STRATEGIES,
    RecordingSelector,
    choose,
    colour_network,
    other_classifier,
    pixel_network,
    settings_for,
)
from torch import nn

from xmixup_fast.data.dataset import BadFile, Dataset, FileImage, Image, Sample
from xmixup_fast.data.decoding.decoder import PillowDecoder
from xmixup_fast.data.formats import NOT_AN_IMAGE
from xmixup_fast.data.image_store import ImageStore
from xmixup_fast.data.readers.folder import read_folder
from xmixup_fast.models.network import Network
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.selection.choice import Selection
from xmixup_fast.selection.selector import report
from xmixup_fast.selection.statistics import class_means
from xmixup_fast.settings.fields import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path) -> tuple[Dataset, Dataset]:
    """A target with the classes blue, green and red, and a source with grass, rose, sky and snow, all in one colour."""
    write_folder(tmp_path / "target", TARGET, 5)
    write_folder(tmp_path / "source", SOURCE, 7)
    return read_folder(tmp_path / "target"), read_folder(tmp_path / "source")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which the name of each image file is added as it is read."""
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


@pytest.mark.parametrize("similarity", ["prediction", "feature"])
def test_the_least_similar_class_is_the_last_of_the_most_similar(
    similarity: str, data: tuple[Dataset, Dataset]
) -> None:
    ranked = choose(settings_for(similarity, top_k=4), data)
    least = settings_for("least", similarity=similarity, top_k=2)
    selection = choose(least, data)
    assert [row[0] for row in selection.chosen] == [row[-1] for row in ranked.chosen]
    assert selection.doubtful is None
    written = report(least, selection, *data)
    assert (written["how"], written["similarity"], written["top_k"]) == ("least", similarity, 2)


def test_the_target_is_seen_in_any_batches(data: tuple[Dataset, Dataset]) -> None:
    a, b = (choose(settings_for("prediction", batch_size=size), data) for size in (1, 100))
    assert a.chosen == b.chosen
    torch.testing.assert_close(torch.tensor(a.scores), torch.tensor(b.scores))


@pytest.mark.parametrize("strategy", ["prediction", "random", "assignment"])
def test_no_source_image_is_read_where_none_is_needed(
    strategy: str, data: tuple[Dataset, Dataset], reads: list[str]
) -> None:
    choose(settings_for(strategy), data)
    assert sorted(reads) == sorted(sample.image.name for sample in data[0].train if strategy != "random")


def test_transport_without_its_package_reads_no_image(
    data: tuple[Dataset, Dataset], reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ValueError, match="selection: transport needs the package POT: pip install"):
        choose(settings_for("transport"), data)
    assert not reads


def test_predictions_of_other_classes_are_compared_by_cosine(data: tuple[Dataset, Dataset]) -> None:
    network = pixel_network(0, other_classifier())
    selector = RecordingSelector(settings_for("prediction", top_k=4), network)
    selection = selector.choose(data)
    assert selector.logged == [
        "selection: prediction needs a pass over the source's images, since 0 of its 4 classes are outputs of the "
        "pretrained classifier"
    ]
    target, source = (
        class_means(network, selector.stream(part.train, "", []), len(part.classes), network.classifier_logits)
        for part in data
    )
    for row, classes, scores in zip(target.probabilities, selection.chosen, selection.scores, strict=True):
        expected = [row @ other / row.norm() / other.norm() for other in source.probabilities[classes]]
        torch.testing.assert_close(scores, [float(value) for value in expected], rtol=1e-12, atol=0)
        assert scores == sorted(scores, reverse=True) and sorted(classes) == [0, 1, 2, 3]


def test_for_perfectly_recognised_classes_the_order_is_that_of_the_predictions(tmp_path: Path) -> None:
    # Each source class is a pure colour, predicted as one output with certainty; target images are nearly grey.
    pure = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}
    greyish = {"x": (120, 118, 116), "y": (116, 120, 118)}
    for name, colours in (("source", pure), ("target", greyish)):
        for label, colour in colours.items():
            (tmp_path / name / label).mkdir(parents=True)
            PIL.Image.new("RGB", (40, 40), colour).save(tmp_path / name / label / "0.png")
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


def test_feature_after_prediction_reads_no_source_image(
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
        """The selection, and whether images of the source were read for it."""
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
    assert read_by(other_decoder)[1] == (RecordingSelector(settings).decoder.name != "torchvision")
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


def _grey_png() -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (40, 40), (128, 128, 128)).save(stream, "PNG")
    return stream.getvalue()


class Counted(Image):
    """An image with a name of its own and the same picture as all others; the class counts how often one is read."""

    encoded = _grey_png()
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
    images = iter(RecordingSelector(settings_for("feature")).stream(samples, "images", []))
    next(images)
    assert 4 <= Counted.reads <= 300
    assert sum(len(labels) for _, labels in images) == 596 and Counted.reads == 600


MEMORY = """
import sys
from pathlib import Path
import torch
from xmixup_fast.models.build import build
from xmixup_fast.data.catalog import LocalCatalog
from xmixup_fast.data.dataset import Dataset, FileImage, Sample
from xmixup_fast.data.decoding.choose import make_decoder
from xmixup_fast.selection.selector import AuxiliarySelector
from xmixup_fast.settings.fields import Settings

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

settings = Settings(target="t", source="s", model="test_resnet", image_size=32, resize=256, batch_size=16,
                    device="cpu", cache="none", selection=sys.argv[2])
network = build("test_resnet", "none", ["a"], source_classes=["b"])
network.register_buffer("classifier_weight", torch.zeros(1000, network.source_head.in_features))
decoder = make_decoder("torchvision", settings.short_side, torch.device("cpu"), 2, print)
peaks = []
for count in (100, 700):
    source = Dataset(["b"], [Sample(FileImage(Path(sys.argv[1])), 0)] * count, [], [])
    selector = AuxiliarySelector(settings, network, decoder, print, [])
    images = iter([(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64))])
    selector.select(images, source, LocalCatalog("", source))
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
    assert many - few < 60  # MiB; the 600 further images would take 112 MiB decoded


@pytest.mark.parametrize("strategy", ["feature", "sample", "prediction of other classes"])
def test_bad_source_images_are_named_and_left_out(
    strategy: str, data: tuple[Dataset, Dataset], reads: list[str], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on file systems whose times are coarse, and where files become readable without a change.
    monkeypatch.setattr(FileImage, "stamp", lambda image: str(image.path.stat().st_mtime_ns))
    target, source = data
    settings = settings_for(**STRATEGIES[strategy])
    broken, gone = (Path(source.train[position].image.name) for position in (2, 20))
    good, mended = broken.read_bytes(), broken.stat()
    broken.write_bytes(bytes(len(good)))
    os.utime(broken, ns=(0, mended.st_mtime_ns))
    gone.unlink()
    expected = [BadFile(str(broken), NOT_AN_IMAGE), BadFile(str(gone), "No such file or directory")]
    chosen = []
    for count in (28, 2):  # the first selection reads all source images; the second, from the cache, the bad ones
        reads.clear()
        selector = RecordingSelector(settings, NETWORKS.get(strategy, pixel_network)())
        chosen.append(selector.choose(data))
        assert selector.bad == expected and len(reads) == 15 + count
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
    os.utime(broken, ns=(0, mended.st_mtime_ns))  # readable again, with the same stamp
    reads.clear()
    selector = RecordingSelector(settings, NETWORKS.get(strategy, pixel_network)())
    selector.choose(data)
    assert selector.bad == expected[1:] and len(reads) == 15 + 2 + 28


def test_source_classes_without_a_good_image_are_not_chosen(data: tuple[Dataset, Dataset]) -> None:
    for sample in data[1].train[21:]:  # all images of snow
        Path(sample.image.name).write_text("no image")
    selector = RecordingSelector(settings_for("feature", top_k=3))
    assert all(sorted(row) == [0, 1, 2] for row in selector.choose(data).chosen) and len(selector.bad) == 7
    with pytest.raises(ValueError, match="top_k: expected at most 3, the number of usable source classes, got 4"):
        RecordingSelector(settings_for("feature", top_k=4)).choose(data)
    for sample in data[0].train[5:10]:
        Path(sample.image.name).write_text("no image")
    with pytest.raises(ValueError, match="class green: none of its training images can be decoded"):
        RecordingSelector(settings_for("feature")).choose(data)


@pytest.mark.parametrize(
    ("strategy", "known", "message"),
    [
        (
            {"selection": "prediction", "top_k": 3},
            2,
            r"needs a network with a pretrained classifier of one layer, .* --selection random",
        ),
        ({"selection": "prediction"}, 0, r"needs a network with a pretrained classifier"),
        ({"selection": "assignment"}, 2, r"needs a network with a pretrained classifier"),
        ({"selection": "prediction", "top_k": 5}, 4, r"selection: prediction needs at least top_k = 5 .*there are 4"),
        ({"selection": "feature", "top_k": 5}, 4, r"selection: feature needs at least top_k = 5 .*there are 4"),
        ({"selection": "sample", "top_images": 29}, 4, r"top_images: expected at most 28, .* got 29"),
        ({"selection": "random", "top_k": 5}, 4, r"top_k: expected at most 4"),
        ({"selection": "least", "top_k": 5}, 4, r"selection: least needs at least top_k = 5 .*there are 4"),
        ({"selection": "least"}, 0, r"needs a network with a pretrained classifier"),
    ],
)
def test_too_small_a_source_is_refused_before_any_image_is_read(
    strategy: dict[str, Any], known: int, message: str, data: tuple[Dataset, Dataset], reads: list[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        choose(settings_for(**strategy), data, pixel_network(known))
    assert not reads


def test_assignment_needs_enough_source_classes_by_feature_too(data: tuple[Dataset, Dataset]) -> None:
    few = Dataset(data[1].classes[:2], data[1].train[:14], [], [])
    with pytest.raises(ValueError, match=r"assignment needs at least 3, the number of target classes, .* there are 2"):
        choose(settings_for("assignment", similarity="feature"), (data[0], few))
    with pytest.raises(ValueError, match="top_k: expected 1, as assignment gives"):
        settings_for("assignment", top_k=2)


def test_auxiliary_images_can_be_single_ones(data: tuple[Dataset, Dataset]) -> None:
    selection = choose(settings_for("sample"), data)
    samples = selection.samples(data[1])
    pool = ImageStore(PillowDecoder(37, 1), None, None, print).build(samples, "images")
    auxiliary = AuxiliaryIndex.of_images(pool, selection.sample_positions())
    assert auxiliary.offsets.tolist() == [0, 5, 10, 15] and len(pool) == len(samples)
    for row, members in zip(selection.chosen, auxiliary.members.view(-1, 5).tolist(), strict=True):
        assert [samples[member] for member in members] == [data[1].train[position] for position in row]
        assert auxiliary.labels[members].tolist() == [data[1].train[position].label for position in row]
