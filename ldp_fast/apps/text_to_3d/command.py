"""`ldp-fast text-to-3d`: a 3D object from a prompt (paper §4.1, §5.1)."""

from __future__ import annotations

import argparse
from typing import Any

from ...errors import UsageError
from ...runs import flags
from ...runs.names import as_typed
from ...runs.settings import Wrong, hyphens, underscores
from .. import run_options
from ..config_flag import add_config_flag, start_from
from ..options import GROUPS, PRIOR, RUN
from .clip_sections import GROUP as CLIP
from .configuration import CHECKPOINT_EVERY, ramp, resolve
from .run import APPLICATION, PRODUCTS
from .sections import DREAM_FIELDS, NAME, REGULARISERS, SCENE, AnyMethod, DreamFields, JacobianNerf, TextTo3D, class_of

EXAMPLES = """\
examples:
  ldp-fast text-to-3d "a red torus"
  ldp-fast text-to-3d "a red torus" --method jacobian-nerf --steps 500 --preview 50
  ldp-fast text-to-3d "a blue cone" --lambda-fm 0 --lambda-kl 0          latent score distillation alone
  ldp-fast text-to-3d "a photo of an owl" --model stable-diffusion-v1-5/stable-diffusion-v1-5 --device cuda
  ldp-fast text-to-3d "a red torus" --guidance clip                      CLIP guides, as in DreamFields
  ldp-fast text-to-3d --config out/a-red-torus/config.yaml --seed 1       the same with another seed
  ldp-fast text-to-3d --resume out/a-red-torus                           after an interruption
"""


# Where argparse puts the value of --guidance, and what else it may be but clip.
GUIDANCE = "settings.guidance"
FORMULAS = ("from_uncond", "from_text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to make, in quotes")
    run_options.add_folder_flags(parser)
    add_run_arguments(parser)
    show = parser.add_argument_group("output")
    run_options.add_preview_flags(show)
    run_options.add_product_flags(show, PRODUCTS)
    show.add_argument("--viewer", action="store_true", help="show the object in a web page while it is made")
    show.add_argument("--port", type=int, default=8080, metavar="PORT", help="port of that page (default: 8080)")


def add_run_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Declares the flags that make a configuration; with `several` several methods and seeds can be named."""
    add_config_flag(parser, printed=not several)
    unsaid = "what is not given comes from the method and the model"
    groups = {RUN: unsaid, SCENE: f"a pair is a range that each view draws from; {unsaid}", **GROUPS}
    groups[PRIOR] = "what is not given comes from the method or the preset (docs/mathematics.md)"
    many = {"method": "method", "seed": "seeds"} if several else None
    unless = {"checkpoint_every": CHECKPOINT_EVERY, "preset": "the method's"}
    groups[CLIP] = "what is not given comes from the method and the CLIP (docs/dream_fields.md)"
    flags.add_flags(parser, AnyMethod, groups, several=many, defaults=unless)
    guidance = next(action for action in parser._actions if action.dest == GUIDANCE)
    guidance.help = f"{guidance.help}; clip: in place of the prior CLIP guides, as --method {DREAM_FIELDS} has it"
    parser.add_argument(
        "--quality",
        default="normal",
        metavar="Q",
        help="normal or high: with the embedded model three --noises, in a fifth to a half more time (default: normal)",
    )
    space = parser.add_argument_group(
        "regularisers",
        "a weight for each, or FIRST LAST FROM TO: from FIRST to LAST between the fractions FROM and TO of the run;\n"
        "what is not given comes from the method",
    )
    for name, meaning in REGULARISERS.items():
        place = f"regularisers.{name}"
        space.add_argument(
            f"--{name}",
            nargs="+",
            type=flags.number,
            dest=place,
            default=argparse.SUPPRESS,
            metavar="W",
            help=meaning,
        )


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption that can be resumed."""

    def watch(experiment: Any, name: str) -> Any:
        from .viewer import open_page

        return open_page(experiment.scene, args.port, title=name)

    options = run_options.read(args, PRODUCTS, watch if args.viewer else None)
    return run_options.carry_out(args, APPLICATION, AnyMethod, options, configure, "prompt", PRODUCTS)


