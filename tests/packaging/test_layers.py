"""Imports go one way (docs/architecture.md): every import of ours, in every file, points downwards.

cli → apps → {integrations, zoo} → metrics → {guidance, tinycudann} → {decoder, nerf}
→ losses → ops → {reference, kernels, _C}
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .installation import ROOT

LAYERS = (
    {"errors", "checks", "schedules", "_extension", "_precision", "_settings", "_terminal", "_threads"},
    {"runs"},
    {"reference", "kernels", "_C"},
    {"ops"},
    {"losses"},
    {"decoder", "nerf"},
    {"guidance", "tinycudann"},
    {"metrics"},
    {"integrations", "zoo"},
    {"apps", "env_report"},
    {"_commands"},
    {"_completion"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ALONE = {"reference", "kernels"}  # these import nothing of ours, not even errors
FRONT_DOOR = ROOT / "ldp_fast" / "__init__.py"  # re-exports lazily; test_import.py looks after it
FILES = sorted({*(ROOT / "ldp_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")} - {FRONT_DOOR})


def module_of(path: Path) -> list[str]:
    """The dotted name of a file, as parts."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "kernels":
        parts = ["ldp_fast", "kernels", *parts[2:]]
    return parts


def imports(source: str, module: list[str], package: bool) -> Iterator[tuple[int, str, str]]:
    """Line, room and rest of every import of ours: `ldp_fast.ops.x` is `x` of the room `ops`. Lazy ones count too."""
    base = module if package else module[:-1]
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*start, *(node.module.split(".") if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "ldp_fast":
                room, _, inside = rest.partition(".")
                yield node.lineno, room, inside


def violations(source: str, module: list[str], package: bool) -> list[str]:
    """What a file imports against the arrows."""
    room = module[1]
    found = []
    for line, target, _ in imports(source, module, package):
        allowed = target == room or (
            room not in ALONE and (RANK.get(target, -1) < RANK[room] if target in RANK else target == "__version__")
        )
        if not allowed:
            found.append(f"{'.'.join(module)}:{line}: {room} imports {target or 'the whole package'}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    module = module_of(path)
    package = module[-1] == "__init__"
    assert not violations(path.read_text(), module[:-1] if package else module, package)


def private(source: str, module: list[str], package: bool) -> list[str]:
    """What a file imports that is another room's own."""
    found = imports(source, module, package)
    return [
        f"{'.'.join(module)}:{line}: {room}.{inside}" for line, room, inside in found if _own(module[1], room, inside)
    ]


def _own(room: str, target: str, inside: str) -> bool:
    return target != room and any(part.startswith("_") for part in inside.split("."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_private_modules_stay_in_their_room(path: Path) -> None:
    module = module_of(path)
    package = module[-1] == "__init__"
    assert not private(path.read_text(), module[:-1] if package else module, package)


def test_the_check_sees_a_private_module_of_another_room() -> None:
    for source in ("from ..losses import _checks", "from ..ops._native import required", "import ldp_fast.ops._direct"):
        assert len(private(source, ["ldp_fast", "decoder", "x"], False)) == 1
    allowed = "from . import _own\nfrom .. import _settings, checks\nfrom ..ops import call, perturb as _registers"
    assert private(allowed, ["ldp_fast", "decoder", "x"], False) == []


def test_every_room_has_a_layer() -> None:
    rooms = {module_of(path)[1] for path in FILES}
    assert rooms <= RANK.keys(), f"give {rooms - RANK.keys()} a place in LAYERS"


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("ops", "from ..losses import functional"),
        ("losses", "import ldp_fast.guidance"),
        ("losses", "def f():\n    from ldp_fast.apps import files"),
        ("reference", "from ..errors import UsageError"),
        ("kernels", "from ldp_fast import _settings"),
        ("losses", "from .. import decoder"),
        ("ops", "import importlib\nimportlib.import_module('ldp_fast.guidance.prior')"),
        ("guidance", "import ldp_fast"),
    ],
)
def test_the_check_sees_an_upward_import(room: str, source: str) -> None:
    assert len(violations(source, ["ldp_fast", room, "x"], False)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("ops", "from ..reference import perturb\nfrom . import _library\nfrom .. import _settings"),
        ("apps", "from ..errors import UsageError\nimport ldp_fast.guidance.prior\nimport torch"),
        ("kernels", "from . import _host\nimport triton"),
    ],
)
def test_the_check_allows_a_downward_import(room: str, source: str) -> None:
    assert violations(source, ["ldp_fast", room, "x"], False) == []


def test_kernels_and_reference_do_not_read_the_environment() -> None:
    for path in FILES:
        if module_of(path)[1] in ALONE:
            assert "environ" not in path.read_text(), path
