"""The error of a device-side assert says what stopped the kernel, where one of the operators' did."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xmixup_fast.cli import exit_status
from xmixup_fast.runtime.device_asserts import DeviceAssertError, named_device_asserts

TORCHS = "CUDA error: device-side assert triggered"
RECORDED = "xmixup_fast.draw: label: expected a class of offsets (sample 3 of the batch)"


@pytest.fixture(params=[RECORDED, ""], ids=["recorded", "nothing recorded"])
def record(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a kernel has left behind; nothing where torch's own have stopped, if any."""
    monkeypatch.setattr(torch.ops.xmixup_fast, "device_assert", lambda: request.param)
    return request.param


def test_a_device_side_assert_is_named(record: str) -> None:
    """Whatever is left on the way may raise an error like it."""
    with pytest.raises(RuntimeError) as error, named_device_asserts():
        try:
            raise torch.AcceleratorError(TORCHS)
        finally:
            raise RuntimeError(f"{TORCHS}\nCompile with TORCH_USE_CUDA_DSA")
    if record:
        assert type(error.value) is DeviceAssertError and str(error.value) == record
        assert str(error.value.__cause__).startswith(TORCHS)
    else:
        assert type(error.value) is RuntimeError and str(error.value).startswith(TORCHS)


@pytest.mark.parametrize("other", [RuntimeError("CUDA error: out of memory"), ValueError(TORCHS), KeyboardInterrupt()])
def test_other_errors_pass_as_they_are(record: str, other: BaseException) -> None:
    with pytest.raises(type(other)) as error, named_device_asserts():
        raise other
    assert error.value is other


def test_a_command_ends_with_one_line(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise RuntimeError(TORCHS)

    if record:
        assert exit_status(work) == 2
        assert capsys.readouterr().err == f"error: {record}\n"
    else:
        with pytest.raises(RuntimeError, match=TORCHS):
            exit_status(work)


def test_fit_raises_it(record: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmixup_fast.training import run

    def begin(settings: Any, run_folder: Any) -> Any:
        raise RuntimeError(TORCHS)

    monkeypatch.setattr(run._Run, "begin", begin)
    monkeypatch.setattr(run, "resolved", lambda settings: settings)
    with pytest.raises(RuntimeError) as error:
        run.fit("photos")
    assert str(error.value) == (record or TORCHS)
