"""Equal tensors and metadata give equal bytes, which safetensors' own reader takes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from xmixup_fast.runtime.tensor_files import _DTYPES, write_tensors

names = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 3), max_size=3)
dtypes = st.sampled_from(list(_DTYPES))


def made(dtype: torch.dtype, shape: list[int], transposed: bool) -> torch.Tensor:
    """A tensor of any bytes, which is not contiguous where ``transposed``."""
    size = torch.empty((), dtype=dtype).element_size()
    count = torch.Size(shape).numel()
    limit = 2 if dtype == torch.bool else 256
    content = torch.randint(limit, (count * size,), generator=torch.Generator().manual_seed(count)).to(torch.uint8)
    tensor = content.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    return tensor.mT if transposed and tensor.dim() > 1 else tensor


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


@given(
    described=st.dictionaries(names, st.tuples(dtypes, shapes, st.booleans()), max_size=5),
    metadata=st.dictionaries(names, st.text(st.characters(codec="utf-8"), max_size=8), max_size=5),
    data=st.data(),
)
def test_what_is_written_comes_back_in_any_order_as_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, described: dict[str, Any], metadata: dict[str, str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tensors")
    tensors = {name: made(*what) for name, what in described.items()}
    write_tensors(folder / "a", tensors, metadata)
    shuffled = [dict(data.draw(st.permutations(list(both.items())))) for both in (tensors, metadata)]
    write_tensors(folder / "b", *shuffled)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    loaded = load_file(folder / "a")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(loaded[name]) == bits(tensor)
        assert loaded[name].data_ptr() % loaded[name].element_size() == 0
    with safe_open(folder / "a", "pt") as file:
        assert (file.metadata() or {}) == metadata


WRITE = """
import hashlib, sys, torch
from pathlib import Path
from xmixup_fast import ImagePool
from xmixup_fast.runtime.tensor_files import write_tensors

names = {f"name {i}" for i in range(20)}  # in another order for each hash seed
pool = ImagePool.from_dense(torch.arange(24, dtype=torch.uint8).view(2, 2, 2, 3), [1, 2])
path = Path(sys.argv[1])
for _ in range(3):
    write_tensors(path, {name: torch.ones(2) for name in names}, {name: name for name in names})
    print(hashlib.sha256(path.read_bytes()).hexdigest())
for _ in range(3):
    pool.save(path)
    print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1")
    ]
    hashes = [process.communicate()[0] for process in processes]
    assert hashes[0] == hashes[1] and all(process.returncode == 0 for process in processes)
    first = hashes[0].split()
    assert len(set(first[:3])) == len(set(first[3:])) == 1


def test_what_the_format_cannot_hold_is_named_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_tensors(path, {"a": torch.ones(2)}, {})
    before = hashlib.sha256(path.read_bytes())
    for name, tensor in (
        ("b", torch.ones(2).to_sparse()),
        ("c", torch.ones(2, dtype=torch.complex128)),
        ("__metadata__", torch.ones(2)),
    ):
        with pytest.raises(ValueError, match=f"{name}: cannot be kept in a safetensors file"):
            write_tensors(path, {"a": torch.zeros(2), name: tensor}, {})
    assert hashlib.sha256(path.read_bytes()).digest() == before.digest()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
