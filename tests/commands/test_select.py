"""Properties of xmixup select, and of training with what it chose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from made import SOURCE, TARGET, write_folder
from PIL import Image
from small_runs import arguments

from xmixup_fast.commands.select import main
from xmixup_fast.data.dataset import BadFile
from xmixup_fast.data.formats import NOT_AN_IMAGE
from xmixup_fast.data.readers.folder import read_folder
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save
from xmixup_fast.report.contact_sheet import GAP, ROWS, TARGET_IMAGES, TEXT, THUMBNAIL, contact_sheets
from xmixup_fast.selection.choice import Selection
from xmixup_fast.training.run import Result, fit

ROOT = Path(__file__).resolve().parents[2]
OPENED: list[str] | None = None
"""Names of opened files, while a test asks for them."""


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None:
        OPENED.append(str(arguments[0]))


sys.addaudithook(_note)


def flags(data: Path, output: Path, **settings: Any) -> list[str]:
    run = {"target": data / "target", "source": data / "source", "model": "test_resnet", "batch_size": 4}
    run |= {"weights": data / "weights.safetensors", "image_size": 32, "device": "cpu", "output": output}
    return small_runs.flags(run | settings)


def train(data: Path, output: Path, **settings: Any) -> Result:
    return fit(**arguments(data, output, **{"steps": 2, "batch_size": 4, **settings}))


def chosen(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "selection.json").read_text(encoding="utf-8"))


def test_the_command_prints_and_writes_what_training_would_choose(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, tmp_path / "out", top_k=2)) == 0
    report, printed = chosen(tmp_path / "out"), capsys.readouterr().out.splitlines()
    said = f"weights: {data}/weights.safetensors: weights of test_resnet; the target head is new"
    assert said in printed
    printed = printed[printed.index("prediction: 3 target classes, 4 source classes") :]
    for line, (target, entries) in zip(printed[1:4], report["classes"].items(), strict=True):
        listed = ", ".join(f"{entry['class']} {entry['score']:.3f}" for entry in entries)
        assert line == f"  {target:5s} <- {listed}"
    assert printed[4:] == [f"selection.json and 1 contact sheet in {tmp_path / 'out'}"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"selection.json", "contact-sheet-1.png"}
    trained = train(data, tmp_path / "run", top_k=2).selection
    assert trained is not None and trained["how"] == report["how"]
    for target, entries in trained["classes"].items():
        assert [entry["class"] for entry in entries] == [entry["class"] for entry in report["classes"][target]]
        for entry, other in zip(entries, report["classes"][target], strict=True):
            assert entry["score"] == pytest.approx(other["score"], abs=2e-6)  # in batches of another size


@pytest.mark.parametrize("command", ["select", "train"])
def test_with_prediction_only_files_of_chosen_classes_are_opened(data: Path, tmp_path: Path, command: str) -> None:
    global OPENED
    cache = str(tmp_path / "cache")  # of its own: pools that other tests have left would spare it the files
    OPENED = []
    try:
        if command == "select":
            assert main(flags(data, tmp_path / "out", cache=cache)) == 0
        else:
            train(data, tmp_path / "out", cache=cache)
        opened = {Path(name) for name in OPENED}
    finally:
        OPENED = None
    source = {path for path in opened if (data / "source") in path.parents}
    classes = {entry["class"] for entries in chosen(tmp_path / "out")["classes"].values() for entry in entries}
    assert {path.parent.name for path in source if path.is_file()} == classes
    assert len(classes) < len(SOURCE) and sum(path.is_file() for path in opened) > len(source)


@pytest.mark.parametrize("settings", [{"selection": "feature", "top_k": 2}, {"selection": "sample", "top_images": 7}])
def test_training_takes_a_selection_file(data: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    assert main(flags(data, tmp_path / "out", **settings)) == 0
    report = chosen(tmp_path / "out")
    assert report["how"] == settings["selection"]
    file = str(tmp_path / "out" / "selection.json")
    direct, by_file = train(data, tmp_path / "a", **settings), train(data, tmp_path / "b", selection_file=file)
    assert direct.selection is not None and by_file.selection is not None
    assert by_file.selection["classes"] == report["classes"]
    assert (direct.summary["selection"], by_file.summary["selection"]) == (settings["selection"], "file")
    # The same pairs are mixed.
    assert (direct.folder / "batch.png").read_bytes() == (by_file.folder / "batch.png").read_bytes()


def test_torchrun_gives_what_one_process_gives(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(flags(data, tmp_path / "one", selection="sample", top_images=7)) == 0
    expected = capsys.readouterr().out
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = flags(data, tmp_path / "two", selection="sample", top_images=7)
    environment = {**os.environ, "XMIXUP_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*run, "-m", "xmixup_fast", "select", *command], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected.replace(str(tmp_path / "one"), str(tmp_path / "two"))
    one, two = chosen(tmp_path / "one"), chosen(tmp_path / "two")
    for target, entries in two["classes"].items():
        assert [entry["image"] for entry in entries] == [entry["image"] for entry in one["classes"][target]]
        scores = [entry["score"] for entry in entries]
        assert scores == pytest.approx([entry["score"] for entry in one["classes"][target]], abs=2e-6)
    assert len(list((tmp_path / "cache" / "selection").iterdir())) == 1


def colour(sheets: list[Image.Image], row: int, column: int, auxiliary: bool) -> list[float]:
    """The mean colour of a picture."""
    cell = THUMBNAIL + GAP
    left = GAP + column * cell + auxiliary * (TARGET_IMAGES * cell + 2 * GAP)
    top = row % ROWS * (TEXT + THUMBNAIL + 2 * GAP) + TEXT
    shown = np.asarray(sheets[row // ROWS])[top : top + THUMBNAIL, left : left + THUMBNAIL]
    return shown.mean((0, 1)).tolist()


def test_contact_sheets_show_what_was_chosen(tmp_path: Path) -> None:
    colours = {f"{i:02d} ünïcödé{' long' * (i % 9)}": (30 + 8 * i, 220 - 8 * i, 100) for i in range(ROWS + 3)}
    target = read_folder(write_folder(tmp_path / "target", colours, 5, size=(30, 50)))
    source = read_folder(write_folder(tmp_path / "source", SOURCE, 10))
    rows = [[i % 4, (i + 1) % 4] for i in range(len(colours))]
    sheets = contact_sheets(Selection("class", rows, [[0.75, 0.25]] * len(rows)), target, source, [])
    nearest = [[i, 39 - i, i + 1] for i in range(len(colours))]
    more = contact_sheets(Selection("image", nearest, None), target, source, [])
    assert len(sheets) == len(more) == 2 and all(max(sheet.size) < 2600 for sheet in sheets + more)
    for row in range(len(rows)):
        for column in range(TARGET_IMAGES):
            assert colour(sheets, row, column, False) == pytest.approx(colours[target.classes[row]], abs=8)
        for column in range(8):
            expected = SOURCE[source.classes[rows[row][column // 4]]]
            assert colour(sheets, row, column, True) == pytest.approx(expected, abs=8)
        for column, position in enumerate(nearest[row]):
            expected = SOURCE[source.classes[source.train[position].label]]
            assert colour(more, row, column, True) == pytest.approx(expected, abs=8)
        assert colour(more, row, 3, True) == [255, 255, 255]


def test_contact_sheets_mark_doubtful_scores_and_nothing_else(tmp_path: Path) -> None:
    target = read_folder(write_folder(tmp_path / "target", TARGET, 2))
    source = read_folder(write_folder(tmp_path / "source", SOURCE, 4))
    rows, scores = [[0, 1]] * 3, [[0.75, 0.25]] * 3
    doubts = [[False, False], [False, True], [True, True]]
    plain, marked = (
        np.asarray(contact_sheets(Selection("class", rows, scores, marks), target, source, [])[0])
        for marks in (None, doubts)
    )
    height, cell = TEXT + THUMBNAIL + 2 * GAP, THUMBNAIL + GAP
    second = 2 * GAP + GAP + (TARGET_IMAGES + 4) * cell  # where the second group of auxiliary images begins
    changed = (plain != marked).any(2)
    for row, marks in enumerate(doubts):
        captions = changed[row * height : row * height + TEXT + GAP // 2]
        left = GAP + TARGET_IMAGES * cell
        groups = captions[:, :left], captions[:, left : second - GAP], captions[:, second - GAP :]
        assert [bool(group.any()) for group in groups] == [False, *marks]
        assert not changed[row * height + TEXT + GAP : (row + 1) * height - GAP].any()


def test_contact_sheets_take_the_next_image_for_a_bad_one(tmp_path: Path) -> None:
    white = [255, 255, 255]
    target = read_folder(write_folder(tmp_path / "target", TARGET, 5))
    source = read_folder(write_folder(tmp_path / "source", SOURCE, 9))
    broken = [target.train[0], target.train[6], source.train[3], *source.train[9:18]]  # of roses none is left
    for sample in broken:
        Path(sample.image.name).write_text("no image")
    bad: list[BadFile] = []
    sheets = contact_sheets(Selection("class", [[0], [0], [1]], None), target, source, bad)
    assert {item.name for item in bad} == {sample.image.name for sample in broken}
    for row, name in enumerate(target.classes):
        for column in range(TARGET_IMAGES):
            assert colour(sheets, row, column, False) == pytest.approx(TARGET[name], abs=8)
        for column in range(8):
            assert colour(sheets, row, column, True) == pytest.approx(SOURCE["grass"] if row < 2 else white, abs=8)
    chosen = [[27, 10, 18], [10, 11], [*range(2, 12), 19]]
    sheets = contact_sheets(Selection("image", chosen, [[0.5] * len(row) for row in chosen]), target, source, bad)
    shown = [["snow", "sky"], [], [*["grass"] * 6, "sky"]]
    for row, names in enumerate(shown):
        for column in range(8):
            expected = SOURCE[names[column]] if column < len(names) else white
            assert colour(sheets, row, column, True) == pytest.approx(expected, abs=8)


@pytest.fixture
def other_network(tmp_path: Path) -> Path:
    """A weights file whose outputs are none of the source's classes, and of unknown names."""
    network = build("test_resnet", "none", [str(i) for i in range(6)])
    save(network, tmp_path / "other.safetensors", image_size=32)
    return tmp_path / "other.safetensors"


