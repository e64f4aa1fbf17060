"""The examples in docstrings give what they say, and each main class has one."""

from __future__ import annotations

import ast
import doctest
from collections.abc import Iterator

import pytest

from .installation import ROOT

MAIN = (
    "decoder.frozen.FrozenDecoder",
    "guidance.prior.LatentDiffusionPrior",
    "losses.feature_matching.FeatureMatchingLoss",
    "losses.modules.LatentKLLoss",
    "losses.modules.ScoreDistillationLoss",
    "metrics.retrieval.ClipScorer",
    "nerf.cameras.Cameras",
    "nerf.fields.LatentField",
    "nerf.hash_grid.HashGrid",
    "nerf.occupancy.OccupancyGrid",
    "nerf.optimiser.FusedAdam",
    "nerf.renderer.LatentRenderer",
)


def documented(name: str, node: ast.AST) -> Iterator[tuple[str, str]]:
    """Name and docstring of a module and of what is in it."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
        yield name, ast.get_docstring(node) or ""
        for inner in node.body:
            yield from documented(f"{name}.{getattr(inner, 'name', '')}", inner)


def examples() -> dict[str, doctest.DocTest]:
    """Every docstring of the package that has an example."""
    found = {}
    for path in sorted((ROOT / "ldp_fast").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if ">>> " not in source:
            continue
        module = ".".join(path.relative_to(ROOT / "ldp_fast").with_suffix("").parts)
        for name, docstring in documented(module, ast.parse(source)):
            example = doctest.DocTestParser().get_doctest(docstring, {}, name, str(path), 0)
            if example.examples:
                found[name] = example
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_gives_what_it_says(name: str) -> None:
    example, said = EXAMPLES[name], list[str]()
    assert any(part.want for part in example.examples), "an example shows a result"
    failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not failed, "".join(said)


def test_each_main_class_has_one() -> None:
    assert not set(MAIN) - EXAMPLES.keys()


def test_an_example_that_lies_fails() -> None:
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "it", None, None)
    assert doctest.DocTestRunner(verbose=False).run(example, out=lambda said: None)[0] == 1
