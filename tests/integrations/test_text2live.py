"""Text2LIVE: the prior beside `LossG`, the residual latent, the mask; images of any sizes; the host's real classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldp_fast import LatentDiffusionPrior, UsageError
from ldp_fast.guidance import TextEmbeddings
from ldp_fast.integrations import text2live

from ..support.models import scheduler, tiny_unet, tiny_vae
from .hosts import checkout, imported
from .oracle import FakeHost, assert_same, regularisers

LAMBDAS = {"lambda_fm": 1e-5, "lambda_kl": 1e-7, "lambda_lsd": 1e-6}  # the paper's
DRAWS = {"timesteps": 300, "noise": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))}


def a_prior(**changes: Any) -> LatentDiffusionPrior:
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), scheduler())
    return prior.with_settings(**{**LAMBDAS, "guidance_scale": 7.5, **changes})


def guidance_of(prior: LatentDiffusionPrior | None = None, **options: Any) -> text2live.LayeredGuidance:
    text = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
    embeddings = TextEmbeddings(text[1:], text[:1])
    given: dict[str, Any] = {"size": 64, "multiple": 16, **options}
    return text2live.LayeredGuidance(prior or a_prior(), embeddings, given.pop("image_size", (64, 64)), **given)


def image(height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def made(whole: list[Tensor] = (), crops: list[Tensor] = (), alpha: Tensor | None = None) -> dict[str, Any]:  # type: ignore[assignment]
    """The host's outputs."""
    alphas = [image(seed=7)[:1].expand(3, -1, -1) if alpha is None else alpha]
    found: dict[str, Any] = {}
    for name, images in (("output_image", whole), ("output_crop", crops)):
        if images:
            found[name] = {
                "composite": list(images),
                "alpha": alphas * len(images),
                "edit": [],
                "edit_on_greenscreen": [],
            }
    return found


def test_the_loss_is_the_papers_on_v_double_prime() -> None:
    """Alone it is w r on E(I′) + θ, with w = 1; with FM and KL, Eq. 2 and 3 in addition; θ gets what v″ gets."""
    for lambdas in ({"lambda_fm": 0.0, "lambda_kl": 0.0, "lambda_lsd": 1.0}, {"lambda_fm": 0.01, "lambda_kl": 0.1}):
        prior = a_prior(**{"lambda_lsd": 1.0, **lambdas})
        guidance = guidance_of(prior)
        nn.init.normal_(guidance.theta, std=0.1, generator=torch.Generator().manual_seed(5))
        x = image().requires_grad_()
        torch.manual_seed(1)
        losses = guidance(made([x]), **DRAWS)
        losses["loss_ldp"].backward()
        y = x.detach().clone().requires_grad_()
        torch.manual_seed(1)
        v = prior.encode(y[None]) + guidance.theta.detach()
        a = prior.schedule.gather(torch.tensor([300]))[0]
        z = a * v.detach() + (1 - a**2).sqrt() * DRAWS["noise"]
        e_u, e_c = prior.unet(
            torch.cat([z, z]), 300, encoder_hidden_states=torch.cat([guidance._text[0].uncond, guidance._text[0].text])
        ).sample.chunk(2)
        r = e_u + 7.5 * (e_c - e_u) - DRAWS["noise"]
        field = r + regularisers(prior.vae, v, r, a, lambdas["lambda_fm"], lambdas["lambda_kl"])
        assert_same(guidance.theta.grad, field)
        assert_same(x.grad, torch.autograd.grad(v, y, field)[0])


def test_images_of_any_sizes_are_a_mean_over_them() -> None:
    """Three images of two sizes after rounding: two batches, one mean."""
    guidance = guidance_of(crops=True)
    whole, crops = image(60, 70), [image(48, 100, 1), image(50, 101, 2)]
    assert guidance.encoded_size((60, 70)) == (64, 64) and guidance.encoded_size((48, 100)) == (48, 96)
    together = guidance(made([whole], crops))
    assert len(guidance.statistics) == 2 and [len(s.timesteps) for s in guidance.statistics] == [1, 2]
    assert {"loss_ldp", "loss_lsd", "loss_fm", "loss_kl"} == set(together)
    total = sum(LAMBDAS[f"lambda_{name}"] * together[f"loss_{name}"] for name in ("fm", "kl", "lsd"))
    torch.testing.assert_close(together["loss_ldp"], total)
    torch.manual_seed(2)
    one = guidance_of()(made([whole]))["loss_kl"]
    torch.manual_seed(2)
    two = guidance_of()(made([], crops))["loss_kl"]
    torch.manual_seed(2)
    both = guidance_of()(made([whole], crops))["loss_kl"]
    # The posteriors' noise is drawn anew, so that the values are near and not equal.
    assert float(both.detach()) == pytest.approx(float(one.detach() + 2 * two.detach()) / 3, rel=0.05)


def test_crops_do_not_see_theta_and_can_be_left_alone() -> None:
    guidance = guidance_of()
    crop = image().requires_grad_()
    guidance(made([], [crop]))["loss_ldp"].backward()
    assert guidance.theta.grad is None and crop.grad.norm() > 0
    assert guidance_of(crops=False)(made([], [image()])) == {}
    guidance(made([image()]))["loss_ldp"].backward()
    assert guidance.theta.grad.norm() > 0


