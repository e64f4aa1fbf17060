"""From the diffusion model's latents to the VAE's, whatever the configuration says, in every place that goes there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldp_fast.decoder import FrozenDecoder
from ldp_fast.decoder.units import LatentUnits
from ldp_fast.decoder.whole import run, working_dtype
from ldp_fast.guidance import LatentDiffusionPrior

from ..support.models import scheduler, tiny_autoencoder, tiny_unet, tiny_vae
from .common import all_levels, kl, with_gradient

MEAN, STD = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]  # Playground 2.5's
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "playground": {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD},
    "nested": {"scaling_factor": 0.5, "latents_mean": [[x] for x in MEAN], "latents_std": [[x] for x in STD]},
    "shift": {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    "all": {"scaling_factor": 0.5, "shift_factor": 0.1, "latents_mean": MEAN, "latents_std": STD},
    "plain": {"scaling_factor": 0.13025},
}


def configured(name: str) -> Any:
    vae = kl(latent_channels=4)
    vae.register_to_config(**CONFIGURATIONS[name])
    return vae


def by_the_pipelines(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """diffusers' StableDiffusionXLPipeline, and the shift of StableDiffusion3Pipeline."""
    config = vae.config
    z = latents / config.scaling_factor
    if config.latents_mean is not None:
        mean, std = (
            torch.tensor(x, dtype=latents.dtype).view(1, 4, 1, 1) for x in (config.latents_mean, config.latents_std)
        )
        z = latents * std / config.scaling_factor + mean
    return z + (config.shift_factor or 0.0)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_there_and_back(name: str) -> None:
    vae, latents = configured(name), torch.randn(2, 4, 3, 5, dtype=torch.float64)
    units = LatentUnits.of(vae)
    torch.testing.assert_close(units.to_vae(latents), by_the_pipelines(vae, latents), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(units.from_vae(units.to_vae(latents)), latents, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_features_and_their_gradient(name: str, by_hand: bool) -> None:
    vae = configured(name).double()
    if not by_hand:
        vae.decoder.conv_in.register_forward_hook(lambda module, args, out: out.clone())
    decoder, latents = FrozenDecoder(vae, all_levels(vae)), torch.randn(2, 4, 3, 4, dtype=torch.float64)
    found: dict[str, torch.Tensor] = {}
    blocks = {"mid": vae.decoder.mid_block} | {f"up{i}": b for i, b in enumerate(vae.decoder.up_blocks)}

    def own(x: torch.Tensor) -> list[torch.Tensor]:
        hooks = [b.register_forward_hook(lambda m, i, o, n=n: found.__setitem__(n, o)) for n, b in blocks.items()]
        vae.decode(by_the_pipelines(vae, x))
        for hook in hooks:
            hook.remove()
        return [found[level] for level in decoder.levels]

    (ours, grad), (theirs, truth) = with_gradient(decoder.features, latents), with_gradient(own, latents)
    assert ("in.0" in decoder.fallbacks) is not by_hand
    for x, y in zip((*ours, grad), (*theirs, truth), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9 * float(y.abs().max()))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_prior_decodes_and_encodes(name: str) -> None:
    vae = configured(name)
    prior = LatentDiffusionPrior(tiny_unet(), vae, scheduler())
    latents, images = torch.randn(1, 4, 3, 4), torch.rand(1, 3, 16, 24)
    expected = (vae.decode(by_the_pipelines(vae, latents)).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(prior.decode(latents), expected, rtol=1e-5, atol=1e-5)
    found = prior.encode(images, sample=False)
    torch.testing.assert_close(
        by_the_pipelines(vae, found), vae.encode(images * 2 - 1).latent_dist.mode(), rtol=1e-4, atol=1e-4
    )


def overflowing() -> Any:
    """Within float32, but not within float16: SDXL's trouble."""
    vae = tiny_vae()
    vae.register_to_config(force_upcast=True)
    for part in (vae.decoder.up_blocks[1], vae.encoder.down_blocks[0]):
        part.resnets[0].conv2.weight.mul_(1e5)
    return vae.half()


def test_a_vae_that_has_to_be_upcast_is_in_both_directions() -> None:
    """As its pipeline does it; the VAE keeps its precision."""
    vae = overflowing()
    latents, images = torch.randn(1, 4, 3, 4), torch.rand(1, 3, 24, 32, requires_grad=True)
    assert not vae.decode((latents / 0.18215).half()).sample.isfinite().all()
    prior = LatentDiffusionPrior(tiny_unet(), vae, scheduler())
    picture, encoded = prior.decode(latents), prior.encode(images, sample=False)
    assert picture.isfinite().all() and encoded.isfinite().all()
    assert torch.autograd.grad(encoded.sum(), images)[0].isfinite().all()
    assert all(p.dtype == torch.float16 for p in vae.parameters())
    exact = vae.float()
    torch.testing.assert_close(
        picture,
        (exact.decode(latents / exact.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1),
        rtol=1e-4,
        atol=1e-4,
    )


def test_working_precisions() -> None:
    vae = tiny_vae()
    assert working_dtype(vae) == torch.float32 and working_dtype(vae.bfloat16()) == torch.bfloat16
    vae.half().register_to_config(force_upcast=True)
    assert working_dtype(vae) == torch.float32
    vae.register_to_config(force_upcast=False)
    assert working_dtype(vae) == torch.float16
    z = torch.randn(1, 4, 2, 2)
    # Another precision on request, and a kind whose result is not an output of diffusers.
    assert run(vae, "decode", z, torch.float64).sample.dtype == torch.float64
    assert run(tiny_autoencoder(), "decode", z).sample.shape[1] == 3


def test_errors_name_what_is_missing() -> None:
    vae = kl(latent_channels=4)
    vae.register_to_config(latents_mean=[0.0] * 4)
    with pytest.raises(ValueError, match="expected latents_mean and latents_std of one length"):
        FrozenDecoder(vae)
    vae.register_to_config(latents_std=[1.0] * 4)
    assert FrozenDecoder(vae).scaling_factor == vae.config.scaling_factor
    with pytest.raises(ValueError, match="latents: expected 4 channels, as the VAE's latents_mean has"):
        LatentUnits.of(vae).to_vae(torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize(
    "wrong", [0, 0.0, -0.18215, float("nan"), float("inf"), "0.18215", True, [0.1], torch.zeros(2)], ids=repr
)
def test_a_scaling_factor_that_is_no_positive_number(wrong: Any) -> None:
    """Zero was a ZeroDivisionError, a negative one turned the latents around, NaN gave pictures of NaN."""
    vae = kl(latent_channels=4)
    with pytest.raises(ValueError, match=r"^scaling_factor: expected a positive number, got"):
        FrozenDecoder(vae, scaling_factor=wrong)
    decoder = FrozenDecoder(vae)
    vae.register_to_config(scaling_factor=wrong)
    for call in (
        lambda: FrozenDecoder(vae),
        lambda: decoder.features(torch.zeros(1, 4, 2, 2)),
        lambda: LatentDiffusionPrior(tiny_unet(), vae, scheduler()).decode(torch.zeros(1, 4, 2, 2)),
    ):
        with pytest.raises(ValueError, match="scaling_factor: expected a positive number, got"):
            call()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"shift_factor": float("nan")}, "shift_factor: expected a finite number, got nan"),
        ({"shift_factor": "0.1"}, "shift_factor: expected a finite number, got '0.1'"),
        (
            {"latents_mean": [0.0] * 3 + [float("inf")], "latents_std": [1.0] * 4},
            "finite numbers as latents_mean .* inf",
        ),
        ({"latents_mean": MEAN, "latents_std": [1.0, 0.0, 1.0, 1.0]}, "positive numbers as latents_std of its config"),
        ({"latents_mean": MEAN, "latents_std": "none"}, "positive numbers as latents_std .* got 'none'"),
    ],
)
def test_other_entries_that_are_no_numbers(entries: dict[str, Any], words: str) -> None:
    vae = kl(latent_channels=4)
    vae.register_to_config(**entries)
    with pytest.raises(ValueError, match=words):
        FrozenDecoder(vae)


def test_a_scaling_factor_in_a_tensor() -> None:
    """As CompVis' models have it."""
    for factor in (torch.tensor(0.5), torch.tensor([0.5], dtype=torch.float64), 1):
        assert FrozenDecoder(kl(latent_channels=4), scaling_factor=factor).scaling_factor == float(factor)
