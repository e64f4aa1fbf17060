"""Imports make no circles (docs/architecture.md): neither among modules nor among rooms, lazy ones included.

A room is what lies directly in `ldp_fast`, and what lies directly in `ldp_fast/apps`; a module there is one by itself.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterable, Mapping

import pytest

import ldp_fast
from ldp_fast import _commands
from ldp_fast.apps import registry

from .modules import MODULES, Module, imports, is_late, module_of

Graph = dict[str, set[str]]
COMMANDS = {module for module, _ in _commands.COMMANDS.values()}
# Who takes names of our modules from a table when it runs, and which; of itself nobody does.
COMPUTED = {
    "ldp_fast": {f"ldp_fast.{origin}" for origin in ldp_fast._ORIGINS.values()},
    "ldp_fast.cli": COMMANDS,
    "ldp_fast._completion": COMMANDS - {"ldp_fast._completion"},
    "ldp_fast.apps.registry": {f"ldp_fast.apps.{room}.entry" for room in registry._ROOMS.values()},
}
# What these import by computed names is written out elsewhere as `module:function`, or is not ours.
OTHERS = {
    "ldp_fast.ops._library",
    "ldp_fast.guidance.loading",
    "ldp_fast.guidance.single_file",
    "ldp_fast.apps.clip_mesh.rasterisers",  # versions of what draws
}


def graph_of(modules: Mapping[str, Module], computed: Mapping[str, set[str]], for_types: bool = False) -> Graph:
    """What each module imports, wherever it stands in the file.

    Whoever imports `a.b.c` runs `a/__init__.py` and `a/b/__init__.py` too, unless it stands in there itself.

    Args:
        modules: by name.
        computed: names that modules import and do not write out.
        for_types: with imports that are for type checkers alone.
    """
    graph: Graph = {}
    for name, module in modules.items():
        found = {one.name for one in imports(module) if for_types or not one.for_types} | computed.get(name, set())
        graph[name] = set()
        for target in filter(None, (module_of(one, modules) for one in found)):
            parts = target.split(".")
            packages = {".".join(parts[:count]) for count in range(1, len(parts))}
            graph[name] |= {target} | {package for package in packages if not f"{name}.".startswith(f"{package}.")}
    return graph


def room_of(name: str) -> str:
    """The room of a module: `ops` of `ldp_fast.ops.perturb`, `apps.sweep` of `ldp_fast.apps.sweep.table`."""
    parts = name.split(".")[1:]
    return ".".join(parts[: 2 if parts[:1] == ["apps"] else 1])


def rooms_of(graph: Graph) -> Graph:
    """What the rooms of a graph's modules import of each other. The front door stands in no room: it opens all."""
    rooms: Graph = {}
    for name, targets in graph.items():
        # `ldp_fast/apps/__init__.py` holds a sentence, and is only the way to the rooms.
        found = {room_of(target) for target in targets if target not in ("ldp_fast", "ldp_fast.apps")}
        rooms.setdefault(room_of(name), set()).update(found - {room_of(name)})
    return rooms


def circle(graph: Mapping[str, Iterable[str]]) -> str:
    """A circle in a graph, as `a → b → a`; empty where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return " → ".join(reversed(error.args[1]))
    return ""


def test_modules_import_each_other_in_no_circle() -> None:
    found = circle(graph_of(MODULES, COMPUTED))
    assert not found, f"{found}: move what two of them need below both (an import in a function counts)"


def test_rooms_import_each_other_in_no_circle_not_even_for_types() -> None:
    found = circle(rooms_of(graph_of(MODULES, COMPUTED, for_types=True)))
    assert not found, f"{found}: move what two of them need below both"


def test_what_every_application_needs_knows_of_ours_the_errors_alone() -> None:
    rooms = rooms_of(graph_of(MODULES, COMPUTED, for_types=True))
    assert rooms["runs"] == {"errors"}, "runs serves any application, of the zoo too: pass in what it needs"


def test_the_package_of_the_applications_imports_nothing() -> None:
    assert not list(imports(MODULES["ldp_fast.apps"])), "rooms_of leaves it out for that reason"


def test_computed_names_are_known() -> None:
    found = {
        name
        for name, module in MODULES.items()
        for node in ast.walk(ast.parse(module.source))
        if isinstance(node, ast.Call) and is_late(node) and not isinstance(node.args[0], ast.Constant)
    }
    assert found == {*COMPUTED, *OTHERS}, "say in COMPUTED which modules they are"
    assert {name for names in COMPUTED.values() for name in names} <= MODULES.keys()


def modules(**sources: str) -> dict[str, Module]:
    """Modules of some sources; `a__b` is `ldp_fast.a.b`, and what others stand in is a package."""
    names = {"ldp_fast": "", **{f"ldp_fast.{name.replace('__', '.')}": source for name, source in sources.items()}}
    packages = {name.rpartition(".")[0] for name in names}
    return {name: Module(name, source, name in packages) for name, source in names.items()}


@pytest.mark.parametrize(
    "sources",
    [
        {"ops": "", "ops__a": "from . import b", "ops__b": "def f():\n    from .a import g"},
        {"ops": "from .a import f", "ops__a": "from ..losses import g", "losses": "import ldp_fast.ops.a"},
        {"ops": "from .a import f", "ops__a": "from . import f"},
        {"ops": "from ..losses import f", "ops__a": "", "losses": "x: str = 'ldp_fast.ops.a:f'"},
        {"ops": "import importlib\nimportlib.import_module('ldp_fast.losses')", "losses": "from . import ops"},
    ],
)
def test_the_check_sees_a_circle(sources: dict[str, str]) -> None:
    assert circle(graph_of(modules(**sources), {}))


def test_the_check_sees_a_circle_through_computed_names() -> None:
    sources = modules(apps="", apps__registry="", apps__film="from .registry import find")
    assert not circle(graph_of(sources, {}))
    found = circle(graph_of(sources, {"ldp_fast.apps.registry": {"ldp_fast.apps.film"}}))
    assert found in (
        "ldp_fast.apps.film → ldp_fast.apps.registry → ldp_fast.apps.film",
        "ldp_fast.apps.registry → ldp_fast.apps.film → ldp_fast.apps.registry",
    )


def test_an_import_for_types_makes_a_circle_of_rooms_and_not_of_modules() -> None:
    sources = modules(
        apps="",
        apps__film="",
        apps__film__a="from ..mesh import b",
        apps__mesh="",
        apps__mesh__b="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..film.a import f\n",
    )
    assert not circle(graph_of(sources, {}))
    assert circle(rooms_of(graph_of(sources, {}, for_types=True)))


def test_rooms_may_make_a_circle_that_their_modules_do_not() -> None:
    sources = modules(ops="", ops__a="from ..losses import b", losses="", losses__b="", losses__c="from ..ops import a")
    assert not circle(graph_of(sources, {}))
    assert circle(rooms_of(graph_of(sources, {})))