def test_the_mask() -> None:
    mask = torch.zeros(64, 64)
    mask[:32] = 1
    alpha = image(seed=4)[:1].expand(3, -1, -1).clone().requires_grad_()
    losses = guidance_of(mask=mask, mask_weight=3.0)(made([image()], alpha=alpha))
    torch.testing.assert_close(losses["loss_mask"], (alpha - mask).abs().mean())
    losses["loss_ldp"].backward()
    assert_same(alpha.grad, 3 * (alpha.detach() - mask).sign() / alpha.numel())
    assert "loss_mask" not in guidance_of(mask=mask)(made([], [image()]))


def test_half_precision_keeps_the_papers_small_gradients() -> None:
    """λ's near 1e-6 through a float16 encoder: what float32 gives, to float16's precision."""
    grads = []
    for dtype in (torch.float32, torch.float16):
        prior = LatentDiffusionPrior(tiny_unet().to(dtype), tiny_vae().to(dtype), scheduler())
        prior = prior.with_settings(lambda_fm=0.0, lambda_kl=0.0, lambda_lsd=1e-7, guidance_scale=1.0)
        x = image().requires_grad_()
        torch.manual_seed(1)
        guidance_of(prior)(made([x]), **DRAWS)["loss_ldp"].backward()
        grads.append(x.grad)
    assert_same(grads[1], grads[0], 0.05)


def test_edited_is_decoded_and_blended() -> None:
    guidance = guidance_of()
    with torch.no_grad():
        guidance.theta.fill_(0.5)
    composite, source = image(60, 70), image(60, 70, 1)
    assert torch.equal(guidance.edited(composite, torch.zeros(1, 60, 70), source), source)
    torch.manual_seed(1)
    full = guidance.edited(composite, torch.ones(1, 60, 70), source)
    torch.manual_seed(1)
    latents = guidance.encode(composite[None]) + guidance.theta
    decoded = F.interpolate(guidance.prior.decode(latents), (60, 70), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(full, decoded)


class LossG(nn.Module):
    """The host's, with one term."""

    def __init__(self) -> None:
        super().__init__()
        self.cfg = {"lambda_sparsity": 1.0}

    def forward(self, outputs: Any, inputs: Any) -> dict[str, Any]:
        alphas = [a for out in outputs.values() for a in out["alpha"]]
        return {"loss_sparsity": sum(a.mean() for a in alphas), "loss": sum(a.mean() for a in alphas)}


def test_wrap_adds_to_the_hosts_loss_and_parameters() -> None:
    model, criterion, guidance = FakeHost(), LossG(), guidance_of()
    outputs = made([image()])
    before = criterion(outputs, {})
    assert text2live.wrap(model, criterion, guidance) is guidance
    assert dict(model.named_parameters())["theta_latent"] is guidance.theta and "theta_latent" in model.state_dict()
    after = criterion(outputs, {})
    assert after["loss_sparsity"] == before["loss_sparsity"]
    torch.testing.assert_close(after["loss"], before["loss"] + after["loss_ldp"])
    assert set(criterion({"output_crop": {"alpha": [image()]}}, {})) == {"loss", "loss_sparsity"}
    with pytest.raises(UsageError, match="expected an object with cfg"):
        text2live.wrap(model, nn.Identity(), guidance)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(UsageError, match="multiple: expected a multiple of 8 up to size=64, got 12"):
        guidance_of(multiple=12)
    with pytest.raises(UsageError, match=r"mask: expected \[H, W\] or \[1, H, W\]"):
        guidance_of(mask=torch.zeros(3, 64, 64))
    with pytest.raises(UsageError, match="make it with the source image's size"):
        guidance_of()(made([image(32, 128)]))


def test_no_network_becomes_the_hosts() -> None:
    assert set(guidance_of(mask=torch.zeros(64, 64)).state_dict()) == {"theta", "mask"}


def test_against_the_real_classes() -> None:
    """The host's `Model` and `LossG` (its sparsity term) with ours: one step of its loop."""
    folder = checkout("Text2LIVE")
    stood_in = ("torchvision", "models.clip_relevancy", "CLIP", "madgrad", "kornia", "lpips")
    sparsity = {"lambda_sparsity": 6, "lambda_alpha_l0": 0.01, "lambda_alpha_l1": 0.01}
    off = {
        "bootstrap_epoch": -1,
        "lambda_bootstrap": 0,
        "lambda_structure": 0,
        "lambda_composition": 0,
        "lambda_screen": 0,
    }
    cfg = {
        **sparsity,
        **off,
        "skip_n33d": 8,
        "skip_n33u": 8,
        "skip_n11": 4,
        "num_scales": 3,
        "text_criterion": "cosine",
    }
    cfg |= {"src_text": "a", "comp_text": "b", "screen_text": "c"}
    with imported(folder, "models.image_model", *stood_in) as module:
        torch.manual_seed(0)
        model = module.Model(cfg)
        images = {"input_image": image(64, 64)[None], "input_crop": image(48, 80, 1)[None]}
        with imported(folder, "util.losses", *stood_in) as losses:

            class Clip:
                @staticmethod
                def get_text_embedding(*_: Any) -> Tensor:
                    return torch.zeros(1, 4)

            criterion = losses.LossG(cfg, Clip())
            outputs = model(images)
            alone = criterion(outputs, {"step": 0, "input_image": [], "input_crop": []})
            guidance = text2live.wrap(model, criterion, guidance_of(a_prior(lambda_lsd=1.0)))
            optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
            found = criterion(outputs, {"step": 0, "input_image": [], "input_crop": []})
            assert found["loss_sparsity"] == alone["loss_sparsity"]
            torch.testing.assert_close(found["loss"], alone["loss"] + found["loss_ldp"])
            found["loss"].backward()
            optimiser.step()
            assert guidance.theta.abs().max() > 0
            assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
