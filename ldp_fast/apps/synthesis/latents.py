"""Latents optimised under the prior: the loop that synthesis and the ablation share (paper §5.4).

A sample's randomness comes from (its seed, the step) alone, and its gradient is its own (`batch_reduction="sum"`). So a
sample does not depend on what it shares a batch with, and a resumed run continues the same run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...guidance import LatentDiffusionPrior, TextEmbeddings, TimestepSampler
from ...guidance.inputs import stack_noises
from ...runs import image_files
from ...runs.experiment import Part, as_subject, untimed
from ...runs.seeds import mixed_generator
from ...schedules import cosine_decay

# A latent's spread is about 1; what is beyond this has left all that a decoder was trained on, and float16's range.
LARGEST = 6e4
HISTORY = ("lsd", "fm", "kl", "norm_lsd", "norm_fm", "norm_kl", "deviation")


def generator_for(seed: int, step: int) -> torch.Generator:
    """The generator of one sample at one step (step −1: the initial latents), the same on every machine."""
    return mixed_generator(seed, step + 1)


class LatentOptimiser:
    """AdamW on a batch of latents, from Gaussian noise.

    Args:
        prior: with `batch_reduction="sum"`.
        text: embeddings of one prompt a sample.
        seeds: one a sample.
        steps: length of the run, for the annealing of t and the decay of the rate.
        learning_rate: AdamW's.
        final_rate: fraction of the rate that is left at the end (cosine over the last third); 1 keeps it.
        columns: samples in a row of a preview.
    """

    losses = ("lsd", "fm", "kl")
    shown = ("lsd", "fm", "kl")

    def __init__(
        self,
        prior: LatentDiffusionPrior,
        text: TextEmbeddings,
        seeds: Sequence[int],
        *,
        steps: int,
        learning_rate: float,
        final_rate: float = 1.0,
        columns: int = 1,
    ):
        self.prior, self.text, self.seeds, self.steps = prior, text, list(seeds), steps
        self.learning_rate, self.final_rate, self.columns = learning_rate, final_rate, columns
        self.device = prior.device
        shape = prior.latent_shape
        start = torch.stack([torch.randn(shape, generator=generator_for(seed, -1)) for seed in self.seeds])
        self.latents = torch.nn.Parameter(start.to(prior.device))
        self.optimizer = torch.optim.AdamW([self.latents], lr=learning_rate)
        self.step = 0
        self._rows: list[torch.Tensor] = []

    @property
    def history(self) -> torch.Tensor:
        """What was recorded, `[steps so far, len(HISTORY)]`, batch means; reading it synchronises with the device."""
        return torch.stack(self._rows).cpu() if self._rows else torch.zeros(0, len(HISTORY))

    def _rate(self) -> float:
        return self.learning_rate * cosine_decay(self.step / max(1, self.steps), self.final_rate, 3)

    def advance(self, part: Part = untimed) -> None:
        """One step. What it recorded stays on the device until `history` is read."""
        settings, prior = self.prior.settings, self.prior
        generators = [generator_for(seed, self.step) for seed in self.seeds]
        progress = self.step / max(1, self.steps)
        sampler = TimestepSampler(len(prior.schedule), *settings.timestep_range, settings.anneal_to)
        cpu = torch.device("cpu")
        timesteps = torch.cat([sampler.sample(1, cpu, g, progress) for g in generators])
        shape = (settings.noises, *self.latents.shape[1:])
        noise = stack_noises([torch.randn(shape, generator=g) for g in generators])
        with part("prior"):
            gradient, statistics = prior.gradient(
                self.latents, self.text, timesteps=timesteps.to(prior.device), noise=noise.to(prior.device)
            )
        with part("optimiser"):
            self.latents.grad = gradient.to(self.latents.dtype)
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate()
            self.optimizer.step()
        self.step += 1
        found = {**statistics.terms, "fm": statistics.fm, "deviation": statistics.terms["variance"].sqrt()}
        self._rows.append(torch.stack([found[name].float().mean() for name in HISTORY]))

    @property
    def total(self) -> int:
        """Steps there are."""
        return self.steps

    def latest(self) -> dict[str, float]:
        """What the last step recorded, batch means."""
        return dict(zip(HISTORY, self._rows[-1].tolist(), strict=True))

    def weights(self) -> dict[str, float]:
        """The λ's."""
        s = self.prior.settings
        return {"lambda_fm": s.lambda_fm, "lambda_kl": s.lambda_kl, "lambda_lsd": s.lambda_lsd}

    def state(self) -> dict[str, torch.Tensor]:
        """Latents, AdamW's moments and the history, on the CPU."""
        state = self.optimizer.state[self.latents]
        tensors = {
            "latents": self.latents.detach(),
            "exp_avg": state["exp_avg"],
            "exp_avg_sq": state["exp_avg_sq"],
            "history": self.history,
        }
        return {name: x.cpu().contiguous() for name, x in tensors.items()}

    def facts(self) -> dict[str, str]:
        """Nothing besides."""
        return {}

    def load_state(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str]) -> None:
        """Goes on from `state`.

        Raises:
            ValueError: it does not fit; nothing is changed then.
        """
        missing = [name for name in ("latents", "exp_avg", "exp_avg_sq", "history") if name not in tensors]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if any(tensors[name].shape != self.latents.shape for name in ("latents", "exp_avg", "exp_avg_sq")):
            raise ValueError("its latents are not those of this configuration")
        step = int(facts["step"])
        with torch.no_grad():
            self.latents.copy_(tensors["latents"])
        moments = {name: tensors[name].to(self.latents.device) for name in ("exp_avg", "exp_avg_sq")}
        self.optimizer.state[self.latents] = {"step": torch.tensor(float(step)), **moments}
        self.step, self._rows = step, list(tensors["history"].to(self.latents.device))

    def about(self) -> dict[str, Any]:
        """The guidance scale, which the model may have chosen."""
        return {"guidance_scale": self.prior.guidance_scale}

    def not_finite(self) -> list[str]:
        """Losses of the last step, or the latents, that are not finite, or too large to be decoded as anything."""
        last = self.latest()
        bad = [name for name in self.shown if not math.isfinite(last[name])]
        if not bool(self.latents.detach().abs().max() < LARGEST):
            bad.append("the latents")
        # A gradient whose square is infinite moves nothing any more.
        if not bool(self.optimizer.state[self.latents]["exp_avg_sq"].isfinite().all()):
            bad.append("the gradient's square")
        return as_subject(bad, plural=("the latents",))

    def preview(self) -> torch.Tensor:
        """The images so far, a row a prompt."""
        return image_files.contact_sheet(self.images(), self.columns)

    def images(self) -> torch.Tensor:
        """The latents, decoded: `[B, 3, H, W]` in [0, 1], on the CPU."""
        return torch.cat([self.prior.decode(x).cpu() for x in self.latents.detach().split(8)])
