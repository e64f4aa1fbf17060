"""One prompt on several processes (torchrun, accelerate): each renders its share of a step's views."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import UsageError


def this_rank() -> tuple[int, int]:
    """Rank and number of ranks as torchrun says them, (0, 1) without it; chooses this rank's GPU where there are some.

    Raises:
        UsageError: RANK and WORLD_SIZE make no sense.
    """
    words = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world = map(int, words)
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise UsageError(f"RANK, WORLD_SIZE: expected numbers with 0 <= RANK < WORLD_SIZE, got {' and '.join(words)}")
    local = os.environ.get("LOCAL_RANK", "")
    if world > 1 and local.isdecimal() and torch.cuda.is_available():
        torch.cuda.set_device(int(local) % torch.cuda.device_count())
    return rank, world


@contextlib.contextmanager
def ranks(configuration: dict[str, Any]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Joins the process group that the environment describes (RANK, WORLD_SIZE, …), if there is one.

    Yields:
        This process's rank, the number of processes, and the configuration with this process's device.

    Raises:
        UsageError: fewer views a step than processes.
    """
    _, world = this_rank()
    if world == 1:
        yield 0, 1, configuration
        return
    if configuration["views"] < world:
        raise UsageError(
            f"--views: expected at least {world}, one for each of the {world} processes; got {configuration['views']}"
        )
    device = configuration["device"]
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if on_gpu:
        configuration = {**configuration, "device": f"cuda:{torch.cuda.current_device()}"}
    joined = not dist.is_initialized()
    if joined:
        try:
            dist.init_process_group("nccl" if on_gpu else "gloo")
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"WORLD_SIZE is {world}, but the processes do not find each other: {reason}") from None
    try:
        yield dist.get_rank(), dist.get_world_size(), configuration
    finally:
        if joined:
            dist.destroy_process_group()


def share(tensors: Mapping[str, Tensor], world: int) -> None:
    """Gives every rank what rank 0 has: what each computes by itself may differ in its last bits on a GPU."""
    if world > 1:
        for tensor in tensors.values():
            dist.broadcast(tensor, 0)


def wait(world: int) -> None:
    """Waits for every rank."""
    if world > 1:
        dist.barrier()


def any_rank(flag: bool, world: int) -> bool:
    """Whether the flag is set on any rank: they stop at the same step."""
    if world == 1:
        return flag
    on_gpu = dist.get_backend() == "nccl"
    found = torch.tensor([int(flag)], device="cuda" if on_gpu else "cpu")
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found.item())
