"""``~`` and variables of the environment are expanded in paths, wherever these are given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from made import SOURCE, write_folder

from xmixup_fast import ImagePool
from xmixup_fast.cli import parse_options, parse_settings
from xmixup_fast.commands import index, predict
from xmixup_fast.runtime.files import default_cache
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.yaml_file import read

GIVEN = {
    "~": "{home}",
    "~/photos": "{home}/photos",
    "$HOME/photos": "{home}/photos",
    "${HOME}/photos": "{home}/photos",
    "$DISK/a/$DISK-b": "/mnt/disk/a//mnt/disk-b",
    "hf:~/photos": "hf:{home}/photos",
    "torchvision:Flowers102:~/data": "torchvision:Flowers102:{home}/data",
    "torchvision:Flowers102:$DISK": "torchvision:Flowers102:/mnt/disk",
    "local-dir:~/net": "local-dir:{home}/net",
    "file://$DISK/tars": "file:///mnt/disk/tars",
    # What is no path stays.
    "photos": "photos",
    "a~/b": "a~/b",
    "resnet50": "resnet50",
    "torchvision:Flowers102": "torchvision:Flowers102",
    "https://host/$DISK/~x": "https://host/$DISK/~x",
    "s3://bucket/a$b": "s3://bucket/a$b",
    "shards-{000..012}.tar": "shards-{000..012}.tar",
    r"$\frac$": r"$\frac$",
    "a$": "a$",
    "price$5": "price$5",
}
NAMES = ("target", "source", "weights", "model", "selection_file", "class_weights", "cache", "output")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", "/mnt/disk")
    monkeypatch.delenv("ABSENT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("way", ["python", "yaml", "flags", "flags with ="])
def test_all_paths_are_expanded_alike(home: Path, given: str, way: str) -> None:
    expected = GIVEN[given].format(home=home) if "{home}" in GIVEN[given] else GIVEN[given]
    values: dict[str, Any] = {"target": "t", **dict.fromkeys(NAMES, given)}
    if way == "python":
        settings = Settings(**values)
    elif way == "yaml":
        (home / "run.yaml").write_text("\n".join(f"{name}: '{value}'" for name, value in values.items()))
        settings = read("~/run.yaml")
    else:
        joined = [(f"--{name.replace('_', '-')}", value) for name, value in values.items()]
        words = (
            [f"{flag}={value}" for flag, value in joined] if "=" in way else [word for pair in joined for word in pair]
        )
        settings = parse_settings(words, "xmixup train", None)
    assert {name: getattr(settings, name) for name in NAMES} == dict.fromkeys(NAMES, expected)


def test_paths_in_lists_and_of_other_commands_are_expanded(home: Path) -> None:
    assert Settings(target=home / "t", source=["~/a", "$HOME/b"]).source == [f"{home}/a", f"{home}/b"]
    words = ["~/run", "~/a.jpg", "$HOME/b.jpg", "--output", "~/out.csv"]
    positional = {"weights": "W", "images": "I"}
    options = parse_options(predict.Options, words, "xmixup predict", None, positional=positional)
    assert (options.weights, options.images, options.output) == (
        f"{home}/run",
        [f"{home}/a.jpg", f"{home}/b.jpg"],
        f"{home}/out.csv",
    )
    assert parse_options(index.Options, ["--shards=~/s"], "xmixup index", None).shards == f"{home}/s"


def test_a_pool_of_a_folder_in_the_home_folder(home: Path) -> None:
    write_folder(home / "photos", SOURCE, 1)
    assert len(ImagePool.from_folder("~/photos", log=lambda line: None)) == len(SOURCE)


def test_the_cache_of_the_environment_is_expanded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("~/cache", "$HOME/cache"):
        monkeypatch.setenv("XMIXUP_CACHE", given)
        assert default_cache() == home / "cache"


@pytest.mark.parametrize("given", ["$ABSENT/run", "${ABSENT}/run", "~/$ABSENT"])
def test_a_variable_that_is_not_set_is_named(given: str) -> None:
    with pytest.raises(ValueError, match=r"^output: .*: the environment variable ABSENT is not set$"):
        Settings(target="t", output=given)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", ["", " ", "\t"])
def test_no_setting_takes_an_empty_path(name: str, given: str) -> None:
    """Which is what a shell makes of "$ABSENT"; the working folder, or the default, is not what was meant."""
    with pytest.raises(ValueError, match=rf"^{name}: expected a path or a name, got '"):
        Settings(**{"target": "t", name: given})


@pytest.mark.parametrize("flag", ["config", "recipe", "output", "cache"])
@pytest.mark.parametrize("value", ["", " "])
def test_no_flag_takes_an_empty_text(flag: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^{flag}: expected "):
        parse_settings(["t", f"--{flag}", value], "xmixup train", None)


@pytest.mark.parametrize("given", ["~nosuchuser/run", "hf:~nosuchuser/run"])
def test_a_user_who_is_not_known_is_named(home: Path, given: str) -> None:
    with pytest.raises(ValueError, match=r"^output: .*: the user nosuchuser is not known$"):
        Settings(target="t", output=given)
    os.mkdir("~nosuchuser")
    assert Settings(target="t", output="~nosuchuser/run").output == "~nosuchuser/run"


def test_a_folder_that_is_called_like_a_variable_is_taken(home: Path) -> None:
    os.mkdir("$ABSENT")
    assert Settings(target="$ABSENT").target == "$ABSENT"
