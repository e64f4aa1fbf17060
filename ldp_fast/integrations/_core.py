"""What every host adapter shares: from a host's network call to its loss or its gradient, with the paper's two terms.

A host's step is always the same five moves, and an adapter says only how its host makes them:

1. latents v, t and ε, made by the host's code or drawn in the host's order, so that a seed gives the host's numbers;
2. t within the schedule, α_t, σ_t and w(t): `LiveSchedule(host).read(device).inside(t)`, `.gather(t)` and
   `.weight(t, "dreamfusion")`; a host with noise levels (SJC) computes α = 1/√(1 + σ²) itself;
3. `predict_residual(v, ε, α, σ, network, …)`: noising, the host's network as a closure, guidance in the host's order
   and definition, the difference r = ε̂ − ε. A host that has r already skips this;
4. `HostLosses(…)`: the prior's terms (`guidance/terms.py`) with the host's clip and with what the host distils, LSD
   exactly as the host weighs it, FM and KL on the scale `latent` (docs/mathematics.md). Called, it returns scalars on
   the graph (loss mode: for hosts that add losses up, correct under a GradScaler); `.gradient` returns dL/dv without a
   graph (gradient mode: for hosts that call `latents.backward(gradient=g)`);
5. `wrap` of the adapter (`_adapter.py`), which puts the step into the host's object; that keeps everything else.

Arithmetic is float32 whatever the network's precision, also under an enclosing autocast. Nothing here waits for the
device, except `nonfinite="raise"`, which says so. With λ1 = λ2 = 0 neither decoder nor KL touch the gradient.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .. import checks
from ..decoder import FrozenDecoder
from ..errors import UsageError
from ..guidance import PriorOutput, PriorStatistics, terms
from ..guidance.check import check_hooks
from ..guidance.read_from import version_of
from ..losses.functional import guided_residual, perp_neg_residual, perturb
from ..ops import outside_graphs
from ._live import Attribute, Made

Mode = Literal["gradient", "loss"]


@torch.no_grad()
def predict_residual(
    latents: Tensor,
    noise: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    network: Callable[[Tensor], Tensor],
    *,
    guidance_scale: float | Tensor | None,
    guidance: Literal["from_uncond", "from_text"] = "from_uncond",
    order: Literal["uncond_first", "text_first"] = "uncond_first",
    prediction: Literal["epsilon", "v_prediction", "sample", "flow"] = "epsilon",
    negative_weights: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """r = ε̂ − ε through a host's network.

    Args:
        latents: v, only its values are read  # [B, C, H, W]
        noise: ε  # [B, C, H, W]
        alpha: α_t, float32  # [] or [B], or [1] for one t for the batch
        sigma: σ_t, float32  # as alpha
        network: the host's call, from z_t in as many copies as there are prompts, [K·B, C, H, W], to the output of the
            same shape; it repeats its own t and holds its text embeddings. K is 1 without guidance, 2 with, and more
            by the number of negatives for Perp-Neg; row k·B + b is copy k of sample b.
        guidance_scale: s, or None for no guidance.
        guidance: `from_uncond` e_u + s(e_c − e_u), `from_text` e_c + s(e_c − e_u). Perp-Neg is always `from_uncond`.
        order: of the first two copies.
        prediction: what the network predicts.
        negative_weights: of Perp-Neg, float32; None is plain guidance  # [B, N]
        dtype: of what the network is given; None is the latents'.

    Returns:
        r, float32 (float64 for float64 latents), without a graph  # [B, C, H, W]
    """
    alpha, sigma = _each("alpha", alpha, latents), _each("sigma", sigma, latents)
    dtype = dtype or latents.dtype
    conversion = _prediction(prediction, latents, noise, alpha, sigma)
    if negative_weights is None or guidance_scale is None:
        copies = 1 if guidance_scale is None else 2
        output = network(perturb(latents, noise, alpha, sigma, copies=copies, dtype=dtype))
        return guided_residual(
            output, noise, guidance_scale=guidance_scale, guidance=guidance, order=order, **conversion
        )
    output = network(perturb(latents, noise, alpha, sigma, copies=2 + negative_weights.shape[1], dtype=dtype))
    return perp_neg_residual(output, noise, negative_weights, guidance_scale=guidance_scale, order=order, **conversion)


def _prediction(prediction: str, latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> dict[str, Any]:
    """What the conversion of a prediction type needs; z_t in float32, not the network's rounded copy."""
    if prediction == "epsilon":
        return {"prediction": prediction}
    wide = torch.promote_types(latents.dtype, torch.float32)
    noisy = perturb(latents, noise, alpha, sigma, dtype=wide)
    return {"prediction": prediction, "noisy_latents": noisy, "alpha": alpha, "sigma": sigma}


