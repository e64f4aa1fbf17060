"""`ldp-fast sweep`: many prompts, methods, losses and seeds, one folder each, and a table at the end."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import UsageError
from ...metrics import ClipScorer
from ...runs import cluster, cluster_lead, loop
from ...runs.distributed import this_rank
from ...runs.jobs import Job, JobStore, Runner, finish, release_memory, run_jobs, without_ranks
from ...runs.prompts import Prompt, check_prompts, read_prompts
from ...runs.ranks import check_alone
from ...runs.settings import hyphens
from ...zoo.captions import random_prompts
from .. import registry
from ..entry import Entry
from ..hub import reachable
from ..options import ModelConfiguration
from ..run_options import add_product_flags, without
from ..targets import check_writable
from ..variants import VARIANTS
from . import domains
from .table import write_table

EXAMPLES = """\
examples:
  ldp-fast sweep prompts.txt --method latent-nerf --out out/sweep
  ldp-fast sweep prompts.txt --method latent-nerf jacobian-nerf --seeds 0 1 2 --steps 2000 --out out/seeds
  ldp-fast sweep --random-prompts 10 --method latent-nerf jacobian-nerf --losses lsd full --out out/compare
  torchrun --nproc-per-node 8 -m ldp_fast.cli sweep prompts.txt --method latent-nerf --out out/sweep
  ldp-fast sweep prompts.txt --method latent-nerf --cluster auto --out /shared/sweep
  ldp-fast sweep prompts.txt --application synthesize --losses lsd full --out out/images
"""
# Those of an application that is named, which may lack the methods of text-to-3d.
NAMED = """\
examples:
  ldp-fast sweep prompts.txt --application {name} --out out/sweep
  ldp-fast sweep --random-prompts 10 --application {name} {compared} --out out/compare
  ldp-fast sweep prompts.txt --application {name} --cluster auto --out /shared/sweep
