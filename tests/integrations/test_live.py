"""What adapters say that they read at every step, they read at every step; and the rows that they are given fit."""

from __future__ import annotations

import time
import types
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from ldp_fast import UsageError
from ldp_fast.integrations._host import check_units
from ldp_fast.integrations._live import Attribute, LiveSchedule, Made

from ..ops.common import NoSync
from ..support.models import CompVisAutoencoder, scheduler, tiny_unet, tiny_vae
from .adapters import ADAPTERS, LAMBDAS, TAKE_TEXT, Adapter, Host, another_vae, embeddings, images, latents, sjc_losses
from .oracle import ALONE, assert_same, regularisers

every_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=str)


def differs(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() > 1e-3 * a.norm())


@every_adapter
def test_another_vae_is_the_next_steps(adapter: Adapter) -> None:
    host = adapter.host()
    before = adapter.gradient(host)
    setattr(host, adapter.vae, another_vae())
    after = adapter.gradient(host)
    fresh = Host()
    setattr(fresh, adapter.vae, another_vae())
    assert differs(before, after)
    assert torch.equal(after, adapter.gradient(adapter.wrap(fresh, **LAMBDAS)))


@every_adapter
def test_a_table_written_to_without_a_trace_is_the_next_steps(adapter: Adapter) -> None:
    host, fresh = adapter.host(), Host()
    before = adapter.gradient(host)
    for changed in (host.scheduler, fresh.scheduler):
        changed.alphas_cumprod.data.mul_(0.5)
    after = adapter.gradient(host)
    assert differs(before, after)
    assert torch.equal(after, adapter.gradient(adapter.wrap(fresh, **LAMBDAS)))


def test_another_vaes_gradient_is_its_own_in_float64() -> None:
    """By plain autograd through the whole new VAE."""
    adapter = ADAPTERS[0]
    host, alone = adapter.wrap(Host().double(), **LAMBDAS), adapter.wrap(Host().double(), **ALONE)

    def step(host: Any) -> Tensor:
        leaf = latents().detach().double().requires_grad_()
        torch.manual_seed(5)
        host.train_step(embeddings(2).double(), leaf * 1.0)
        assert leaf.grad is not None
        return leaf.grad

    for each in (host, alone):
        step(each)
        each.vae = another_vae().double()
    torch.manual_seed(5)
    t = torch.randint(20, 981, [1])
    v, bar = latents().detach().double(), host.scheduler.alphas_cumprod[t].double()
    noise = torch.randn_like(v)
    z = (bar.sqrt() * v + (1 - bar).sqrt() * noise).repeat(2, 1, 1, 1)
    uncond, text = host.unet(z, t, encoder_hidden_states=embeddings(2).double()).sample.chunk(2)
    r = uncond + 100 * (text - uncond) - noise
    assert_same(step(host) - step(alone), regularisers(host.vae, v, r, bar.sqrt(), 0.01, 0.1), 1e-6)


@every_adapter
@pytest.mark.parametrize("how", ["scheduler", "table", "in place"])
def test_another_scheduler_is_the_next_steps(adapter: Adapter, how: str) -> None:
    host, fresh = adapter.host(**ALONE), Host()
    before = adapter.gradient(host)
    fresh.scheduler = DDIMScheduler(beta_start=0.0001, beta_end=0.01, beta_schedule="linear")
    if how == "scheduler":
        host.scheduler = DDIMScheduler(beta_start=0.0001, beta_end=0.01, beta_schedule="linear")
    elif how == "table":
        host.scheduler.alphas_cumprod = fresh.scheduler.alphas_cumprod
    else:
        host.scheduler.alphas_cumprod.copy_(fresh.scheduler.alphas_cumprod)
    after = adapter.gradient(host)
    assert differs(before, after)
    assert torch.equal(after, adapter.gradient(adapter.wrap(fresh, **ALONE)))


def test_a_vae_in_another_precision_is_followed() -> None:
    """Converted after wrap, as hosts do; the float64 gradient is a float64 VAE's."""
    adapter = ADAPTERS[0]
    host, fresh = adapter.host(), adapter.wrap(Host().double(), **LAMBDAS)
    adapter.gradient(host)
    host.double()

    def step(host: Any) -> Tensor:
        leaf = latents().detach().double().requires_grad_()
        torch.manual_seed(5)
        host.train_step(embeddings(2).double(), leaf * 1.0)
        assert leaf.grad is not None
        return leaf.grad

    torch.testing.assert_close(step(host), step(fresh))
    host.vae.half()
    assert 0 < (step(host) - step(fresh)).norm() < 1e-2 * step(fresh).norm()


