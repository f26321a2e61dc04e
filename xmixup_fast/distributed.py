"""The processes of one run: those that torchrun starts or, without it, this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
TIMEOUT = timedelta(days=1)
"""How long processes wait for each other: one may decode a large dataset for all. A lost connection ends it at once."""


@contextmanager
def processes() -> Iterator[None]:
    """Joins the processes that torchrun has started, unless that is done; without torchrun nothing changes.

    Tensors on CPUs go through gloo, those on GPUs through NCCL. Raises ConnectionError where another process is lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error) and "NCCL" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(f"process {rank()} of {world_size()}: another one has ended ({reason})") from error
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def total(*values: float) -> list[float]:
    """The sums of values over all processes, in float64."""
    return _reduced(values, dist.ReduceOp.SUM)


def smallest(*values: float) -> list[float]:
    """The least of the processes' values, for each of some values."""
    return _reduced(values, dist.ReduceOp.MIN)


def largest(*values: float) -> list[float]:
    """The greatest of the processes' values, for each of some values."""
    return _reduced(values, dist.ReduceOp.MAX)


def _reduced(values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(tensor, how)
    result: list[float] = tensor.tolist()
    return result


def of_first(value: T) -> T:
    """What process 0 gives, in all processes; it is pickled."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]


def of_all(value: T) -> list[T]:
    """What each process gives, in all processes; it is pickled."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return [one for one in values if one is not None]


def barrier() -> None:
    """Waits until all processes are here."""
    if world_size() > 1:
        total(0.0)


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """The first process of each machine goes first: the others then find what it has put into the cache."""
    if local_rank() > 0:
        barrier()
    try:
        yield
    finally:
        if local_rank() == 0:
            barrier()
