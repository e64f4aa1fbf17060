"""What guides an adaptation: the paper's loss, score distillation alone, or CLIP; one interface."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch
from torch import Tensor

from ....errors import UsageError
from ....guidance.loading import embedded_models
from ....metrics.lpips_networks import load_levels
from ...clips import load_named
from ...options import DTYPES, check_backend, load_prior
from ..configuration import DIRECTIONAL, LSD
from ..draws import Draws
from .by_clip import DirectionalGuide
from .by_prior import PriorGuide, Regularisers
from .perceptual import Perceptual

__all__ = ["DirectionalGuide", "Guide", "Perceptual", "PriorGuide", "Regularisers", "load_guide"]


class Guide(Protocol):
    """What a generator's pictures are moved by.

    Attributes:
        device: where it computes.
        model: what refuses prompts that it does not know, in `encode_prompt`.
        wants_sources: whether `gradient` looks at the source's pictures.
        columns: names of what it records.
        losses: of them what are losses.
        shown: what a log line shows of them.
    """

    @property
    def device(self) -> torch.device: ...
    @property
    def model(self) -> Any: ...
    @property
    def wants_sources(self) -> bool: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def losses(self) -> tuple[str, ...]: ...
    @property
    def shown(self) -> tuple[str, ...]: ...

    def gradient(
        self, pictures: Tensor, sources: Tensor, draws: Draws, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """dL/d pictures of the sum over the samples, and what `columns` says of each sample."""


def load_guide(configuration: Any, device: str | None = None) -> Guide:
    """The guide that a configuration describes.

    Args:
        configuration: of a run, `configuration.PriorGuided` or `configuration.ClipGuided`.
        device: in place of the configuration's.

    Raises:
        UsageError: a model, a CLIP, a network or a device that cannot be used; a prompt that they do not know.
    """
    c = configuration
    return _by_clip(c, device) if c.guidance == DIRECTIONAL else _by_prior(c, device)


def _by_prior(c: Any, device: str | None) -> PriorGuide:
    prior = load_prior(c, device)
    if c.guidance == LSD:
        prior = prior.with_settings(lambda_fm=0.0, lambda_kl=0.0)
    o = c.regularisers
    guide = PriorGuide(
        prior,
        c.prompt,
        c.negative_prompt,
        clamp=o.clamp,
        pixel_clip=c.pixel_clip,
        regularisers=Regularisers(o.directional, o.reconstruction),
    )
    if o.lpips:
        network = o.lpips_network or network_of(c.model)
        try:
            levels = load_levels(network, o.lpips_weights, None, prior.device)
        except UsageError as error:
            name, _, said = str(error).partition(": ")
            # As they are called here; what is not said of either is of the network.
            field, said = ("lpips_weights", said) if name == "weights" else ("lpips_network", str(error))
            raise UsageError(f"regularisers.{field}: {said.removeprefix('backbone: ')}") from None
        distance = Perceptual(levels, guide.size)
        guide.regularisers = dataclasses.replace(guide.regularisers, perceptual=o.lpips, distance=distance)
    return guide


def network_of(model: str) -> str:
    """What LPIPS looks through where nobody says: VGG16 as the host, for an embedded model its own VAE's encoder."""
    return f"vae:{model}" if model in embedded_models() else "vgg"


def _by_clip(c: Any, device: str | None) -> DirectionalGuide:
    where = device or c.device or "cpu"
    check_backend(where)
    dtype = DTYPES[c.dtype] if c.dtype else None
    if where == "cpu" and c.device != "cpu" and dtype is torch.float16:
        dtype = torch.float32  # as `load_prior`: what a GPU computes in half precision a CPU computes in full
    clips = [(load_named("--guidance-clip", name, where, dtype), weight) for name, weight in c.clips]
    return DirectionalGuide(clips, c.source_prompt, c.prompt, templates=c.templates, pixel_clip=c.pixel_clip)
