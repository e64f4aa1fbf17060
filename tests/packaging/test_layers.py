"""Imports go one way (docs/architecture.md): every import of ours, in every file, points downwards.

cli → apps → {integrations, zoo} → metrics → {clip, generators} → {guidance, tinycudann} → {decoder, nerf}
→ losses → ops → {reference, kernels, _C}
"""

from __future__ import annotations

import pytest

from .modules import MODULES, Import, Module, imports

LAYERS = (
    {"errors", "checks", "schedules", "_extension", "_precision", "_settings", "_terminal", "_threads"},
    {"runs"},
    {"reference", "kernels", "_C"},
    {"ops"},
    {"losses"},
    {"decoder", "nerf"},
    {"guidance", "tinycudann"},
    {"clip", "generators"},
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
# The front door re-exports lazily; test_import.py looks after it.
CHECKED = [module for name, module in MODULES.items() if name != "ldp_fast"]


def room_of(module: Module) -> str:
    """The room that a file stands in."""
    return module.name.split(".")[1]


def violations(module: Module) -> list[str]:
    """What a file imports against the arrows."""
    room = room_of(module)
    found = []
    for one in imports(module):
        target = one.room
        allowed = target == room or (
            room not in ALONE and (RANK.get(target, -1) < RANK[room] if target in RANK else target == "__version__")
        )
        if not allowed:
            found.append(f"{module.name}:{one.line}: {room} imports {target or 'the whole package'}")
    return found


@pytest.mark.parametrize("module", CHECKED, ids=lambda module: module.name)
def test_imports_point_downwards(module: Module) -> None:
    assert not violations(module)


def private(module: Module) -> list[str]:
    """What a file imports that is another room's own."""
    return [f"{module.name}:{one.line}: {one.name}" for one in imports(module) if _own(room_of(module), one)]


def _own(room: str, found: Import) -> bool:
    return found.room != room and any(part.startswith("_") for part in found.inside.split("."))


@pytest.mark.parametrize("module", CHECKED, ids=lambda module: module.name)
def test_private_modules_stay_in_their_room(module: Module) -> None:
    assert not private(module)


def test_the_check_sees_a_private_module_of_another_room() -> None:
    for source in ("from ..losses import _checks", "from ..ops._native import required", "import ldp_fast.ops._direct"):
        assert len(private(Module("ldp_fast.decoder.x", source))) == 1
    allowed = "from . import _own\nfrom .. import _settings, checks\nfrom ..ops import call, perturb as _registers"
    assert private(Module("ldp_fast.decoder.x", allowed)) == []


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(module) for module in CHECKED}
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
    assert len(violations(Module(f"ldp_fast.{room}.x", source))) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("ops", "from ..reference import perturb\nfrom . import _library\nfrom .. import _settings"),
        ("apps", "from ..errors import UsageError\nimport ldp_fast.guidance.prior\nimport torch"),
        ("kernels", "from . import _host\nimport triton"),
    ],
)
def test_the_check_allows_a_downward_import(room: str, source: str) -> None:
    assert violations(Module(f"ldp_fast.{room}.x", source)) == []


def test_kernels_and_reference_do_not_read_the_environment() -> None:
    for module in CHECKED:
        if room_of(module) in ALONE:
            assert "environ" not in module.source, module.name
