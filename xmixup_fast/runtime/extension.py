"""The native extension, xmixup_fast._C: importing it registers the operators with torch.

Raises ImportError where there is no extension for this Python, or where XMIXUP_CPU_LEVEL names no level that it has.
"""

from __future__ import annotations

import torch  # noqa: F401  (loads the libraries that the extension is linked with)

try:
    from .._C import __version__, build_info, cpu_level
except ModuleNotFoundError as error:
    raise ImportError(
        "xmixup_fast: the native extension is missing for this Python; in the project's folder run: pip install ."
    ) from error

__all__ = ["__version__", "build_info", "cpu_level"]
