"""`ldp-fast adapt`: a generator of pictures is moved to another domain by a prompt (paper §4.1, §5.2)."""

from __future__ import annotations

import argparse
from typing import Any

from ...errors import UsageError
from ...runs import flags
from ...runs.names import as_typed
from ...runs.settings import Wrong, hyphens
from .. import run_options
from ..adapted import anchored
from ..config_flag import add_config_flag, start_from
from ..options import GROUPS, RUN
from .configuration import CLIP, DIRECTIONAL, GENERATOR, GUIDANCES, NAME, Adaptation, AnyGuidance, ClipGuided, class_of
from .defaults import CHECKPOINT_EVERY, PRESET, TERMS, resolve
from .idle import check_idle
from .run import APPLICATION, PRODUCTS

EXAMPLES = """\
examples:
  ldp-fast adapt "a red sphere"
  ldp-fast adapt "a red sphere" --guidance lsd --steps 100 --preview 20 --out out/quick
  ldp-fast adapt "a red sphere" --guidance clip-directional                StyleGAN-NADA's way
  ldp-fast adapt "photo of a dog" --generator afhqcat/ --model stable-diffusion-v1-5/stable-diffusion-v1-5 --device cuda
  ldp-fast adapt --config out/a-red-sphere/config.yaml --seed 1             the same with another seed
  ldp-fast adapt --resume out/a-red-sphere                                after an interruption
"""
# Texts that may have been typed in another encoding.
TEXTS = (("prompt", "prompt"), ("negative_prompt", "--negative-prompt"), ("source_prompt", "--source-prompt"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what the generator shall make, in quotes")
    run_options.add_folder_flags(parser)
    add_run_arguments(parser)
    show = parser.add_argument_group("output")
    run_options.add_preview_flags(show)
    run_options.add_product_flags(show, PRODUCTS)


def add_run_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Declares the flags that make a configuration; with `several` several guidances and seeds can be named."""
    add_config_flag(parser, printed=not several)
    unsaid = "what is not given comes from the guidance and the model"
    groups = {RUN: unsaid, GENERATOR: None, **GROUPS, CLIP: None}
    many = {"guidance": "guidance", "seed": "seeds"} if several else None
    unless = {"checkpoint_every": CHECKPOINT_EVERY, "preset": PRESET}
    flags.add_flags(parser, AnyGuidance, groups, several=many, defaults=unless)


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption that can be resumed."""
    options = run_options.read(args, PRODUCTS)
    return run_options.carry_out(args, APPLICATION, AnyGuidance, options, configure, "prompt", PRODUCTS)


def configure(args: argparse.Namespace, **more: Any) -> Adaptation:
    """Checks the flags and resolves them to what config.yaml records.

    Args:
        args: the command line.
        more: settings in place of what it says, such as `prompt`. Where `guidance` is among them, flags that this one
            does not have are for the others of a sweep.

    Raises:
        UsageError: a value that is out of range, an unknown guidance or preset.
    """
    said, file = start_from(args, NAME)
    words = {**flags.given(args, AnyGuidance), **more}
    guidance = hyphens(str({**said, **words}.get("guidance", GUIDANCES[0])))
    if "guidance" in more:
        _drop_others(words, guidance)
    else:
        _check_flags(args, guidance)
    if "prompt" not in more and getattr(args, "prompt", None) is not None:
        words["prompt"] = args.prompt
    if not str(words.get("prompt", said.get("prompt")) or "").strip():
        raise UsageError('prompt: expected one, such as ldp-fast adapt "a red sphere"')
    for name, argument in TEXTS:
        if isinstance(words.get(name), str):
            words[name] = as_typed(words[name], argument)
    own = {"seed": "--seeds"} if isinstance(getattr(args, "seed", None), list) else None
    try:
        plain = resolve(said, words)
        # A run is continued from any folder.
        plain["generator"] = anchored(plain["generator"]) if isinstance(plain["generator"], str) else plain["generator"]
        found = class_of(plain).from_plain(plain)
        check_idle(words, found)
    except Wrong as error:
        raise flags.refused(error, AnyGuidance, args, file, own) from None
    return found


def _check_flags(args: argparse.Namespace, guidance: str) -> None:
    """Refuses by name the flags that belong to another guidance."""
    known = {flag.place for flag in flags.flags_of(class_of({"guidance": guidance}))}
    for flag in flags.flags_of(AnyGuidance):
        # An embedded model's CLIP is the one that guides where no other is named.
        if flag.place not in known and hasattr(args, flag.place):
            other = "ldp or lsd" if guidance == DIRECTIONAL else DIRECTIONAL
            raise UsageError(f"{flag.name}: expected only with --guidance {other}, got {guidance}")


def _drop_others(words: dict[str, Any], guidance: str) -> None:
    """Leaves out what this guidance does not have, in place."""
    cls = class_of({"guidance": guidance})
    known = {flag.place.partition(".")[0] for flag in flags.flags_of(cls)} | {"prompt"}
    for name in [name for name in words if name not in known]:
        del words[name]
    if cls is not ClipGuided and guidance != GUIDANCES[0]:
        settings = {name: x for name, x in words.get("settings", {}).items() if name not in TERMS}
        words.pop("settings", None)
        if settings:
            words["settings"] = settings
