"""The latent diffusion prior over a generator's pictures: `ldp`, `lsd`, and StyleGANFusion's regularisers with both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ....clip.scaling import GradientScale
from ....decoder.whole import working_dtype
from ....guidance import LatentDiffusionPrior, PriorStatistics, TextEmbeddings, TimestepSampler, terms
from ....guidance.inputs import mean_over_noises, stack_noises
from ....guidance.step import evaluate
from ....integrations.stylegan_fusion import unit_rms
from ..draws import Draws, carried
from .perceptual import Perceptual
from .pictures import clipped, norms, shown, through

# Texts of views that are kept: those of a generator that names many have to fit.
MOST_VIEWS = 256
_LOSSES = ("lsd", "fm", "kl")
_NORMS = ("norm_lsd", "norm_fm", "norm_kl")


@dataclasses.dataclass(frozen=True)
class Regularisers:
    """StyleGANFusion's, all of which hold on to the source; 0 leaves one out.

    Attributes:
        directional: weight of w(t) (ε̂(z_t(v)) − ε̂(z_t(v_source))) on v: the same prompt, t and ε for both.
        reconstruction: weight of w(t) (ε̂ + (x̂₀ − v_source)) on v, both terms of root mean square 1, where x̂₀ is the
            denoised v: the host's gradient of ‖x̂₀ − v_source‖² by ε̂, subtracted from ε̂.
        perceptual: weight of the perceptual distance to the source's picture.
        distance: that distance; None where its weight is 0.
    """

    directional: float = 0.0
    reconstruction: float = 0.0
    perceptual: float = 0.0
    distance: Perceptual | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What is recorded of them."""
        weights = {
            "directional": self.directional,
            "reconstruction": self.reconstruction,
            "lpips": self.perceptual if self.distance is not None else 0.0,
        }
        return tuple(name for name, weight in weights.items() if weight)

    @property
    def on_latents(self) -> bool:
        """Whether the source's latents are needed."""
        return bool(self.directional or self.reconstruction)


