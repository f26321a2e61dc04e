"""fit, select, evaluate and predict as functions: their results, what is shown of them, and what is written."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from made import SOURCE, TARGET, write_folder
from small_runs import arguments

import xmixup_fast
from xmixup_fast import EvaluationResult, ImagePool, Prediction, Result, XMixup

PICTURE = re.compile(r'<img alt="([^"]*)" src="data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]+"')


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    settings = arguments(data, tmp_path_factory.mktemp("functions") / "run", epochs=2, steps=None)
    return xmixup_fast.fit(settings.pop("target"), **settings)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Balanced(HTMLParser):
    """Checks that elements end in the order in which they began."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("img", "br", "tr", "td", "th"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == "tr" or self.open.pop() == tag


def shown(result: Any) -> tuple[str, list[str]]:
    """The text of a result, and the pictures that a notebook shows of it."""
    html = result._repr_html_()
    Balanced(html)
    assert "<script" not in html and "<style" not in html
    return repr(result), PICTURE.findall(html)


def test_a_run_shows_curves_first_batch_and_confusion(run: Result, tmp_path: Path) -> None:
    text, pictures = shown(run)
    assert text.startswith(f"xmixup on {run.summary['target']} with test_resnet: test ") and str(run.folder) in text
    assert len(text.splitlines()) == 3 and len(text) < 600
    assert pictures == ["curve"] * 3 + ["first batch", "confusion matrix"]
    assert all(name in run._repr_html_() for name in TARGET)
    shutil.copytree(run.folder, tmp_path / "gone")
    gone = Result(tmp_path / "absent", run.network, run.summary, run.selection, run.evaluation)
    assert shown(gone)[1] == ["confusion matrix"] and "is not there any more" in gone._repr_html_()


def test_a_run_without_source_test_or_report_shows_what_there_is(data: Path, tmp_path: Path) -> None:
    result = xmixup_fast.fit(**arguments(data, tmp_path / "run", "finetune", test="hold"))
    text, pictures = shown(result)
    assert "test " not in text.splitlines()[0].split("target", 1)[1] and "validation" in text
    assert pictures == ["curve"] * 3 + ["first batch"] and result.evaluation is None


def test_names_are_escaped_where_a_notebook_shows_them(data: Path, place: Path) -> None:
    write_folder(place / "<photos>", {"<b>red": TARGET["red"], "a & b": TARGET["blue"]}, 5)
    settings = arguments(data, place / "run") | {"target": "<photos>"}
    result = xmixup_fast.fit(**settings)
    selection = xmixup_fast.select(**settings | {"output": None}, log=lambda _: None)
    evaluation = xmixup_fast.evaluate(place / "run", log=lambda _: None)
    for one in (result, selection, evaluation, xmixup_fast.predict(place / "run", "<photos>")):
        shown(one)
    assert "&lt;b&gt;red" in result._repr_html_() and "&lt;photos&gt;" in result._repr_html_()


def select(data: Path, **changes: Any) -> Any:
    settings = arguments(data, Path("unused")) | {"output": None} | changes
    return xmixup_fast.select(settings.pop("target"), **settings)


def test_a_selection_is_ready_for_a_loop_and_writes_nothing(
    data: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selection = select(data, top_k=2)
    assert not list(place.iterdir())
    text, pictures = shown(selection)
    assert text.splitlines()[0].startswith("Selection by prediction: 3 target classes") and len(text.splitlines()) == 4
    assert pictures == ["contact sheet"]
    assert text.splitlines()[1] in capsys.readouterr().out  # as the command prints it
    for name, row in zip(sorted(TARGET), selection.relatives, strict=True):
        assert [selection.classes[i] for i in row] == [one["class"] for one in selection.report["classes"][name]]
    assert [sorted(SOURCE)[i] for i in selection.outputs] == selection.classes  # the made classifier's
    aux = selection.pool("full", log=lambda _: None)
    folder = ImagePool.from_folder(data / "source", resize="full", classes=selection.classes, log=lambda _: None)
    assert aux.classes == folder.classes and torch.equal(aux.pixels, folder.pixels)
    assert torch.equal(aux.labels, folder.labels)
    images, mixed = XMixup(aux, selection.relatives, size=32, mean=(0,) * 3, std=(1,) * 3)(
        torch.zeros(3, 40, 40, 3, dtype=torch.uint8), [0, 1, 2]
    )
    assert images.shape == (3, 3, 32, 32)
    assert all(source in row for source, row in zip(mixed.source.tolist(), selection.relatives, strict=True))


def test_a_selection_is_written_to_an_output_that_is_given(data: Path, place: Path) -> None:
    selection = select(data, output=str(place / "chosen"))
    assert {path.name for path in (place / "chosen").iterdir()} == {"selection.json", "contact-sheet-1.png"}
    assert selection.folder == place / "chosen" and str(selection.folder) in repr(selection)
    with pytest.raises(FileExistsError, match="already holds a selection"):
        select(data, output=str(place / "chosen"))


def test_single_images_have_classes_and_no_relatives(data: Path, place: Path) -> None:
    selection = select(data, selection="sample", top_images=3)
    assert set(selection.classes) <= set(SOURCE) and shown(selection)[1] == ["contact sheet"]
    with pytest.raises(ValueError, match="relatives: expected chosen classes, got single images"):
        _ = selection.relatives
    pool = selection.pool(log=lambda _: None)
    assert len(pool) == len({one["image"] for row in selection.report["classes"].values() for one in row})


def test_images_that_spoil_later_are_named(data: Path, place: Path) -> None:
    shutil.copytree(data / "source", place / "source")
    selection = select(data, source=str(place / "source"))
    file = place / "source" / selection.classes[0] / "000.png"
    file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"pool: these images cannot be decoded:\n  {file}: "):
        selection.pool(log=lambda _: None)