def test_prediction_takes_sources_that_the_classifier_does_not_know(
    data: Path, tmp_path: Path, other_network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"weights": other_network, "top_k": 2}
    assert main(flags(data, tmp_path / "out", **settings)) == 0
    line = "selection: prediction needs a pass over the source's images, since 0 of its 4 classes are outputs of"
    assert f"\n{line}" in capsys.readouterr().out
    trained = train(data, tmp_path / "run", weights=str(other_network), top_k=2).selection
    assert line in capsys.readouterr().out and trained is not None
    names = [
        [[entry["class"] for entry in entries] for entries in selection["classes"].values()]
        for selection in (chosen(tmp_path / "out"), trained)
    ]
    assert names[0] == names[1]
    assert main(flags(data, tmp_path / "none", weights="none")) == 2
    assert "needs a network with a pretrained classifier" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", [{}, {"selection": "feature", "top_k": 2}, {"selection": "sample"}])
def test_bad_files_are_all_listed_or_all_skipped(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: dict[str, Any], other_network: Path
) -> None:
    target = tmp_path / "target"
    for number, split in enumerate(("train", "val", "test")):
        write_folder(target / split, TARGET, 4 - number, seed=number)
    source = write_folder(tmp_path / "source", SOURCE, 5)
    train_images = [sample.image.name for sample in read_folder(target).train]
    broken = [train_images[0], train_images[-1], *(str(source / name / "001.png") for name in SOURCE)]
    for name in broken:
        Path(name).write_text("no image")
    changes = {"target": target, "source": source, "weights": other_network, "top_images": 16, **strategy}
    for _ in range(2):  # also out of the cache
        assert main(flags(data, tmp_path / "out", **changes)) == 2
        error = capsys.readouterr().err.splitlines()
        assert error[0] == "error: 6 bad files; --bad-files skip trains without them:"
        assert sorted(error[1:]) == sorted(f"  {name}: {NOT_AN_IMAGE}" for name in broken)
        assert not (tmp_path / "out").exists()
    assert main(flags(data, tmp_path / "out", bad_files="skip", **changes)) == 0
    assert "6 bad files skipped; selection.json lists them" in capsys.readouterr().out
    bad = chosen(tmp_path / "out")["bad_files"]
    assert bad["count"] == 6 and {file["name"] for file in bad["files"]} == set(broken)
    for name in train_images[:4]:
        Path(name).write_text("no image")
    assert main(flags(data, tmp_path / "lost", bad_files="skip", **changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: class blue: none of its training images can be decoded\n5 bad files; ")


def test_the_command_says_which_decoder_stands_in(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("nvidia.dali", "torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(flags(data, tmp_path / "out")) == 0
    assert capsys.readouterr().out.count("decoder: torchvision, since DALI is not installed") == 1
    train(data, tmp_path / "run", selection="feature")
    assert capsys.readouterr().out.count("decoder: torchvision, since DALI is not installed") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "/absent"}, "/absent: no such folder"),
        ({"selection": "magic"}, "selection: expected one of prediction, "),
        ({"top_k": 5}, "selection: prediction needs at least top_k = 5"),
        ({"selection": "sample", "top_images": 17}, "top_images: expected at most 16"),
        ({"selection": "assignment", "top_k": 2}, "top_k: expected 1, as assignment gives"),
        ({"selection_file": "/absent.json"}, "selection_file: /absent.json: no such file"),
        ({"device": "cuda:99"}, "device: cuda:99 is not there"),
    ],
)
def test_errors_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    assert main(flags(data, tmp_path / "out", **changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_selection_is_not_overwritten(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(data, tmp_path / "out")) == 0
    assert main(flags(data, tmp_path / "out")) == 2
    assert "already holds a selection" in capsys.readouterr().err
