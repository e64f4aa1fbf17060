"""One prompt on several processes (torchrun, accelerate): each renders its share of a step's views."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UsageError
from .ranks import read_ranks
from .roll_call import RollCall

# Of the group that `ranks` has joined.
_roll_call: RollCall | None = None


class RanksLost(UsageError):
    """A rank ended before the others, which cannot go on without it."""


def this_rank() -> tuple[int, int]:
    """Rank and number of ranks as torchrun says them, (0, 1) without it; chooses this rank's GPU where there are some.

    Raises:
        UsageError: RANK and WORLD_SIZE do not go together.
    """
    rank, world = read_ranks()
    local = os.environ.get("LOCAL_RANK", "")
    if world > 1 and local.isdecimal() and torch.cuda.is_available():
        torch.cuda.set_device(int(local) % torch.cuda.device_count())
    return rank, world


def on_this_device(device: torch.device, world: int) -> int:
    """How many of a run's ranks compute where this one does, and share its memory.

    Args:
        device: of this rank.
        world: ranks of the run.

    Returns:
        On a CPU the ranks of this machine; 1 where LOCAL_WORLD_SIZE, which torchrun sets, does not say how many those
        are. On CUDA 1: NCCL refuses two ranks of a group on one GPU, and how many GPUs a rank sees does not say how
        many there are, as each may see its own alone.
    """
    if device.type == "cuda":
        return 1
    word = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, min(int(word), world)) if word.isdecimal() else 1


@contextlib.contextmanager
def ranks(shares: tuple[int, str], device: str | None) -> Iterator[tuple[int, int, str | None]]:
    """Joins the process group that the environment describes (RANK, WORLD_SIZE, …), if there is one.

    Args:
        shares: into how many parts a step can be divided, and the flag that says so.
        device: of the configuration.

    Yields:
        This process's rank, the number of processes, and this process's device.

    Raises:
        UsageError: fewer parts than processes, or a process that does not come.
    """
    global _roll_call
    rank, world = this_rank()
    if world == 1:
        yield 0, 1, device
        return
    parts, flag = shares
    if parts < world:
        raise UsageError(f"{flag}: expected at least {world}, one for each of the {world} processes; got {parts}")
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{torch.cuda.current_device()}"
    joined = not dist.is_initialized()
    if joined:
        _roll_call = RollCall(rank, world)
        with _together():
            dist.init_process_group("nccl" if on_gpu else "gloo", store=_roll_call.store, rank=rank, world_size=world)
    try:
        yield dist.get_rank(), dist.get_world_size(), device
    finally:
        if joined:
            _leave()


def _leave() -> None:
    global _roll_call
    _roll_call = None
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Around a collective: says which rank is missing where it fails."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        roll_call = _roll_call
        if roll_call is not None:
            # First of all, so that those who still wait for this one learn that something is wrong.
            _leave()
        lost = roll_call.lost() if roll_call is not None else ""
        reason = " ".join(str(error).partition("\n")[0].split())
        raise RanksLost(lost or f"the ranks have lost each other: {reason}") from error


def add(tensor: Tensor) -> None:
    """Sums a tensor over the ranks, in place."""
    with _together():
        dist.all_reduce(tensor)


def add_gradients(parameters: Sequence[Tensor], row: Tensor) -> None:
    """Sums gradients, and a row of what is recorded, over the ranks, in place; a parameter without one has zeros."""
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    # One message for all of them.
    flat = torch.cat([*(p.grad.flatten() for p in parameters if p.grad is not None), row])
    add(flat)
    at = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[at : at + p.numel()].view_as(p))
        at += p.numel()
    row.copy_(flat[at:])


def share(tensors: Mapping[str, Tensor], world: int) -> None:
    """Gives every rank what rank 0 has: what each computes by itself may differ in its last bits on a GPU."""
    if world > 1:
        with _together():
            for tensor in tensors.values():
                dist.broadcast(tensor, 0)


def wait(world: int) -> None:
    """Waits for every rank."""
    if world > 1:
        with _together():
            dist.barrier()


def any_rank(flag: bool, world: int) -> bool:
    """Whether the flag is set on any rank: they stop at the same step."""
    if world == 1:
        return flag
    with _together():
        on_gpu = dist.get_backend() == "nccl"
        found = torch.tensor([int(flag)], device="cuda" if on_gpu else "cpu")
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found.item())
