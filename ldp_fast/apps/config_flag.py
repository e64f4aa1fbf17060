"""--config: a file of settings that a command starts from, or what kind of model one file is."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from ..errors import UsageError
from ..guidance.families import FAMILIES
from ..runs.configuration import read_yaml
from ..runs.settings import hyphens


def add_config_flag(parser: argparse.ArgumentParser, *, printed: bool = True, kinds: bool = True) -> None:
    """Declares --config and --print-config; see `start_from`.

    Args:
        parser: of the command.
        printed: whether --print-config is told of in the help.
        kinds: whether a diffusion model is loaded, whose kind --config may name too.
    """
    start = "a run's config.yaml to start from (other flags win over it)"
    kind = "; or what kind of model one .safetensors file is: sd1, sd2-base, sd2-v, sdxl, …, or a folder; may be given "
    parser.add_argument(
        "--config",
        action="append",
        default=argparse.SUPPRESS,
        metavar="FILE.yaml|NAME" if kinds else "FILE.yaml",
        help=f"{start}{kind}once for each" if kinds else start,
    )
    told = "print all settings as YAML, and do nothing else" if printed else argparse.SUPPRESS
    parser.add_argument("--print-config", action="store_true", help=told)


def start_from(args: argparse.Namespace, application: str) -> tuple[dict[str, Any], pathlib.Path | None]:
    """What --config says: the settings of a YAML, with the model's `config` among them, and the YAML's name.

    Raises:
        UsageError: several of a kind, or a YAML that is missing, damaged or another command's.
    """
    found: dict[str, Any] = {}
    files = [word for word in getattr(args, "config", []) if word.lower().endswith((".yaml", ".yml"))]
    names = [word for word in getattr(args, "config", []) if word not in files]
    if len(files) > 1 or len(names) > 1:
        raise UsageError("--config: expected one YAML file of settings and one kind of model at most")
    file = pathlib.Path(files[0]) if files else None
    if file is not None:
        found = read_yaml(file, partly=True)
        named = found.pop("application", application)
        if named != application:
            raise UsageError(f"{file}: these are settings of ldp-fast {named}, not of ldp-fast {application}")
    if names:
        found["config"] = hyphens(names[0]) if hyphens(names[0]) in FAMILIES else names[0]
    return found, file
