"""`ldp-fast sweep`: many prompts, methods, losses and seeds, one folder each, and a table at the end."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...errors import UsageError
from ...zoo.captions import random_prompts
from ..options import load_prior
from ..ranks import how_to_be_alone
from . import command
from .distributed import this_rank
from .jobs import LOSSES, Job, JobStore, Prompt, check_prompts, read_prompts, run_status
from .run import run_text_to_3d
from .sweep_table import write_table

EXAMPLES = """\
examples:
  ldp-fast sweep prompts.txt --method latent-nerf --out out/sweep
  ldp-fast sweep prompts.txt --method latent-nerf jacobian-nerf --seeds 0 1 2 --steps 2000 --out out/seeds
  ldp-fast sweep --random-prompts 10 --method latent-nerf jacobian-nerf --losses lsd full --out out/compare
  torchrun --nproc-per-node 8 -m ldp_fast.cli sweep prompts.txt --method latent-nerf --out out/sweep

The same command again continues: what is finished is kept, what was interrupted goes on, what failed is tried again.
"""
Runner = Callable[..., int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags: its own, and those of text-to-3d that every job takes."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "prompts", nargs="?", type=pathlib.Path, metavar="PROMPTS.txt", help="one prompt a line, # comments"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="where to; one folder a job")
    jobs = parser.add_argument_group(
        "jobs", "each prompt is made with each --method, each --losses and each of --seeds"
    )
    jobs.add_argument(
        "--losses",
        nargs="+",
        default=["full"],
        metavar="L",
        help=f"{', '.join(LOSSES)}: the terms that are on; λ is 0 for the others (default: full)",
    )
    jobs.add_argument(
        "--random-prompts", type=int, metavar="N", help="in place of a file: N prompts of the embedded model's world"
    )
    jobs.add_argument("--prompt-seed", type=int, default=0, metavar="S", help="of the random prompts (default: 0)")
    jobs.add_argument("--clip", metavar="MODEL", help="CLIP that judges at the end (default: the embedded model's own)")
    command.add_run_arguments(parser, methods=True)


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, 1 if a job failed, 130 after an interruption that can be resumed."""
    prompts = _prompts(args)
    rank, world = this_rank()
    store = JobStore(args.out, rank)
    jobs = store.as_named(plan(prompts, args))
    store.check(jobs)
    _check_words(prompts, jobs[0].configuration)
    _release_memory()
    with _without_ranks():
        code = run_jobs(jobs, store, run_text_to_3d, rank, world)
    if code:
        return code
    return finish(jobs, store, lambda: write_table(jobs, store, clip=args.clip), rank, world)


def _prompts(args: argparse.Namespace) -> list[Prompt]:
    if (args.prompts is None) == (args.random_prompts is None):
        raise UsageError("prompts: expected a file with one prompt a line, or --random-prompts N, and not both")
    if args.prompts is not None:
        return read_prompts(args.prompts, lambda message: print(f"note: {message}", file=sys.stderr))
    if args.model != "primitives":
        raise UsageError(f"--random-prompts: the embedded model's world has them, {args.model} does not; give a file")
    return [Prompt(text, "--random-prompts") for text in random_prompts(args.random_prompts, args.prompt_seed)]


def _check_words(prompts: Sequence[Prompt], configuration: dict[str, Any]) -> None:
    prior = load_prior(configuration)
    negative = configuration.get("negative_prompt") or ""
    check_prompts(prompts, lambda text: prior.encode_prompt(text, negative))


