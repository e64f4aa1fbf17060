"""StyleGAN-Fusion (KunpengSong/styleganfusion): its Stable Diffusion with the paper's regularisers, by one import.

    # model/ZSSGAN.py, in place of `from sd import …`
    from ldp_fast.integrations.stylegan_fusion import StableDiffusion as StableDiffusion_loss_model

Made like the host's class, it is the host's object; only `train_step` is ours. It draws t and ε as the host does, keeps
the host's options (`rescaleCFG_Noise`, `EG3D`) and its clamp of w·r to ±1, and returns the gradient and a number. The
number is read from the device when somebody prints it, not in every step. The regularisers are not clamped: the bound
is made for the host's own term. (The 95 % quantile of the gradient by pixels, in ZSSGAN, is taken of everything.)
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..guidance import PriorOutput
from ..guidance.inputs import rows_for
from ._adapter import HostGuidance
from ._core import predict_residual

CLAMP = 1.0
EG3D = 100.0  # what the host divides its gradient by for EG3D


class LazyFloat:
    """A number that is still on the device: read, once, when it is printed or converted.

    Args:
        value: a tensor of one element.
    """

    def __init__(self, value: Tensor):
        self._value: Tensor | float = value

    def __float__(self) -> float:
        if isinstance(self._value, Tensor):
            self._value = float(self._value)
        return self._value

    def __repr__(self) -> str:
        return repr(float(self))

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)

    def __add__(self, other: Any) -> float:
        return float(self) + float(other)

    __radd__ = __add__


class Guidance(HostGuidance):
    """The host's step with the paper's losses.

    Args:
        host: the host's `StableDiffusion`, whose modules and `args` are read at every step.
        **keywords: as every adapter's, see `Adapter`; the paper's λ1 is 3 and λ2 0.05 for this application, and `clip`
            is the host's ±1. The host takes a gradient: mode `loss` is for a loop of one's own.

    Attributes:
        regularise: False leaves FM and KL out, for the host's selection of layers, which needs the direction only.
    """

    MODE = "gradient"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "lambda_fm": 3.0,
        "lambda_kl": 0.05,
        "lambda_lsd": 1.0,
        "clip": CLAMP,
        "nonfinite": "zero",
    }
    NEEDS = ("text_embeddings", "args")

    def __init__(self, host: Any, **keywords: Any):
        super().__init__(host, **keywords)
        self.regularise, self.scale = True, 1.0
        self._follow()

    def _follow(self) -> None:
        """The host divides its own term for EG3D; so that the λ's mean the same beside it, they shrink with it."""
        scale = EG3D if self.host.args.EG3D else 1.0
        if scale != self.scale:
            self.losses.lambda_fm *= self.scale / scale
            self.losses.lambda_kl *= self.scale / scale
            self.scale = scale

    def _step(self, latents: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """r, α and w, drawn in the host's order, and what the losses are told of t."""
        host, args = self.host, self.host.args
        self._follow()
        self.check_units()
        text, schedule = rows_for(host.text_embeddings, 2, len(latents)), self.schedule(latents.device)
        if t is None:
            t = torch.randint(args.min_step, args.max_step + 1, [1], dtype=torch.long, device=latents.device)
        noise = torch.randn_like(latents)
        t, outside = schedule.inside(t, self.prediction)
        alpha, sigma = schedule.gather(t)
        residual = predict_residual(
            latents,
            noise,
            alpha,
            sigma,
            lambda z: host.unet(z, t, encoder_hidden_states=text).sample,
            guidance_scale=args.CFG,
            prediction=self.prediction,
        )
        told = {"timesteps": t, "outside": outside, "regularise": self.regularise}
        if args.rescaleCFG_Noise:
            residual = unit_rms(residual + noise) - unit_rms(noise)
        return residual, alpha, schedule.weight(t, "dreamfusion") / self.scale, told

    def train_step(self, latents: Tensor, t: Tensor | None = None) -> tuple[Tensor, LazyFloat]:
        """The host's contract.

        Args:
            latents: v, of `encode_imgs`; only the values are read, except in mode `loss`  # [B, 4, H, W]
            t: timesteps; None draws one from the host's range  # [1] int64

        Returns:
            dL/dv, for the host's `latents.backward` [B, 4, H, W]; in mode `loss` the loss, a scalar on the graph of the
            latents. And mean (ε̂ − ε)².
        """
        with torch.no_grad():
            residual, alpha, weight, told = self._step(latents.detach(), t)
            number = LazyFloat(residual.square().mean())
        if self.mode == "loss":
            return self._loss(latents, residual, alpha, weight, **told).loss, number
        return self._gradient(latents, residual, alpha, weight, **told), number

    def loss(self, latents: Tensor, t: Tensor | None = None) -> PriorOutput:
        """Loss mode, for a loop of one's own: scalars on the graph of the latents.

        Args: as `train_step`.
        """
        residual, alpha, weight, told = self._step(latents.detach(), t)
        return self._loss(latents, residual, alpha, weight, **told)


def unit_rms(x: Tensor) -> Tensor:
    """Each sample with a root mean square of 1."""
    return x / x.square().mean((1, 2, 3), keepdim=True).sqrt()


wrap = Guidance.wrap


def StableDiffusion(args: Any, **options: Any) -> Any:
    """The host's class by name and arguments; imports the host's `sd`.

    Args:
        args: the host's command line.
        **options: of `wrap`.

    Returns:
        The host's object, see `wrap`.
    """
    return wrap(importlib.import_module("sd").StableDiffusion(args), **options)