@pytest.mark.parametrize("change", ["first stage", "number", "tensor", "tensor in place"])
def test_sjc_reads_its_model(change: str) -> None:
    y, zs, denoised = latents().detach(), latents(2).detach() * 3, latents(2).detach() * 2
    arguments = (y, zs, denoised, torch.tensor([1.7, 2.0]).view(-1, 1, 1, 1))
    losses, model = sjc_losses(scale=torch.tensor(0.18215) if change.startswith("tensor") else 0.18215)
    before, _ = losses.gradient(*arguments)
    if change == "first stage":
        model.model.first_stage_model = CompVisAutoencoder(another_vae())
        fresh, _ = sjc_losses(another_vae())
    else:
        if change == "tensor in place":
            model.model.scale_factor.fill_(0.13025)
        else:
            model.model.scale_factor = torch.tensor(0.13025) if change == "tensor" else 0.13025
        fresh, _ = sjc_losses(scale=0.13025)
    after, _ = losses.gradient(*arguments)
    assert differs(before, after)
    torch.testing.assert_close(after, fresh.gradient(*arguments)[0])
    model.model.scale_factor = float("nan")
    with pytest.raises(UsageError, match="scaling_factor: expected a number other than 0; got nan"):
        losses.gradient(*arguments)
    model.model.scale_factor = torch.tensor(0.13025)
    losses.gradient(*arguments)
    with NoSync():  # a scale on the device is not looked at again
        losses.gradient(*arguments)


def test_the_options_of_the_decoder_may_be_assigned_to() -> None:
    adapter = ADAPTERS[0]
    host = adapter.host()
    adapter.gradient(host)
    host.ldp.losses.levels = ("up0",)
    found = adapter.gradient(host)
    assert torch.equal(found, adapter.gradient(adapter.wrap(Host(), **LAMBDAS, levels=["up0"])))
    assert host.ldp.statistics.levels == ("up0",)


def test_stylegan_fusion_reads_eg3d() -> None:
    adapter = next(a for a in ADAPTERS if a.name == "stylegan_fusion")
    host, fresh = adapter.host(), Host()
    adapter.gradient(host)
    host.args.EG3D = fresh.args.EG3D = True
    torch.testing.assert_close(adapter.gradient(host), adapter.gradient(adapter.wrap(fresh, **LAMBDAS)))


def test_what_did_not_change_is_made_once() -> None:
    made: list[int] = []
    kept: Made[int] = Made()
    thing, other = object(), object()
    for objects, values in [((thing,), (1,)), ((thing,), (1,)), ((thing,), (2,)), ((other,), (2,)), ((other,), (2,))]:
        kept.get(objects, values, lambda: made.append(0) or len(made))  # type: ignore[func-returns-value]
    assert len(made) == 3
    adapter = ADAPTERS[0]
    host = adapter.host()
    decoder, tables = host.ldp.losses.decoder, host.ldp.schedule(torch.device("cpu"))
    adapter.gradient(host)
    assert host.ldp.losses.decoder is decoder and host.ldp.schedule(torch.device("cpu")) is tables


def test_looking_costs_microseconds() -> None:
    host = ADAPTERS[0].host()
    cpu = torch.device("cpu")

    def look() -> float:
        start = time.perf_counter()
        for _ in range(100):
            host.ldp.schedule(cpu), host.ldp.losses.decoder
        return (time.perf_counter() - start) / 100

    assert min(look() for _ in range(20)) < 200e-6  # 7 µs where nothing else runs


def test_a_scheduler_made_in_inference_mode() -> None:
    with torch.inference_mode():
        host: Any = type("Host", (), {"scheduler": scheduler()})()
    read = LiveSchedule(host).read("cpu")
    torch.testing.assert_close(read.gather(torch.tensor([300]))[0], host.scheduler.alphas_cumprod[300:301].sqrt())


def test_an_attribute_is_a_dotted_name() -> None:
    host = Host()
    assert Attribute(host, "vae.config.scaling_factor").read() == 0.18215
    with pytest.raises(AttributeError, match="nothing"):
        Attribute(host, "vae.nothing").read()


