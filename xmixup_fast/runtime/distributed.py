"""The processes of one run: those that torchrun starts or, without it, this one alone."""

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
"""How long processes wait for each other: one may decode a large dataset for all. A lost connection ends it at once."""

POLL_SECONDS = 0.005
"""How often the first process looks for the others at the start."""


@contextmanager
def processes() -> Iterator[None]:
    """Joins the processes that torchrun has started, unless that is done; without torchrun nothing changes.

    Tensors on CPUs go through gloo, those on GPUs through NCCL. Raises ConnectionError where another process is lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, number, count = _store()
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error) and "NCCL" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(f"process {rank()} of {world_size()}: another one has ended ({reason})") from error
    finally:
        dist.destroy_process_group()


def _store() -> tuple[Store, int, int]:
    """What the processes find each other through, with this one's number and how many there are.

    torchrun keeps its store when it restarts processes: what those before them left there, addresses too, must not be
    read. So the first process gives each run a new part of the store. The others ask for it by a word of their own, so
    that no answer is an old one; those of before have ended by then.
    """
    store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
    word = secrets.token_hex(8)
    if rank == 0:
        part = word
        for other in range(1, world_size):
            while not store.check([f"{part}/{other}"]):
                if store.check([f"asks/{other}"]):
                    store.set(f"answer/{store.get(f'asks/{other}').decode()}", part)
                time.sleep(POLL_SECONDS)
    else:
        store.set(f"asks/{rank}", word)
        part = store.get(f"answer/{word}").decode()
        store.set(f"{part}/{rank}", "")
    return PrefixStore(part, store), rank, world_size


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def local_world_size() -> int:
    """How many processes this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if dist.is_initialized() else 1


def all_reduce_sum(*values: float) -> list[float]:
    """The sums of values over all processes, in float64."""
    return _reduced(values, dist.ReduceOp.SUM)


def all_reduce_min(*values: float) -> list[float]:
    """The least of the processes' values, for each of some values."""
    return _reduced(values, dist.ReduceOp.MIN)


def all_reduce_max(*values: float) -> list[float]:
    """The greatest of the processes' values, for each of some values."""
    return _reduced(values, dist.ReduceOp.MAX)


def _reduced(values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(tensor, how)
    result: list[float] = tensor.tolist()
    return result


def sum_gradients(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """For DistributedDataParallel's ``register_comm_hook``: the gradients' sum over the processes, not their mean.

    Each process's loss is then scaled as one process's would be, which matters to gradients in 16 bits. The annotations
    have to be objects, not strings: DistributedDataParallel reads them.
    """
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    result: torch.futures.Future[Tensor] = future.then(lambda done: done.value()[0])
    return result


def broadcast_object(value: T) -> T:
    """What process 0 gives, in all processes; it is pickled."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]


def gather_objects(value: T) -> list[T]:
    """What each process gives, in all processes; it is pickled."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return [one for one in values if one is not None]


def barrier() -> None:
    """Waits until all processes are here."""
    if world_size() > 1:
        all_reduce_sum(0.0)


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
