"""The processes of a run, which torchrun starts. Without torchrun there is one, and all functions work with it too.

Gradients go through the backend of their device, and so do losses on GPUs, for which the host does not wait. All that
processes have to agree on, such as a signal or the time of a checkpoint, goes through gloo from the CPU, also on
machines with GPUs. What one process knows, such as the
name of a run or which checkpoint can be read, is sent by rank 0. The first process of each machine writes to the cache,
and the others of that machine read it.
"""

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

TIMEOUT = timedelta(days=1)
"""How long a process waits for another one, which may be decoding a large dataset. A lost connection ends the wait."""
POLL_SECONDS = 0.005
"""How long rank 0 waits before it looks again for a process that has not arrived yet."""


@contextmanager
def processes() -> Iterator[None]:
    """Joins the processes that torchrun has started. Does nothing without torchrun, or where that is done already.

    Tensors on CPUs go through gloo, tensors on GPUs through NCCL.

    Raises ConnectionError where another process has ended or cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, own_rank, count = _rendezvous()
    dist.init_process_group(backend, store=store, rank=own_rank, world_size=count, timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error) and "NCCL" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(f"process {rank()} of {world_size()}: another one has ended ({reason})") from error
    finally:
        dist.destroy_process_group()


def _rendezvous() -> tuple[Store, int, int]:
    """Meets the other processes of this launch. Returns a store that they share, this process's rank, and their number.

    torchrun keeps its store when it restarts processes, with the keys of dead processes, and torch 2.14 would read
    their addresses there. So rank 0 opens a new key prefix for each launch. The other ranks request it with a random
    token, so that stale replies never match.
    """
    store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
    token = secrets.token_hex(8)
    if rank == 0:
        prefix = token
        for other in range(1, world_size):
            while not store.check([f"{prefix}/{other}"]):
                if store.check([f"request/{other}"]):
                    store.set(f"reply/{store.get(f'request/{other}').decode()}", prefix)
                time.sleep(POLL_SECONDS)
    else:
        store.set(f"request/{rank}", token)
        prefix = store.get(f"reply/{token}").decode()
        store.set(f"{prefix}/{rank}", "")
    return PrefixStore(prefix, store), rank, world_size


def rank() -> int:
    """The number of this process among all of the run, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process among the processes of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def local_world_size() -> int:
    """The number of processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if dist.is_initialized() else 1


def all_reduce_sum(*values: float) -> list[float]:
    """For each value, its sum over all processes, in float64."""
    return _reduced(values, dist.ReduceOp.SUM)


def all_reduce_min(*values: float) -> list[float]:
    """For each value, its minimum over all processes, in float64."""
    return _reduced(values, dist.ReduceOp.MIN)


def all_reduce_max(*values: float) -> list[float]:
    """For each value, its maximum over all processes, in float64."""
    return _reduced(values, dist.ReduceOp.MAX)


def _reduced(values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(tensor, operation)
    result: list[float] = tensor.tolist()
    return result


def sum_on_device(value: Tensor) -> Tensor:
    """Adds the values of all processes to a tensor, in place and on its device. The host does not wait for a GPU."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


# DistributedDataParallel reads these annotations, which must therefore not become strings: this file does not import
# annotations from __future__.
def sum_gradients(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Communication hook for DistributedDataParallel that sums gradients over the processes, instead of averaging.

    Each process weights its loss by its share of the batch. Losses then have the same scale as in a run of one process,
    which matters for gradients in 16 bits.
    """
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    result: torch.futures.Future[Tensor] = future.then(lambda done: done.value()[0])
    return result


def broadcast_object(value: T) -> T:
    """Returns rank 0's value in all processes. Values are pickled."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]


def gather_objects(value: T) -> list[T]:
    """Returns the values of all processes, in the order of their ranks, in all processes. Values are pickled."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return [gathered for gathered in values if gathered is not None]


def barrier() -> None:
    """Waits until all processes have called this function."""
    if world_size() > 1:
        all_reduce_sum(0.0)


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Runs the block in the first process of each machine, then in its other processes, which find a filled cache."""
    if local_rank() > 0:
        barrier()
    try:
        yield
    finally:
        if local_rank() == 0:
            barrier()
