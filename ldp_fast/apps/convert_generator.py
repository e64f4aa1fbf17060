"""`ldp-fast convert-generator`: a StyleGAN2 of another format, as a folder that `generate` and `adapt` take."""

from __future__ import annotations

import argparse
import pathlib
import sys

from ..errors import UsageError
from .targets import check_writable, occupied

EXAMPLES = """\
examples:
  ldp-fast convert-generator stylegan2-ffhq-config-f.pt --out ffhq      of rosinality's stylegan2-pytorch
  ldp-fast convert-generator afhqcat.pkl --out afhqcat                  of NVIDIA's stylegan2-ada-pytorch or stylegan3
  ldp-fast generate afhqcat --count 16 --truncation 0.7 --out cats

Nothing that is in a file is run: what it has beside tensors, numbers and text is refused by its name.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "file",
        type=pathlib.Path,
        metavar="FILE",
        help="a checkpoint (.pt) of rosinality's stylegan2-pytorch, or a pickle (.pkl) of a StyleGAN2 by NVIDIA's "
        "stylegan2-ada-pytorch or stylegan3; sizes and depth are read from it",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, metavar="DIR", help="folder for model.safetensors and config.json"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the generator that the folder already holds")


def run(args: argparse.Namespace) -> int:
    """The command. Returns 0."""
    from ..generators import save
    from ..generators.convert import convert

    check_writable(args.out)
    _check_folder(args.out, args.overwrite)
    generator = convert(args.file)
    notes = generator.about["notes"]
    for note in notes if isinstance(notes, list) else []:
        print(f"note: {args.file}: {note}", file=sys.stderr)
    save(args.out, generator)
    s = generator.settings
    clamp = "" if s.clamp is None else f", clamped to ±{s.clamp:g}"
    print(
        f"{args.out}: StyleGAN2 of {s.resolution} × {s.resolution} pixels, z of {s.z_dim}, w of {s.w_dim}, "
        f"{s.mapping_layers} mapping layers, channels {', '.join(map(str, s.channels))}{clamp}"
    )
    return 0


def _check_folder(out: pathlib.Path, overwrite: bool) -> None:
    """Checks that a generator may be written into a folder.

    Raises:
        UsageError: it holds one that is not to be replaced, or something else.
    """
    from ..generators.files import CONFIG, WEIGHTS, is_ours

    if not out.exists() or not occupied(out):
        return
    if not is_ours(out / WEIGHTS):
        raise UsageError(f"--out: {out} is not empty and does not hold a generator of ldp-fast: choose another --out")
    if not overwrite:
        there = [name for name in (WEIGHTS, CONFIG) if (out / name).exists()]
        raise UsageError(f"--out: {out} already holds {' and '.join(there)}: --overwrite replaces the generator")