def configure(args: argparse.Namespace, **more: Any) -> TextTo3D:
    """Checks the flags and resolves them to what config.yaml records.

    Args:
        args: the command line.
        more: settings in place of what it says, such as `prompt` and `settings`.

    Raises:
        UsageError: a value that is out of range, an unknown method or preset.
    """
    said, file = start_from(args, NAME)
    words = flags.given(args, AnyMethod)
    _choose_guide(args, words, more)
    if getattr(args, "prompt", None) is not None:
        words["prompt"] = args.prompt
    method = hyphens(str({**said, **words, **more}.get("method", "latent-nerf")))
    _check_flags(args, method)
    if method == DREAM_FIELDS and not more.get("settings"):
        more.pop("settings", None)
    for name in REGULARISERS:
        given = getattr(args, f"regularisers.{name}", None)
        if given is not None:
            words.setdefault("regularisers", {})[name] = list(ramp(name, given))
    for name, value in more.items():
        words[name] = {**words.get(name, {}), **value} if isinstance(value, dict) else value
    if not str(words.get("prompt", said.get("prompt")) or "").strip():
        raise UsageError('prompt: expected one, such as ldp-fast text-to-3d "a red torus"')
    for name, argument in (("prompt", "prompt"), ("negative_prompt", "--negative-prompt")):
        if isinstance(words.get(name), str):
            words[name] = as_typed(words[name], argument)
    own = {f"regularisers.{name}": f"--{name}" for name in REGULARISERS}
    if isinstance(getattr(args, "seed", None), list):
        own["seed"] = "--seeds"
    try:
        plain = resolve(said, words, args.quality)
    except Wrong as error:
        raise flags.refused(error, AnyMethod, args, file, own) from None
    return flags.build(class_of(plain), plain, args, file, own)


def _choose_guide(args: argparse.Namespace, words: dict[str, Any], more: dict[str, Any]) -> None:
    """Makes `--guidance clip` the method that it stands for."""
    if not guided_by_clip(args):
        said = getattr(args, GUIDANCE, None)
        if said is not None and underscores(str(said)) not in FORMULAS:
            raise UsageError(f"--guidance: expected one of {', '.join(FORMULAS)}, or clip; got {said!r}")
        return
    named = more.get("method", words.get("method", DREAM_FIELDS))
    if hyphens(str(named)) != DREAM_FIELDS:
        raise UsageError(f"--guidance clip: expected --method {DREAM_FIELDS}, or none; got {named}")
    words["method"] = DREAM_FIELDS
    del words["settings"]["guidance"]
    if not words["settings"]:
        del words["settings"]


def guided_by_clip(args: argparse.Namespace) -> bool:
    """Whether a command line says `--guidance clip`."""
    return getattr(args, GUIDANCE, None) == "clip"


def _check_flags(args: argparse.Namespace, method: str) -> None:
    """Refuses by name what CLIP's guidance lacks, or what it alone has."""
    guided = method == DREAM_FIELDS
    known = {flag.place for flag in flags.flags_of(DreamFields if guided else JacobianNerf)}
    if guided:
        known |= {"method", *([GUIDANCE] if guided_by_clip(args) else [])}
    for flag in flags.flags_of(AnyMethod):
        if flag.place not in known and hasattr(args, flag.place):
            if not guided:
                raise UsageError(f"{flag.name}: expected only with --guidance clip; the prior guides {method}")
            if flag.place == "field.resolution":
                raise UsageError(f"{flag.name}: {method} has a hash grid, not voxels")
            raise UsageError(f"{flag.name}: {method} does not have it, for CLIP guides and not the prior")
    for name in REGULARISERS if guided else ():
        if hasattr(args, f"regularisers.{name}"):
            raise UsageError(f"--{name}: {method} has none but the transmittance loss (--transmittance)")
