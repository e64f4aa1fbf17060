"""The commands of `ldp-fast`: where each one lives, and how its words are read."""

from __future__ import annotations

import argparse
import difflib
import itertools
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ._terminal import quoted
from .errors import UsageError

# name: (module, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "text-to-3d": ("ldp_fast.apps.text_to_3d.command", "make a 3D object from a prompt"),
    "synthesize": ("ldp_fast.apps.synthesis.command", "make images from prompts, by optimising latents"),
    "adapt": ("ldp_fast.apps.adapt.command", "move a StyleGAN generator of pictures to another domain by a prompt"),
    "clip-mesh": ("ldp_fast.apps.clip_mesh.command", "make a textured mesh from a prompt, by CLIP alone"),
    "generate": ("ldp_fast.apps.generate", "make pictures of a generator, from seeds"),
    "ablate": ("ldp_fast.apps.synthesis.ablation", "compare LSD, LSD+FM, LSD+KL and all three in one figure"),
    "render": (
        "ldp_fast.apps.text_to_3d.pictures.command",
        "make a film or pictures of a run's object",
    ),
    "sweep": (
        "ldp_fast.apps.sweep.command",
        "make objects or images of many prompts, and a table of how good they are",
    ),
    "run": ("ldp_fast.apps.own", "run an application of your own, of one prompt"),
    "evaluate": ("ldp_fast.apps.evaluate.command", "measure results and pictures (R-Precision, FID, LPIPS, …)"),
    "export": ("ldp_fast.apps.text_to_3d.mesh.command", "write a text-to-3D run's object as a textured mesh"),
    "view": ("ldp_fast.apps.text_to_3d.viewer.command", "show a text-to-3d run's object in a browser, from all sides"),
    "convert-generator": ("ldp_fast.apps.convert_generator", "convert a StyleGAN2 of another format to ours"),
    "completion": ("ldp_fast._completion", "print a script that completes commands and options in a shell"),
    "env": ("ldp_fast.env_report", "print versions, devices and backends, for a bug report"),
}

# Those that several processes may do together, or that write nothing.
SHARED = ("text-to-3d", "adapt", "sweep", "completion", "env")

# Top-level modules that an extra brings, and which one.
EXTRAS = {
    "PIL": "apps",
    "accelerate": "diffusers",
    "av": "apps",
    "deodr": "mesh",
    "diffusers": "diffusers",
    "fast_simplification": "apps",
    "filelock": "apps",
    "huggingface_hub": "diffusers",
    "matplotlib": "apps",
    "open_clip": "openclip",
    "peft": "lora",
    "ray": "cluster",
    "pydantic": "apps",
    "safetensors": "diffusers",
    "scipy": "apps",
    "tensorboard": "apps",
    "torch_fidelity": "inception",
    "torchmetrics": "metrics",
    "torchvision": "inception",
    "shtab": "completion",
    "skimage": "apps",
    "tqdm": "apps",
    "transformers": "diffusers",
    "trimesh": "apps",
    "viser": "viewer",
    "xatlas": "apps",
    "yaml": "apps",
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' line breaks, shortens the usage, and states a default where the help does not."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size((100, 24)).columns, 110) - 2
        super().__init__(f"{prog} [options]", max_help_position=34, width=width)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None = None,
    ) -> None:
        """Names what is asked for only, arguments first: thirty options in brackets tell nobody anything."""
        if usage is None:
            shown = [a for a in actions if a.help is not argparse.SUPPRESS]
            words = [self._format_args(a, a.dest) for a in shown if not a.option_strings]
            # Behind them, for a flag of several values would take the arguments as more of its own.
            needed = [a for a in shown if a.option_strings and a.required]
            words += [f"{a.option_strings[-1]} {self._format_args(a, a.dest.upper())}" for a in needed]
            usage = " ".join(["%(prog)s", *(word.replace("%", "%%") for word in words)])
        super().add_usage(usage, [], [], prefix)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # By what it is, for 0 is equal to False.
        silent = action.default is None or action.default is False or action.default in ("", argparse.SUPPRESS)
        if action.help is None or silent or not action.option_strings or "default" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """Reports a wrong option like every other wrong value, and one that does not exist with the nearest that does."""

    # What of the command line `--help` has to follow: the flags may depend on the application that it names.
    named = ""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} {self.named}--help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; words that nothing takes may be a prompt without quotes."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            prompt, hint = getattr(found, "prompt", None), ""
            if isinstance(prompt, str) and not any(word.startswith("-") for word in rest):
                before = [getattr(found, a.dest) for a in self._actions if not a.option_strings and a.dest != "prompt"]
                whole = " ".join([prompt, *rest])
                hint = f"; put a prompt of several words in quotes: {self.prog} {quoted([*before, whole])}"
            self.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, once no option is misspelt: what is missing because of that would be complained of first."""
        words = sys.argv[1:] if args is None else list(args)
        below = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        if not below:
            self._check_spelling(words)
        elif words and words[0].replace("_", "-") in below[0].choices:
            words[0] = words[0].replace("_", "-")  # what follows is told by its own parser
        return super().parse_known_args(words, namespace)

    def _check_spelling(self, words: Sequence[str]) -> None:
        known = list(self._option_string_actions)
        for word in itertools.takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0]
            if not name.startswith("-") or name == "-" or " " in word or name in known or _is_number(word):
                continue
            if name.startswith("--") and any(flag.startswith(name) for flag in known):
                continue  # argparse takes a beginning that only one has
            plain = f"--{name.lstrip('-').replace('_', '-')}"
            near = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
            self.error(f"unknown option {name}: did you mean {near[0]}?" if near else f"unknown option {name}")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def parser_of(command: Any, name: str, words: Sequence[str]) -> Parser:
    """The parser of a command.

    Args:
        command: its module.
        name: as it is typed.
        words: of the command line behind it; some flags are those of the application that they name.
    """
    _, summary = COMMANDS[name]
    parser = Parser(prog=f"ldp-fast {name}", description=sentence(summary), formatter_class=HelpFormatter)
    declare(command, parser, name, words)
    if name == "run" and words and not words[0].startswith("-"):
        parser.named = f"{words[0]} "
    return parser


def declare(command: Any, parser: argparse.ArgumentParser, name: str, words: Sequence[str]) -> None:
    """Declares a command's flags on a parser."""
    command.add_arguments(parser, words) if name in ("sweep", "run") else command.add_arguments(parser)


def sentence(summary: str) -> str:
    """A line of help as a sentence."""
    return f"{summary[0].upper()}{summary[1:]}."
