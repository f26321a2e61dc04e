"""What stopped an operator's kernel on a GPU, as an error.

torch reports a device-side assert at the next call that waits for the GPU, and tells neither operator nor argument. The
kernel leaves both in memory of the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class DeviceAssertError(RuntimeError):
    """A value in a CUDA tensor is not what an operator expects. The process cannot use the GPU any more."""


@contextmanager
def named_device_asserts() -> Iterator[None]:
    """Within it, a device-side assert of an operator's kernel raises a DeviceAssertError.

    Its message names operator, argument and sample, and says what was expected. Other errors pass as they are, those of
    torch's own kernels among them.
    """
    try:
        yield
    except RuntimeError as error:
        if "device-side assert" not in str(error) or not (message := _message()):
            raise
        raise DeviceAssertError(message) from error


def _message() -> str:
    """What the kernel's record says; empty where none of the operators' kernels has stopped."""
    import torch  # late, as --help need not wait for it

    from . import extension  # noqa: F401  (registers the operators)

    return str(torch.ops.xmixup_fast.device_assert())
