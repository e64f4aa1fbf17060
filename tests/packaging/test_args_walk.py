"""A command line is handed down to its application, becomes a typed configuration there, and goes no further.

The walk of `args` from `cli` comes into each room once or twice (docs/architecture.md): down to the command, to what
the applications share, once back where that asks for the configuration, and to `runs.flags`, which makes it.
"""

from __future__ import annotations

import functools
import itertools

import pytest

from ldp_fast._commands import COMMANDS
from ldp_fast.apps import registry

from .args_walk import Function, Walk, entries, functions, holding
from .modules import MODULES, Module

MOST = 2
CONFIGURED = Function("ldp_fast.runs.flags", "build")
OWN = "ldp_fast.apps.own"
PLANS = [Function(plan.__module__, plan.__name__) for plan in (registry.find(name).plan for name in registry.names())]  # type: ignore[attr-defined]
# What an application's entry is asked for, by the text of the call.
LATE = {"entry.plan": [*PLANS, Function(OWN, "plan")], "entry.configure": [Function(OWN, "begin")]}
# Commands that make runs; the others read their few options where they begin.
MAKING = ("text-to-3d", "clip-mesh", "synthesize", "adapt", "ablate", "sweep", "run")


@functools.cache
def walk(command: str) -> Walk:
    """The walk of a command."""
    return Walk(MODULES, {"command.run": [Function(COMMANDS[command][0], "run")], **LATE}).start("ldp_fast.cli")


def tangled(found: Walk) -> list[str]:
    """The ways that come into a room too often."""
    said = []
    for path in found.paths:
        often = [room for room, count in entries(path).items() if count > MOST]
        if often:
            way = " → ".join(map(str, path))
            said.append(
                f"{way}: comes into {', '.join(often)} more than twice; make the configuration earlier, or hand that on"
            )
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_args_come_into_each_room_once_or_twice(command: str) -> None:
    found = walk(command)
    assert not found.problems, "\n".join(found.problems)
    assert not tangled(found), "\n".join(tangled(found))


@pytest.mark.parametrize("command", COMMANDS)
def test_args_become_a_typed_configuration_or_are_read_at_once(command: str) -> None:
    begin = walk(command).paths[1][-1]
    assert begin == Function(COMMANDS[command][0], "run")
    reached = {path[-1] for path in walk(command).paths[2:]}
    assert CONFIGURED in reached if command in MAKING else not reached


def taking() -> set[Function]:
    """All functions that take a namespace."""
    return {
        Function(name, function)
        for name, module in MODULES.items()
        for function, node in functions(module).items()
        if holding(node.args)
    }


def test_only_commands_applications_and_flags_take_args() -> None:
    commands = {Function(module, "run") for module, _ in COMMANDS.values()}
    found = {
        str(function)
        for function in taking() - commands
        if function.module != "ldp_fast.runs.flags" and not function.module.startswith("ldp_fast.apps.")
    }
    assert not found, f"{found}: let the application make a configuration, and take that"


def test_every_function_that_takes_args_is_on_the_way_of_a_command() -> None:
    reached = {path[-1] for command in COMMANDS for path in walk(command).paths}
    assert taking() <= reached, f"nothing hands args to {sorted(map(str, taking() - reached))}"


# A command in a room `apps.film`, whose `run` a test writes.
CLI = """
def main(argv):
    args = parser.parse_args(argv)
    args.given = ()
    return command.run(args)
"""
COMMAND = """
import argparse, functools
from ...runs import flags
from .. import shared
from . import jobs
def run(args: argparse.Namespace):
    {run}
"""
JOBS = """
import argparse
from .. import shared
from ...runs.flags import build
from .command import run
def make(args: argparse.Namespace): return build(Film, args=args)
def plain(args): ...
def first(args: argparse.Namespace): return shared.again(args, second)
def second(args: argparse.Namespace): return args.size
def back(args: argparse.Namespace): return run(args)
"""
SHARED = """
import argparse
def read(args: argparse.Namespace): return args.size
def ask(args: argparse.Namespace, then): return then(args)
def again(args: argparse.Namespace, then): return then(args)
"""
FLAGS = """
from argparse import Namespace
def build(kind, *, args: Namespace, file=None): return kind(**vars(args))
"""


def followed(run: str) -> Walk:
    """The walk of that command."""
    sources = {
        "cli": CLI,
        "apps": "",
        "apps.shared": SHARED,
        "apps.film": "",
        "apps.film.command": COMMAND.format(run=run),
        "apps.film.jobs": JOBS,
        "runs": "",
        "runs.flags": FLAGS,
    }
    modules = {"ldp_fast": Module("ldp_fast", "", True)}
    for name, source in sources.items():
        full = f"ldp_fast.{name}"
        modules[full] = Module(full, source, any(other.startswith(f"{name}.") for other in sources))
    return Walk(modules, {"command.run": [Function("ldp_fast.apps.film.command", "run")]}).start("ldp_fast.cli")


@pytest.mark.parametrize(
    ("run", "rooms"),
    [
        ("return args.size", ["cli", "apps.film"]),
        ("return shared.read(args)", ["cli", "apps.film", "apps"]),
        ("return functools.partial(flags.build, Film, args=args)", ["cli", "apps.film", "runs"]),
        (
            "from ..shared import read as first; first(getattr(args, 'x', args.size)); first(args)",
            ["cli", "apps.film", "apps"],
        ),
        ("return lambda: shared.ask(args, jobs.make)", ["cli", "apps.film", "apps", "apps.film", "runs"]),
    ],
)
def test_args_are_followed_into_functions(run: str, rooms: list[str]) -> None:
    found = followed(run)
    assert not found.problems and not tangled(found)
    longest = max(found.paths, key=len)
    assert [room for room, _ in itertools.groupby(function.room for function in longest)] == rooms


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("args.size = 3", "writes to args"),
        ("return args", "keeps args or returns it"),
        ("held = [args]", "keeps args or returns it"),
        ("Film.of(args)", "hands args to Film.of: expected a function of ours"),
        ("jobs.plain(args)", "apps.film.jobs.plain is given args: annotate"),
        ("jobs.back(args)", "apps.film.jobs.back → apps.film.command.run: a walk in a circle"),
    ],
)
def test_what_should_not_be_done_with_args_is_said(run: str, said: str) -> None:
    problems = followed(run).problems
    assert len(problems) == 1 and said in problems[0]


def test_a_walk_that_comes_back_twice_is_tangled() -> None:
    found = followed("return shared.ask(args, jobs.first)")
    assert not found.problems
    assert [said.partition(": ")[2] for said in tangled(found)] == [
        "comes into apps.film more than twice; make the configuration earlier, or hand that on"
    ]
