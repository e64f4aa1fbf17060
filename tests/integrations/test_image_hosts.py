"""nerfstudio, DreamGaussian and ProlificDreamer: hosts that render images; their order, guidance and losses.

The real hosts resize to 512×512 pixels, and their tests take their time; the others encode fewer.
"""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast import UsageError
from ldp_fast.integrations import dreamgaussian, nerfstudio, prolificdreamer

from ..ops.common import NoSync
from ..support.models import save_stable_diffusion, scheduler, tiny_unet, tiny_vae
from .hosts import checkout, imported
from .oracle import ALONE, PAPER, FakeHost, assert_same, options, regularisers

TEXT = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(3))


def images(batch: int = 1, channels: int = 3) -> Tensor:
    made = torch.rand(batch, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    return made.requires_grad_()


def a_host(**attributes: Any) -> FakeHost:
    ddim = scheduler()
    host = FakeHost(unet=tiny_unet(), vae=tiny_vae(), scheduler=ddim, alphas=ddim.alphas_cumprod, **attributes)
    host.min_step, host.max_step, host.num_train_timesteps, host.dtype = 20, 980, 1000, torch.float32
    host.auto_encoder, host.imgs_to_latent, host.sds_loss = host.vae, host.encode_imgs, host.train_step
    host.embeddings = {name: TEXT[i : i + 1] for i, name in enumerate(("pos", "neg", "front", "side"))}
    host.embeddings["back"] = TEXT[:1] * 2
    return host


def predicted(host: Any, v: Tensor, noise: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of the doubled batch."""
    a = host.alphas[t].view(-1, 1, 1, 1)
    z = a.sqrt() * v + (1 - a).sqrt() * noise
    return host.unet(torch.cat([z, z]), t.repeat(2) if len(t) > 1 else t, encoder_hidden_states=text).sample.chunk(2)


def descend(v: Tensor, field: Tensor, rgb: Tensor) -> Tensor:
    """The rendering's gradient of field on v, summed over elements, divided by the batch."""
    return torch.autograd.grad(v, rgb, field / len(v))[0]


def with_regularisers(host: Any, v: Tensor, r: Tensor, t: Tensor, rgb: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The rendering's gradients of the host's loss and of the whole one."""
    alpha = host.alphas[t].sqrt().expand(len(v))
    extra = regularisers(host.vae, v, r, alpha, 0.01, 0.1)
    alone = torch.autograd.grad(v, rgb, w * r / len(v), retain_graph=True)[0]
    return alone, descend(v, w * r + extra, rgb)


def gradient_of(loss: Tensor, rgb: Tensor, factor: float = 1.0) -> Tensor:
    return torch.autograd.grad(factor * loss, rgb)[0]


@pytest.mark.parametrize("step_ratio", [None, 0.31])
def test_dreamgaussian(step_ratio: float | None) -> None:
    """[text, uncond], e_u + s(e_c − e_u), a t a sample or from the run; the view's prompt."""
    host, rgb = a_host(), images(2)
    torch.manual_seed(1)
    v = host.encode_imgs(F.interpolate(rgb, (512, 512), mode="bilinear", align_corners=False))
    t = torch.full((2,), 690) if step_ratio else torch.randint(20, 981, (2,))
    noise = torch.randn_like(v)
    text = torch.cat([host.embeddings["front"], host.embeddings["back"], TEXT[1:2], TEXT[1:2]])
    e_c, e_u = predicted(host, v.detach(), noise, t, text)
    r = e_u + 50 * (e_c - e_u) - noise
    alone, whole = with_regularisers(host, v, r, t, rgb, (1 - host.alphas[t]).view(-1, 1, 1, 1))
    for lambdas, expected in ((ALONE, alone), (PAPER, whole)):
        dreamgaussian.wrap(host, **lambdas)
        torch.manual_seed(1)
        loss = host.train_step(rgb, step_ratio=step_ratio, guidance_scale=50, hors=[-10.0, 170.0])
        assert_same(gradient_of(loss, rgb, 16.0), 16 * expected)
    assert not torch.allclose(alone, whole, rtol=1e-2)
    assert host.ldp.output.statistics.timesteps.tolist() == t.tolist()


def test_dreamgaussian_leaves_fm_and_kl_out_where_there_are_no_latents() -> None:
    host, rgb = dreamgaussian.wrap(a_host(), **PAPER), images(1, 4)
    host.train_step(rgb, as_latent=True)
    assert host.ldp.output.fm == 0 and host.ldp.output.kl == 0 and host.ldp.output.lsd > 0


def test_nerfstudio() -> None:
    """t before everything else; [uncond, text], e_c + s(e_c − e_u); what it returns does not overflow."""
    host, rgb = a_host(), images()
    torch.manual_seed(1)
    t = torch.randint(20, 981, [1])
    v = host.encode_imgs(F.interpolate(rgb, (512, 512), mode="bilinear"))
    noise = torch.randn_like(v)
    e_u, e_c = predicted(host, v.detach(), noise, t, TEXT[:2])
    r = e_c + 20 * (e_c - e_u) - noise
    alone, whole = with_regularisers(host, v, r, t, rgb, (1 - host.alphas[t]).view(-1, 1, 1, 1))
    for lambdas, expected in ((ALONE, alone), (PAPER, whole)):
        nerfstudio.wrap(host, **lambdas)
        torch.manual_seed(1)
        loss = host.sds_loss(TEXT[:2], rgb, guidance_scale=20)
        assert loss.dtype == torch.float32
        assert_same(gradient_of(loss, rgb, 16.0), 16 * expected)


class OfRendered(torch.nn.Module):
    """ProlificDreamer's second network, as it is called."""

    def forward(self, z: Tensor, t: Tensor, c: Tensor, shading: str) -> Any:
        assert shading == "albedo"
        return options(sample=0.5 * z + c)


@pytest.mark.parametrize("vsd", ["no", "epsilon", "v"])
@pytest.mark.parametrize("grad_clip", [None, 2.0])
def test_prolificdreamer(vsd: str, grad_clip: float | None) -> None:
    """One t for the batch; ε̂ − ε or ε̂ − ε_q, clipped; 0 with a gradient, Σ w ε̂ v and the latents."""
    host = a_host(opt=options(latent=False, sds=vsd == "no", v_pred=vsd == "v"))
    rgb, pose = images(), torch.tensor(0.1)
    torch.manual_seed(1)
    v = host.encode_imgs(F.interpolate(rgb, (512, 512), mode="bilinear", align_corners=False))
    t = torch.randint(20, 981, [1])
    noise, a = torch.randn_like(v), host.alphas[t].view(-1, 1, 1, 1)
    e_u, e_c = predicted(host, v.detach(), noise, t, TEXT[:2])
    e = e_u + 7.5 * (e_c - e_u)
    z = a.sqrt() * v.detach() + (1 - a).sqrt() * noise
    of_rendered = 0.5 * z + pose
    subtracted = {"no": noise, "epsilon": of_rendered, "v": a.sqrt() * of_rendered + (1 - a).sqrt() * z}[vsd]
    r, bound = e - subtracted, grad_clip or float("inf")
    field = ((1 - a) * r).clamp(-bound, bound)
    expected = {
        "alone": torch.autograd.grad(v, rgb, field, retain_graph=True)[0],
        "whole": descend(v, field + regularisers(host.vae, v, r, a.sqrt().flatten(), 0.01, 0.1), rgb),
    }
    for name, lambdas in (("alone", ALONE), ("whole", PAPER)):
        for mode, factor in (("gradient", 1.0), ("loss", 16.0)):
            prolificdreamer.wrap(host, mode=mode, **lambdas)
            torch.manual_seed(1)
            arguments = (OfRendered(), pose, "albedo", grad_clip)
            loss, pseudo_loss, found = host.train_step(TEXT[:2], rgb, 7.5, *arguments)
            assert_same(found, v)
            assert_same(pseudo_loss, ((1 - a) * e * v.detach()).sum(), 1e-3)
            assert loss.tolist() == [0.0] if mode == "gradient" else loss > 0
            # The host's loss ignores what comes in from above; a proper loss does not.
            assert_same(gradient_of(loss, rgb, 16.0), factor * expected[name])


def test_prolificdreamer_with_latents_of_its_own() -> None:
    host = prolificdreamer.wrap(a_host(opt=options(latent=True, sds=True, v_pred=False)), **PAPER)
    v = torch.randn(2, 4, 8, 8, requires_grad=True)
    loss, _, found = host.train_step(TEXT, v, 7.5, t5=True)
    assert found is v and host.ldp.statistics.timesteps.max() <= 500
    loss.backward()
    assert v.grad.isfinite().all()
    with pytest.raises(NotImplementedError, match="pose"):
        host.opt.sds = False
        host.train_step(TEXT, v, 7.5, OfRendered())
    with pytest.raises(UsageError, match="mode: expected gradient or loss"):
        prolificdreamer.wrap(host, mode="sum")


@pytest.mark.parametrize("module", [dreamgaussian, nerfstudio, prolificdreamer])
def test_other_objects_are_refused(module: Any) -> None:
    with pytest.raises(UsageError, match="FakeHost: expected an object with unet"):
        module.wrap(FakeHost())


def test_nothing_waits_for_the_device() -> None:
    v, rgb = torch.randn(1, 4, 8, 8), images()
    hosts = [a_host(opt=options(latent=True, sds=True, v_pred=False)), a_host(), a_host()]
    prolificdreamer.wrap(hosts[0], **PAPER)
    dreamgaussian.wrap(hosts[1], **PAPER)
    nerfstudio.wrap(hosts[2], **PAPER)
    with NoSync():
        hosts[0].train_step(TEXT[:2], v.requires_grad_(), 7.5)
        hosts[1].train_step(rgb)
        hosts[2].sds_loss(TEXT[:2], rgb)


def compared(
    host: Any, module: Any, step: str, rgb: Tensor, *arguments: Any, tolerance: float = 1e-3, **keywords: Any
) -> None:
    """A real host's gradient before and after it is wrapped; with the regularisers it is another."""
    found = []
    for lambdas in (None, ALONE, PAPER):
        if lambdas is not None:
            module.wrap(host, **lambdas)
        torch.manual_seed(1)
        out = getattr(host, step)(*arguments, **keywords)
        loss = out[0] if isinstance(out, tuple) else out
        found.append(gradient_of(loss, rgb).float())
    assert_same(found[1], found[0], tolerance)
    assert (found[2] - found[1]).norm() > 1e-2 * found[1].norm()
    assert host.ldp.statistics.read()["norm_fm"] > 0


def test_against_dreamgaussian(tmp_path: pathlib.Path) -> None:
    with imported(checkout("dreamgaussian"), "guidance.sd_utils") as module:
        for step_ratio in (None, 0.3):
            host = module.StableDiffusion("cpu", fp16=False, hf_key=str(saved(tmp_path)))
            host.get_text_embeds(["a"], [""])
            rgb = images(2)
            compared(host, dreamgaussian, "train_step", rgb, rgb, step_ratio=step_ratio, hors=[10.0, 90.0])


def test_against_prolificdreamer(tmp_path: pathlib.Path) -> None:
    opt = options(t_range=[0.02, 0.98], latent=False, sds=False, v_pred=False)
    with imported(checkout("prolificdreamer"), "nerf.sd") as module:
        for arguments in ((), (OfRendered(), torch.tensor(0.1), "albedo", 2.0)):
            host = module.StableDiffusion("cpu", hf_key=str(saved(tmp_path)), opt=opt)
            text, rgb = host.get_text_embeds(["a fish"], [""]), images()
            compared(host, prolificdreamer, "train_step", rgb, text, rgb, 7.5, *arguments)


def test_against_nerfstudio(tmp_path: pathlib.Path) -> None:
    """Its step is float16 whatever the device; so are the models here."""
    stood_in = ("tyro", "jaxtyping", "rich", "nerfstudio.utils.rich_utils")
    with imported(checkout("nerfstudio"), "nerfstudio.generative.stable_diffusion", *stood_in) as module:
        host = module.StableDiffusion.__new__(module.StableDiffusion)
        torch.nn.Module.__init__(host)
        ddim = scheduler()
        host.device, host.scheduler, host.alphas = torch.device("cpu"), ddim, ddim.alphas_cumprod
        host.min_step, host.max_step, host.unet, host.auto_encoder = 20, 980, tiny_unet().half(), tiny_vae().half()
        rgb = images()
        compared(host, nerfstudio, "sds_loss", rgb, TEXT[:2].half(), rgb, tolerance=2e-2, guidance_scale=2)


def saved(folder: pathlib.Path) -> pathlib.Path:
    """A small Stable Diffusion on disk, with the names that a pipeline asks for."""
    return save_stable_diffusion(folder)