def plan(prompts: Sequence[Prompt], args: argparse.Namespace) -> list[Job]:
    """A job for each combination, each configured as text-to-3d would configure it.

    Raises:
        UsageError: unknown losses or methods, two choices of losses that come to the same, options of text-to-3d.
    """
    unknown = [name for name in args.losses if name not in LOSSES]
    if unknown:
        raise UsageError(f"--losses: expected some of {', '.join(LOSSES)}; got {', '.join(unknown)}")
    if min(args.seeds) < 0:
        raise UsageError(f"--seeds: expected at least 0, got {min(args.seeds)}")
    jobs: list[Job] = []
    for prompt in prompts:
        for method in dict.fromkeys(args.method):
            for seed in dict.fromkeys(args.seeds):
                made: dict[str, Job] = {}
                for losses in dict.fromkeys(args.losses):
                    given = argparse.Namespace(**{**vars(args), "prompt": prompt.text, "method": method, "seed": seed})
                    if losses in ("lsd", "lsd-kl"):
                        given.lambda_fm = 0.0
                    if losses in ("lsd", "lsd-fm"):
                        given.lambda_kl = 0.0
                    job = Job(prompt.text, method, losses, seed, command.configure(given))
                    for other in made.values():
                        if other.configuration == job.configuration:
                            raise UsageError(f"--losses: {other.losses} and {losses} are the same with these λ's")
                    made[losses] = job
                jobs.extend(made.values())
    return jobs


@contextlib.contextmanager
def _without_ranks() -> Iterator[None]:
    """Hides the ranks from the runs, which would share the views of one object among them."""
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def run_jobs(jobs: Sequence[Job], store: JobStore, runner: Runner, rank: int = 0, world: int = 1) -> int:
    """Runs this rank's share, job i on rank i mod world; a job that fails is recorded, and the others go on.

    Args:
        jobs: all of them, of all ranks.
        store: their records.
        runner: `run_text_to_3d`, or what takes its place.
        rank, world: of this process.

    Returns:
        0, or 130 after an interruption.
    """
    store.enter(jobs[rank::world])
    for index, job in enumerate(jobs):
        if index % world != rank:
            continue
        record, folder = store.read(job.name), store.folder / job.name
        spent = record.get("seconds", 0.0)
        if record["status"] == "finished":
            continue
        if run_status(folder).get("status") == "finished":  # killed between the two records
            store.write(job, "finished", seconds=spent)
            continue
        print(f"[{index + 1}/{len(jobs)}] {job.name}", file=sys.stderr)
        store.write(job, "running", seconds=spent)
        started = time.perf_counter()

        def seconds(spent: float = spent, started: float = started) -> float:
            return round(spent + time.perf_counter() - started, 2)

        try:
            code = runner(folder, job.configuration, resume="the same command")
        except KeyboardInterrupt:
            store.write(job, "interrupted", seconds=seconds())
            raise
        except Exception as error:  # whatever stops one object must not stop the others
            message = " ".join(str(error).split())
            reason = message if isinstance(error, UsageError) else f"{type(error).__name__}: {message}"
            trace = None if isinstance(error, UsageError) else traceback.format_exc().splitlines()
            store.write(job, "failed", seconds=seconds(), error=reason, traceback=trace)
            print(f"failed: {job.name}: {reason}", file=sys.stderr)
            _release_memory()
            continue
        if code:
            store.write(job, "interrupted", seconds=seconds())
            return code
        store.write(job, "finished", seconds=seconds())
        _release_memory()
    return 0


def finish(jobs: Sequence[Job], store: JobStore, make_table: Callable[[], None], rank: int = 0, world: int = 1) -> int:
    """The rank that ends last makes the table.

    Under torchrun a rank that ends earlier returns 0 even if a job of its own failed, for torchrun would end the others
    at once; the last one tells of all failures.

    Returns:
        0, or 1 if a job failed.
    """
    store.write_list()
    if not _with_status(jobs, store, "waiting", "running", "interrupted"):
        make_table()
        # Once more, for a rank that started late may have taken up a job that an earlier sweep had left as failed.
        if not _with_status(jobs, store, "waiting", "running", "interrupted"):
            failed = _with_status(jobs, store, "failed")
            if failed:
                print(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}", file=sys.stderr)
            return 1 if failed else 0
    print(f"other ranks have jobs left; the last rank makes the table ({how_to_be_alone()})", file=sys.stderr)
    alone = "TORCHELASTIC_RUN_ID" not in os.environ
    return 1 if alone and _with_status(jobs[rank::world], store, "failed") else 0


def _with_status(jobs: Sequence[Job], store: JobStore, *statuses: str) -> list[str]:
    return [job.name for job in jobs if store.read(job.name).get("status", "waiting") in statuses]


def _release_memory() -> None:
    """Gives back what the last job held on the GPU, which errors keep in cycles."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
