"""What a reader of the paper would write with diffusers, and how far one gets without writing a backward.

`HookedDecoder` and `naive_loss` are the naive implementation: hooks on the whole decoder, L1, autograd. `FoldedDecoder`
is the best that is left of it by rearranging alone: truncated, channels-last, and with each "nearest ×2, then 3×3
convolution" folded into one transposed convolution; gradients are autograd's. All of them compute what
`FrozenDecoder.feature_matching` and `LatentDiffusionPrior.gradient` compute (tests/benchmarks).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import Models

Result = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Weights:
    """λ1, λ2, λ3 and the scale of guidance, on the scale on which all three terms are means (docs/mathematics.md)."""

    fm: float = 0.01
    kl: float = 0.1
    lsd: float = 1.0
    guidance: float = 7.5


@dataclass(frozen=True)
class Problem:
    """The inputs of one step: v [1, C, h, w] float32, ε of the same shape, and t [1] int64."""

    latents: Tensor
    noise: Tensor
    timestep: Tensor

    @classmethod
    def sample(cls, side: int, device: str) -> Problem:
        """Random ones, the same at every call."""
        generator = torch.Generator().manual_seed(4)
        v, noise = (torch.randn(1, 4, side, side, generator=generator).to(device) for _ in range(2))
        return cls(v, noise, torch.tensor([420], device=device))


def sharing(module: Any) -> Any:
    """A copy of a module's structure on the same parameters, so that hooks and replaced layers are its own."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


class HookedDecoder:
    """diffusers' whole decoder with forward hooks on its up-blocks 0, 1 and 2.

    Args:
        vae: an AutoencoderKL, frozen; it gets no hooks itself.
    """

    def __init__(self, vae: Any):
        self.vae = sharing(vae)
        self.found: list[Tensor] = []
        for block in self.vae.decoder.up_blocks[:3]:
            block.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.found.append(output)

    def features(self, latents: Tensor) -> list[Tensor]:
        """x_ℓ for scaled latents [B, C, h, w]."""
        self.found.clear()
        self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor)
        found = list(self.found)
        # The features of a step are not to outlive it.
        self.found.clear()
        return found

    def loss(self, latents: Tensor, latents_prime: Tensor) -> Tensor:
        """Σ_ℓ mean |x_ℓ − x′_ℓ| from one pass over [v; v′]."""
        features = self.features(torch.cat([latents, latents_prime]))
        return sum(F.l1_loss(*x.float().chunk(2)) for x in features)


def with_gradients(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Result]:
    """A loss of v and v′ as a function that returns it with both gradients, by autograd."""

    def call(latents: Tensor, latents_prime: Tensor) -> Result:
        v, v_prime = latents.detach().requires_grad_(), latents_prime.detach().requires_grad_()
        value = loss(v, v_prime)
        return value.detach(), *torch.autograd.grad(value, (v, v_prime))

    return call


def _fold_axis(weight: Tensor, dim: int) -> Tensor:
    """k[y] = Σ_{a ∈ {0, 1}} w[a + 2 − y]: a pixel reaches output 2i − 1 + y through its two copies a."""
    w0, w1, w2 = weight.unbind(dim)
    return torch.stack([w2, w1 + w2, w0 + w1, w0], dim)


def fold(weight: Tensor) -> Tensor:
    """The 3×3 weights [O, I, 3, 3] that follow a nearest ×2, as a 4×4 transposed convolution's, [I, O, 4, 4].

    Its stride is 2 and its padding 1; zero padding is reproduced exactly.
    """
    return _fold_axis(_fold_axis(weight, 2), 3).transpose(0, 1).contiguous()


class FoldedUpsample(nn.Module):
    """ "Nearest ×2, then a 3×3 convolution" as one transposed convolution."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight = nn.Parameter(fold(conv.weight.detach().float()).to(conv.weight), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class FoldedDecoder:
    """The decoder cut off after up-block 2, channels-last, its upsampling folded; gradients by autograd.

    Args:
        vae: an AutoencoderKL; what is needed of it is copied.
    """

    def __init__(self, vae: Any):
        self.scaling_factor = vae.config.scaling_factor
        decoder = vae.decoder
        stages = [vae.post_quant_conv, decoder.conv_in, decoder.mid_block, *decoder.up_blocks[:3]]
        copies = [copy.deepcopy(stage) for stage in stages if stage is not None]
        for stage in copies:
            for upsampler in getattr(stage, "upsamplers", None) or ():
                stage.upsamplers[0] = FoldedUpsample(upsampler.conv)
        self.stages: Any = nn.ModuleList(copies).requires_grad_(False).to(memory_format=torch.channels_last)
        self.dtype = next(self.stages.parameters()).dtype

    def features(self, latents: Tensor) -> list[Tensor]:
        """x_ℓ for scaled latents [B, C, h, w]."""
        x = (latents / self.scaling_factor).to(self.dtype).contiguous(memory_format=torch.channels_last)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found[-3:]

    def loss(self, latents: Tensor, latents_prime: Tensor) -> Tensor:
        """As `HookedDecoder.loss`."""
        features = self.features(torch.cat([latents, latents_prime]))
        return sum(F.l1_loss(*x.float().chunk(2)) for x in features)


def kl_loss(latents: Tensor) -> Tensor:
    """½ (μ² + σ² − log σ² + 1), Eq. 3 as printed, for one sample."""
    mean, variance = latents.mean(), latents.var(unbiased=False)
    return 0.5 * (mean**2 + variance - variance.log() + 1)


def updated_latents(latents: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    """v′ = v + r with the factor 1 + α_t on its gradient, in one line of autograd."""
    return (1 + alpha) * latents - (alpha * latents).detach() + residual.detach()


def naive_loss(
    models: Models, decoder: HookedDecoder, latents: Tensor, noise: Tensor, timestep: Tensor, weights: Weights
) -> Tensor:
    """λ1 N L_FM + λ2 N L_KL + λ3 ⟨r, v⟩ for one sample, whose gradient is the paper's (Eq. 2 to 4)."""
    alpha = models.scheduler.alphas_cumprod.to(latents.device)[timestep].sqrt().view(-1, 1, 1, 1)
    with torch.no_grad():
        noisy = models.scheduler.add_noise(latents, noise, timestep).to(models.unet.dtype)
        output = models.unet(torch.cat([noisy] * 2), timestep, encoder_hidden_states=models.text).sample
        uncond, text = output.float().chunk(2)
        residual = uncond + weights.guidance * (text - uncond) - noise
    fm = decoder.loss(latents, updated_latents(latents, residual, alpha))
    elements = latents.numel()
    distilled = (residual * latents).sum()
    return weights.lsd * distilled + elements * (weights.kl * kl_loss(latents) + weights.fm * fm)


def naive_step(
    models: Models, decoder: HookedDecoder, problem: Problem, weights: Weights, loss: Callable[..., Tensor] = naive_loss
) -> Tensor:
    """The gradient of the naive loss on v; `loss` may be a compiled form of `naive_loss`."""
    v = problem.latents.detach().requires_grad_()
    value = loss(models, decoder, v, problem.noise, problem.timestep, weights)
    return torch.autograd.grad(value, v)[0]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile of a function.

    Without Inductor's reordering for peak memory: with it, torch 2.13 copies the zeros that the gradient of a nearest
    ×2 is scattered into before it is scattered, and the latents get a gradient of zeros. Whoever times the result is to
    compare it with the eager function first.
    """
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, options={"reorder_for_peak_memory": False})
