"""The modules of ldp_fast and what each imports, read from their sources; nothing of them is run."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from .installation import ROOT

# A function that is fetched when it is first called, as launchers are: "ldp_fast.kernels.perturb:perturb".
LATE = re.compile(r"(ldp_fast(?:\.\w+)+):\w+")


@dataclasses.dataclass(frozen=True)
class Module:
    """A file of ours.

    Attributes:
        name: dotted.
        source: its text.
        package: whether it is an `__init__.py`.
    """

    name: str
    source: str
    package: bool = False

    @property
    def base(self) -> list[str]:
        """What `from .` means in it."""
        parts = self.name.split(".")
        return parts if self.package else parts[:-1]


@dataclasses.dataclass(frozen=True)
class Import:
    """An import of ours.

    Attributes:
        line: where.
        name: what, from `ldp_fast` on; its last part may be a name inside of a module.
        for_types: whether it is for type checkers alone.
    """

    line: int
    name: str
    for_types: bool

    @property
    def room(self) -> str:
        """The part behind `ldp_fast`; empty for the whole package."""
        return f"{self.name}.".split(".")[1]

    @property
    def inside(self) -> str:
        """The parts behind that."""
        return self.name.partition(".")[2].partition(".")[2]


def read(path: Path) -> Module:
    """The module that a file holds; `kernels/ldp_kernels` is installed as `ldp_fast.kernels`."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "kernels":
        parts = ["ldp_fast", "kernels", *parts[2:]]
    package = parts[-1] == "__init__"
    return Module(".".join(parts[:-1] if package else parts), path.read_text(encoding="utf-8"), package)


FILES = sorted({*(ROOT / "ldp_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")})
MODULES = {module.name: module for module in map(read, FILES)}


@functools.cache
def imports(module: Module) -> tuple[Import, ...]:
    """Every import of ours in a module: those in functions, and by names that are written out, among them."""
    return tuple(_imports(module))


def _imports(module: Module) -> Iterator[Import]:
    for node, for_types in _nodes(ast.parse(module.source), False):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = module.base[: len(module.base) - node.level + 1] if node.level else []
            origin = ".".join([*start, *(node.module.split(".") if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and is_late(node):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [found[1]] if (found := LATE.fullmatch(node.value)) else []
        for name in names:
            if name.partition(".")[0] == "ldp_fast":
                yield Import(node.lineno, name, for_types)


def is_late(call: ast.Call) -> bool:
    """Whether a call imports a module by its name."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return str(name).endswith("import_module")


def _nodes(node: ast.AST, for_types: bool) -> Iterator[tuple[ast.expr | ast.stmt, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.expr, ast.stmt)):
            yield child, for_types
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for part in child.body:
                yield part, True
                yield from _nodes(part, True)
            for part in child.orelse:
                yield part, for_types
                yield from _nodes(part, for_types)
        else:
            yield from _nodes(child, for_types)


def module_of(name: str, modules: Mapping[str, Module]) -> str | None:
    """The module that has an imported name, or is it; None for what is not a file of Python, such as `ldp_fast._C`."""
    if name in modules:
        return name
    package = name.rpartition(".")[0]
    return package if package in modules and name not in ("ldp_fast._C", "ldp_fast.__version__") else None
