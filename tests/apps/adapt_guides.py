"""Guides of adaptation, each loaded once for all tests, and pictures, draws and an encoder of their own beside them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.apps.adapt.configuration import class_of
from ldp_fast.apps.adapt.defaults import resolve
from ldp_fast.apps.adapt.draws import Draws
from ldp_fast.apps.adapt.guides import load_guide
from ldp_fast.guidance import LatentDiffusionPrior, TimestepSampler
from ldp_fast.guidance.inputs import stack_noises

ALL = {"directional": 0.7, "reconstruction": 0.4, "lpips": 5.0}
DRAWS = Draws(seed=3, step=5, samples=(0, 1, 2))


GUIDES: dict[str, Any] = {}


def fresh_guide_of(**said: Any) -> Any:
    plain = resolve({}, {"prompt": "a red sphere", "device": "cpu", **said})
    return load_guide(class_of(plain).from_plain(plain))


def guide_of(**said: Any) -> Any:
    """A guide is not changed by what it does, so that one of a kind serves all tests."""
    key = repr(said)
    if key not in GUIDES:
        GUIDES[key] = fresh_guide_of(**said)
    return GUIDES[key]


def pictures(batch: int = 3, size: int = 64, seed: int = 0, spread: float = 0.6) -> Tensor:
    """Smooth pictures, some of whose values lie outside of [-1, 1]."""
    coarse = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return spread * F.interpolate(coarse, (size, size), mode="bicubic")


def drawn(prior: LatentDiffusionPrior, draws: Draws) -> dict[str, Tensor]:
    """t and ε as the guide draws them."""
    s = prior.settings
    sampler = TimestepSampler(len(prior.schedule), *s.timestep_range, s.anneal_to)
    generators, cpu = draws.generators(), torch.device("cpu")
    t = torch.cat([sampler.sample(1, cpu, generator, 0.0) for generator in generators])
    shape = (s.noises, *prior.latent_shape)
    return {"timesteps": t, "noise": stack_noises([torch.randn(shape, generator=g) for g in generators])}


def encoded(prior: LatentDiffusionPrior, x: Tensor) -> Tensor:
    """v of pictures, on their graph, by a resize and a straight clamp of its own."""
    if x.shape[-1] != 128:
        x = F.interpolate(x, (128, 128), mode="bilinear", antialias=x.shape[-1] > 128)
    straight = x + (x.clamp(-1, 1) - x).detach()
    return prior.encode(straight * 0.5 + 0.5, sample=False)


def close(found: Tensor, wanted: Tensor | None, tolerance: float = 1e-4) -> bool:
    assert wanted is not None, "autograd has found none"
    return bool((found - wanted).norm() <= tolerance * wanted.norm()) and bool(wanted.norm() > 0)


def on_pictures(guide: Any, x: Tensor, gradient: Tensor) -> Tensor:
    """What a gradient on v is on pictures."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(encoded(guide.prior, leaf), leaf, gradient)[0]
