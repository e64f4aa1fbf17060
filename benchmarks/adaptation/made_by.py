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
HERE = pathlib.Path(__file__).parents[1]  # the benchmarks
# What decides which weights a run ends with: the application, its guidances with their mathematics and their texts, how
# the model is loaded and asked, the generator with what is known of its views.
ADAPTATION = (
    "apps/adapt/*.py",
    "apps/adapt/guides/*.py",
    "apps/adapted.py",
    "apps/clips.py",
    "apps/options.py",
    "clip/augment.py",
    "clip/guidance.py",
    "clip/losses.py",
    "clip/model.py",
    "clip/objectives.py",
    "clip/of_transformers.py",
    "clip/scaling.py",
    "clip/templates.py",
    "decoder/whole.py",
    "generators/files.py",
    "generators/layers.py",
    "generators/sampling.py",
    "generators/stylegan2.py",
    "guidance/inputs.py",
    "guidance/loading.py",
    "guidance/models.py",
    "guidance/noising.py",
    "guidance/outputs.py",
    "guidance/presets.py",
    "guidance/prior.py",
    "guidance/prompts.py",
    "guidance/read_from.py",
    "guidance/schedule.py",
    "guidance/schedulers.py",
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
    "zoo/generator.py",
    "zoo/world.py",
)
# Of these files those that make jobs, forecasts and pictures of a run, or what it is not: an application of one's own,
# a field of latents.
ASIDE = (
    "apps/adapt/entry.py",
    "apps/adapt/expected.py",
    "apps/adapt/idle.py",
    "apps/adapt/jobs.py",
    "apps/adapt/own.py",
    "apps/adapt/products.py",
    "reference/composite.py",
    "reference/hash_grid.py",
    "reference/latent_field.py",
    "reference/march_rays.py",
    "reference/occupancy.py",
)
# What the application imports beside, and why the weights do not depend on it.
NOT_DECIDING = {
    "__init__.py": "names what a package has",
    "*/__init__.py": "names what a package has",
    "_precision.py": "reads torch's switches",
    "_settings.py": "reads the environment",
    "apps/config_flag.py": "reads what is written to config.yaml, and the run's words are compared",
    "apps/hub.py": "no model of the hub is used here",
    "apps/memory.py": "expectations",
    "apps/progress.py": "for people",
    "apps/run_options.py": "how the loop stops, shows and writes",
    "apps/samples.py": "pictures of a finished run",
    "apps/targets.py": "where a command may write",
    "checks.py": "refuses, and changes nothing",
    "clip/of_open_clip.py": "the embedded CLIP is of transformers' kind",
    "clip/relevancy.py": "Text2LIVE's",
    "clip/towers.py": "a protocol",
    "clip/views.py": "Text2LIVE's",
    "decoder/*.py": "the decoder's passes are held to the VAE's own by tests",
    "errors.py": "refuses, and changes nothing",
    "generators/foreign.py": "files of other repositories",
    "guidance/capture.py": "the step as a CUDA graph is held to the step by tests",
    "guidance/check.py": "refuses, and changes nothing",
    "guidance/components.py": "loads the files that the plan has the digest of, as they are",
    "guidance/families.py": "no model is one file here",
    "guidance/lora.py": "there is none here",
    "guidance/packing.py": "the same products in another order of memory",
    "guidance/precision.py": "chooses among precisions only where it is asked to",
    "guidance/single_file.py": "no model is one file here",
    "guidance/vocabulary.py": "no model is one file here",
    "integrations/_adapter.py": "hosts",
    "integrations/_core.py": "hosts",
    "integrations/_host.py": "hosts",
    "integrations/_live.py": "hosts",
    "metrics/pictures.py": "reads folders of pictures",
    "metrics/weights.py": "files of public networks",
    "ops/*.py": "the operators are held to their definitions by tests",
    "runs/*.py": "drives the steps and writes what comes out; that a run goes on to the same bits tests hold",
    "zoo/loop.py": "trained the embedded models, whose files the plan has the digests of",
}
# What a solid's layers come of.
RENDERS = ("zoo/generator.py", "zoo/solids.py", "zoo/world.py")
OWN_RENDERS = ("adaptation/renders.py",)
# What a picture's numbers come of, beside the networks' weights, which have names: the measures, what they are held
# against (renders), and the truth.
MEASURES = (
    "clip/model.py",
    "clip/of_transformers.py",
    "generators/sampling.py",
    "metrics/clip_score.py",
    "metrics/features.py",
    "metrics/frechet.py",
    "metrics/lpips.py",
    "metrics/lpips_networks.py",
    "metrics/pairs.py",
    "metrics/retrieval.py",
    "metrics/truth.py",
    "zoo/captions.py",
    *RENDERS,
)
OWN_MEASURES = (
    "adaptation/identity.py",
    "adaptation/measures.py",
    "adaptation/plan.py",
    *OWN_RENDERS,
    "terms/measures.py",
    "terms/nearest.py",
)


def adaptation() -> str:
    """Of what adapts, as it is now on the disk."""
    return digest(files_of(ADAPTATION, ASIDE))


def measures() -> str:
    """Of what measures pictures, with the renders and the truth that they are held against."""
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
    """A module without its comments, docstrings and layout; one that cannot be read (it is being written) as it is."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return text
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
