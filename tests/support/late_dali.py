"""A DALI that decodes on the GPU of ``late_gpu``, and so as late as that."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from late_gpu import GPU, Stream
from torch import Tensor

from xmixup_fast.data.decoding.decoder import TorchvisionDecoder


class LateImages:
    """DALI's list of decoded images: in its memory once the stream gets there, and no longer once the list is gone."""

    def __init__(self, images: Sequence[Tensor], stream: Stream | None) -> None:
        self.shapes = [tuple(image.shape) for image in images]
        self.stream = stream
        decoded = torch.cat([image.flatten() for image in images])
        self.pixels = torch.zeros_like(decoded) if stream else decoded
        if stream:
            pixels = self.pixels
            stream.put(lambda: pixels.copy_(decoded))

    def shape(self) -> list[tuple[int, ...]]:
        return self.shapes

    def copy_to_external(self, pointer: ctypes.c_void_p, stream: ctypes.c_void_p, *, non_blocking: bool) -> None:
        assert non_blocking, "the host waits"
        pixels, target = self.pixels, pointer.value
        assert target is not None
        into = torch.cuda.current_stream(GPU)
        assert into.cuda_stream == stream.value
        into.put(lambda: ctypes.memmove(target, pixels.data_ptr(), pixels.numel()))  # type: ignore[attr-defined]

    def __del__(self) -> None:
        pixels = self.pixels
        if self.stream:
            self.stream.put(lambda: pixels.fill_(171))
        else:
            pixels.fill_(171)


class LatePipeline:
    """DALI's pipeline."""

    def __init__(self, *, batch_size: int, device_id: int, num_threads: int, prefetch_queue_depth: int) -> None:
        assert device_id == GPU.index and prefetch_queue_depth == 1
        self.max_batch_size = batch_size

    def __enter__(self) -> LatePipeline:
        return self

    def __exit__(self, *error: object) -> None: ...

    def set_outputs(self, images: object) -> None: ...

    def build(self) -> None: ...

    def run(self, stream: Stream | None, /, *, encoded: list[Any]) -> tuple[LateImages]:
        assert stream is None or stream.cuda_stream, "the default stream has no handle"
        return (LateImages([TorchvisionDecoder.decode_jpeg(data).contiguous() for data in encoded], stream),)
