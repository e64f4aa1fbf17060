"""What holds where nothing is said, and what a command line and a file make of a run of adaptation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...guidance.loading import embedded_folder, embedded_models
from ...guidance.presets import find_preset
from ...runs.configuration import merged
from ...runs.settings import Wrong, as_plain, hyphens, underscores
from ..adapted import root_of
from ..options import settle
from .configuration import BY_Z, DIRECTIONAL, GUIDANCES, HOST, LSD, NONE, AdaptPriorOptions

# Steps; where nothing else is said.
CHECKPOINT_EVERY, PRESET = 100, "stylegan"
# Of the prior's losses, what `lsd` leaves out.
TERMS = ("lambda_fm", "lambda_kl")
# Of a file's settings those that a run guided by CLIP does not have; their flags are refused by `command`.
PRIORS_OWN = (
    "settings",
    "regularisers",
    "view_prompts",
    "preset",
    "negative_prompt",
    "variant",
    "config",
    "tokenizer",
    "lora",
)
# What NADA guides with.
CLIPS = [["openai/clip-vit-base-patch32", 1.0], ["openai/clip-vit-base-patch16", 1.0]]
# Words by which a prompt says from where something is seen.
_A_VIEW = re.compile(
    r"\bviews?\b|\boverhead\b|\bfrom (?:above|below|behind|(?:the )?(?:front|side|back|top|left|right))\b"
    r"|,(?: (?:low|raised|high|front|side|back))+[ .]*$",
    re.IGNORECASE,
)
# What the embedded generator makes.
GENERATOR = "primitives"
SOURCES = {GENERATOR: "a cube"}
# StyleGANFusion, as its scripts really run: --lr 0.002 becomes 0.002 / 2 · 4/5, and 0.99 to the power of 4/5.
FULL: dict[str, Any] = {
    "steps": find_preset(PRESET).iterations,
    "batch": 1,
    "learning_rate": 8e-4,
    "betas": [0.0, 0.99**0.8],
    "samples": 2000,
    # t from 10 to 300 of 1000.
    "settings": {"timestep_range": [0.01, 0.3]},
}
# NADA's README: 301 iterations of two pictures, whose rate is not halved.
FULL_CLIP: dict[str, Any] = {**FULL, "steps": 300, "batch": 2, "learning_rate": 2e-3}
EMBEDDED: dict[str, Any] = {
    **FULL,
    "steps": 800,
    "batch": 2,
    "learning_rate": 2.5e-3,
    # A rate that makes a cone of a cube within minutes leaves the last weights restless.
    "ema": 0.98,
    # As the host's, without the strengths of noise: trained, noise is grain all over these plain pictures.
    "train": ["convs.*.weight"],
    "samples": 200,
    "settings": {
        "timestep_range": [0.02, 0.98],
        "anneal_to": 0.3,
        "guidance_scale": 5.0,
    },
}


def resolve(said: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    """All settings of a run, plain, from those that were said.

    Args:
        said: by a file.
        words: by flags, which win.

    Raises:
        Wrong: an unknown guidance, or a section that is not one.
        UsageError: an unknown preset.
    """
    known = merged(said, words)
    for name in ("settings", "regularisers"):
        if not isinstance(known.get(name) or {}, dict):
            raise Wrong(name, f"expected a section of settings, got {known[name]!r}")
    guidance = hyphens(str(known.get("guidance", GUIDANCES[0])))
    if guidance not in GUIDANCES:
        raise Wrong("guidance", f"expected one of {', '.join(GUIDANCES)}; got {known['guidance']!r}")
    known["guidance"] = guidance
    known.setdefault("model", "primitives")
    base: dict[str, Any] = {
        "seed": 0,
        "generator": GENERATOR,
        "train": [HOST],
        "checkpoint_every": CHECKPOINT_EVERY,
        "source_prompt": SOURCES.get(str(known.get("generator", GENERATOR))),
    }
    found = _of_clip(known) if guidance == DIRECTIONAL else _of_prior(known, words)
    return merged({**base, **found}, known)


def _of_clip(known: dict[str, Any]) -> dict[str, Any]:
    """What a run that CLIP guides has where nothing is said; drops from `known` what belongs to the prior."""
    for name in PRIORS_OWN:
        known.pop(name, None)
    model = str(known["model"])
    clips = known.get("clips") or ([[model, 1.0]] if embedded_folder(model) else CLIPS)
    known["clips"] = clips
    # A CLIP is small, so that half precision has to be asked for.
    known["dtype"] = known.get("dtype") or "float32"
    settle(known)
    embedded = all(embedded_folder(str(x[0])) for x in clips if isinstance(x, (list, tuple)) and x)
    return {name: x for name, x in (EMBEDDED if embedded else FULL_CLIP).items() if name != "settings"}


def _of_prior(known: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    """What a run that the prior guides has where nothing is said; drops from `known` what belongs to CLIP."""
    known.pop("clips", None)
    known.pop("templates", None)
    settle(known)
    views = _view_prompts(known, words)
    embedded = known["model"] in embedded_models()
    found = EMBEDDED if embedded else FULL
    name = underscores(str(known.get("preset", PRESET)))
    settings = as_plain(AdaptPriorOptions.of(find_preset(name).settings))
    if "preset" not in known:
        own = dict(found["settings"])
        if "timestep_range" in (known.get("settings") or {}):
            # Who says where t lies is not to find it elsewhere later.
            own.pop("anneal_to", None)
        settings |= own
    if known["dtype"] == "float16":
        # One overflow in half precision should not end a run of hours.
        settings["nonfinite"] = "zero"
    if known["guidance"] == LSD:
        # A file may be one of the whole loss; flags that ask for the other terms are refused by the configuration.
        settings |= dict.fromkeys(TERMS, 0.0)
        off = {name for name in TERMS if name not in words.get("settings", {})}
        known["settings"] = {name: x for name, x in (known.get("settings") or {}).items() if name not in off}
    return {**found, "view_prompts": views, "preset": PRESET, "settings": settings, "regularisers": {}}


def _view_prompts(known: dict[str, Any], words: dict[str, Any]) -> str:
    """Whether the views that z's say are put into the prompt, where nothing else is said; checks what is said.

    Raises:
        Wrong: they are asked for, and not known.
    """
    root = root_of(str(known.get("generator", GENERATOR)))
    # The embedded model knows these words; of others nobody has tried it.
    fits = root is not None and known["model"] in embedded_models() and views_are_free(known)
    said = known.get("view_prompts")
    of_other = "view_prompts" not in words and any(name in words for name in ("prompt", "generator", "truncation"))
    if said == BY_Z and of_other and not fits:
        # A file's, which was decided for another prompt or generator.
        said = None
    if said == BY_Z and root is None:
        raise Wrong(
            "view_prompts",
            f"expected {NONE} with a generator whose z's views are not known, got {BY_Z}; those of an embedded "
            "generator, and of one that was adapted from it, are",
        )
    if said is None:
        known.pop("view_prompts", None)
    return BY_Z if fits else NONE


def views_are_free(known: Mapping[str, Any]) -> bool:
    """Whether a picture is seen from where its z says, and the prompt does not say otherwise.

    Args:
        known: settings of a run, or some of them.
    """
    # A truncated picture is nearer to the average one than its z says.
    return not _A_VIEW.search(str(known.get("prompt", ""))) and known.get("truncation", 1.0) == 1.0
