"""How much memory a step takes, told from sizes, before anything is computed.

Measured as the growth of a process on a CPU (benchmarks/memory.py); tests/apps/test_expected.py compares with that.
What a convolution's own library needs beside its result is not counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch

from ..decoder.free import free_bytes
from ..guidance import LatentDiffusionPrior
from ..guidance.check import bare, configured
from ..runs.expectation import Expectation
from .options import PriorOptions

# Tensors of the first block's width and the latents' size that live at a UNet's widest place, beside the skips.
WORKING, ATTENDING = 9, 10
# Tensors of the first block's width and the picture's size that a layer of an encoder takes: what is kept for its
# backward, and the highest point of that. Measured with the embedded model at 16² to 64² latents: 12.6 to 13.9.
ENCODED = 13
# Of what the decoder keeps with `save`: the highest point of a pass, and of one that recomputes.
SAVED, RECOMPUTED = 1.6, 1.3


class Placed(Protocol):
    """A model that is on a device."""

    @property
    def device(self) -> torch.device:
        """Where it is."""


def expectation(prior: Placed, needed: Mapping[str, int], seconds: float | None = None, ranks: int = 1) -> Expectation:
    """What the steps of a run take, on the prior's device as it is now.

    Args:
        prior: of the run; or another model that guides it.
        needed: bytes of one rank, by what they are for.
        seconds: of all steps, None where they were not measured.
        ranks: how many of the run's ranks share the device; each of them needs as much.
    """
    memory = {name: ranks * count for name, count in needed.items()}
    return Expectation(seconds, memory, free_bytes(prior.device), str(prior.device))


def prior_bytes(
    prior: LatentDiffusionPrior, settings: PriorOptions, samples: int, size: tuple[int, int]
) -> dict[str, int]:
    """Memory of the prior's gradient of a batch of latents, at its highest point: `UNet` or `feature matching`.

    The two are not there at the same time; the smaller one is left out.

    Args:
        prior: with its networks.
        settings: which terms there are, and how many noises a sample.
        samples: B of the latents.
        size: height and width of the latents.

    Raises:
        UsageError: there is feature matching, and the prior lacks a VAE, or has one that it does not know.
    """
    height, width = size
    batch = samples * settings.noises * (1 if prior.guidance_scale is None else 2)
    found = {"UNet": _unet(prior, batch * height * width)}
    if settings.lambda_fm:
        decoder = prior.decoder
        kept = decoder.kept_bytes((2 * samples, prior.latent_shape[0], height, width))
        recomputes = kept > free_bytes(prior.device) // 2
        found["feature matching"] = int(kept * (RECOMPUTED if recomputes else SAVED))
    largest = max(found, key=lambda name: found[name])
    return {largest: found[largest]}


def _unet(prior: LatentDiffusionPrior, pixels: int) -> int:
    net = bare(prior.unet)
    channels, layers = configured(net, "block_out_channels"), configured(net, "layers_per_block")
    if not channels:
        return 0  # somebody's own network
    repeats = list(layers) if isinstance(layers, (list, tuple)) else [layers or 1] * len(channels)
    skips = channels[0] + sum(
        (count * width + width / 4 * (index + 1 < len(channels))) / 4**index
        for index, (count, width) in enumerate(zip(repeats, channels, strict=False))
    )
    first = next(iter(configured(net, "down_block_types") or ("",)))
    working = WORKING + ATTENDING * ("Attn" in first)
    return int(pixels * (skips + working * channels[0]) * prior.dtype.itemsize)


def encoder_bytes(prior: LatentDiffusionPrior, pictures: int, pixels: int) -> int:
    """Memory of encoding pictures with their gradient; 0 for somebody's own VAE, whose configuration does not say.

    Args:
        prior: with a VAE.
        pictures: how many.
        pixels: per side.
    """
    vae: Any = prior.vae
    channels, layers = configured(vae, "block_out_channels"), configured(vae, "layers_per_block")
    if not channels:
        return 0
    itemsize = next(vae.parameters()).dtype.itemsize
    return int(pictures * pixels**2 * channels[0] * ENCODED * ((layers or 1) + 1) * itemsize)


def held_bytes(parameters: Iterable[torch.Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Memory that parameters and what an optimiser knows of them take already.

    Args:
        parameters: which; their gradients count where they have some.
        optimizer: of them; before its first step it does not hold anything.
    """
    moments = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    trained = list(parameters)
    gradients = [p.grad for p in trained if p.grad is not None]
    return sum(x.numel() * x.element_size() for x in (*trained, *gradients, *moments))


def optimised_bytes(parameters: int) -> int:
    """Memory of parameters in float32 that are optimised: themselves, their gradients and two moments, and a copy."""
    return 5 * parameters * torch.float32.itemsize


@contextlib.contextmanager
def counted(device: torch.device, without: Iterable[torch.Tensor] = ()) -> Iterator[dict[int, int]]:
    """Counts what autograd saves for a backward while it is computed: bytes by where they lie.

    The sum of the values is right once all of that has been computed and still lives, so that no two tensors had one
    place. Sparse tensors are left out.

    Args:
        device: whose memory is counted.
        without: what is there anyway, such as a network's weights.
    """
    known = {x.untyped_storage().data_ptr() for x in without}
    kept: dict[int, int] = {}
    # `cuda` is the present one of several, and not equal to `cuda:0`.
    where = torch.empty(0, device=device).device

    def note(x: torch.Tensor) -> torch.Tensor:
        if x.layout is torch.strided and x.device == where:
            storage = x.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        yield kept
