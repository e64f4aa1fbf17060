"""Adaptations that take no time: a tiny generator, and a guide that wants its pictures red."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.apps.adapt import run
from ldp_fast.apps.adapt.configuration import Adaptation, class_of
from ldp_fast.apps.adapt.defaults import resolve
from ldp_fast.apps.adapt.draws import Draws
from ldp_fast.apps.adapt.experiment import AdaptExperiment
from ldp_fast.generators import Settings, StyleGAN2, save

PROMPT = "a red sphere"


def tiny(resolution: int = 16, seed: int = 0) -> StyleGAN2:
    """A generator with random weights, whose noise has some strength."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = (8,) * (resolution.bit_length() - 2)
        found = StyleGAN2(Settings(resolution=resolution, z_dim=6, w_dim=8, mapping_layers=2, channels=channels))
        for layer in found.styled().values():
            if hasattr(layer, "noise_strength"):
                nn.init.constant_(layer.noise_strength, 0.3)
    found.average(64)
    found.about["made"] = "by a test"
    return found


def saved(folder: pathlib.Path, seed: int = 0) -> str:
    """Such a generator's folder."""
    save(folder, tiny(seed=seed))
    return str(folder)


class Red:
    """Σ (picture − red − a little noise)² / 2 over the samples."""

    losses = shown = ("distance",)
    columns = ("distance", "norm_pixels")
    device = torch.device("cpu")

    def __init__(self, wants_sources: bool = True):
        self.wants_sources, self.model = wants_sources, self
        self.seen: list[tuple[Draws, float]] = []

    def encode_prompt(self, prompt: str) -> Tensor:
        return torch.zeros(1)

    def gradient(
        self, pictures: Tensor, sources: Tensor, draws: Draws, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert not pictures.requires_grad and not sources.requires_grad
        self.seen.append((draws, progress))
        noise = torch.stack([torch.randn(pictures.shape[1:], generator=g) for g in draws.generators()])
        wanted = pictures.new_tensor([1.0, -1.0, -1.0])[:, None, None] + 0.1 * noise
        found = pictures - wanted
        return found, {"distance": found.square().mean((1, 2, 3)), "norm_pixels": found.flatten(1).norm(dim=1)}


def configuration(generator: str = "-", **said: Any) -> Adaptation:
    known = {"prompt": PROMPT, "device": "cpu", "steps": 4, "batch": 2, "samples": 3, "frames": 4, **said}
    plain = resolve({}, {"generator": generator, "source_prompt": "a cube", "train": ["host"], **known})
    return class_of(plain).from_plain(plain)


def experiment(guide: Any = None, source: Any = None, rank: int = 0, world: int = 1, **said: Any) -> AdaptExperiment:
    return AdaptExperiment(configuration(**said), guide or Red(), source or tiny(), rank=rank, world=world)


def guided_by_red(patch: pytest.MonkeyPatch, **options: Any) -> None:
    """Runs of the command are guided by it."""
    patch.setattr(run, "load_guide", lambda configuration, device=None: Red(**options))
