"""Prompts that may be one prompt without quotes: `ldp-fast synthesize a red cube`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .._terminal import ask, quoted
from ..errors import UsageError
from ..runs.names import as_typed


def add_each_word(parser: argparse.ArgumentParser) -> None:
    """Declares --each-word."""
    parser.add_argument(
        "--each-word",
        action="store_true",
        help="take each word as a prompt, not the words as one prompt without quotes",
    )


def check_quotes(command: str, prompts: Sequence[str], each_word: bool) -> None:
    """Asks, where several prompts are a word each, whether that was meant.

    Args:
        command: that they were given to.
        prompts: as they came.
        each_word: it was.

    Raises:
        UsageError: nobody says so; shows the quoted form.
    """
    if each_word or len(prompts) < 2 or any(len(prompt.split()) != 1 for prompt in prompts):
        return
    whole = quoted([as_typed(" ".join(prompts), "prompt")])
    if ask(f"{len(prompts)} prompts of one word each, and not {whole}? [y/N]") in ("y", "yes"):
        return
    raise UsageError(
        f"prompt: expected one in quotes, ldp-fast {command} {whole}, got {len(prompts)} single words; --each-word "
        "takes each of them for a prompt"
    )
