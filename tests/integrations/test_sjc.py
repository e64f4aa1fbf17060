"""SJC: σ-parametrised, against its formula, and against `run_sjc.py` as it is and with the three lines changed."""

from __future__ import annotations

import contextlib
import types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldp_fast import UsageError
from ldp_fast.integrations.sjc import SJCLosses

from ..ops.common import NoSync
from ..support.models import CompVisAutoencoder, tiny_unet, tiny_vae
from .hosts import checkout, imported
from .oracle import ALONE, PAPER, assert_same, regularisers

SIGMA, SCALE = 1.7, 0.18215
TEXT = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
# The edit of docs/adopting.md.
EDIT = (
    ("import torch\n", "import torch\nfrom ldp_fast.integrations.sjc import SJCLosses\n"),
    (
        "    ts = model.us[30:-10]\n",
        "    ts = model.us[30:-10]\n    losses = SJCLosses(model, var_red=var_red, **WEIGHTS)\n",
    ),
    (
        "            y.backward(-grad, retain_graph=True)\n",
        "            y.backward(losses.gradient(y, zs, Ds, chosen_σs)[0], retain_graph=True)\n",
    ),
)


def latents(batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def a_model() -> Any:
    """The host's object as far as it is read."""
    first_stage = CompVisAutoencoder(tiny_vae())
    inner = SimpleNamespace(first_stage_model=first_stage, scale_factor=torch.tensor(SCALE))
    return SimpleNamespace(model=inner)


def denoised(zs: Tensor, sigma: Tensor) -> Tensor:
    """D of the host: its UNet takes zs/√(1 + σ²) and [uncond, text], guidance scale 100."""
    z = zs / (1 + sigma**2).sqrt()
    e_u, e_c = tiny_unet()(torch.cat([z] * 2), 620, TEXT.repeat_interleave(len(z), 0)).sample.chunk(2)
    return zs - sigma * (e_u + 100 * (e_c - e_u))


def a_step(batch: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, zs, D and σ of each noise."""
    y, sigma = latents(), torch.linspace(SIGMA, 2 * SIGMA, batch).view(-1, 1, 1, 1)
    zs = y + sigma * latents(batch, 1)
    return y, zs, denoised(zs, sigma).detach(), sigma


def hosts_gradient(y: Tensor, zs: Tensor, ds: Tensor, sigma: Tensor, var_red: bool) -> Tensor:
    """What run_sjc.py hands to `y.backward`, the minus included."""
    return -((ds - (y if var_red else zs)) / sigma).mean(0, keepdim=True)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("var_red", [True, False])
def test_alone_it_is_the_hosts_gradient(var_red: bool, batch: int) -> None:
    step = a_step(batch)
    losses = SJCLosses(a_model(), var_red=var_red, **ALONE)
    gradient, _ = losses.gradient(*step)
    torch.testing.assert_close(gradient, hosts_gradient(*step, var_red))
    y = step[0].clone().requires_grad_()
    losses(y, *step[1:]).loss.backward()
    torch.testing.assert_close(y.grad, gradient)


@pytest.mark.parametrize("var_red", [True, False])
def test_the_regularisers_are_added(var_red: bool) -> None:
    """v′ = y + r whether or not r is what is distilled; α = 1/√(1 + σ²)."""
    y, _, ds, sigma = step = a_step()
    losses = SJCLosses(a_model(), var_red=var_red, **PAPER)
    gradient, statistics = losses.gradient(*step)
    extra = regularisers(tiny_vae(), y, (y - ds) / sigma, 1 / (1 + sigma**2).sqrt().flatten(), 0.01, 0.1)
    assert extra.norm() > 1e-3
    assert_same(gradient, hosts_gradient(*step, var_red) + extra)
    assert statistics.levels == ("up0", "up1", "up2")
    leaf = y.clone().requires_grad_()
    out = losses(leaf, *step[1:])
    (2 * out.loss).backward()
    assert_same(leaf.grad, 2 * gradient)


def test_nothing_waits_and_no_first_stage_is_needed_alone() -> None:
    step = a_step()
    losses = SJCLosses(a_model(), **PAPER)
    with NoSync():
        losses.gradient(*step)
    SJCLosses(SimpleNamespace(), **ALONE).gradient(*step)
    with pytest.raises(UsageError, match=r"got one without model\.first_stage_model\.decoder, model\.scale_factor"):
        SJCLosses(SimpleNamespace())


@contextlib.contextmanager
def nothing(*args: Any, **kwargs: Any) -> Any:
    yield types.SimpleNamespace(
        __getattr__=None, beat=int, done=int, on_break=bool, step=int, update=int, put_scalars=lambda **_: None,
        put_artifact=lambda *_: None, set_description=lambda *_: None,
    )  # fmt: skip


class Voxels(torch.nn.Module):
    """Latents that are their own parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.y, self.ws = torch.nn.Parameter(latents()), torch.nn.Parameter(torch.ones(3))
        self.aabb = torch.zeros(2, 3)

    def opt_params(self) -> list[torch.nn.Parameter]:
        return [self.y, self.ws]


def run_hosts_loop(module: types.ModuleType, var_red: bool) -> Tensor:
    """One iteration of `sjc_3d`, its rendering and logging left out; returns the gradient of the latents."""
    for name in ("EventStorage", "HeartBeat", "tqdm"):
        setattr(module, name, nothing)
    module.EarlyLoopBreak = lambda _: SimpleNamespace(on_break=lambda: False)
    module.device_glb, module.evaluate, module.every = torch.device("cpu"), lambda *_: None, lambda *_, **__: False
    module.render_one_view = lambda vox, *_, **__: (vox.y * 1.0, None, vox.ws)
    model = object.__new__(module.StableDiffusion)
    unet, first = tiny_unet(), a_model().model
    model.model = SimpleNamespace(
        apply_model=lambda x, t, c: unet(x, t, c).sample,
        ema_scope=contextlib.nullcontext,
        parameterization="eps",
        get_learned_conditioning=lambda prompts: TEXT[:1] if prompts == [""] else TEXT[1:],
        first_stage_model=first.first_stage_model,
        scale_factor=first.scale_factor,
    )
    model.cond_func, model.prompt, model.scale = model.model.get_learned_conditioning, "a fish", 100.0
    model.precision_scope, model._device, model.M = lambda _: contextlib.nullcontext(), torch.device("cpu"), 1000
    model._data_shape, model.us = (4, 8, 8), model.linear_us(1000)
    poser = SimpleNamespace(H=8, W=8, sample_train=lambda n: ([None] * n, [None] * n, ["front view of"] * n))
    voxels = Voxels()
    np.random.seed(5)
    torch.manual_seed(5)
    module.sjc_3d(
        poser=poser, vox=voxels, model=model, lr=0.05, n_steps=1, emptiness_scale=10, emptiness_weight=1.0,
        emptiness_step=0.5, emptiness_multiplier=20.0, depth_weight=0, var_red=var_red,
    )  # fmt: skip
    assert voxels.ws.grad.norm() > 0
    return voxels.y.grad


@pytest.mark.parametrize("var_red", [True, False])
def test_against_run_sjc(var_red: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's loop as it is, and with the edit: the same gradient alone, and with the regularisers another."""
    folder = checkout("sjc")
    stood_in = ("omegaconf", "einops", "tabulate", "torchvision", "imageio", "cv2", "skimage", "click", "easydict")
    with imported(folder, "run_sjc", *stood_in) as module:
        theirs = run_hosts_loop(module, var_red)
        source = (folder / "run_sjc.py").read_text()
        for old, new in EDIT:
            assert source.count(old) == 1
            source = source.replace(old, new)
        for weights in (ALONE, PAPER):
            edited = types.ModuleType("run_sjc")
            edited.WEIGHTS = weights  # type: ignore[attr-defined]
            exec(compile(source, "run_sjc.py", "exec"), vars(edited))
            ours = run_hosts_loop(edited, var_red)
            if weights is ALONE:
                assert_same(ours, theirs)
            else:
                assert (ours - theirs).norm() > 1e-3
