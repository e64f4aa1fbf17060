"""The prior's options on a command line, the same for every application."""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
from typing import Any

import torch

from ..errors import UsageError
from ..guidance import PRESETS, LatentDiffusionPrior
from ..guidance.presets import find_preset

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Fields of PriorSettings that a run records and that the flags may change.
FIELDS = (
    "lambda_fm",
    "lambda_kl",
    "lambda_lsd",
    "guidance_scale",
    "guidance",
    "weighting",
    "scale",
    "nonfinite",
    "levels",
    "timestep_range",
    "anneal_to",
)
# What says which of a model's files are read; a run records those that were given.
FILES = ("variant", "config", "tokenizer")
NEGATIVE = "what to lead away from (default: the empty prompt; for SDXL zeros, as its pipeline does)"


def add_prior_arguments(parser: argparse.ArgumentParser, preset: str | None) -> None:
    """Adds the model's and the prior's flags; what is not given is left to the preset (None: the method's own)."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default="primitives",
        help="embedded model, folder in diffusers' format, one .safetensors file, or hub name (owner/name)",
    )
    model.add_argument("--variant", metavar="NAME", help="which of a folder's weights, such as fp16")
    model.add_argument(
        "--config", metavar="NAME", help="kind of one .safetensors: sd1, sd2-base, sd2-v, sdxl, …, or a folder"
    )
    model.add_argument("--tokenizer", metavar="DIR", help="vocabulary for one .safetensors: vocab.json and merges.txt")
    model.add_argument(
        "--lora", action="append", metavar="FILE[:W]", help="weights of a LoRA, fused times W (1); may be given again"
    )
    model.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    model.add_argument(
        "--dtype", help="float32, bfloat16 or float16 (default: float16 on a GPU, except the embedded model)"
    )
    prior = parser.add_argument_group("prior", "what is not given comes from the preset (docs/mathematics.md)")
    default = preset or "the method's own"
    prior.add_argument("--preset", default=preset, metavar="NAME", help=f"{', '.join(PRESETS)} (default: {default})")
    prior.add_argument("--lambda-fm", type=number, metavar="L1", help="weight of feature matching; 0 skips the decoder")
    prior.add_argument("--lambda-kl", type=number, metavar="L2", help="weight of the KL regulariser")
    prior.add_argument("--lambda-lsd", type=number, metavar="L3", help="weight of latent score distillation")
    prior.add_argument("--guidance-scale", type=number, metavar="S", help="of classifier-free guidance")
    prior.add_argument("--guidance", help="from_uncond or from_text")
    prior.add_argument("--weighting", help="w(t): uniform, dreamfusion or latent_nerf")
    prior.add_argument("--scale", help="latent, balanced or literal")
    prior.add_argument("--nonfinite", help="propagate, zero or raise")
    prior.add_argument("--levels", nargs="+", metavar="LEVEL", help="decoder levels: mid up0 up1 …")
    prior.add_argument("--timestep-range", nargs=2, type=number, metavar=("LOW", "HIGH"), help="such as 0.02 0.98")
    prior.add_argument("--anneal-to", type=number, metavar="HIGH", help="upper fraction at the end of the run")


def number(word: str) -> float:
    """A flag's value: any number but NaN and infinity, which no flag means anything by.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {word!r}")
    return value


def prior_configuration(args: argparse.Namespace) -> dict[str, Any]:
    """Model, device, precision and every resolved setting, as plain data for a run's record."""
    if args.dtype is not None and args.dtype not in DTYPES:
        raise UsageError(f"--dtype: expected one of {', '.join(DTYPES)}; got {args.dtype!r}")
    changes = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
    for name in ("levels", "timestep_range"):
        if name in changes:
            changes[name] = tuple(changes[name])
    settings = dataclasses.replace(find_preset(args.preset).settings, **changes)
    return {
        "model": args.model,
        **model_files(args),
        "device": args.device,
        "dtype": args.dtype,
        "preset": args.preset,
        "settings": {name: getattr(settings, name) for name in FIELDS},
    }


def model_files(args: argparse.Namespace) -> dict[str, Any]:
    """What was said about the model's files, for a run's record; `lora` as pairs of file and weight.

    Only what was given, so that a run without is the same as one from before there was a choice.

    Raises:
        UsageError: a weight that is no number.
    """
    found: dict[str, Any] = {name: given for name in FILES if (given := getattr(args, name)) is not None}
    if args.lora:
        found["lora"] = [file_and_weight(word) for word in args.lora]
    return found


def file_and_weight(word: str) -> list[Any]:
    """`FILE:WEIGHT` or `FILE` as both; a name may hold colons, and stands for itself where there is such a file.

    Raises:
        UsageError: no file's name, or a weight that is not finite.
    """
    file, colon, last = word.rpartition(":")
    within = "/" in last or "\\" in last  # of a drive, or of a folder with a colon
    if not colon or within or pathlib.Path(word).exists():
        file, last = word, "1"
    try:
        weight = float(last)
    except ValueError:
        weight = math.nan
    if not file or not math.isfinite(weight):
        raise UsageError(f"--lora: expected FILE or FILE:WEIGHT, such as style.safetensors:0.8; got {word!r}")
    return [file, weight]


def load_prior(configuration: dict[str, Any]) -> LatentDiffusionPrior:
    """The prior that a configuration describes, with per-sample gradients.

    Raises:
        UsageError: unknown model, device, level, ….
    """
    changes = dict(configuration["settings"])
    for name in ("levels", "timestep_range"):
        changes[name] = tuple(changes[name])
    dtype = DTYPES[configuration["dtype"]] if configuration["dtype"] else None
    files: dict[str, Any] = {name: configuration[name] for name in FILES if name in configuration}
    if "lora" in configuration:
        files["lora"] = [(file, weight) for file, weight in configuration["lora"]]
    prior = LatentDiffusionPrior.from_pretrained(
        configuration["model"],
        **files,
        preset=configuration["preset"],
        device=configuration["device"],
        dtype=dtype,
        batch_reduction="sum",
        **changes,
    )
    if prior.settings.lambda_fm != 0:
        try:
            _ = prior.decoder
        except (ValueError, TypeError) as error:
            raise UsageError(str(error)) from None
    return prior
