"""Where the `argparse.Namespace` of a command line goes, call by call; read from the sources, nothing is run."""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

from .modules import Module, module_of

READS = ("getattr", "hasattr", "vars")
Path = tuple["Function", ...]
Bound = Mapping[str, Sequence["Function"]]


@dataclasses.dataclass(frozen=True)
class Function:
    """A function at the top of a module."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module.removeprefix('ldp_fast.')}.{self.name}"

    @property
    def room(self) -> str:
        """`cli`, `runs`, a room of the applications, or `apps` for the modules that they share."""
        parts = self.module.split(".")[1:]
        return ".".join(parts[:2]) if parts[0] == "apps" and len(parts) > 2 else parts[0]


def entries(path: Path) -> dict[str, int]:
    """How often a walk comes into each room."""
    rooms = [room for room, _ in itertools.groupby(function.room for function in path)]
    return {room: rooms.count(room) for room in rooms}


@dataclasses.dataclass
class Walk:
    """The ways of a namespace.

    Attributes:
        modules: in which it is followed.
        late: what a call means that names no function, such as `command.run`, by its text.
        paths: found so far, each from the first function that has it to the last.
        problems: what cannot be followed, or should not be; each says what to mend.
    """

    modules: Mapping[str, Module]
    late: Bound
    paths: list[Path] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def start(self, module: str) -> Walk:
        """Follows what the functions of a module parse."""
        for name, node in functions(self.modules[module]).items():
            for held in _parsed(node):
                self._follow((Function(module, name),), held, {}, writes=True)
        return self

    def _follow(self, path: Path, held: str, bound: Bound, writes: bool = False) -> None:
        here = path[-1]
        node = functions(self.modules[here.module])[here.name]
        self.paths.append(path)
        for use, call in _uses(node, held):
            where = f"{here}, line {use.lineno}"
            if isinstance(call, ast.Attribute):
                if not isinstance(call.ctx, ast.Load) and not writes:
                    self.problems.append(f"{where} writes to {held}: hand on what is to be said beside it")
            elif not isinstance(call, ast.Call):
                self.problems.append(
                    f"{where} keeps {held} or returns it: read what is needed, or hand it to a function"
                )
            elif not (ast.unparse(call.func) in READS and call.args[:1] == [use]):
                self._hand_on(path, use, call, bound, where)

    def _hand_on(self, path: Path, use: ast.Name, call: ast.Call, bound: Bound, where: str) -> None:
        func, given = call.func, list(call.args)
        if ast.unparse(func) in ("functools.partial", "partial"):
            func, given = given[0], given[1:]
        targets = self._meant(func, path[-1].module, bound)
        if not targets:
            self.problems.append(f"{where} hands {use.id} to {ast.unparse(func)}: expected a function of ours")
        for target in targets:
            takes = functions(self.modules[target.module])[target.name].args
            names = [one.arg for one in (*takes.posonlyargs, *takes.args)]
            said = {
                **dict(zip(names, given, strict=False)),
                **{word.arg: word.value for word in call.keywords if word.arg},
            }
            held = next((name for name, value in said.items() if value is use), "")
            if held not in holding(takes):
                self.problems.append(f"{target} is given {use.id}: annotate its parameter as argparse.Namespace")
            elif target in path:
                self.problems.append(f"{' → '.join(map(str, (*path, target)))}: a walk in a circle")
            else:
                callbacks = {name: self._meant(value, path[-1].module, bound) for name, value in said.items()}
                self._follow((*path, target), held, callbacks)

    def _meant(self, func: ast.expr, module: str, bound: Bound) -> Sequence[Function]:
        """The functions that an expression in a module can mean."""
        text = ast.unparse(func)
        if text in bound or text in self.late:
            return [*bound.get(text, ()), *self.late.get(text, ())]
        first, dot, rest = text.partition(".")
        origin = first if first in functions(self.modules[module]) else aliases(self.modules[module]).get(first, "")
        name = f"{module}.{origin}" if origin == first else f"{origin}{dot}{rest}"
        found = module_of(name, self.modules)
        inside = name.removeprefix(f"{found}.")
        if found is None or not inside.isidentifier():
            return []
        if inside in functions(self.modules[found]):
            return [Function(found, inside)]
        return self._meant(ast.Name(inside), found, {}) if inside in aliases(self.modules[found]) else []


@functools.cache
def functions(module: Module) -> dict[str, ast.FunctionDef]:
    """The functions at the top of a module."""
    return {node.name: node for node in ast.parse(module.source).body if isinstance(node, ast.FunctionDef)}


@functools.cache
def aliases(module: Module) -> dict[str, str]:
    """What the names that a module imports stand for."""
    found = {}
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, ast.ImportFrom):
            start = module.base[: len(module.base) - node.level + 1] if node.level else []
            origin = ".".join([*start, *(node.module.split(".") if node.module else [])])
            found.update({one.asname or one.name: f"{origin}.{one.name}" for one in node.names})
    return found


def holding(takes: ast.arguments) -> list[str]:
    """The parameters that are namespaces."""
    found = [*takes.posonlyargs, *takes.args, *takes.kwonlyargs]
    return [one.arg for one in found if one.annotation and "Namespace" in ast.unparse(one.annotation).split(".")]


def _parsed(node: ast.FunctionDef) -> Iterator[str]:
    """The names that a function gives to what `parse_args` returns."""
    for part in ast.walk(node):
        if isinstance(part, ast.Assign) and isinstance(part.value, ast.Call):
            target = part.targets[0]
            if ast.unparse(part.value.func).endswith(".parse_args") and isinstance(target, ast.Name):
                yield target.id


def _uses(node: ast.FunctionDef, held: str) -> Iterator[tuple[ast.Name, ast.AST]]:
    """Every place in which a function reads a name, and what it stands in there."""
    for parent in ast.walk(node):
        for child in ast.iter_child_nodes(parent):
            inner = child.value if isinstance(child, ast.keyword) else child
            if isinstance(inner, ast.Name) and inner.id == held and isinstance(inner.ctx, ast.Load):
                if not isinstance(parent, ast.keyword):
                    yield inner, parent
