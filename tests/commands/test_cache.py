"""xmixup cache, and the upper size of the cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from made import TARGET, write_folder
from small_runs import run

from xmixup_fast.__main__ import main
from xmixup_fast.data.cache_entries import entries, shrink, total
from xmixup_fast.runtime.claims import locked


@pytest.fixture
def kept(data: Path, tmp_path: Path) -> Path:
    """A cache with packs of two targets, of which the first was used last, a selection, and a source."""
    cache = tmp_path / "cache"
    write_folder(tmp_path / "other", TARGET, 8, seed=1)
    run(data, tmp_path / "first", selection="feature", cache=str(cache))
    run(data, tmp_path / "second", "finetune", cache=str(cache), target=str(tmp_path / "other"))
    for index in (cache / "pools").glob("*.index"):
        seconds = 1e9 if "other" in index.with_suffix(".json").read_text() else 2e9
        for path in cache.glob(f"pools/{index.stem}.*"):
            os.utime(path, (seconds, seconds))
    source = cache / "sources" / "made-0123"
    (source / "images" / "cat").mkdir(parents=True)
    (source / "images" / "cat" / "1.jpg").write_bytes(bytes(10**6))
    (source / "catalog.json").write_text('{"url": "https://host/made", "used": 1.5e9, "classes": ["cat"]}')
    return cache


def names(cache: Path) -> list[str]:
    return [entry.name.partition("-")[0].partition("/")[0] for entry in entries(cache)]


def test_all_that_is_kept_is_listed_the_longest_unused_first(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["cache", "--cache", str(kept)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.partition("/")[0].split()[0] for line in lines][:2] == ["pools", "sources"]
    assert sorted(line.partition("/")[0].split()[0] for line in lines) == sorted(names(kept))
    assert re.search(r"used 2001-09-0[89] .*  24 images of .*other, short side 37, by \w+$", lines[0])
    assert "fetched from https://host/made" in lines[1]
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    assert total(entries(kept)) == size and last.startswith(f"{kept}: ")


def test_entries_are_removed_by_name(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oldest, *others = entries(kept)
    assert main(["cache", "--cache", str(kept), "--remove", oldest.name, "sources/made-0123"]) == 0
    assert [entry.name for entry in entries(kept)] == [one.name for one in others if one.name != "sources/made-0123"]
    assert not list(kept.glob(f"{oldest.name}*")) and not (kept / "sources" / "made-0123").exists()
    assert main(["cache", "--cache", str(kept), "--remove", "all"]) == 0
    assert not entries(kept) and not [path for path in kept.rglob("*") if path.is_file()]
    assert capsys.readouterr().out.endswith(f"{kept}: 0.0 KiB\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--remove", "pools/none"], "error: remove: .* has no pools/none; xmixup cache lists what there is"),
        (["--cache-size", "much"], "error: cache_size: expected an amount such as 4GiB"),
        (["--cache-size", "1GiB", "--remove", "all"], "error: expected one of --remove and --cache-size, got both"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    kept: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    before = names(kept)
    assert main(["cache", "--cache", str(kept), *flags]) == 2
    error = capsys.readouterr().err
    assert re.match(message, error) and error.count("\n") == 1
    assert names(kept) == before


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["--remove", "all"], ["--cache-size", "0"]):
        assert main(["cache", "--cache", str(tmp_path / "none"), *flags]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'none'}: 0.0 KiB\n" * 3
    assert not (tmp_path / "none").exists()


def test_the_longest_unused_goes_first_and_what_was_fetched_stays(kept: Path) -> None:
    oldest, *others = entries(kept)
    size = sum(entry.bytes for entry in (oldest, *others) if not entry.name.startswith("sources/"))
    assert shrink(kept, size) == [] and shrink(kept, size - oldest.bytes, before=1.0) == []
    with locked(kept / f"{oldest.name}.lock", wait=False):
        assert oldest not in shrink(kept, size - 1, before=1.5e9)  # a process is writing to it
    assert [entry.name for entry in shrink(kept, size - 1)] == [oldest.name]
    assert [entry.name for entry in entries(kept)] == [entry.name for entry in others]
    assert main(["cache", "--cache", str(kept), "--cache-size", "0"]) == 0
    assert not list(kept.glob("pools/*.pixels")) and (kept / "sources" / "made-0123").exists()


def test_a_run_keeps_the_cache_within_its_size(
    kept: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pools = {entry.name: entry.bytes for entry in entries(kept) if entry.is_pixels}
    oldest = next(iter(pools))
    limit = sum(entry.bytes for entry in entries(kept) if not entry.name.startswith("sources/")) - 1
    capsys.readouterr()
    more = {"cache": str(kept), "cache_size": str(limit)}
    within = run(data, tmp_path / "third", "finetune", **more, seed=4)
    said = capsys.readouterr().out
    assert f"cache: {oldest} removed, " in said and said.count(" removed, ") == 1
    assert {entry.name for entry in entries(kept) if entry.is_pixels} == pools.keys() - {oldest}
    without = run(data, tmp_path / "fourth", "finetune", cache=str(kept), cache_size="0", seed=4)
    assert not [entry for entry in entries(kept) if entry.is_pixels]
    assert without.summary["val_accuracy"] == within.summary["val_accuracy"]


def test_seeds_and_splits_of_a_target_decode_it_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = str(tmp_path / "cache")
    run(data, tmp_path / "0", "finetune", cache=cache)
    size = total(entries(tmp_path / "cache"))
    capsys.readouterr()
    changes = (
        {"seed": 1},
        {"seed": 2, "test": "none"},
        {"seed": 3, "shots": 2},
        {"val_fraction": 0.5},
        {"test": "hold"},
    )
    for number, change in enumerate(changes, start=1):
        run(data, tmp_path / str(number), "finetune", cache=cache, **change)
    said = capsys.readouterr().out
    assert " decoded in " not in said and said.count(" from the cache, ") == 3 * 3 + 2 * 2
    assert total(entries(tmp_path / "cache")) == size


def test_other_bytes_under_the_same_name_size_and_time_are_learned_anew(tmp_path: Path) -> None:
    """What was one class is the other now, in files of one size whose times are set back."""
    photos = tmp_path / "photos"
    write_folder(photos, TARGET, 8)
    paths = sorted(photos.rglob("*.png"))
    data = {path: path.read_bytes().ljust(10_000, b"\0") for path in paths}
    for swaps in (False, True):
        for path in paths:
            other = {"red": "green", "green": "red", "blue": "blue"}[path.parent.name] if swaps else path.parent.name
            path.write_bytes(data[photos / other / path.name])
            os.utime(path, (315532800, 315532800))
        settings = {
            "target": str(photos),
            "cache": str(tmp_path / "cache"),
            "steps": 40,
            "lr": 0.005,
            "weights": "none",
        }
        result = run(tmp_path, tmp_path / str(swaps), "finetune", **settings)
        fresh = run(tmp_path, tmp_path / f"{swaps} fresh", "finetune", **{**settings, "cache": "none"})
        assert result.summary["test_accuracy"] == fresh.summary["test_accuracy"]
        assert result.summary["val_accuracy"] == fresh.summary["val_accuracy"]


@pytest.mark.parametrize("more", [[], ["--remove", "all"], ["--cache-size", "1GiB"]])
def test_a_file_is_no_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["cache", "--cache", str(tmp_path / "file"), *more]) == 2
    assert capsys.readouterr().err == f"error: cache: expected a folder, got the file {tmp_path}/file\n"
