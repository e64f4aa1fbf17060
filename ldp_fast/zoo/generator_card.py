"""Measures the embedded generator as its card states it: `python -m ldp_fast.zoo.generator_card`.

Samples against renders of what their z say (PSNR) and of other z (FID by the embedded CLIP's features); the mean
distance of all pairs of samples, and of renders, of LPIPS' form by the embedded VAE's encoder. `--out DIR` draws a
figure: samples beside renders, truncation, interpolation, styles mixed.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import numpy as np
import torch
from torch import Tensor

from .._terminal import make_printable
from ..clip import Clip
from ..generators import StyleGAN2, load
from ..generators.sampling import in_unit_range, latents, pictures
from ..metrics import ClipFeatures, Lpips, all_pairs, fid
from .generator import attributes, mixed, recoloured, white_cube

SEED, COLUMNS = 777_000, 10
# The rows of the figure, from the top.
ROWS = (
    "renders of what the z say",
    "samples",
    "the same, truncated to 0.7",
    "the same, truncated to 0.4",
    "from the first z to the second",
    "from the first w to the second",
    "pose of the first, colours of each",
    "pose of each, colours of the first",
)


def renders(z: Tensor | np.ndarray) -> Tensor:
    """What the pictures of z [N, 8] should show, [N, 3, 64, 64] in [0, 1]."""
    seen = attributes(z)
    shades, coverages = (np.stack(parts) for parts in zip(*map(white_cube, seen.views()), strict=True))
    return torch.from_numpy(recoloured(shades, coverages, seen)).float()


def measure(generator: StyleGAN2, count: int, model: str = "primitives") -> dict[str, float]:
    """Every number of the card, of `count` samples without truncation."""
    z = latents(SEED, 0, 2 * count, generator.z_dim)
    made, wanted, others = pictures(generator, z[:count]), renders(z[:count]), renders(z[count:])
    features, lpips = ClipFeatures(Clip.load(model, "cpu")), Lpips.load(f"vae:{model}")
    return {
        "psnr": float(-10 * (made - wanted).square().mean().log10()),
        "fid": fid(features(made), features(others)),
        "fid_of_renders": fid(features(wanted), features(others)),
        "pairs": all_pairs(lpips(made), alike=0).mean,
        "pairs_of_renders": all_pairs(lpips(wanted), alike=0).mean,
        "truncated_pairs": all_pairs(lpips(pictures(generator, z[:count], 0.7)), alike=0).mean,
    }


@torch.no_grad()
def rows(generator: StyleGAN2) -> Tensor:
    """The pictures of `ROWS`, one row after another, `COLUMNS` each."""
    z = latents(SEED + 1, 0, COLUMNS, generator.z_dim)
    way = torch.linspace(0, 1, COLUMNS)[:, None]
    first, second = (generator.mapping(z[i : i + 1]) for i in (0, 1))
    ahead = z[:1].expand(COLUMNS, -1)
    of_w = [
        generator.mapping(z),
        generator.mapping(z, 0.7),
        generator.mapping(z, 0.4),
        generator.mapping((1 - way) * z[0] + way * z[1]),
        (1 - way[..., None]) * first + way[..., None] * second,
        mixed(generator, ahead, z),
        mixed(generator, z, ahead),
    ]
    return torch.cat([renders(z), *(in_unit_range(generator.synthesis(w)) for w in of_w)])


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module's text."""
    if arguments is None:
        make_printable()
    parser = argparse.ArgumentParser(prog="python -m ldp_fast.zoo.generator_card", description=__doc__)
    parser.add_argument("--generator", default="primitives", help="which one (default: primitives)")
    parser.add_argument("--samples", type=int, default=500, help="of each measurement (default: 500)")
    parser.add_argument("--out", type=pathlib.Path, help="folder for results.json and generator.png")
    args = parser.parse_args(arguments)
    generator = load(args.generator)
    results = measure(generator, args.samples)
    print(json.dumps(results, indent=2))
    if args.out:
        from ..runs import files, image_files

        files.write_json(args.out / "results.json", results)
        image_files.save_png(args.out / "generator.png", image_files.contact_sheet(rows(generator), COLUMNS))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