class PriorGuide:
    """A prior with a prompt, as what guides a generator of pictures.

    Pictures are resized to the VAE's size, clamped with a straight gradient and encoded once, into the mode of the
    posterior; the prior's gradient on the latents goes back the same way.

    Args:
        prior: with `batch_reduction="sum"`.
        prompt: what the pictures shall show; where the draws know a sample's view, with ", … view" behind it.
        negative_prompt: what they shall not show.
        clamp: bound of the elements of w(t) r, and of the regularisers' on v, before λ3; None: none. The host: 1.
        pixel_clip: bounds the pixels' gradient at the VAE's size by this quantile of its magnitudes, per sample; the
            perceptual distance's is added after that. The host: 0.95.
        regularisers: see there.

    Attributes:
        device: of the prior.
        model: the prior.
        wants_sources: whether `gradient` looks at the source's pictures.
        columns: names of what `gradient` returns: values lsd, fm, kl of the terms and norms of their gradients on v
            before the λ's, the latents' standard deviation, the active regularisers, and the norm of the result.
        losses, shown: of them what are losses.

    Raises:
        UsageError: a prompt that the model does not know, a model without a VAE or whose picture size is not known.
    """

    losses = shown = _LOSSES

    def __init__(
        self,
        prior: LatentDiffusionPrior,
        prompt: str,
        negative_prompt: str = "",
        *,
        clamp: float | None = None,
        pixel_clip: float | None = None,
        regularisers: Regularisers | None = None,
    ):
        self.prior = self.model = prior
        self.text = prior.encode_prompt(prompt, negative_prompt)
        self._texts: dict[str, TextEmbeddings] = {}
        self._prompts = (prompt.rstrip(" ."), negative_prompt)
        self.clamp, self.pixel_clip = clamp, pixel_clip
        _, height, width = prior.latent_shape
        self.size = (height * prior.pixels_per_latent, width * prior.pixels_per_latent)
        self.regularisers = regularisers or Regularisers()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what `gradient` returns."""
        return (*_LOSSES, *_NORMS, "deviation", *self.regularisers.names, "norm_pixels")

    @property
    def device(self) -> torch.device:
        """Of the prior."""
        return self.prior.device

    @property
    def wants_sources(self) -> bool:
        """Whether `gradient` looks at the source's pictures."""
        return bool(self.regularisers.names)

    def gradient(
        self, pictures: Tensor, sources: Tensor, draws: Draws, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """dL/d pictures, L summed over the samples. Keeps no graph, and does not wait for the device.

        Args:
            pictures: of the trained generator, about [-1, 1]; only the values are read  # [B, 3, R, R]
            sources: of the frozen one, from the same w; not looked at without regularisers  # [B, 3, R, R]
            draws: of the B samples.
            progress: fraction of the run that is over, for the annealing of t.

        Returns:
            Float32 [B, 3, R, R], and by name what `columns` says, each [B].
        """
        found: dict[str, Tensor] = {}

        def of_shown(x: Tensor) -> Tensor:
            scale = GradientScale() if working_dtype(self.prior.vae, "encoder") == torch.float16 else None
            leaf = x.requires_grad_()
            with torch.enable_grad():
                latents = self._encoded(leaf, scale)
            before = shown(sources, self.size) if self.regularisers.names else None
            on_latents = self._on_latents(latents.detach(), before, draws, progress, found)
            (gradient,) = torch.autograd.grad(latents, leaf, on_latents.to(latents.dtype))
            gradient = clipped(gradient, self.pixel_clip)
            if self.regularisers.distance is not None and before is not None:
                towards, found["lpips"] = self.regularisers.distance.gradient(x, before)
                gradient = gradient + self.regularisers.perceptual * towards
            return gradient

        gradient = through(pictures, self.size, of_shown)
        found["norm_pixels"] = norms(gradient)
        return gradient, {name: found[name] for name in self.columns}

    def _text_of(self, draws: Draws) -> TextEmbeddings:
        """The prompt, or a row a sample where their views are known."""
        if draws.views is None:
            return self.text
        self.know_views(draws.views)
        return TextEmbeddings.cat([self._texts[words] for words in draws.views])

    def know_views(self, views: Iterable[str]) -> None:
        """Encodes the prompt with each of these views, so that a step does not have to.

        Args:
            views: as `Draws.views` has them.

        Raises:
            UsageError: one that the model does not know.
        """
        prompt, negative = self._prompts
        wanted = [words for words in dict.fromkeys(views) if words not in self._texts]
        if len(self._texts) + len(wanted) > MOST_VIEWS:
            self._texts.clear()
            wanted = list(dict.fromkeys(views))
        for words in wanted:
            self._texts[words] = self.prior.encode_prompt(f"{prompt}, {words} view", negative)

    def _encoded(self, x: Tensor, scale: GradientScale | None = None) -> Tensor:
        """v of pictures [-1, 1], the mode of the posterior."""
        images = (x if scale is None else scale.enter(x)) / 2 + 0.5
        latents = self.prior.encode(images, sample=False)
        return latents if scale is None else scale.leave(latents)

    @torch.no_grad()
    def _on_latents(
        self, latents: Tensor, before: Tensor | None, draws: Draws, progress: float, found: dict[str, Tensor]
    ) -> Tensor:
        """dL/dv of all but the perceptual distance; what is recorded goes into `found`."""
        regularisers = self.regularisers
        source = self._encoded(before) if before is not None and regularisers.on_latents else None
        seen = self._seen(latents, source, draws, progress)
        gradient, statistics = self._prior_gradient(seen.step)
        found.update(_recorded(statistics))
        if source is not None:
            weight = seen.step.weight.view(-1, 1, 1, 1)
            if regularisers.directional and seen.of_source is not None:
                difference = seen.step.residual - seen.of_source
                gradient = gradient + self._bounded(regularisers.directional * weight * difference)
                found["directional"] = (weight * difference.square()).mean((1, 2, 3)) / 2
            if regularisers.reconstruction:
                _, sigma = self.prior.schedule.to(latents.device).gather(seen.step.timesteps)
                # x̂₀ = (z_t − σ ε̂) / α = v − (σ / α) r
                ratio = (sigma / seen.step.alpha).view(-1, 1, 1, 1)
                apart = latents - ratio * seen.step.residual - source
                field = unit_rms(seen.step.residual + seen.noise) + unit_rms(apart)
                gradient = gradient + self._bounded(regularisers.reconstruction * weight * field)
                found["reconstruction"] = apart.square().mean((1, 2, 3))
        return gradient

    def _seen(self, latents: Tensor, source: Tensor | None, draws: Draws, progress: float) -> _Seen:
        """What the UNet sees in the latents; and, where it is wanted, in the source's at the same t and ε."""
        prior, s = self.prior, self.prior.settings
        sampler = TimestepSampler(len(prior.schedule), *s.timestep_range, s.anneal_to)
        generators, cpu = draws.generators(), torch.device("cpu")
        t = torch.cat([sampler.sample(1, cpu, generator, progress) for generator in generators])
        shape = (s.noises, *latents.shape[1:])
        noise = stack_noises([torch.randn(shape, generator=generator) for generator in generators])
        t, noise = (carried(x, latents.device) for x in (t, noise))
        mean = mean_over_noises(noise, s.noises)
        text = self._text_of(draws)
        if source is None or not self.regularisers.directional:
            return _Seen(evaluate(prior, latents, text, t, noise, None, progress), mean, None)
        text = text if len(text) == 1 else TextEmbeddings.cat([text, text])
        twice = noise.unflatten(0, (s.noises, -1)).repeat(1, 2, 1, 1, 1).flatten(0, 1)
        both = evaluate(prior, torch.cat([latents, source]), text, t.repeat(2), twice, None, progress)
        first, second = (slice(0, len(latents)), slice(len(latents), None))
        parts = {name: getattr(both, name)[first] for name in ("latents", "residual", "alpha", "weight", "timesteps")}
        return _Seen(terms.Step(**parts), mean, both.residual[second])

    def _prior_gradient(self, step: terms.Step) -> tuple[Tensor, PriorStatistics]:
        """λ1 FM + λ2 KL + λ3 LSD, LSD's field bounded where that is wanted."""
        if self.clamp is not None:
            field = (step.weight.view(-1, 1, 1, 1) * step.residual).clamp(-self.clamp, self.clamp)
            step = dataclasses.replace(step, field=field, weight=torch.ones_like(step.weight))
        settings = self.prior.settings
        return terms.gradient(settings, step, terms.match(settings, lambda: self.prior.decoder, step))

    def _bounded(self, gradient: Tensor) -> Tensor:
        """A regulariser's gradient, bounded as LSD's is; not finite elements as the prior's settings say."""
        if self.clamp is not None:
            gradient = gradient.clamp(-self.clamp, self.clamp)
        return torch.nan_to_num(gradient, 0.0, 0.0, 0.0) if self.prior.settings.nonfinite == "zero" else gradient


class _Seen(NamedTuple):
    """Of a batch.

    Attributes:
        step: of the latents.
        noise: ε, the mean over several, [B, C, h, w].
        of_source: r of the source's latents, [B, C, h, w]; None where nobody wants it.
    """

    step: terms.Step
    noise: Tensor
    of_source: Tensor | None


def _recorded(statistics: PriorStatistics) -> dict[str, Tensor]:
    found = {**statistics.terms, "fm": statistics.fm, "deviation": statistics.terms["variance"].sqrt()}
    return {name: found[name].float() for name in (*_LOSSES, *_NORMS, "deviation")}
