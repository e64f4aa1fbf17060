"""Functions run by several processes that form one process group (gloo), with a limit on the time."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from . import processes

needs_gloo = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="PyTorch was built without gloo"
)


def _one_rank(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(function(rank, *arguments), f"{folder}/result.{rank}")
    # What DDP keeps of the group has to go before the group: its destructor, run from DDP's, would wait under Python's
    # lock for a thread that may itself wait for that lock (seen with torch 2.13).
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def run_on_ranks(function: Callable[..., Any], *arguments: Any, world: int = 2, seconds: float = 300.0) -> list[Any]:
    """Calls function(rank, *arguments) on every rank and returns what each returned.

    Args:
        function: at the top of a module, so that another process can import it; what it returns is pickled.
        arguments: after the rank.
        world: number of processes.
        seconds: after which the processes are killed and the test fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes.context()
        context = multiprocessing.start_processes(
            _one_rank, (world, folder, function, arguments), world, join=False, start_method=processes.METHOD
        )
        assert context is not None
        deadline = time.monotonic() + seconds
        while not context.join(timeout=1.0):
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                pytest.fail(f"{function.__name__}: {world} ranks were not done after {seconds:g} s")
        return [torch.load(os.path.join(folder, f"result.{rank}"), weights_only=False) for rank in range(world)]
