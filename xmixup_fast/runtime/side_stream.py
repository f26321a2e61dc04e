"""A stream of a GPU on which threads prepare what the caller's stream uses next, so that neither waits for all of the
other's work.

A tensor that was made on one stream may be used on another once two things are done: the other stream waits for the
event that was recorded behind its making, and torch's allocator knows that the memory is in use there, too, so that it
is given away only behind that use. :func:`hand_over` does both. On a CPU there are no streams, and nothing to be done.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache
def side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """The stream of background threads for a device, always the same one for a GPU; None for a CPU.

    Memory that torch's allocator keeps for a stream serves that stream alone. So there is one for all images.
    """
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def threads_on(stream: torch.cuda.Stream | None, count: int) -> ThreadPoolExecutor:
    """A pool of ``count`` threads. A given stream is their current one, and its GPU their current device."""
    if stream is None:
        return ThreadPoolExecutor(count)
    return ThreadPoolExecutor(count, initializer=torch.cuda.set_stream, initargs=(stream,))


def hand_over(tensors: Sequence[Tensor], ready: torch.cuda.Event) -> None:
    """Lets the current stream use tensors of one GPU that another stream has made by its event ``ready``."""
    stream = torch.cuda.current_stream(tensors[0].device)
    stream.wait_event(ready)
    for tensor in tensors:
        tensor.record_stream(stream)
