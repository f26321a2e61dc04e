"""Catalogs of sources: classes before images, joined and renamed ones; and the sources that go by a name."""

from __future__ import annotations

from pathlib import Path

import pytest
from elsewhere import Elsewhere
from hypothesis import given
from hypothesis import strategies as st
from timm.data.imagenet_info import ImageNetInfo

from xmixup_fast.commands.sources import main
from xmixup_fast.data.catalog import JoinedCatalog, LocalCatalog
from xmixup_fast.data.dataset import Dataset, FileImage, Sample
from xmixup_fast.data.registry import DEFAULT, fetched_sources, named_sources
from xmixup_fast.data.remote.cache import SourceFolder
from xmixup_fast.models.class_names import ids_of_words
from xmixup_fast.runtime.files import readable_bytes

NAMES = st.lists(st.sampled_from("abcdefg"), min_size=1, unique=True).map(sorted)


def made(classes: list[str], counts: list[int], place: str) -> Dataset:
    """A dataset with some images of each class; their names tell place and class."""
    train = [
        Sample(FileImage(Path(place, name, str(i))), label)
        for label, (name, count) in enumerate(zip(classes, counts, strict=True))
        for i in range(count)
    ]
    return Dataset(classes, train, [], [])


@given(parts=st.lists(NAMES, min_size=1, max_size=3), data=st.data())
def test_joined_catalogs_have_the_images_of_each_part(parts: list[list[str]], data: st.DataObject) -> None:
    renamed = data.draw(st.dictionaries(st.sampled_from("abcdefg"), st.sampled_from("axyz")))
    counts = [[data.draw(st.integers(0, 4)) for _ in names] for names in parts]
    datasets = [made(names, own, str(i)) for i, (names, own) in enumerate(zip(parts, counts, strict=True))]
    catalogs = [LocalCatalog("", one) if data.draw(st.booleans()) else Elsewhere(one) for one in datasets]
    joined = JoinedCatalog("all", catalogs, renamed)
    assert joined.classes == sorted({renamed.get(name, name) for names in parts for name in names})
    labels = data.draw(st.lists(st.sampled_from(range(len(joined.classes))), unique=True, min_size=1))
    limit = data.draw(st.none() | st.integers(1, 3))
    fetched = joined.fetch(labels, limit, print)
    assert fetched.classes == joined.classes
    for label in labels:
        got = [str(one.image.path) for one in fetched.train if one.label == label]
        wanted = []
        for catalog, dataset in zip(catalogs, datasets, strict=True):
            for own, name in enumerate(dataset.classes):
                if renamed.get(name, name) == joined.classes[label]:
                    images = [str(one.image.path) for one in dataset.train if one.label == own]
                    wanted += images if isinstance(catalog, LocalCatalog) else images[:limit]
        assert sorted(got) == sorted(wanted)
    if all(isinstance(one, LocalCatalog) for one in catalogs):
        assert sum(joined.counts or []) == sum(map(sum, counts))
    else:
        assert joined.counts is None and joined.origins()
    assert joined.size is None or all(isinstance(one, Elsewhere) for one in catalogs)


def test_facts_of_named_sources_agree() -> None:
    known = set(ImageNetInfo().label_names())
    assert DEFAULT in named_sources() and len(named_sources()) >= 5
    for name, source in named_sources().items():
        assert source.page.startswith("https://") and source.licence and source.names in ("ids", "words"), name
        assert set(source.ids) <= known and source.ids == sorted(set(source.ids)), name
        assert not source.ids or len(source.ids) == source.classes, name
        text = "\n".join(source.lines())
        assert source.licence in text and source.page in text and f"{source.classes:,} classes" in text
        assert ("have to be accepted" in text) == source.terms
        assert source.bytes is None or readable_bytes(source.bytes) in text


def test_words_stand_for_one_class() -> None:
    words = ids_of_words()
    assert words["tench, Tinca tinca"] == "n01440764" and len(set(words.values())) == len(words) == 998
    assert "crane" not in words  # a bird, and a machine


def test_sources_are_listed_with_size_licence_and_what_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = named_sources()["imagenette"].url
    folder = SourceFolder.make(tmp_path, "imagenette", "1")
    folder.describe({"url": url, "classes": ["n01440764"]})
    assert fetched_sources(tmp_path) == []  # no image has come
    folder.complete("n01440764", [], None)
    assert fetched_sources(tmp_path) == ["imagenette"] and fetched_sources(None) == []
    assert main(["--cache", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for name, source in named_sources().items():
        assert f"\n{name}" in f"\n{text}" and source.licence in text and source.page in text
    assert "imagenette (in the cache)" in text and f"{DEFAULT} (the default)" in text
    assert [readable_bytes(n) for n in (999, 1500, 146_000_000, 5_645_000_000)] == [
        *("999 bytes", "1.5 kB", "146 MB", "5.6 GB"),
    ]
