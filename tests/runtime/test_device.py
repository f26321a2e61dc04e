"""What a run sets of PyTorch, and gives back; and copies to its device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_gpu import CUDA, HostWaits, fake_gpu

from xmixup_fast.runtime.device import reproducible, upload


def flags() -> tuple[bool, bool, bool, bool]:
    """Whether cuDNN is deterministic, whether it measures kernels, and whether convolutions and products use TF32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32


@pytest.fixture(params=["highest", "high", "medium"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """The precision of matrix products that the caller of a run has set; its cuDNN is not deterministic."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=request.param == "highest"):
        yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (True, False, True, None)),
        ({"deterministic": False}, (False, True, True, None)),
        ({"tf32": "all"}, (True, False, True, True)),
        ({"tf32": "none", "deterministic": False}, (False, True, False, False)),
    ],
)
def test_a_run_has_the_arithmetic_that_it_asks_for_and_the_caller_keeps_its_own(
    precision: str, options: dict[str, Any], expected: tuple[bool | None, ...]
) -> None:
    own = flags()
    assert own == (False, True, precision == "highest", precision != "highest")
    with pytest.raises(KeyError), reproducible(0, None, **options):
        assert flags() == (*expected[:3], own[3] if expected[3] is None else expected[3])
        raise KeyError
    assert flags() == own and torch.get_float32_matmul_precision() == precision


def test_copies_to_a_gpu_are_pinned_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(6).view(2, 3)
    assert upload(numbers, torch.device("cpu")) is numbers
    with fake_gpu(monkeypatch):
        there = upload(numbers.t(), CUDA)
        assert there.device == CUDA and there.shape == (3, 2) and upload(there, CUDA) is there
        with pytest.raises(HostWaits, match="a copy of memory that is not pinned"):
            numbers.to(CUDA, non_blocking=True)
        with pytest.raises(HostWaits, match="a copy that is waited for"):
            numbers.pin_memory().to(CUDA)