@pytest.mark.parametrize("adapter", TAKE_TEXT, ids=str)
def test_rows_that_do_not_fit_are_refused_with_both_numbers(adapter: Adapter) -> None:
    """One embedding for two copies is not guidance, and three for three views pair with whatever comes."""
    host = adapter.host(**ALONE)
    for rows, batch in [(1, 1), (3, 1), (3, 3), (4, 3), (5, 2)]:
        with pytest.raises(ValueError, match=rf"text: expected embeddings of 2 or {2 * batch} rows .*got {rows}"):
            adapter.gradient(host, embeddings(rows), batch)


@pytest.mark.parametrize("adapter", TAKE_TEXT, ids=str)
def test_two_rows_are_for_all_samples(adapter: Adapter) -> None:
    host, text = adapter.host(**ALONE), embeddings(2)
    short = adapter.gradient(host, text, 3)
    assert torch.equal(short, adapter.gradient(host, text.repeat_interleave(3, 0), 3))
    assert differs(short, adapter.gradient(host, text.repeat(3, 1, 1), 3))


def test_perp_negs_rows_and_weights() -> None:
    host = ADAPTERS[1].host(**ALONE)
    rgb = images(2)
    with pytest.raises(ValueError, match=r"weights: expected one for each of 2 samples .*got 5"):
        host.train_step_perpneg(embeddings(8), torch.ones(5), rgb)
    with pytest.raises(ValueError, match=r"weights: .*got 0"):
        host.train_step_perpneg(embeddings(8), torch.ones(0), rgb)
    for rows, weights in ((6, 6), (8, 4), (7, 6)):
        with pytest.raises(ValueError, match=f"text: expected embeddings of .* rows for 2 latents.*got {rows}"):
            host.train_step_perpneg(embeddings(rows), torch.ones(weights), rgb)
    assert host.train_step_perpneg(embeddings(8), torch.tensor([1.0, 1, -1, -1, -2, -2]), rgb).isfinite()


def test_dreamgaussians_views() -> None:
    host = ADAPTERS[3].host(**ALONE)
    for hors in ([], [0.0], [0.0, 90.0, 10.0]):
        with pytest.raises(ValueError, match=f"hors: expected an azimuth for each of 2 images, got {len(hors)}"):
            host.train_step(images(2), hors=hors)
    host.embeddings["front"] = embeddings(2)
    with pytest.raises(ValueError, match=r"text: .*got 2"):
        host.train_step(images(1), hors=[0.0])
    host.embeddings = {}
    with pytest.raises(ValueError, match="embeddings: expected those of get_text_embeds"):
        host.train_step(images(1))


def test_prolificdreamers_second_network() -> None:
    host = ADAPTERS[5].host(**ALONE)
    host.opt.sds = False
    v, text = latents(3), embeddings(2)

    def of_rendered(rows: int) -> Any:
        return lambda z, t, c, shading: type("Output", (), {"sample": z[:rows]})()

    with pytest.raises(ValueError, match="pose: expected 1 or 3 cameras for the latents, got 2"):
        host.train_step(text, v, 7.5, of_rendered(3), torch.zeros(2, 16))
    with pytest.raises(ValueError, match=r"q_unet: expected .* shape \[3, 4, 8, 8\], got \[1, 4, 8, 8\]"):
        host.train_step(text, v, 7.5, of_rendered(1), torch.zeros(3, 16))
    assert host.train_step(text, v, 7.5, of_rendered(3), torch.zeros(3, 16))[0].shape == (1,)


@pytest.mark.parametrize("adapter", [a for a in ADAPTERS if a.name not in ("latent_nerf", "prolificdreamer")], ids=str)
def test_the_hosts_encoding_has_to_be_in_the_vaes_units(adapter: Adapter) -> None:
    """Hosts multiply by one number, four of them by one in their code; feature matching reads the configuration."""
    for name, value in (("latents_mean", [0.1] * 4), ("latents_std", [2.0] * 4), ("shift_factor", 0.1)):
        host, alone = adapter.host(), adapter.host(**ALONE)
        for each in (host, alone):
            getattr(each, adapter.vae).register_to_config(**{name: value})
        with pytest.raises(UsageError, match=f"vae: expected .* scaled by a number, .*{name}"):
            adapter.gradient(host)
        assert adapter.gradient(alone).isfinite().all()
    for host in (adapter.host(), adapter.wrap(AsksTheVae(), **LAMBDAS)):
        getattr(host, adapter.vae).register_to_config(scaling_factor=0.13025)
        if isinstance(host, AsksTheVae):
            assert adapter.gradient(host).isfinite().all()
        else:
            with pytest.raises(UsageError, match=r"with which the host encodes, 0\.18215; got scaling_factor=0\.13025"):
                adapter.gradient(host)


