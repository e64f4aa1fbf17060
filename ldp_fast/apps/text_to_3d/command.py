"""`ldp-fast text-to-3d`: a 3D object from a prompt (paper §4.1, §5.1)."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import UsageError
from ...guidance.loading import embedded_models
from ...guidance.presets import find_preset
from .. import files, folders
from ..names import as_typed, name_of
from ..options import NEGATIVE, add_prior_arguments, number, prior_configuration
from .configuration import (
    BACKGROUND_OPTIONS,
    BACKGROUNDS,
    EMBEDDED,
    FULL,
    METHODS,
    REGULARISERS,
    check,
    constant,
    defaults,
    read_configuration,
)
from .jobs import run_status
from .run import run_text_to_3d

EXAMPLES = """\
examples:
  ldp-fast text-to-3d "a red torus"
  ldp-fast text-to-3d "a red torus" --method jacobian-nerf --steps 500 --preview 50
  ldp-fast text-to-3d "a blue cone" --lambda-fm 0 --lambda-kl 0          latent score distillation alone
  ldp-fast text-to-3d "a photo of an owl" --model stable-diffusion-v1-5/stable-diffusion-v1-5 --device cuda
  ldp-fast text-to-3d --resume out/a-red-torus                           after an interruption
"""
# Flags that may be given beside --resume: they change what is shown, not the run.
HARMLESS = ("resume", "preview", "viewer", "port", "profile")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to make")
    folders.add_arguments(parser)
    add_run_arguments(parser)
    show = parser.add_argument_group("to watch it")
    show.add_argument("--preview", type=int, metavar="N", help="write DIR/preview.png every N steps")
    show.add_argument("--viewer", action="store_true", help="show it in a web page as it grows")
    show.add_argument("--port", type=int, default=8080, metavar="PORT", help="of that page (default: 8080)")
    show.add_argument("--profile", action="store_true", help="print where a step's time goes")


def add_run_arguments(parser: argparse.ArgumentParser, *, methods: bool = False) -> None:
    """Declares the flags that make a configuration; with `methods` several methods and seeds can be named."""
    many: dict[str, Any] = {"nargs": "+"} if methods else {}
    run = parser.add_argument_group("run", "what is not given comes from the method and the model")
    run.add_argument(
        "--method",
        default=["latent-nerf"] if methods else "latent-nerf",
        metavar="M",
        help=f"{' or '.join(METHODS)} (default: latent-nerf)",
        **many,
    )
    run.add_argument("--steps", type=int, metavar="N", help="iterations (default: the paper's; embedded model: fewer)")
    run.add_argument("--refinement-steps", type=int, metavar="N", help="iterations in RGB afterwards (latent-nerf)")
    run.add_argument("--refinement-size", type=int, metavar="N", help="pixels per side that they render")
    if methods:
        run.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="default: 0")
    else:
        run.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    run.add_argument("--negative-prompt", default="", metavar="TEXT", help=NEGATIVE)
    run.add_argument("--checkpoint-every", type=int, default=200, metavar="N", help="steps (default: 200)")
    run.add_argument("--keep", type=int, default=3, metavar="N", help="checkpoints that are kept (default: 3)")
    run.add_argument("--views", type=int, metavar="N", help="views a step (default: 1; embedded model: 2)")
    run.add_argument("--size", type=int, metavar="N", help="latents per side (default: 64; embedded model: its own)")
    run.add_argument("--supersample", type=int, metavar="N", help="rays per latent and axis (default: 1 or 2)")
    run.add_argument("--learning-rate", type=number, metavar="LR", help="of the optimiser (default: the method's)")
    run.add_argument("--final-rate", type=number, metavar="F", help="fraction of the rate left at the end")
    run.add_argument("--no-view-prompts", action="store_true", help="the same prompt for every direction")
    run.add_argument(
        "--no-variance-reduction", action="store_true", help="keep the noise in the gradient (SJC's var_red False)"
    )
    run.add_argument(
        "--sigma-range", nargs=2, type=number, metavar=("LOW", "HIGH"), help="noise levels σ/α in place of a range of t"
    )
    scene = parser.add_argument_group("scene")
    scene.add_argument("--background", metavar="KIND", help=f"{', '.join(BACKGROUNDS)}")
    scene.add_argument("--azimuth", nargs=2, type=number, metavar=("LOW", "HIGH"), help="degrees (default: all around)")
    scene.add_argument("--elevation", nargs=2, type=number, metavar=("LOW", "HIGH"), help="degrees")
    scene.add_argument("--radius", nargs=2, type=number, metavar=("LOW", "HIGH"), help="of the cameras")
    scene.add_argument("--fov", nargs=2, type=number, metavar=("LOW", "HIGH"), help="degrees")
    scene.add_argument("--overhead", type=number, metavar="SHARE", help="share of the views from above")
    scene.add_argument("--voxels", type=int, metavar="N", help="vertices along an axis (jacobian-nerf)")
    scene.add_argument("--steps-per-ray", type=int, metavar="N", help="samples along the box's diagonal")
    space = parser.add_argument_group(
        "regularisers", "a weight each, or FIRST LAST FROM TO: its values before and after two fractions of the run"
    )
    for name, meaning in REGULARISERS.items():
        space.add_argument(f"--{name}", nargs="+", type=number, metavar="W", help=meaning)
    add_prior_arguments(parser, preset=None)


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption that can be resumed."""
    if args.preview is not None and args.preview < 1:
        raise UsageError(f"--preview: expected at least 1, got {args.preview}")
    shown = {"preview": args.preview, "viewer": args.port if args.viewer else None, "profile": args.profile}
    if args.resume:
        if args.prompt or args.out:
            raise UsageError("--resume takes the prompt and everything else from its folder; give it alone")
        folders.refuse_changes(args, HARMLESS)
        configuration = read_configuration(args.resume)
        if run_status(args.resume).get("status") == "finished":
            print(f"{args.resume} is finished already: {args.resume / 'views.png'}")
            return 0
        return run_text_to_3d(args.resume, configuration, **shown)
    configuration = configure(args)
    folder = args.out or pathlib.Path("out") / name_of(configuration["prompt"])
    folders.check_free(folder, "config.yaml", args.overwrite)
    return run_text_to_3d(folder, configuration, overwrite=args.overwrite, **shown)