"""
AGAIN = """
The same command again continues: what is finished is kept, what was interrupted goes on, what failed is tried again.
"""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """Declares the command's flags: its own, and those of the application, which every job takes.

    Args:
        parser: of the command.
        words: of the command line, which name the application.
    """
    name = _application(words)
    entry = registry.find(name)
    named = NAMED.format(name=name, compared=entry.compared)
    parser.epilog = (EXAMPLES if name == "text-to-3d" else named) + AGAIN
    parser.add_argument(
        "prompts",
        nargs="?",
        type=pathlib.Path,
        metavar="PROMPTS.txt",
        help="file with one prompt a line; lines that begin with # are comments",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, metavar="DIR", help="folder to write to; each job gets one in it"
    )
    parser.add_argument(
        "--application",
        default="text-to-3d",
        metavar="NAME",
        help=f"command that makes each prompt: {', '.join(registry.names())}; or MODULE:NAME of your own",
    )
    jobs = parser.add_argument_group("jobs")
    jobs.add_argument(
        "--losses",
        nargs="+",
        type=hyphens,
        default=["full"],
        metavar="L",
        help=f"loss terms to use: {', '.join(VARIANTS)}; the others get the weight 0 (default: full)",
    )
    jobs.add_argument(
        "--random-prompts",
        type=int,
        metavar="N",
        help="make N random prompts that the embedded model knows, in place of a file",
    )
    jobs.add_argument("--prompt-seed", type=int, metavar="S", help="seed of the random prompts (default: 0)")
    jobs.add_argument(
        "--clip",
        metavar="MODEL",
        help="CLIP model that compares results with prompts at the end (default: the embedded model's judge)",
    )
    machines = parser.add_argument_group(
        "cluster",
        "runs the jobs on the machines of a Ray cluster; all of them have to share the disk of --out",
    )
    machines.add_argument(
        "--cluster",
        metavar="auto|ADDRESS",
        help="auto for the cluster that this machine belongs to, HOST:PORT for the one with that head node, local for "
        "this machine alone",
    )
    machines.add_argument(
        "--gpus-per-job",
        type=float,
        metavar="G",
        help="GPUs of a job, such as 1, or 0.5 for two jobs on one GPU (default: 1 where the cluster has GPUs, else 0)",
    )
    machines.add_argument(
        "--cpus-per-job", type=int, default=1, metavar="C", help="CPUs of a job, and its threads (default: 1)"
    )
    machines.add_argument(
        "--retries", type=int, default=2, metavar="N", help="new attempts for a job whose worker died (default: 2)"
    )
    entry.add_arguments(parser)
    if entry.samples:
        domains.add_arguments(parser)
    if entry.products:
        add_product_flags(parser.add_argument_group("output"), entry.products)
    by = dict.fromkeys(("--method", entry.compared.partition(" ")[0], "--seeds"))
    several = [name for name in by if name in parser._option_string_actions]
    jobs.description = f"each prompt is made with each of {' and each of '.join(several)}"


def _application(words: Sequence[str]) -> str:
    exact, short = list[str](), list[str]()
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        # As argparse, which takes a beginning that only one flag has, and says so where there are several.
        if len(name) > 2 and "--application".startswith(name):
            (exact if name == "--application" else short).append(value if equals else following)
    return (exact or short or ["text-to-3d"])[-1]


def run(args: argparse.Namespace, runner: Runner | None = None) -> int:
    """The command. Returns the exit code: 0, 1 if a job failed, 130 after an interruption that can be resumed."""
    _check_flags(args)
    prompts = _prompts(args)
    rank, world = this_rank()
    entry = registry.find(args.application)
    runner = runner or functools.partial(run_job, args.application, without=without(args, entry.products))
    with contextlib.ExitStack() as stack:
        options: cluster.Options | None = None
        more: dict[str, Any] = {}
        if args.cluster is not None:
            asked = cluster.Options(args.cluster, args.gpus_per_job, args.cpus_per_job, args.retries)
            machines = stack.enter_context(contextlib.ExitStack())
            options = machines.enter_context(cluster.connected(asked))
            more["device"] = _device(getattr(args, "device", None), options)
        store = JobStore(args.out, entry.application, rank)
        jobs = store.as_named(entry.plan(prompts, args, **more))
        store.check(jobs)
        check_writable(args.out)
        _check_jobs(entry, prompts, jobs)
        measured = domains.asked(args) if entry.samples else None
        if measured is not None:
            models = {job.configuration.plain().get("model") for job in jobs}
            domains.check(measured, [prompt.text for prompt in prompts], models.pop() if len(models) == 1 else None)
        if args.clip is not None:
            # Loaded once and dropped: at the end of all jobs it would be late to hear that it does not exist.
            ClipScorer.from_pretrained(reachable("--clip", args.clip, "config.json"))
        release_memory()
        if options is not None:
            token = stack.enter_context(cluster.leading(args.out))
            code = cluster_lead.run_jobs(jobs, store, runner, options, token)
            # The table is made here, and others may have the machines.
            machines.close()
        else:
            if rank == 0:
                cluster.check_nobody_leads(args.out)
            with without_ranks():
                code = run_jobs(jobs, store, runner, rank, world)
        if code:
            return code
        return finish(jobs, store, lambda: write_table(jobs, store, clip=args.clip, asked=measured), rank, world)


def run_job(
    application: str, folder: pathlib.Path, configuration: Any, options: loop.Options, without: tuple[str, ...] = ()
) -> int:
    """Runs one job; found by its name, so that workers of a cluster can be told of it.

    Args:
        application: its name.
        folder, configuration, options: see `runs.loop.run`.
        without: names of products that are not wanted.
    """
    options = dataclasses.replace(options, without=without)
    return loop.run(registry.find(application).application, folder, configuration, options)


def _check_flags(args: argparse.Namespace) -> None:
    for variant in args.losses:
        if variant not in VARIANTS:
            raise UsageError(f"--losses: expected some of {', '.join(VARIANTS)}; got {variant!r}")
    if args.print_config:
        raise UsageError("--print-config: a sweep has many configurations, one for each job: see jobs.json")
    if args.cluster is not None:
        check_alone("sweep --cluster")
    else:
        for name in ("--gpus-per-job", "--cpus-per-job", "--retries"):
            if name.removeprefix("--").replace("-", "_") in getattr(args, "given", ()):
                raise UsageError(f"{name}: expected only with --cluster, which was not given")


def _device(asked: str | None, options: cluster.Options) -> str:
    """What a job computes on is the workers' business: this machine may lack the GPU that they have."""
    if asked is None:
        return "cuda" if options.gpus else "cpu"
    if asked.startswith("cuda") and not options.gpus:
        raise UsageError(f"--device {asked}: the jobs have no GPU; give --gpus-per-job 1")
    if asked not in ("cpu", "cuda"):
        raise UsageError(f"--device: expected cpu or cuda, for the cluster chooses which GPU; got {asked}")
    return asked


def _prompts(args: argparse.Namespace) -> list[Prompt]:
    if (args.prompts is None) == (args.random_prompts is None):
        raise UsageError("prompts: expected a file with one prompt a line, or --random-prompts N, and not both")
    if args.prompts is not None:
        if args.prompt_seed is not None:
            raise UsageError("--prompt-seed: it is the seed of --random-prompts; got a file of prompts")
        return read_prompts(args.prompts, lambda message: print(f"note: {message}", file=sys.stderr))
    model = getattr(args, "model", "primitives")
    if model != "primitives":
        raise UsageError(f"--random-prompts: expected the embedded model, got {model}; give a file of prompts")
    return [Prompt(text, "--random-prompts") for text in random_prompts(args.random_prompts, args.prompt_seed or 0)]


def _check_jobs(entry: Entry, prompts: Sequence[Prompt], jobs: Sequence[Job]) -> None:
    """Whether the models know the prompts, and whether there is memory for each job.

    The jobs that a prior guides have one prior, and others have one model; the first of each kind says which.
    """
    for guided in (True, False):
        alike: list[Any] = [job.configuration for job in jobs]
        alike = [x for x in alike if isinstance(x, ModelConfiguration) == guided]
        if not alike:
            continue
        # The machine of the command may lack what the jobs compute on.
        elsewhere = str(alike[0].device).startswith("cuda") and not torch.cuda.is_available()
        model = entry.load(alike[0], "cpu" if elsewhere else None)
        more = (alike[0].negative_prompt or "",) if guided else ()
        check_prompts(prompts, functools.partial(_encode, model, more))
        for configuration in () if elsewhere else alike:
            entry.check_fits(configuration, model)


def _encode(model: Any, more: tuple[str, ...], text: str) -> None:
    model.encode_prompt(text, *more)