SCALE = 0.18215


class AsksTheVae(Host):
    """Encodes by what the VAE says."""

    def encode_imgs(self, images: Tensor) -> Tensor:
        return self.vae.encode(2 * images[..., ::8, ::8] - 1).latent_dist.sample() * self.vae.config.scaling_factor

    def imgs_to_latent(self, images: Tensor) -> Tensor:
        return self.vae.encode(2 * images[..., ::8, ::8] - 1).latent_dist.sample() * self.vae.config.scaling_factor


def test_the_hosts_number_is_found_in_its_code() -> None:
    """As a constant, or by the name of a global; a method or a function."""
    vae = tiny_vae()
    vae.register_to_config(scaling_factor=0.13025)
    for encode in (lambda x: x * 0.18215, lambda x: x * SCALE, Host().encode_imgs):
        with pytest.raises(UsageError, match="with which the host encodes"):
            check_units(vae, encode)
    for encode in (lambda x: x * vae.config.scaling_factor, None, torch.nn.Identity()):
        check_units(vae, encode)


@every_adapter
def test_what_cannot_be_served_is_said_by_wrap(adapter: Adapter) -> None:
    for name, value in (("lambda_fm", float("nan")), ("lambda_kl", float("inf")), ("lambda_lsd", "1")):
        with pytest.raises(UsageError, match=f"{name}: expected a finite number; got"):
            adapter.host(**{name: value})  # type: ignore[arg-type]
    for name, value in (("nonfinite", "nan"), ("batch_reduction", "max"), ("clip", -1.0), ("clip", float("nan"))):
        with pytest.raises(UsageError, match=f"{name}: expected"):
            adapter.wrap(Host(), **{name: value})
    with pytest.raises(ValueError, match="levels: expected some of"):
        adapter.wrap(Host(), levels=("up9",))
    host = Host()
    setattr(host, adapter.vae, torch.nn.Linear(1, 1))
    with pytest.raises((TypeError, ValueError), match="Linear"):
        adapter.wrap(host)
    assert adapter.wrap(host, lambda_fm=0.0) is host


@pytest.mark.parametrize("how", ["cpu_offload", "cpu_offload_with_hook"])
def test_offloaded_weights_are_said_by_wrap(how: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    host = Host()
    getattr(accelerate, how)(host.vae, execution_device=torch.device("cpu"))
    with pytest.raises(UsageError, match=r"vae: .* offloaded"):
        ADAPTERS[0].wrap(host)
    assert ADAPTERS[0].wrap(host, lambda_fm=0.0) is host


@every_adapter
def test_networks_that_want_more_than_hosts_tell_them(adapter: Adapter) -> None:
    for unet, wants in ((tiny_unet(sdxl=True), "SDXL's wants pooled text"), (inpainting(), "9 in and 4 out")):
        host = Host()
        host.unet = unet
        with pytest.raises(UsageError, match=f"unet: .*{wants}"):
            adapter.wrap(host)


def inpainting() -> Any:
    """A network that is told a mask and a masked picture as well."""
    return UNet2DConditionModel.from_config({**tiny_unet().config, "in_channels": 9})


def test_sjcs_rows() -> None:
    losses, _ = sjc_losses(**ALONE)
    y, zs = latents().detach(), latents(3).detach()
    sigma = torch.ones(3, 1, 1, 1)
    for arguments in ((y, zs, zs[:1], sigma), (y, zs, zs, sigma[:2]), (zs[:2], zs, zs, sigma)):
        with pytest.raises(ValueError, match="SJCLosses: expected zs, Ds and σ for each noise"):
            losses.gradient(*arguments)


@pytest.mark.parametrize("name", ["min_step", "max_step"])
@pytest.mark.parametrize("step", [-1, 1000])
@pytest.mark.parametrize("under", ["host", "args"])
def test_a_host_that_draws_t_outside_of_its_schedule(name: str, step: int, under: str) -> None:
    """-1 wrapped to the last row, and on a GPU t cannot be looked at; the numbers it is drawn between can."""
    steps = types.SimpleNamespace(min_step=0, max_step=999)
    host = types.SimpleNamespace(scheduler=scheduler(), args=steps) if under == "args" else steps
    host.scheduler = scheduler()
    live = LiveSchedule(host)
    live.read("cpu")
    setattr(steps, name, step)
    with pytest.raises(UsageError, match=f"^{name}: expected a t of the scheduler, 0 to 999; got {step}$"):
        live.read("cpu")
