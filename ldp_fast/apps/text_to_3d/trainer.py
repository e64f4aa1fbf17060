"""One step of text-to-3D after another: views, prior, regularisers, optimiser.

What a step draws comes from (seed, step, view) alone. So a resumed run continues the same run, and ranks that split the
views of a step do together what one would do alone, up to the order of a sum.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...guidance import LatentDiffusionPrior, TimestepSampler
from ...guidance.inputs import mean_over_noises, stack_noises
from ...nerf import Cameras, RenderOutput
from ...runs.experiment import Part, as_subject
from .cameras import as_cameras, direction_of
from .regularisers import hollowness, regularisers
from .scene import Scene
from .scene_trainer import SceneTrainer, view_generator
from .sections import REGULARISERS, PriorGuided

TERMS = ("lsd", "fm", "kl", "norm_lsd", "norm_fm", "norm_kl")


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """What one view of one step draws."""

    camera: tuple[float, float, float, float]
    direction: int
    shade: Tensor
    jitter: int
    timestep: Tensor
    noise: Tensor
    behind: Tensor | None


class Trainer(SceneTrainer):
    """Optimises a scene under the prior.

    Args:
        scene: what is optimised.
        prior: with `batch_reduction="sum"`.
        rank, world: which share of a step's views is this process's; with a world above 1 gradients are summed over the
            default process group.

    Attributes:
        losses, shown: see `Experiment`.
        step, total, columns: see `SceneTrainer`.
    """

    losses = ("lsd", "fm", "kl", *REGULARISERS)
    shown = ("lsd", "fm", "kl")

    def __init__(self, scene: Scene, prior: LatentDiffusionPrior, *, rank: int = 0, world: int = 1):
        c = scene.configuration
        assert isinstance(c, PriorGuided)
        self.configuration, self.prior = c, prior
        self.heights: dict[str, float] = prior.notes.get("heights", {})
        self.directions = scene.ranges.directions(self.heights)
        prompts = [f"{c.prompt}, {name} view" if c.view_prompts else c.prompt for name in self.directions]
        self.text = prior.encode_prompt(prompts, c.negative_prompt or None)
        limits, count = prior.settings.timestep_range, len(prior.schedule)
        if c.sigma_range is not None:
            lowest, highest = prior.schedule.between_sigmas(*c.sigma_range)
            limits = ((lowest + 0.5) / count, (highest + 0.5) / count)
        self.sampler = TimestepSampler(count, *limits, prior.settings.anneal_to)
        hollow = c.regularisers.get("hollowness")
        self._looks_behind = hollow is not None and any((hollow.first, hollow.last))
        super().__init__(scene, (*TERMS, *c.regularisers), rank=rank, world=world)

    def alike(self, scene: Scene) -> Trainer:
        """See `SceneTrainer.alike`."""
        return Trainer(scene, self.prior)

    def _gradients(self, mine: Sequence[int], count: int, part: Part) -> Tensor:
        """See `SceneTrainer._gradients`."""
        scene, prior, c = self.scene, self.prior, self.configuration
        if not mine:
            return self._row({}, 0.0)  # more processes than views: the refinement may have fewer
        drawn = [self._draw(view) for view in mine]
        with part("render"):
            cameras = [as_cameras([d.camera], prior.device) for d in drawn]
            rendered = [scene.training_view(at, d.jitter, d.shade) for at, d in zip(cameras, drawn, strict=True)]
        with part("encoder"):
            pictures = torch.cat([picture for picture, _ in rendered])
            latents = self._encode(pictures) if scene.refined else pictures
        timesteps = torch.cat([d.timestep for d in drawn]).to(prior.device, non_blocking=True)
        noise = stack_noises([d.noise for d in drawn]).to(prior.device, non_blocking=True)
        text = self.text.select(torch.tensor([d.direction for d in drawn]).to(prior.device, non_blocking=True))
        with part("prior"):
            gradient, statistics = prior.gradient(latents, text, timesteps=timesteps, noise=noise)
            if not c.variance_reduction:
                # SJC's other estimate, −(D − z) / σ = ε̂: the noise itself stays in the gradient.
                weight = prior.schedule.weight(timesteps, prior.settings.weighting)[:, None, None, None]
                mean = mean_over_noises(noise, prior.settings.noises)
                gradient = gradient + prior.settings.lambda_lsd * weight * mean
        loss = (latents * gradient).sum()
        found = {**statistics.terms, "fm": statistics.fm}
        row = self._row(found, len(drawn) / count)
        with part("regularisers"):
            for d, at, (_, out) in zip(drawn, cameras, rendered, strict=True):
                extra, values = self._regularise(out, d, at)
                loss = loss + extra
                values |= {"opacity_mean": out.opacity.detach().mean(), "samples": out.statistics.counts[0]}
                row += self._row(values, 1 / count)
        with part("backward"):
            (loss / count).backward()
        return row

    def _draw(self, view: int) -> _Drawn:
        scene, generator = self.scene, view_generator(self.configuration.seed, self.step, view)
        camera = scene.ranges.draw(generator)
        side, rays = scene.latent_size, scene.size * scene.rays_per_pixel
        noises = self.prior.settings.noises
        return _Drawn(
            camera=camera,
            direction=self.directions.index(direction_of(*camera[:2], self.heights)),
            shade=torch.rand(1, generator=generator).to(self.prior.device, non_blocking=True),
            jitter=int(torch.randint(2**31 - 1, (1,), generator=generator)),
            timestep=self.sampler.sample(1, torch.device("cpu"), generator, self.progress()),
            noise=torch.randn(noises, self.prior.latent_shape[0], side, side, generator=generator),
            # The last to be drawn: runs without it draw what they did before there was one.
            behind=torch.rand(1, 1, rays, rays, generator=generator).to(self.prior.device, non_blocking=True)
            if self._looks_behind
            else None,
        )

    def _regularise(self, out: RenderOutput, drawn: _Drawn, cameras: Cameras) -> tuple[Tensor, dict[str, Tensor]]:
        scene, ramps, radius = self.scene, self.configuration.regularisers, drawn.camera[2]
        rays = out.opacity[0].numel() / scene.latent_size**2
        hollow = None
        if drawn.behind is not None:
            hollow = hollowness(out, scene.field, scene.renderer.box, cameras, drawn.behind)
        extra, values = regularisers(out, ramps, self._stage(), radius - 1.0, radius + 1.0, rays, hollow)
        return extra.sum(), values

    def _stage(self) -> float:
        # In the refinement regularisers stay as they were at the end of the latents: without them fog comes back.
        return 1.0 if self.scene.refined else self.progress()

    def _encode(self, picture: Tensor) -> Tensor:
        # The encoder sees what people will see, colours that can be shown; the gradient passes: none gets stuck.
        picture = picture + (picture.detach().clamp(0, 1) - picture.detach())
        pixels = self.scene.latent_size * self.prior.pixels_per_latent
        if picture.shape[-1] != pixels:
            picture = torch.nn.functional.interpolate(picture, (pixels, pixels), mode="bilinear")
        return self.prior.encode(picture, sample=False)

    def about(self) -> dict[str, Any]:
        """The guidance scale, which the model may have chosen."""
        return {"guidance_scale": self.prior.guidance_scale}

    def not_finite(self) -> list[str]:
        """Losses and gradient of the last step that are not finite."""
        last = self.latest()
        return as_subject([name for name in (*self.shown, "gradient_norm") if not math.isfinite(last[name])])

    def weights(self) -> dict[str, float]:
        """The λ's and regularisers' weights of this moment, for a log."""
        s = self.prior.settings
        found = {"lambda_fm": s.lambda_fm, "lambda_kl": s.lambda_kl, "lambda_lsd": s.lambda_lsd}
        weights = {name: ramp.at(self._stage()) for name, ramp in self.configuration.regularisers.items()}
        return {**found, **{f"weight_{name}": value for name, value in weights.items()}}