def _each(name: str, coefficient: Tensor | float, latents: Tensor) -> Tensor:
    """A coefficient as [B]: hosts have [B], [1], [B, 1, 1, 1] and numbers."""
    if not isinstance(coefficient, Tensor):
        return checks.coefficients("HostLosses", name, coefficient, latents)
    # Half precision is left as it is, for the operators to refuse: rounding ᾱ_t costs three digits.
    return coefficient.detach().reshape(-1).expand(len(latents))


def _now(value: Any) -> Any:
    return value.read() if isinstance(value, Attribute) else value


_CHOICES = {"batch_reduction": ("mean", "sum"), "nonfinite": ("propagate", "zero", "raise")}


@dataclasses.dataclass
class HostLosses:
    """A host's score distillation with the paper's two regularisers (Eq. 4), as scalars or as a gradient.

        g = λ3 · w r  +  λ2 · [μ + (v − μ)(1 − 1/σ²)]  +  λ1 · N · [(1 + α_t) dL_FM/dv′ + dL_FM/dv]

    Attributes:
        vae: the host's autoencoder, diffusers' or CompVis'; its decoder is shared, and never gets a gradient. Or the
            `Attribute` under which the host has it, which is read at every call; or a `FrozenDecoder`, for other
            levels, memory or precision. None is allowed while λ1 is 0.
        lambda_fm: λ1; 0 never touches the decoder.
        lambda_kl: λ2.
        lambda_lsd: λ3.
        batch_reduction: `mean` divides by B (threestudio, stable-dreamfusion), `sum` does not (Latent-NeRF).
        nonfinite: `propagate`, `zero` (and count; like the hosts' `nan_to_num`, except that infinities become 0 too),
            or `raise` (synchronises).
        clip: bound of the elements of w r, before λ3 and the batch reduction; None does not clip. FM and KL are never
            clipped: a host's bound is made for its own term. NaN stays NaN.
        decoder_dtype: precision of the decoder; None is the VAE's own.
        scaling_factor: of the latents, where the VAE lacks a configuration (CompVis'): a number, or an `Attribute`.

    All of them may be assigned to later; the decoder is made again where one of its own is another.

    Raises:
        UsageError: a weight or a bound that is not a number.
    """

    vae: Any = None
    lambda_fm: float = 0.0
    lambda_kl: float = 0.0
    lambda_lsd: float = 1.0
    batch_reduction: Literal["mean", "sum"] = "mean"
    nonfinite: Literal["propagate", "zero", "raise"] = "propagate"
    clip: float | None = None
    levels: tuple[str, ...] = ("up0", "up1", "up2")
    memory: Literal["auto", "save", "recompute"] = "auto"
    decoder_dtype: torch.dtype | None = None
    scaling_factor: Any = None
    _decoder: Made[FrozenDecoder] = dataclasses.field(default_factory=Made, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("lambda_fm", "lambda_kl", "lambda_lsd"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise UsageError(f"{name}: expected a finite number; got {value!r}")
        if self.clip is not None and not self.clip >= 0:
            raise UsageError(f"clip: expected a number from 0 on, or None; got {self.clip!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name}: expected one of {', '.join(choices)}; got {getattr(self, name)!r}")

    @property
    def scale(self) -> Literal["latent"]:
        """Of the regularisers, see docs/mathematics.md: beside a host's own term the λ's have to mean the same."""
        return "latent"

    def check(self) -> None:
        """Makes the decoder, where feature matching needs one, so that what cannot be served is said now.

        Raises:
            TypeError: the VAE's decoder is of an unknown kind.
            UsageError: the host lacks a VAE, or its weights are elsewhere.
            ValueError: a level that it does not have.
        """
        if self.lambda_fm != 0:
            _ = self.decoder

    @property
    def decoder(self) -> FrozenDecoder:
        """The frozen decoder of the VAE that the host has now."""
        vae, scale = _now(self.vae), _now(self.scaling_factor)
        if isinstance(vae, FrozenDecoder):
            return vae
        # A tensor's value is not looked at, which would wait for the device: only whether it is still the same one.
        on_device = isinstance(scale, Tensor)
        return self._decoder.get(
            (vae, scale if on_device else None),
            (tuple(self.levels), self.memory, self.decoder_dtype, version_of(scale) if on_device else scale),
            lambda: self._make_decoder(vae, None if scale is None else float(scale)),
        )

    @outside_graphs
    def _make_decoder(self, vae: Any, scaling_factor: float | None) -> FrozenDecoder:
        if vae is None:
            raise UsageError("vae: feature matching (lambda_fm > 0) needs one; got None")
        check_hooks("vae", vae, casting=False)
        if any(p.device.type == "meta" for p in vae.parameters()):
            raise UsageError(
                "vae: feature matching needs its weights on a device, and they are offloaded "
                "(enable_sequential_cpu_offload, vram_O): load without, or set lambda_fm to 0"
            )
        if scaling_factor is not None and not (math.isfinite(scaling_factor) and scaling_factor != 0):
            raise UsageError(f"scaling_factor: expected a number other than 0; got {scaling_factor}")
        return FrozenDecoder(
            vae, self.levels, memory=self.memory, dtype=self.decoder_dtype, scaling_factor=scaling_factor
        )

    def __call__(
        self,
        latents: Tensor,
        residual: Tensor,
        alpha: Tensor | float,
        weight: Tensor | float,
        *,
        timesteps: Tensor | None = None,
        outside: Tensor | None = None,
        field: Tensor | None = None,
        regularise: bool = True,
    ) -> PriorOutput:
        """Loss mode: scalars whose backward multiplies by what comes in (correct under a GradScaler).

        Args:
            latents: v, with the host's graph  # [B, C, H, W]
            residual: r = ε̂ − ε, of `predict_residual`  # [B, C, H, W]
            alpha: α_t  # number, [], [1] or [B]
            weight: w(t)  # number, [], [1] or [B]
            timesteps: t, for the statistics  # [1] or [B] int64
            outside: which t had to be clamped, of `Schedule.inside`, for the statistics  # [1] or [B] bool
            field: what is distilled, where it is not r (SJC without variance reduction: ε̂); v′ is v + r either way.
            regularise: False leaves FM and KL out of this call (latents that are not diffusion latents, such as
                normals); both are then 0.

        Returns:
            `loss` = λ1·fm + λ2·kl + λ3·lsd and the three of them, each with its gradient on the scale `latent`; the
            values are the mean-type numbers of docs/mathematics.md. With λ1 = 0, fm is 0.
        """
        wanted = torch.is_grad_enabled() and latents.requires_grad
        step = self._step(latents, residual, alpha, weight, (timesteps, outside), field, regularise)
        matching = terms.match(self, lambda: self.decoder, step, gradients=wanted)
        return terms.loss(self, latents, step, matching)

    @torch.no_grad()
    def gradient(
        self,
        latents: Tensor,
        residual: Tensor,
        alpha: Tensor | float,
        weight: Tensor | float,
        *,
        timesteps: Tensor | None = None,
        outside: Tensor | None = None,
        field: Tensor | None = None,
        regularise: bool = True,
    ) -> tuple[Tensor, PriorStatistics]:
        """Gradient mode: dL/dv, for hosts that call `latents.backward(gradient=g)`. Keeps no graph.

        Args: as `__call__`.

        Returns:
            g, float32 (float64 for float64 latents) [B, C, H, W], and the statistics.
        """
        step = self._step(latents, residual, alpha, weight, (timesteps, outside), field, regularise)
        return terms.gradient(self, step, terms.match(self, lambda: self.decoder, step))

    @torch.no_grad()
    def _step(
        self,
        latents: Tensor,
        residual: Tensor,
        alpha: Tensor | float,
        weight: Tensor | float,
        told: tuple[Tensor | None, Tensor | None],
        field: Tensor | None,
        regularise: bool,
    ) -> terms.Step:
        v, r = latents.detach(), residual.detach()
        a, w = _each("alpha", alpha, v), _each("weight", weight, v)
        distilled = r if field is None else field.detach()
        if self.clip is not None:
            distilled = w[:, None, None, None] * distilled
            bound: Any = checks.scalar(self.clip, distilled)
            distilled, w = distilled.clamp(-bound, bound), torch.ones_like(w)
        t, outside = (None if x is None else x.reshape(-1).expand(len(v)) for x in told)
        if t is None:
            t = torch.zeros(len(v), dtype=torch.int64, device=v.device)
        return terms.Step(v, r, a, w, t, outside, distilled, regularise)


def without_graph(output: PriorOutput) -> PriorOutput:
    """The same values off the graph: what is kept of a step must not keep its graph, and is copied with a host."""
    terms = {name: getattr(output, name).detach() for name in ("loss", "lsd", "fm", "kl")}
    return PriorOutput(**terms, statistics=output.statistics)