def test_outputs_of_an_unknown_class_are_refused(data: Path, place: Path) -> None:
    source = write_folder(place / "places", {"beach": (240, 220, 160), "forest": (20, 90, 30)}, 4)
    selection = select(data, source=str(source), selection="feature")
    with pytest.raises(ValueError, match=r"outputs: the pretrained classifier has no output for (beach|forest)"):
        _ = selection.outputs


def test_an_evaluation_is_the_runs_own_and_writes_nothing(run: Result, place: Path) -> None:
    lines: list[str] = []
    evaluation = xmixup_fast.evaluate(run, log=lines.append)
    assert run.evaluation is not None and not list(place.iterdir())
    assert torch.equal(evaluation.labels, run.evaluation.labels) and evaluation.accuracy == run.evaluation.accuracy
    assert evaluation.split == "test" and evaluation.folder is None and lines
    assert repr(run.evaluation) == f"Evaluation(6 images of 3 classes, {evaluation.accuracy:.2f} % right)"
    text, pictures = shown(evaluation)
    assert text.startswith("Evaluation of ") and f"{evaluation.accuracy:.2f} % of {len(evaluation)} images" in text
    assert pictures == ["confusion matrix"]


def test_an_evaluation_names_its_worst_class(run: Result) -> None:
    changed = {
        "classes": ["a", "none", "b"],
        "positions": torch.arange(5),
        "labels": torch.tensor([0, 0, 0, 2, 2]),
        "predicted": torch.tensor([0, 0, 2, 2, 2]),
        "losses": torch.ones(5),
    }
    result = EvaluationResult(**vars(run.evaluation) | changed, target="t", split="s")
    assert repr(result).splitlines() == [
        "Evaluation of t (s): 80.00 % of 5 images",
        "  mean of the 2 classes 83.33 %, loss 1.0000",
        "  lowest: a, 66.67 %, most often taken for b",
    ]


def test_an_evaluation_takes_the_commands_options(run: Result, data: Path, place: Path) -> None:
    evaluation = xmixup_fast.evaluate(
        run.folder, data / "target", "val", output=place / "out", batch_size=3, log=lambda _: None
    )
    assert evaluation.split == "val" and len(evaluation) == run.summary["num_val"]
    assert evaluation.folder == place / "out" and (place / "out" / "evaluation.json").is_file()
    with pytest.raises(TypeError, match="evaluate: batchsize is no setting; did you mean batch_size"):
        xmixup_fast.evaluate(run.folder, batchsize=3)
    with pytest.raises(ValueError, match="batch_size: expected a whole number, got 'three'"):
        xmixup_fast.evaluate(run.folder, batch_size="three")
    with pytest.raises(ValueError, match="split: expected one of"):
        xmixup_fast.evaluate(run.folder, split="dev")  # type: ignore[arg-type]


def test_predictions_are_a_list_with_pictures(run: Result, data: Path) -> None:
    predictions = xmixup_fast.predict(run, data / "target", top_k=2)
    assert len(predictions) == 30 and isinstance(predictions[0], Prediction) and len(predictions[-3:]) == 3
    assert predictions[0].top[0] in predictions[0].top and list(predictions) == [*predictions]
    text, pictures = shown(predictions)
    assert text.splitlines()[0] == "30 predictions" and text.splitlines()[-1] == "  ... 18 more"
    assert len(pictures) == 12 and pictures[0].startswith("000.png: ")


def test_bad_files_and_files_that_are_gone_have_no_picture(run: Result, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", {"red": TARGET["red"]}, 3)
    (folder / "red" / "000.png").write_bytes(b"no image")
    predictions = xmixup_fast.predict(run.folder, folder, bad_files="skip")
    assert len(predictions) == 3
    (folder / "red" / "001.png").unlink()
    text, pictures = shown(predictions)
    assert text.splitlines()[0] == "2 predictions, 1 files that cannot be used" and len(pictures) == 1
    with pytest.raises(ValueError, match="bad file"):
        xmixup_fast.predict(run.folder, folder)
