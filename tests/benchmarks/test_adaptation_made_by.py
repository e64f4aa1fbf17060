"""Which code cells of benchmarks.adaptation, their measures and renders are taken to depend on.

What is listed is held against what is imported: a module that the application comes to need is listed, or it is said
why no weight depends on it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.adaptation import made_by

BENCHMARKS = Path(made_by.__file__).parents[1]
# Of both packages, by the names under which they are imported.
ROOTS = {"ldp_fast": made_by.PACKAGE, "benchmarks": BENCHMARKS}


def file_of(parts: tuple[str, ...]) -> Path | None:
    """The file of a module, by the names in its path."""
    if not parts or parts[0] not in ROOTS:
        return None
    place = ROOTS[parts[0]].joinpath(*parts[1:])
    both = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return next((path for path in both if path.is_file()), None)


def name_of(path: Path) -> tuple[str, ...]:
    root = next(name for name, folder in ROOTS.items() if path.is_relative_to(folder))
    return (root, *path.relative_to(ROOTS[root]).with_suffix("").parts)


def imported(path: Path) -> Iterator[Path | None]:
    """What a module imports, in its functions too; not what only a type checker does."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    unseen = {inner for node in checked for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (file_of(tuple(alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name_of(path)[: -node.level] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            yield file_of(module)
            yield from (file_of((*module, alias.name)) for alias in node.names)


def closure(*roots: Path) -> set[Path]:
    """All that modules import, one by way of another."""
    found, left = set(roots), list(roots)
    while left:
        more = {path for path in imported(left.pop()) if path is not None} - found
        found |= more
        left += more
    return found


def test_what_the_application_imports_is_listed_or_it_is_said_why_not() -> None:
    found = closure(*(made_by.PACKAGE / "apps" / "adapt" / f"{name}.py" for name in ("run", "command")))
    names = {path.relative_to(made_by.PACKAGE).as_posix() for path in found}
    # What is imported within functions, and by way of others, is found.
    assert names > {"apps/adapt/guides/by_prior.py", "guidance/models.py", "decoder/whole.py", "zoo/world.py"}
    listed = set(made_by.files_of(made_by.ADAPTATION, made_by.ASIDE))
    aside = set(made_by.files_of([*made_by.ASIDE, *made_by.NOT_DECIDING]))
    assert not sorted(path.relative_to(made_by.PACKAGE).as_posix() for path in found - listed - aside)
    assert all(made_by.NOT_DECIDING.values())


def test_what_the_measures_import_of_benchmarks_and_the_world_is_listed() -> None:
    found = closure(BENCHMARKS / "adaptation" / "measures.py")
    mine = {path.relative_to(BENCHMARKS).as_posix() for path in found if path.is_relative_to(BENCHMARKS)}
    # Records and thresholds, which have numbers of their own; digests.
    aside = {f"terms/{name}.py" for name in ("branches", "plan", "runs")} | {"adaptation/made_by.py"}
    assert {name for name in mine if not name.endswith("__init__.py")} - aside == set(made_by.OWN_MEASURES)
    assert set(made_by.OWN_RENDERS) < set(made_by.OWN_MEASURES) and set(made_by.RENDERS) < set(made_by.MEASURES)


def test_no_pattern_stands_for_nothing() -> None:
    """One that a renamed file has left empty would."""
    named = (made_by.ADAPTATION, made_by.ASIDE, made_by.NOT_DECIDING, made_by.MEASURES, made_by.RENDERS)
    for pattern in (pattern for patterns in named for pattern in patterns):
        assert list(made_by.PACKAGE.glob(pattern)), pattern
    assert all((made_by.HERE / name).is_file() for name in (*made_by.OWN_MEASURES, *made_by.OWN_RENDERS))
    for listed in (made_by.ADAPTATION, made_by.ASIDE):
        assert not set(listed) & set(made_by.NOT_DECIDING)


def test_the_code_is_what_a_module_does_and_not_what_it_says() -> None:
    text = (
        '"""One."""\n# why\nclass A:\n    """Two."""\n\n    def f(self):\n        """Three."""\n        return 0.002\n'
    )
    same = "class A:\n    def f(self):\n\n        return (0.002)  # the paper's\n"
    assert made_by.code_of(text) == made_by.code_of(same)
    assert made_by.code_of(text) != made_by.code_of(text.replace("0.002", "0.02"))
    assert made_by.code_of('def f():\n    """Nothing."""\n') == made_by.code_of("def f(): pass\n")
    # Whoever edits meanwhile has changed it too.
    assert made_by.code_of("def f(:") == "def f(:"


@pytest.mark.parametrize("name", ["losses/functional.py", "zoo/generator.py", "guidance/loading.py"])
def test_the_digest_is_of_what_decides_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / name
    file.parent.mkdir()
    file.write_text("LAMBDA = 3\n")
    monkeypatch.setattr(made_by, "PACKAGE", tmp_path)
    before = made_by.adaptation()
    file.write_text('"""The losses."""\n\nLAMBDA = 3  # the paper\'s\n')
    assert made_by.adaptation() == before
    file.write_text("LAMBDA = 4\n")
    assert made_by.adaptation() != before


@pytest.mark.parametrize(
    ("root", "name", "rendered"),
    [
        ("PACKAGE", "metrics/truth.py", False),
        ("PACKAGE", "zoo/solids.py", True),
        ("HERE", "terms/measures.py", False),
        ("HERE", "adaptation/renders.py", True),
    ],
)
def test_numbers_are_of_the_truth_and_the_renders_too(
    root: str, name: str, rendered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, here = tmp_path / "package", tmp_path / "benchmarks"
    for own in made_by.OWN_MEASURES:
        (here / own).parent.mkdir(parents=True, exist_ok=True)
        (here / own).write_text("A = 1\n")
    for other in made_by.MEASURES:
        (package / other).parent.mkdir(parents=True, exist_ok=True)
        (package / other).write_text("A = 1\n")
    monkeypatch.setattr(made_by, "PACKAGE", package)
    monkeypatch.setattr(made_by, "HERE", here)
    before, solid = made_by.measures(), made_by.renders()
    ({"PACKAGE": package, "HERE": here}[root] / name).write_text("A = 2\n")
    assert made_by.measures() != before and (made_by.renders() != solid) == rendered
