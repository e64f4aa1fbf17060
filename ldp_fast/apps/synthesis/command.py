"""`ldp-fast synthesize`: an image from a prompt, by optimising a latent under the prior (paper §5.4)."""

from __future__ import annotations

import argparse
from typing import Any

from ...errors import UsageError
from ...runs import flags
from ...runs.names import as_typed
from .. import run_options
from ..config_flag import add_config_flag, start_from
from ..options import GROUPS, RUN
from ..unquoted import add_each_word, check_quotes
from .configuration import CHECKPOINT_EVERY, NAME, PRESET, Synthesis, resolve
from .run import APPLICATION

EXAMPLES = """\
examples:
  ldp-fast synthesize "a red cube"
  ldp-fast synthesize "a red cube" "a cyan torus with white stripes" --seeds 0 1 2 --out out/grid
  ldp-fast synthesize cube torus --each-word                              two prompts of one word each
  ldp-fast synthesize "a blue cone" --lambda-fm 0 --lambda-kl 0          latent score distillation alone
  ldp-fast synthesize "a photo of an owl" --model stable-diffusion-v1-5/stable-diffusion-v1-5 --device cuda
  ldp-fast synthesize --config out/grid/config.yaml --seeds 3 4             the same with other seeds
  ldp-fast synthesize --resume out/grid                                   after an interruption
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="one or several, each in quotes; an image is made for each prompt and seed",
    )
    add_each_word(parser)
    run_options.add_folder_flags(parser)
    run_options.add_preview_flags(parser)
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags that make a configuration."""
    add_config_flag(parser)
    unless = {"checkpoint_every": CHECKPOINT_EVERY, "preset": PRESET}
    flags.add_flags(parser, Synthesis, {RUN: None, **GROUPS}, defaults=unless)


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption that can be resumed."""
    options = run_options.read(args)
    check_quotes("synthesize", args.prompts, args.each_word)
    return run_options.carry_out(args, APPLICATION, Synthesis, options, configure, "prompts")


def configure(args: argparse.Namespace, **more: Any) -> Synthesis:
    """Checks the flags and resolves them to what config.yaml records.

    Args:
        args: the command line.
        more: settings in place of what it says, such as `prompts` and `settings`.

    Raises:
        UsageError: a value that is out of range, an unknown preset.
    """
    said, file = start_from(args, NAME)
    words = flags.given(args, Synthesis)
    if "prompts" not in more and getattr(args, "prompts", None):
        words["prompts"] = list(args.prompts)
    for name, value in more.items():
        words[name] = {**words.get(name, {}), **value} if isinstance(value, dict) else value
    if not words.get("prompts", said.get("prompts")):
        raise UsageError('prompt: expected at least one, such as ldp-fast synthesize "a red cube"')
    if "prompts" in words:
        words["prompts"] = [as_typed(prompt, "prompt") for prompt in words["prompts"]]
    if "negative_prompt" in words:
        words["negative_prompt"] = as_typed(words["negative_prompt"], "--negative-prompt")
    return flags.build(Synthesis, resolve(said, words), args, file)