def _ramp(name: str, given: Sequence[float]) -> list[float]:
    if len(given) not in (1, 4):
        raise UsageError(f"--{name}: expected a weight, or FIRST LAST FROM TO; got {len(given)} numbers")
    return constant(given[0]) if len(given) == 1 else list(given)


def configure(args: argparse.Namespace) -> dict[str, Any]:
    """Checks the flags and resolves them to what config.yaml records.

    Raises:
        UsageError: a value that is out of range, an unknown method or preset.
    """
    if not args.prompt or not args.prompt.strip():
        raise UsageError('prompt: expected one, such as ldp-fast text-to-3d "a red torus"')
    args = argparse.Namespace(**vars(args))  # the caller's stays as it was given
    embedded = args.model in embedded_models()
    # Recorded as they will be, so that another machine does not take others.
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.dtype = args.dtype or ("float16" if args.device.startswith("cuda") and not embedded else "float32")
    if args.nonfinite is None and args.dtype == "float16":
        # One overflow in half precision is no reason to end a run of hours.
        args.nonfinite = "zero"
    c = defaults(args.method, embedded)
    own = (EMBEDDED if embedded else FULL)[args.method].get("prior", {}) if args.preset is None else {}
    if args.preset is None:
        args.preset = METHODS[args.method]
    preset = find_preset(args.preset)
    ranged = args.timestep_range is not None or args.sigma_range is not None
    for name, value in own.items():
        # Who says where t lies is not to find it elsewhere later.
        if getattr(args, name) is None and not (ranged and name in ("anneal_to", "timestep_range")):
            setattr(args, name, value)
    steps = EMBEDDED[args.method]["steps"] if embedded else preset.iterations
    if args.sigma_range is not None and args.timestep_range is not None:
        raise UsageError("--sigma-range and --timestep-range: give one of them")
    for name in ("size", "supersample", "views", "steps_per_ray"):
        if getattr(args, name) is not None:
            c[name] = getattr(args, name)
    for name in ("learning_rate", "final_rate"):
        if getattr(args, name) is not None:
            c["optimizer"][name] = getattr(args, name)
    for name in ("azimuth", "elevation", "radius", "fov", "overhead"):
        if getattr(args, name) is not None:
            c["cameras"][name] = getattr(args, name)
    for name in REGULARISERS:
        if getattr(args, name) is not None:
            c["regularisers"][name] = _ramp(name, getattr(args, name))
    if args.background is not None and args.background != c["background"]["kind"]:
        c["background"] = {"kind": args.background, **BACKGROUND_OPTIONS.get(args.background, {})}
    if args.voxels is not None:
        if args.method != "jacobian-nerf":
            raise UsageError("--voxels: latent-nerf has a hash grid, no voxels")
        if not 2 <= args.voxels <= 512:
            raise UsageError(f"--voxels: expected 2 to 512, got {args.voxels}")
        c["field"]["resolution"] = args.voxels
    if args.refinement_steps is not None:
        if c["refinement"] is None:
            raise UsageError(f"--refinement-steps: {args.method} has no refinement")
        c["refinement"]["steps"] = args.refinement_steps
    if args.refinement_size is not None:
        if c["refinement"] is None:
            raise UsageError(f"--refinement-size: {args.method} has no refinement")
        c["refinement"]["size"] = args.refinement_size
    if c["refinement"] and c["refinement"]["steps"] == 0:
        c["refinement"] = None
    configuration = {
        "prompt": as_typed(args.prompt, "prompt"),
        "negative_prompt": as_typed(args.negative_prompt, "--negative-prompt"),
        "method": args.method,
        "seed": args.seed,
        "steps": steps if args.steps is None else args.steps,
        "view_prompts": not args.no_view_prompts,
        "variance_reduction": not args.no_variance_reduction,
        "sigma_range": args.sigma_range,
        "checkpoint_every": args.checkpoint_every,
        "keep": args.keep,
        **c,
        **prior_configuration(args),
    }
    check(configuration)
    return files.plain(configuration)
