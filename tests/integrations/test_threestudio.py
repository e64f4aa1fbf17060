"""threestudio: the guidance contract, every convention of its score distillation, what it reads and its copies."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast import LatentDiffusionPrior, UsageError
from ldp_fast.guidance import PriorSettings
from ldp_fast.integrations.threestudio import register

from ..ops.common import NoSync
from ..support.models import TEXT_WIDTH, scheduler, tiny_vae
from .adapters import another_vae
from .network import Network, PredictsV
from .oracle import assert_same


class Base:
    """threestudio's guidance as far as ours stands on it: what `configure` leaves behind, and three calls."""

    @dataclasses.dataclass
    class Config:
        guidance_scale: float = 100.0
        grad_clip: Any = None
        use_img_loss: bool = False
        use_sjc: bool = False
        var_red: bool = True
        weighting_strategy: str = "sds"
        view_dependent_prompting: bool = True

    def __init__(self, cfg: dict[str, Any]):
        self.cfg, self.device = self.Config(**cfg), torch.device("cpu")
        self.configure()

    def configure(self) -> None:
        self.unet, self.vae, self.scheduler = Network(), tiny_vae(), scheduler()
        self.alphas, self.min_step, self.max_step, self.grad_clip_val = self.scheduler.alphas_cumprod, 20, 980, None

    def forward_unet(self, latents: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.unet(latents, t, encoder_hidden_states=encoder_hidden_states).sample

    def encode_images(self, images: Tensor) -> Tensor:
        return self.vae.encode(2 * images - 1).latent_dist.sample() * self.vae.config.scaling_factor

    def guidance_eval(self, **arguments: Any) -> dict[str, Any]:
        self.asked = arguments
        return {"noise_levels": [0.25] * len(arguments["t_orig"])}


@pytest.fixture
def threestudio(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands in for the package: its registry, and the module that the guidance is in."""
    names = ("threestudio", "threestudio.models", "threestudio.models.guidance")
    modules = {name: ModuleType(name) for name in (*names, f"{names[-1]}.stable_diffusion_guidance")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    host: Any = modules["threestudio"]
    host.__modules__ = {}
    host.register = lambda name: lambda cls: host.__modules__.setdefault(name, cls)
    guidance: Any = modules[f"{names[-1]}.stable_diffusion_guidance"]
    guidance.StableDiffusionGuidance = Base
    return host


class Prompts:
    """What a prompt processor returns: [text, uncond]; with Perp-Neg two negatives a sample, next to each other."""

    def __init__(self, batch: int, weights: Tensor | None = None):
        self.use_perp_neg, self.weights = weights is not None, weights
        rows = batch * (4 if self.use_perp_neg else 2)
        self.text = torch.randn(rows, 5, TEXT_WIDTH, generator=torch.Generator().manual_seed(3))

    def get_text_embeddings(self, *views: Any) -> Tensor:
        assert len(views) == 4
        return self.text

    def get_text_embeddings_perp_neg(self, *views: Any) -> tuple[Tensor, Tensor | None]:
        assert len(views) == 4
        return self.text, self.weights


def views(batch: int) -> dict[str, Tensor]:
    return {name: torch.linspace(10, 60, batch) for name in ("elevation", "azimuth", "camera_distances")}


def rendered(batch: int, channels: int = 4) -> Tensor:
    return torch.rand(batch, 64, 64, channels, generator=torch.Generator().manual_seed(0)).requires_grad_()


def residual_by_hand(guidance: Any, v: Tensor, t: Tensor, noise: Tensor, prompts: Prompts) -> Tensor:
    """r sample by sample: text + s (text − uncond), or with Perp-Neg uncond + s (…); in our own words."""
    s, batch, found = guidance.cfg.guidance_scale, len(v), []
    for b in range(batch):
        bar = guidance.alphas[t[b]]
        z = (bar.sqrt() * v[b : b + 1] + (1 - bar).sqrt() * noise[b : b + 1]).detach()

        def ask(row: int, z: Tensor = z, b: int = b) -> Tensor:
            return guidance.forward_unet(z, t[b : b + 1], prompts.text[row : row + 1])

        text, uncond = ask(b), ask(batch + b)
        if prompts.weights is None:
            found.append(text + s * (text - uncond))
            continue
        towards = direction = text - uncond
        for i, w in enumerate(prompts.weights[b]):
            e = ask(2 * batch + 2 * b + i) - uncond
            direction = direction + w * (e - (e * towards).sum() / (towards * towards).sum() * towards)
        found.append(uncond + s * direction)
    return torch.cat(found) - noise


def by_hand(guidance: Any, rgb: Tensor, prompts: Prompts, seed: int, as_latents: bool = True) -> Tensor:
    """threestudio's gradient on what was rendered."""
    image, cfg, batch = rgb.permute(0, 3, 1, 2), guidance.cfg, len(rgb)
    torch.manual_seed(seed)
    v = image * 1.0 if as_latents else guidance.encode_images(F.interpolate(image, (512, 512), mode="bilinear"))
    t, noise = torch.randint(20, 981, [batch]), torch.randn_like(v)
    bar = guidance.alphas[t].view(-1, 1, 1, 1)
    r = residual_by_hand(guidance, v, t, noise, prompts)
    if cfg.use_sjc:
        field = r if cfg.var_red else r + noise
    else:
        weights = {"sds": 1 - bar, "uniform": torch.ones_like(bar), "fantasia3d": bar.sqrt() * (1 - bar)}
        field = weights[cfg.weighting_strategy] * r
    if guidance.grad_clip_val is not None:
        field = field.clamp(-guidance.grad_clip_val, guidance.grad_clip_val)
    return torch.autograd.grad(v, rgb, field / batch)[0]


CONVENTIONS: list[dict[str, Any]] = [
    {},
    {"weighting_strategy": "uniform", "guidance_scale": 7.5},
    {"weighting_strategy": "fantasia3d"},
    {"use_sjc": True},
    {"use_sjc": True, "var_red": False},
]


def made(threestudio: Any, **cfg: Any) -> Any:
    return register()(cfg)


@pytest.mark.parametrize("perp_neg", [False, True], ids=["plain", "perp_neg"])
@pytest.mark.parametrize("cfg", CONVENTIONS, ids=str)
def test_score_distillation_is_the_hosts(threestudio: Any, cfg: dict[str, Any], perp_neg: bool) -> None:
    guidance, batch = made(threestudio, feature_matching=False, kl=False, **cfg), 2
    prompts = Prompts(batch, torch.tensor([[-1.5, 0.0], [-0.3, -2.0]]) if perp_neg else None)
    rgb = rendered(batch)
    expected = by_hand(guidance, rgb, prompts, 3)
    torch.manual_seed(3)
    out = guidance(rgb, prompts, **views(batch), rgb_as_latents=True, rays_o=None, c2w=None)
    assert set(out) == {"loss_sds", "grad_norm", "min_step", "max_step"}
    out["loss_sds"].backward()
    assert_same(rgb.grad, expected)
    torch.testing.assert_close(out["grad_norm"], (batch * expected).norm(), rtol=1e-4, atol=0)


def test_images_are_encoded_by_the_host(threestudio: Any) -> None:
    guidance, prompts, rgb = made(threestudio, feature_matching=False, kl=False), Prompts(1), rendered(1, 3)
    expected = by_hand(guidance, rgb, prompts, 3, as_latents=False)
    torch.manual_seed(3)
    guidance(rgb, prompts, **views(1))["loss_sds"].backward()
    assert_same(rgb.grad, expected)


def test_the_clip_follows_the_hosts_schedule(threestudio: Any) -> None:
    guidance, prompts, rgb = made(threestudio, feature_matching=False, kl=False), Prompts(2), rendered(2)
    for clip in (None, 2.0, 0.1):
        guidance.grad_clip_val, rgb.grad = clip, None  # as `update_step` sets it
        expected = by_hand(guidance, rgb, prompts, 5)
        torch.manual_seed(5)
        guidance(rgb, prompts, **views(2), rgb_as_latents=True)["loss_sds"].backward()
        assert_same(rgb.grad, expected)
        assert clip is None or rgb.grad.abs().max() <= clip / 2 + 1e-6


def test_each_loss_is_a_scalar_for_its_own_weight(threestudio: Any) -> None:
    """Summed with λ's as threestudio's systems do, they give what the prior gives under the host's conventions."""
    guidance, prompts, rgb = made(threestudio), Prompts(2), rendered(2)
    torch.manual_seed(6)
    t = torch.randint(20, 981, [2])
    v = rgb.permute(0, 3, 1, 2).detach()
    noise = torch.randn_like(v)
    settings = PriorSettings(
        0.01, 0.1, 1.0, 100.0, guidance="from_text", order="text_first", weighting="dreamfusion", nonfinite="zero"
    )
    prior = LatentDiffusionPrior(guidance.unet, guidance.vae, guidance.scheduler, settings=settings)
    expected, _ = prior.gradient(v, prompts.text, timesteps=t, noise=noise)
    torch.manual_seed(6)
    out = guidance(rgb, prompts, **views(2), rgb_as_latents=True)
    weights = {"lambda_sds": 1.0, "lambda_fm": 0.01, "lambda_kl": 0.1}
    loss = torch.zeros(())
    for name, value in out.items():
        if name.startswith("loss_"):
            assert value.shape == () and value.requires_grad
            loss = loss + value * weights[name.replace("loss_", "lambda_")]
    loss.backward()
    assert_same(rgb.grad, expected.permute(0, 2, 3, 1))
    assert guidance.statistics.read()["norm_fm"] > 0


@pytest.mark.parametrize("off, left", [("feature_matching", {"loss_kl"}), ("kl", {"loss_fm"})])
def test_what_is_switched_off_needs_no_weight(threestudio: Any, off: str, left: set[str]) -> None:
    guidance = made(threestudio, **{off: False})
    if off == "feature_matching":
        guidance.losses.vae = None  # which is not touched
    out = guidance(rendered(1), Prompts(1), **views(1), rgb_as_latents=True)
    assert {name for name in out if name.startswith("loss_")} == {"loss_sds"} | left


def test_nothing_is_decoded_that_is_not_used(threestudio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    guidance = made(threestudio, feature_matching=False)
    monkeypatch.setattr(guidance.vae, "decode", None)
    monkeypatch.setattr(guidance.vae.decoder, "forward", None)
    guidance(rendered(1), Prompts(1), **views(1), rgb_as_latents=True)


def test_nothing_waits_for_the_device(threestudio: Any) -> None:
    guidance, prompts = made(threestudio), Prompts(2, torch.tensor([[-1.5, 0.0], [-0.3, -2.0]]))
    guidance(rendered(2), prompts, **views(2), rgb_as_latents=True)
    with NoSync():
        guidance(rendered(2), prompts, **views(2), rgb_as_latents=True)["loss_fm"].backward()


def test_pictures_of_a_step_are_the_hosts(threestudio: Any) -> None:
    guidance, prompts = made(threestudio), Prompts(2, torch.tensor([[-1.5, 0.0], [-0.3, -2.0]]))
    out = guidance(rendered(2), prompts, **views(2), rgb_as_latents=True, guidance_eval=True)
    assert out["eval"]["texts"][1] == "n0.25\ne60.00\na60.00\nc60.00"
    asked = guidance.asked
    assert asked["use_perp_neg"] and asked["latents_noisy"].shape == asked["noise_pred"].shape == (2, 4, 64, 64)
    assert torch.equal(asked["text_embeddings"][5], prompts.text[6])  # its pictures index copies, as ours do


def gradient_of(guidance: Any) -> Tensor:
    """Of all three losses, with the same t and ε every time."""
    rgb = rendered(1)
    torch.manual_seed(6)
    out = guidance(rgb, Prompts(1), **views(1), rgb_as_latents=True)
    loss = out["loss_sds"] + 0.01 * out["loss_fm"] + 0.1 * out["loss_kl"]
    return torch.autograd.grad(loss, rgb)[0]


def test_vae_and_scheduler_are_read_at_every_step(threestudio: Any) -> None:
    guidance, fresh = made(threestudio), made(threestudio)
    before = gradient_of(guidance)
    guidance.vae = fresh.vae = another_vae()
    of_vae = gradient_of(guidance)
    assert not torch.allclose(before, of_vae, rtol=1e-3) and torch.equal(of_vae, gradient_of(fresh))
    guidance.scheduler.alphas_cumprod = guidance.scheduler.alphas_cumprod.sqrt()
    assert not torch.allclose(of_vae, gradient_of(guidance), rtol=1e-3)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_computes_with_its_own_modules(threestudio: Any, way: Callable[[Any], Any]) -> None:
    guidance = made(threestudio)
    before = gradient_of(guidance)
    other = way(guidance)
    assert type(other) is type(guidance) and torch.equal(gradient_of(other), before)
    other.vae.load_state_dict(another_vae().state_dict())
    assert not torch.allclose(before, gradient_of(other), rtol=1e-3) and torch.equal(gradient_of(guidance), before)


def test_a_network_of_v_gives_what_one_of_noise_gives(threestudio: Any) -> None:
    guidance, other = made(threestudio), made(threestudio, prediction="v_prediction")
    other.unet = PredictsV()
    assert_same(gradient_of(other), gradient_of(guidance), 2e-3)
    prompts, told = Prompts(1), []
    for each in (guidance, other):
        torch.manual_seed(6)
        each(rendered(1), prompts, **views(1), rgb_as_latents=True, guidance_eval=True)
        told.append((each.asked["noise_pred"], each.asked["latents_noisy"], each.asked["t_orig"]))
    (noise_hat, z, t), (predicted, _, _) = told
    bar = guidance.alphas[t].view(-1, 1, 1, 1)
    assert_same(predicted, (noise_hat - (1 - bar).sqrt() * z) / bar.sqrt(), 1e-3)


def test_statistics_are_where_other_hosts_have_them(threestudio: Any) -> None:
    guidance = made(threestudio)
    assert guidance.ldp.statistics is None
    gradient_of(guidance)
    assert guidance.ldp.statistics.read()["norm_fm"] > 0 and guidance.ldp.losses is guidance.losses


def test_rows_that_do_not_fit_are_refused(threestudio: Any) -> None:
    guidance = made(threestudio, feature_matching=False)
    for batch in (1, 2):
        with pytest.raises(ValueError, match=rf"text: expected embeddings of 2 or {2 * batch} rows .*got 6"):
            guidance(rendered(batch), Prompts(3), **views(batch), rgb_as_latents=True)
    for weights in (torch.zeros(1, 2), torch.zeros(2, 1), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"prompt_utils: expected weights of negatives for 2 samples"):
            guidance(rendered(2), Prompts(2, weights), **views(2), rgb_as_latents=True)


def test_registering_twice_is_once(threestudio: Any) -> None:
    assert register() is register() is threestudio.__modules__["ldp-guidance"]
    assert issubclass(register(), Base) and register("mine") is threestudio.__modules__["mine"]


@pytest.mark.parametrize(
    "cfg, message",
    [
        ({"use_img_loss": True}, "use_img_loss: expected false"),
        ({"prediction": "flow"}, "prediction: expected one of epsilon, v_prediction; got 'flow'"),
        ({"weighting_strategy": "dds"}, "weighting_strategy: expected one of sds, uniform, fantasia3d; got 'dds'"),
    ],
)
def test_what_is_not_served_is_said(threestudio: Any, cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(threestudio, **cfg)


def test_without_threestudio_the_import_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threestudio", None)
    with pytest.raises(ImportError, match="threestudio"):
        register()
