"""Digests of the code that cells, their measures and their renders depend on: what other code made is made anew.

Of each file counts what it does: comments, docstrings and how it is laid out do not.
"""

from __future__ import annotations

import ast
import hashlib
import pathlib
from collections.abc import Sequence

import ldp_fast

PACKAGE = pathlib.Path(ldp_fast.__file__).parent
HERE = pathlib.Path(__file__).parent
# What decides which weights a run ends with: the application, its guidances with their mathematics, the generator.
ADAPTATION = (
    "apps/adapt/*.py",
    "apps/adapt/guides/*.py",
    "apps/adapted.py",
    "apps/clips.py",
    "clip/augment.py",
    "clip/guidance.py",
    "clip/losses.py",
    "clip/objectives.py",
    "clip/scaling.py",
    "clip/templates.py",
    "generators/files.py",
    "generators/layers.py",
    "generators/sampling.py",
    "generators/stylegan2.py",
    "guidance/inputs.py",
    "guidance/noising.py",
    "guidance/outputs.py",
    "guidance/presets.py",
    "guidance/prior.py",
    "guidance/prompts.py",
    "guidance/schedule.py",
    "guidance/step.py",
    "guidance/terms.py",
    "guidance/text.py",
    "integrations/stylegan_fusion.py",
    "losses/*.py",
    "metrics/lpips_networks.py",
    # The operators by their definitions; that the faster versions compute the same, and the decoder, tests hold.
    "reference/*.py",
    "runs/seeds.py",
    "schedules.py",
)
# Of these files those that make jobs, forecasts and pictures of a run, or what it is not: an application of one's own,
# a field of latents.
ASIDE = (
    "apps/adapt/entry.py",
    "apps/adapt/expected.py",
    "apps/adapt/jobs.py",
    "apps/adapt/own.py",
    "apps/adapt/products.py",
    "reference/composite.py",
    "reference/hash_grid.py",
    "reference/latent_field.py",
    "reference/march_rays.py",
    "reference/occupancy.py",
)
# What a picture's numbers come of, beside the networks and the truth's thresholds, which have names and numbers.
MEASURES = (
    "metrics/clip_score.py",
    "metrics/features.py",
    "metrics/frechet.py",
    "metrics/lpips.py",
    "metrics/pairs.py",
    "metrics/retrieval.py",
)
OWN_MEASURES = ("identity.py", "measures.py", "renders.py")
# What a solid's layers come of.
RENDERS = ("zoo/generator.py", "zoo/solids.py", "zoo/world.py")
OWN_RENDERS = ("renders.py",)


def adaptation() -> str:
    """Of what adapts, as it is now on the disk."""
    return digest(files_of(ADAPTATION, ASIDE))


def measures() -> str:
    """Of what measures pictures."""
    return digest([*files_of(MEASURES), *(HERE / name for name in OWN_MEASURES)])


def renders() -> str:
    """Of what renders solids."""
    return digest([*files_of(RENDERS), *(HERE / name for name in OWN_RENDERS)])


def files_of(patterns: Sequence[str], aside: Sequence[str] = ()) -> list[pathlib.Path]:
    """The files of the package that patterns name, without some."""
    found = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    return sorted(found - {PACKAGE / name for name in aside})


def digest(paths: Sequence[pathlib.Path]) -> str:
    """Of what files do, sixteen digits."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.parent.name}/{path.name}\n{code_of(path.read_text(encoding='utf-8'))}\n".encode())
    return total.hexdigest()[:16]


def code_of(text: str) -> str:
    """A module without its comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
