"""`ldp-fast clip-mesh`: a textured mesh from a prompt, by CLIP alone."""

from __future__ import annotations

import argparse

from ...runs import flags
from .. import run_options
from ..config_flag import add_config_flag
from ..options import MODEL, RUN
from .configuration import CHECKPOINT_EVERY, SCENE, ClipMesh, configure
from .run import APPLICATION, PRODUCTS

EXAMPLES = """\
examples:
  ldp-fast clip-mesh "a red torus"
  ldp-fast clip-mesh "a red torus" --steps 200 --preview 20 --out out/quick
  ldp-fast clip-mesh "a photo of an owl" --model openai/clip-vit-base-patch32 --device cuda
  ldp-fast clip-mesh --resume out/a-red-torus                             after an interruption
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to make, in quotes")
    run_options.add_folder_flags(parser)
    add_run_arguments(parser)
    show = parser.add_argument_group("output")
    run_options.add_preview_flags(show)
    run_options.add_product_flags(show, PRODUCTS)


def add_run_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Declares the flags that make a configuration; with `several` several seeds can be named."""
    add_config_flag(parser, printed=not several, kinds=False)
    groups = {RUN: "what is not given comes from the model", SCENE: "a pair is a range that each picture draws from"}
    many = {"seed": "seeds"} if several else None
    unsaid = {"checkpoint_every": CHECKPOINT_EVERY}
    flags.add_flags(parser, ClipMesh, {**groups, MODEL: None}, several=many, defaults=unsaid)


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption that can be resumed."""
    options = run_options.read(args, PRODUCTS)
    return run_options.carry_out(args, APPLICATION, ClipMesh, options, configure, "prompt", PRODUCTS)
