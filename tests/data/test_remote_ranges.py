"""Joining ranges to blocks, and files over ranges: every byte that is wanted comes, in few bounded requests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest
from class_tars import tar_of
from hypothesis import given
from hypothesis import strategies as st

from xmixup_fast.data.remote import ranges as module
from xmixup_fast.data.remote.ranges import Range, RangeFile, blocks

MOST = 1000
"""Bytes of a block, at most, in these tests."""
GAP, SMALL = 40, 5


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LARGEST_BLOCK", MOST)
        patch.setattr(module, "LARGEST_GAP", GAP)
        patch.setattr(module, "SMALL_GAP", SMALL)
        yield


RANGES = st.lists(
    st.builds(
        lambda path, begin, size: Range(path, begin, begin + size),
        st.sampled_from("ab"),
        st.integers(0, 5000),
        st.one_of(st.integers(0, 300), st.integers(900, 3500)),
    ),
    max_size=30,
)


@given(RANGES)
def test_blocks_hold_every_wanted_byte_and_obey_the_limits(ranges: list[Range]) -> None:
    covered: list[set[int]] = [set() for _ in ranges]
    for block in blocks(ranges):
        assert 0 < block.end - block.begin <= MOST
        wanted: set[int] = set()
        for i, begin, end in block.parts:
            assert ranges[i].path == block.path and block.begin <= begin < end <= block.end
            assert not covered[i] & set(range(begin, end)), "no byte of a range comes twice"
            covered[i] |= set(range(begin, end))
            wanted |= set(range(begin, end))
        assert block.begin in wanted and block.end - 1 in wanted
        gaps = "".join(" x"[at in wanted] for at in range(block.begin, block.end)).split("x")
        large = [len(gap) for gap in gaps if len(gap) >= SMALL]
        assert max(large, default=0) <= GAP and sum(large) <= module.GAP_SHARE * (block.end - block.begin)
    assert covered == [set(range(one.begin, one.end)) for one in ranges]


def test_neighbours_are_one_request_and_far_ones_are_two() -> None:
    near = [Range("a", 500 * i, 500 * i + 480) for i in range(2)]
    assert [(one.begin, one.end) for one in blocks(near)] == [(0, 980)]
    assert len(blocks([Range("a", 0, 480), Range("a", 530, 900)])) == 2, "a gap of 50 bytes"
    assert len(blocks([Range("a", 0, 100), Range("a", 110, 150)])) == 2, "a gap of 10 bytes of 150"
    assert len(blocks([Range("a", 0, 100), Range("b", 100, 200)])) == 2


@given(
    st.binary(min_size=1, max_size=300),
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(0, 320), st.integers(0, 90)), max_size=20),
)
def test_a_file_over_ranges_reads_as_one_in_memory(data: bytes, ahead: int, reads: list[tuple[int, int]]) -> None:
    asked = []

    def read(begin: int, end: int) -> bytes:
        assert 0 <= begin < end <= len(data)
        asked.append((begin, end))
        return data[begin:end]

    file, expected = RangeFile(read, len(data), ahead), io.BytesIO(data)
    for place, size in reads:
        assert file.seek(place) == expected.seek(place)
        assert file.read(size) == expected.read(size)
        assert file.tell() == expected.tell()
    assert file.seek(-1, io.SEEK_END) == len(data) - 1 and file.read() == data[-1:]
    asked.clear()
    file = RangeFile(read, len(data), ahead)
    while file.read(7):
        pass
    assert [begin for begin, _ in asked] == [0, *(end for _, end in asked[:-1])], "in order, each byte comes once"
    assert all(end - begin >= min(max(ahead, 1), len(data) - begin) for begin, end in asked)


def test_tarfile_takes_one_request_for_each_header() -> None:
    packed = tar_of({f"{i}.tar": bytes(5000) for i in range(50)})
    requests = []

    def read(begin: int, end: int) -> bytes:
        requests.append(end - begin)
        return packed[begin:end]

    with tarfile.open(fileobj=RangeFile(read, len(packed), 513), mode="r:") as tar:
        assert len(tar.getmembers()) == 50
    assert requests == [513] * 51
