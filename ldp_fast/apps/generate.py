"""`ldp-fast generate`: pictures of a generator, numbered, for people and for `ldp-fast evaluate`."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from typing import Any

import torch

from ..errors import UsageError
from ..generators import StyleGAN2, load, sampling
from ..metrics.pictures import SAMPLES, some
from ..runs import files
from ..runs.flags import number
from ..runs.folder import locked, sweep_up
from .adapted import located
from .evaluate.captioned import CSV, JSON, read_captions
from .options import check_device_flag
from .samples import SAME, Wanted, clear, held_in, paths, record_of, write_missing
from .targets import check_writable, occupied

MOST = 10**6  # names have six digits
FARTHEST = 2.0  # truncation
EXAMPLES = """\
examples:
  ldp-fast generate primitives --count 16 --out cubes
  ldp-fast generate afhqcat.safetensors --count 2000 --truncation 0.7 --out cats --device cuda
  ldp-fast generate out/a-red-sphere --count 500 --out spheres            the generator of a run of adapt
  ldp-fast evaluate fid spheres --against cubes --features clip:primitives/judge
  ldp-fast generate out/a-red-sphere --count 2000 --out spheres           1500 more, after an interruption the rest
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "generator",
        metavar="GENERATOR",
        help="an embedded model's (primitives), a folder or a .safetensors file of our format, or a run of adapt",
    )
    parser.add_argument("--count", type=int, required=True, metavar="N", help="how many pictures")
    parser.add_argument(
        "--truncation",
        type=number,
        default=1.0,
        metavar="PSI",
        help="how far w goes from its mean: 1 as in training, 0 not at all; below 1 less different and fewer that "
        "failed (default: 1; for metrics people take 0.7)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all the z")
    parser.add_argument(
        "--noise",
        choices=sampling.NOISES,
        default=sampling.FIXED,
        help="fixed: the generator's own, the same in all pictures; fresh: drawn for each",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="B",
        help=f"pictures at a time (default: {sampling.BATCH}, and fewer where they are large)",
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        required=True,
        metavar="DIR",
        help="folder for 000000.png, 000001.png, … and samples.json; pictures that it has already are not made again, "
        "but for damaged ones",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the samples that the folder already holds")


def run(args: argparse.Namespace) -> int:
    """The command. Returns 0."""
    wanted = Wanted(args.count, args.truncation, args.seed, args.noise, args.batch)
    _check_flags(wanted)
    check_device_flag(args.device)
    check_writable(args.out)
    place = located(args.generator)
    _check_folder(args.out)
    generator = load(place, args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    started = time.perf_counter()
    made = generate(generator, wanted, args.out, args.generator, overwrite=args.overwrite)
    before = f", {wanted.count - made} of them from before" if made < wanted.count else ""
    took = f"; {time.perf_counter() - started:.1f} s" if made else ""
    print(f"{args.out} ({wanted.count} pictures{before}; truncation {wanted.truncation:g}, seed {wanted.seed}{took})")
    return 0


def _check_flags(wanted: Wanted) -> None:
    for name, low, high in (("count", 1, MOST), ("batch", 1, MOST), ("seed", 0, 2**63 - 1)):
        value = getattr(wanted, name)
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{name}: expected {low} to {high}, got {value}")
    if abs(wanted.truncation) > FARTHEST:
        raise UsageError(f"--truncation: expected -{FARTHEST:g} to {FARTHEST:g}, got {wanted.truncation:g}")


def generate(
    generator: StyleGAN2,
    wanted: Wanted,
    out: pathlib.Path,
    name: str,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Writes the samples that a folder lacks, `samples.json`, and captions where the generator's prompt is known.

    Args:
        generator: that makes them.
        wanted: which of its pictures.
        out: the folder.
        name: of the generator, as it was typed.
        overwrite: whether other samples that are there are replaced.
        progress: whether to show a bar.

    Returns:
        How many pictures were made.

    Raises:
        UsageError: the folder holds something else or other samples, another process writes there, or pictures are
            not finite.
    """
    prompt = prompt_of(generator)
    record = {**record_of(generator, wanted, name), "captioned": prompt is not None}
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        sweep_up(out)
        before = _check_folder(out)
        if before and overwrite:
            if before.get("captioned"):
                (out / JSON).unlink(missing_ok=True)
            clear(out, before)
        elif before:
            _check_same(out, before, record)
        files.write_json(out / SAMPLES, record)
        made, again = write_missing(generator, wanted, out, label="generate", progress=progress)
        if prompt is not None:
            _write_captions(out, prompt, wanted.count)
    if again:
        print(f"note: {out}: damaged, and made again: {some(again)}", file=sys.stderr)
    return made


def prompt_of(generator: StyleGAN2) -> str | None:
    """What a generator was adapted to; None for any other."""
    adapted = generator.about.get("adapted")
    prompt = adapted.get("prompt") if isinstance(adapted, dict) else None
    return prompt if isinstance(prompt, str) and prompt.strip() else None


def _check_folder(out: pathlib.Path) -> dict[str, Any]:
    """The record of the samples that a folder holds; empty where it does not hold anything.

    Raises:
        UsageError: it holds something else.
    """
    if not out.exists():
        return {}
    if not (out / SAMPLES).exists() and occupied(out):
        raise UsageError(f"{out} is not empty and does not hold samples: choose another --out")
    return held_in(out)


def _check_same(out: pathlib.Path, before: dict[str, Any], record: dict[str, Any]) -> None:
    others = [f"{key} {before[key]}" for key in SAME if before[key] != record[key] and key != "weights"]
    if before["weights"] != record["weights"]:
        others.insert(0, f"of another generator, {before.get('generator')}")
    if others:
        raise UsageError(
            f"{out} holds other samples ({', '.join(others)}): choose another --out, or replace them with --overwrite"
        )
    if before["count"] > record["count"]:
        raise UsageError(
            f"--count: {out} is a folder of {before['count']} samples: give as many or more, choose another --out, or "
            f"replace them with --overwrite"
        )


def _write_captions(out: pathlib.Path, prompt: str, count: int) -> None:
    """Gives each picture the prompt as its caption, where it does not have one."""
    held = read_captions(out)
    if held is not None and held[0].name == CSV:
        print(f"note: {held[0]} stands for captions: {JSON} is not written", file=sys.stderr)
        return
    files.write_json(out / JSON, {**{path.name: prompt for path in paths(out, count)}, **(held[1] if held else {})})
