"""xmixup compare photos/ with real networks: predictions, estimate, and what a worker process gives."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from made import SOURCE, TARGET, write_folder

from xmixup_fast import fit, predict
from xmixup_fast.commands.compare import main
from xmixup_fast.comparison import worker
from xmixup_fast.comparison.folds import FoldPlan
from xmixup_fast.comparison.plan import with_data_folder
from xmixup_fast.comparison.results import Results
from xmixup_fast.comparison.workers import Workers
from xmixup_fast.settings.fields import Settings
from xmixup_fast.training.target import target_data

SMALL: dict[str, Any] = {
    "model": "test_resnet",
    "weights": "none",
    "image_size": 32,
    "batch_size": 8,
    "device": "cpu",
    "threads": 1,
    "decoder": "pillow",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos/ and source/."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", TARGET, 6)
    write_folder(tmp_path / "source", SOURCE, 4)
    return tmp_path


def in_this_process(workers: Workers, key: str, settings: list[Settings], work: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker does, without a process of its own, which takes seconds to start."""
    given = [{name: value for name, value in asdict(one).items() if name != "output"} for one in settings]
    folder = str(workers.results.work / key)
    with redirect_stdout(io.StringIO()):
        return worker.answer({"folder": folder, "settings": given, "started": time.time(), **work})


def flags(**more: Any) -> list[str]:
    return [
        word
        for name, value in {**SMALL, **more}.items()
        for word in (f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [str(value)]))
    ]


def test_the_verdict_is_that_of_networks_that_are_trained_on_the_other_folds(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Workers, "_process", in_this_process)
    common = flags(steps=4, methods=["finetune", "xmixup-random"], source="source", folds=2, repeats=1)
    assert main(["photos", *common, "--results", "r.jsonl", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    lines = [line for line in Results(Path("r.jsonl")).lines() if "predictions" in line]
    assert len(lines) == 4 and found["photos"] == 18 and Path(found["page"]).is_file()
    # The same network, trained by fit, predicts the same.
    settings = {**SMALL, "target": "photos", "steps": 4, "method": "finetune", "test": "none", "val_fold": "2/2"}
    chosen = Settings(**settings, keep="last")
    run = fit(chosen, output="run", report=False)
    assert run.summary["num_val"] == 9 and run.summary["num_train"] == 9
    (line,) = (line for line in lines if line["settings"].get("val_fold") == "2/2" and line["method"] == "finetune")
    assert line["val_accuracy"] == run.summary["last_val_accuracy"]
    data = target_data(chosen, lambda text: None)
    files = {data.contents[one.image.name].digest: one.image.name for one in data.dataset.val}
    assert files.keys() == line["predictions"].keys()
    for prediction, row in zip(predict(run, [*files.values()]), line["predictions"].values(), strict=True):
        by_name = dict(zip(data.dataset.classes, row, strict=True))
        assert sum(row) == pytest.approx(1, abs=1e-5)
        for top in prediction.top:
            assert by_name[top.name] == pytest.approx(top.probability, abs=1e-4)
    # The accuracies of the folds are those of the table.
    own = [line["val_accuracy"] for line in lines if line["method"] == "finetune"]
    assert found["methods"][0]["accuracy"] == pytest.approx(sum(own) / 2, abs=1e-3)


@pytest.mark.parametrize("method", ["finetune", "seqtrain", "rifle"])
def test_a_few_steps_tell_the_steps_of_the_whole_run(place: Path, tmp_path: Path, method: str) -> None:
    settings = Settings(
        **SMALL,
        target="photos",
        source="source",
        method=method,
        epochs=8,
        val_fold="1/2",
        test="none",
        warmup_epochs=1,
        output=str(tmp_path / "short"),
        selection="random",
    )
    short = worker.few_steps(settings, 4)
    whole = fit(settings, output="whole", report=False)
    # seqtrain's first phase is rounded to whole steps in the short run, too.
    assert abs(short["full_steps"] - whole.summary["steps"]) <= (method == "seqtrain") and short["seconds_per_step"] > 0


def test_a_worker_process_predicts_its_fold(place: Path) -> None:
    plan = FoldPlan.of("photos", {**SMALL, "steps": 2}, methods=["mixup"], folds=2)
    run = plan.first_repeat[0]
    results = Results(Path("r.jsonl"))
    assert Workers(results, "photos", lambda text: None).predict([run]) == 0
    (line,) = results.lines()
    data = target_data(with_data_folder(run.settings, "photos"), lambda text: None)
    assert line["predictions"].keys() == {data.contents[one.image.name].digest for one in data.dataset.val}
    assert line["key"] == run.key and line["data"] == data.listing
    assert line["train_seconds"] < line["run_seconds"] < 300
    assert str(place) not in Path("r.jsonl").read_text()
