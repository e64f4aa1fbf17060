"""Samples depend on their seed and number alone, and a generator of anybody's is drawn from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.errors import UsageError
from ldp_fast.generators import Settings, StyleGAN2, sampling, usual_channels


class Toy(nn.Module):
    """The least that a generator has: z as the colour of a plain picture."""

    z_dim = 3

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))
        self.batches: list[int] = []

    def mapping(self, z: Tensor) -> Tensor:
        self.batches.append(len(z))
        return z * self.scale

    def synthesis(self, w: Tensor) -> Tensor:
        return w[:, :, None, None].expand(-1, -1, 2, 2)


class Truncated(Toy):
    """One that has truncation and noise."""

    def mapping(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        return super().mapping(z) * truncation

    def synthesis(self, w: Tensor, noise: list[torch.Generator] | None = None) -> Tensor:
        images = super().synthesis(w)
        if noise is None:
            return images
        return images + torch.stack([torch.randn(images.shape[1:], generator=g) for g in noise])


def test_a_sample_depends_on_its_seed_and_number_alone() -> None:
    z = sampling.latents(7, 0, 10, 64)
    assert torch.equal(z[4:9], sampling.latents(7, 4, 5, 64))
    assert not torch.equal(z, sampling.latents(8, 0, 10, 64))
    assert len({tuple(row.tolist()) for row in z}) == 10
    assert abs(float(z.mean())) < 5 / math.sqrt(640) and abs(float(z.std()) - 1) < 5 / math.sqrt(1280)


def test_the_noise_of_a_sample_is_apart_from_its_z() -> None:
    first, second = sampling.noises(7, 4, 2)
    drawn = torch.randn(64, generator=first)
    assert torch.equal(drawn, torch.randn(64, generator=sampling.noises(7, 4, 1)[0]))
    assert not torch.equal(drawn, torch.randn(64, generator=second))
    assert not torch.equal(drawn, sampling.latents(7, 4, 1, 64)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pictures_are_clamped_halves(dtype: torch.dtype) -> None:
    z = torch.tensor([[-1.0, 0.0, 1.0], [-3.0, 0.5, 3.0]])
    found = sampling.pictures(Toy(dtype), z)
    assert found.shape == (2, 3, 2, 2) and found.dtype == torch.float32 and not found.requires_grad
    assert torch.equal(found[:, :, 0, 0], torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.75, 1.0]]))


def test_batches_do_not_change_pictures() -> None:
    toy, z = Truncated(), sampling.latents(0, 0, 7, 3)
    noise = [sampling.noises(0, 0, 7) for _ in range(2)]
    whole = sampling.pictures(toy, z, 0.5, noise=noise[0])
    assert torch.equal(sampling.pictures(toy, z, 0.5, batch=3, noise=noise[1]), whole)
    assert toy.batches == [7, 3, 3, 1]
    assert not torch.equal(sampling.pictures(toy, z, 0.5), whole)
    assert not torch.equal(sampling.pictures(toy, z), sampling.pictures(toy, z, 0.5))


def of_side(resolution: int) -> StyleGAN2:
    """What sampling asks a generator of a size, without its weights."""
    made = StyleGAN2(Settings(resolution=8, z_dim=2, w_dim=2, mapping_layers=1, channels=(2, 2)))
    made.settings = Settings(resolution=resolution, channels=usual_channels(resolution))
    return made


def test_large_pictures_are_made_few_at_a_time() -> None:
    batches = {side: sampling.batch_of(of_side(side)) for side in (8, 64, 256, 512, 1024, 4096)}
    assert batches == {8: 16, 64: 16, 256: 8, 512: 4, 1024: 2, 4096: 1}
    other = Toy()
    assert sampling.batch_of(other) == 16
    other.resolution = 1024  # type: ignore[assignment]
    assert sampling.batch_of(other) == 2
    z = sampling.latents(0, 0, 5, 3)
    assert torch.equal(sampling.pictures(other, z), sampling.pictures(other, z, batch=5))
    assert other.batches == [2, 2, 1, 5]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_a_picture(value: float) -> None:
    z = torch.zeros(5, 3)
    z[3, 1] = value
    with pytest.raises(UsageError, match="samples 2 to 3 came out with NaN or infinity"):
        sampling.pictures(Toy(), z, batch=2)


def test_the_least_is_nothing() -> None:
    assert sampling.latents(0, 0, 0, 5).shape == (0, 5)
    assert len(sampling.pictures(Toy(), torch.zeros(0, 3))) == 0
