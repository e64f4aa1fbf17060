"""A small prior with its inputs, for the tests of the whole step."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel

from ldp_fast.decoder import FrozenDecoder
from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, PriorStatistics, TextEmbeddings

from ..support.models import TEXT_WIDTH, scheduler, tiny_unet, tiny_vae


def make(
    device: str = "cpu", *, memory: str | None = None, prediction: str = "epsilon", **changes: Any
) -> tuple[LatentDiffusionPrior, torch.Tensor, TextEmbeddings]:
    """A prior on small networks, latents `[2, 4, 8, 8]` and one prompt; `memory` is the decoder's."""
    settings = PriorSettings(**{"lambda_fm": 0.3, "lambda_kl": 0.1, "guidance_scale": 3.0, **changes})
    vae = tiny_vae().to(device)
    decoder: Any = None if memory is None else FrozenDecoder(vae, settings.levels, memory=memory)  # type: ignore
    unet, sampler = tiny_unet().to(device), make_scheduler(prediction)
    prior = LatentDiffusionPrior(unet, vae, sampler, settings=settings, decoder=decoder)
    generator = torch.Generator().manual_seed(0)
    latents, text, uncond = (
        torch.randn(shape, generator=generator).to(device)
        for shape in ((2, 4, 8, 8), (1, 5, TEXT_WIDTH), (1, 5, TEXT_WIDTH))
    )
    return prior, latents, TextEmbeddings(text, uncond)


def unet_to_trace() -> UNet2DConditionModel:
    """The tiny UNet with cross-attention between its levels only: every kind of layer, and half as much to trace."""
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    torch.manual_seed(1)
    return UNet2DConditionModel.from_config({**tiny_unet().config, **kinds}).eval().requires_grad_(False)


def make_scheduler(prediction: str) -> Any:
    """Stable Diffusion's schedule, or a flow-matching one."""
    if prediction != "flow":
        return scheduler(prediction)
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler()


def fixed(latents: torch.Tensor, seed: int = 0, noises: int = 1) -> dict[str, torch.Tensor]:
    """t and ε that are given."""
    shape = (noises * len(latents), *latents.shape[1:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(latents.device)
    return {"timesteps": torch.tensor([100 + seed, 600], device=latents.device), "noise": noise}


def assert_near_graph(
    actual: tuple[torch.Tensor, PriorStatistics], expected: tuple[torch.Tensor, PriorStatistics]
) -> None:
    """Equal except for the order of sums, which a library may choose otherwise in a graph."""
    assert torch.equal(actual[1].timesteps, expected[1].timesteps)
    assert (actual[0] - expected[0]).norm() < 1e-3 * expected[0].norm()
    torch.testing.assert_close(actual[1].terms["lsd"], expected[1].terms["lsd"], rtol=1e-3, atol=1e-5)
