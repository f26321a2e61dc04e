"""Image folders and settings."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from made import TARGET, write_folder

from xmixup_fast.data.readers.folder import read_folder
from xmixup_fast.methods import METHODS
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.yaml_file import read, read_yaml


def test_classes_lie_directly_in_the_folder_or_in_split_folders(tmp_path: Path) -> None:
    flat = read_folder(write_folder(tmp_path / "flat", TARGET, 2))
    assert flat.classes == sorted(TARGET)
    assert [sample.label for sample in flat.train] == [0, 0, 1, 1, 2, 2] and not flat.val and not flat.test
    for name, count in (("train", 3), ("valid", 1), ("test", 2)):
        write_folder(tmp_path / "cut" / name, TARGET, count)
    cut = read_folder(tmp_path / "cut")
    assert (len(cut.train), len(cut.val), len(cut.test)) == (9, 3, 6)


def test_only_images_count_at_any_depth(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a", TARGET, 1)
    (root / "red" / "notes.txt").write_text("no image")
    (root / "red" / "._000.png").write_text("no image")
    (root / "red" / "deeper").mkdir()
    (root / "red" / "000.png").rename(root / "red" / "deeper" / "B.PNG")
    assert [Path(sample.image.name).name for sample in read_folder(root).train if sample.label == 2] == ["B.PNG"]


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        read_folder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="one for each class; found none"):
        read_folder(tmp_path / "empty")
    root = write_folder(tmp_path / "root" / "train", TARGET, 1).parent
    write_folder(root / "test", {"pink": (255, 150, 200)}, 1)
    with pytest.raises(ValueError, match="class pink has no training image, but 1 in test: add some to train, or take"):
        read_folder(root)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a", TARGET, 2)
    (root / "red" / "link.png").symlink_to(root / "red" / "000.png")
    (root / "red" / "more").symlink_to(root / "blue")
    assert Counter(sample.label for sample in read_folder(root).train) == {0: 2, 1: 2, 2: 5}
    # Following a link to a folder above it would never end.
    (root / "green" / "up").symlink_to(root)
    dataset = read_folder(root)
    assert dataset.bad == [(str(root / "green" / "up"), f"links to {root}, which holds it")] and len(dataset.train) == 9


def test_bad_files_are_all_listed_and_leave_the_others(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a", TARGET, 2)
    red = root / "red"
    (root / "far").symlink_to(tmp_path / "unmounted")
    (red / "gone.png").symlink_to(red / "absent.png")
    (red / "round.png").symlink_to(red / "round.png")
    (red / "folder.jpg").mkdir()
    os.mkfifo(red / "pipe.png")
    os.mkfifo(red / "pipe")
    (red / os.fsdecode(b"latin\xe9.png")).write_bytes(b"")
    dataset = read_folder(root)
    assert len(dataset.train) == 6 and dataset.classes == sorted(TARGET)
    reasons = {Path(file.name).relative_to(root).as_posix(): file.reason for file in dataset.bad}
    assert len(reasons) == len(dataset.bad)
    assert reasons == {
        "far": "no such file",
        "red/gone.png": "no such file",
        "red/round.png": os.strerror(errno.ELOOP),
        "red/folder.jpg": "a folder, not a file",
        "red/pipe.png": "not a regular file",
        "red/latin\\udce9.png": "the name is not valid Unicode",
    }
    assert dataset.findings.ignored == {("red", ""): 1}


def test_folders_that_cannot_be_read_are_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "a", TARGET, 1)
    locked = root / "red" / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:  # as missing permissions do, but for the superuser too
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    dataset = read_folder(root)
    assert len(dataset.train) == 3 and dataset.bad == [(str(locked), "cannot be read: Permission denied")]
    locked = root
    with pytest.raises(PermissionError):
        read_folder(root)


def test_bad_files_come_before_the_classes_that_lack_them(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a", TARGET, 1)
    (root / "red" / "000.png").unlink()
    (root / "red" / "000.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(ValueError) as caught:
        read_folder(root)
    assert str(caught.value) == f"{root}/red/000.png: no such file\n  {root}: class red has no training image"


def test_names_need_not_be_ascii(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "Größe 大", {"çay": (1, 2, 3), "猫": (4, 5, 6)}, 1)
    (root / "猫" / "000.png").rename(root / "猫" / "é ü.png")
    dataset = read_folder(root)
    assert dataset.classes == ["çay", "猫"] and not dataset.bad
    assert [Path(sample.image.name).name for sample in dataset.train] == ["000.png", "é ü.png"]


def test_settings_list_all_methods() -> None:
    assert list(get_args(get_type_hints(Settings)["method"])) == list(METHODS)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("alpha", -1, "alpha: expected a positive number, got -1"),
        ("alpha", float("nan"), "alpha: expected a positive number, got nan"),
        ("epochs", 0, "epochs: expected a positive number, got 0"),
        ("epochs", 1.5, "epochs: expected a whole number, got 1.5"),
        ("batch_size", True, "batch_size: expected a whole number, got True"),
        ("method", "mixdown", "method: expected one of finetune, .*, xcutmix, got 'mixdown'"),
        ("lr", "fast", "lr: expected a number, got 'fast'"),
        ("momentum", 1, "momentum: expected a number from 0 to less than 1, got 1"),
        ("resize", 100, "resize: expected full, or at least image_size, 224, got 100"),
        ("resize", "half", "resize: expected a whole number, or full, got 'half'"),
        ("fold", 1, "fold: expected true or false, got 1"),
        ("source", [], r"source: expected text, or a list of texts, got \[\]"),
        ("source", ["a", 1], "source: expected text, got 1"),
        ("storage", "disk", "storage: expected one of auto, resident, stream, got 'disk'"),
        ("background", "whitish", "background: expected a colour such as white or #808080, got 'whitish'"),
        ("background", "#ff000080", "background: expected a colour such as white or #808080, got '#ff000080'"),
        ("bit_range", "12", "bit_range: expected one of auto, full, got '12'"),
        ("max_pixels", 0, "max_pixels: expected a positive number, got 0"),
        ("model_args", {"a": {"b": 1}}, "model_args: expected a mapping of names to numbers, texts, true or false"),
        ("model_args", "drop_rate=0.1", "model_args: expected a mapping of names to numbers, texts, true or false"),
        ("memory_budget", "lots", "memory_budget: expected an amount such as 4GiB or 500MB, got 'lots'"),
    ],
)
def test_settings_name_what_is_wrong(name: str, value: object, expected: str) -> None:
    values = {"target": "t", "model": "m", "image_size": 224, name: value}
    with pytest.raises(ValueError, match=expected):
        Settings(**values)


def test_settings_survive_yaml_and_overrides_come_on_top(tmp_path: Path) -> None:
    settings = Settings(target="t", source=["a", "b"], model="m", alpha=0.5, flip=False, shots=3)
    path = tmp_path / "config.yaml"
    path.write_text(settings.to_yaml())
    assert read(path) == settings
    assert read(path, alpha=1).alpha == 1.0
    path.write_text("lr: 1e-3\nbatch-size: 7\n")
    assert read_yaml(path) == {"lr": 0.001, "batch_size": 7}
    path.write_text("lambda_per: batch\n")
    with pytest.raises(ValueError, match=r"lambda_per is no setting; did you mean lam_per\?"):
        read_yaml(path)
    path.write_text("just text")
    with pytest.raises(ValueError, match="expected lines of 'name: value'"):
        read_yaml(path)
