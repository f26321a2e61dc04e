"""The native extension, xmixup_fast._C: importing it registers the operators with torch.

Raises ImportError where there is no extension for this Python, where XMIXUP_CPU_LEVEL names no level that it has, or
where XMIXUP_OUTPUT_CACHE is neither 0 nor 1.
"""

from __future__ import annotations

import torch  # noqa: F401  (loads the libraries that the extension is linked with)

try:
    from .._C import __version__, build_info, cpu_level, cuda_kernel_error
    from .._C import free_outputs as _free_outputs
except ModuleNotFoundError as error:
    raise ImportError(
        "xmixup_fast: the native extension is missing for this Python; in the project's folder run: pip install ."
    ) from error

__all__ = ["__version__", "build_info", "cpu_level", "cuda_kernel_error", "free_outputs"]


def free_outputs() -> int:
    """Gives the memory that :func:`xmixup_fast.mix` keeps for its next outputs on the CPU back to the system.

    Outputs that something still refers to stay as they are. The next outputs take new memory, which is kept again.

    Returns:
        Bytes given back; 0 where nothing was kept.
    """
    return _free_outputs()
