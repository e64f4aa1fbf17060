"""How far features and gradients of the frozen decoder are from float64, beside torch's own (docs/decoder.md).

    python -m benchmarks.decoder_accuracy --latents 8

Stable Diffusion 1.5's decoder with random weights, float32, levels up0 to up2; the gradient is that of a random sign an
element of each level, over the level's size, as feature matching's is.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldp_fast.decoder import FrozenDecoder

from .models import LEVELS, load, sample_latents


def hooked(vae: torch.nn.Module, latents: Tensor) -> list[Tensor]:
    """The levels of the VAE's own decoder, without what comes after them."""
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents / vae.config.scaling_factor)))
    found = []
    for block in decoder.up_blocks[: len(LEVELS)]:
        x = block(x)
        found.append(x)
    return found


def features_and_gradient(function: Callable[[Tensor], Sequence[Tensor]], latents: Tensor) -> list[Tensor]:
    """The features, and the gradient of their random signs."""
    leaf = latents.clone().requires_grad_()
    features = list(function(leaf))
    total = torch.zeros((), dtype=latents.dtype)
    for number, x in enumerate(features):
        signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(number)).sign().to(x.dtype)
        total = total + (x * signs).mean()
    (gradient,) = torch.autograd.grad(total, leaf)
    return [*(x.detach() for x in features), gradient]


def table(size: int) -> str:
    """The table, for latents [1, 4, size, size]."""
    vae, latents = load("SD 1.5", "cpu", unet=False).vae, sample_latents(size, "cpu")
    exact, last = copy.deepcopy(vae).double(), copy.deepcopy(vae).to(memory_format=torch.channels_last)
    truth = features_and_gradient(lambda v: hooked(exact, v), latents.double())
    columns = {
        "torch": features_and_gradient(lambda v: hooked(vae, v), latents),
        "torch, channels-last": features_and_gradient(
            lambda v: hooked(last, v.contiguous(memory_format=torch.channels_last)), latents
        ),
        "ours": features_and_gradient(FrozenDecoder(vae, LEVELS).features, latents),
    }
    lines = [f"| relative L2 error | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for row, name in enumerate((*LEVELS, "gradient to the latents")):
        errors = [float((x[row].double() - truth[row]).norm() / truth[row].norm()) for x in columns.values()]
        lines.append(f"| {name} | {' | '.join(f'{e:.1e}' for e in errors)} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=8, help="side of the latents (default: 8)")
    print(table(parser.parse_args().latents))


if __name__ == "__main__":
    main()
