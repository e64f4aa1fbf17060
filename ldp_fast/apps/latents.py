"""Latents optimised under the prior: the loop that synthesis and the ablation share (paper §5.4).

A sample's randomness comes from (its seed, the step) alone, and its gradient is its own (`batch_reduction="sum"`). So a
sample does not depend on what it shares a batch with, and a resumed run continues the same run.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import torch

from ..errors import UsageError
from ..guidance import LatentDiffusionPrior, TextEmbeddings, TimestepSampler
from .files import write_atomically

HISTORY = ("lsd", "fm", "kl", "norm_lsd", "norm_fm", "norm_kl", "deviation")


def mixed_generator(*numbers: int) -> torch.Generator:
    """A generator from several numbers, such as seed and step, each at least 0: the same on every machine."""
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0]
    return torch.Generator().manual_seed(int(mixed))


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
    """

    def __init__(
        self,
        prior: LatentDiffusionPrior,
        text: TextEmbeddings,
        seeds: Sequence[int],
        *,
        steps: int,
        learning_rate: float,
        final_rate: float = 1.0,
    ):
        self.prior, self.text, self.seeds, self.steps = prior, text, list(seeds), steps
        self.learning_rate, self.final_rate = learning_rate, final_rate
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

    def latest(self) -> list[float]:
        """The last recorded row."""
        return self._rows[-1].tolist()

    def _rate(self) -> float:
        progress = self.step / max(1, self.steps)
        if progress < 2 / 3:
            return self.learning_rate
        fall = 0.5 * (1 + np.cos(np.pi * (progress - 2 / 3) * 3))
        return self.learning_rate * float(self.final_rate + (1 - self.final_rate) * fall)

    def advance(self) -> None:
        """One step. What it recorded stays on the device until `history` is read."""
        settings, prior = self.prior.settings, self.prior
        generators = [generator_for(seed, self.step) for seed in self.seeds]
        progress = self.step / max(1, self.steps)
        sampler = TimestepSampler(len(prior.schedule), *settings.timestep_range, settings.anneal_to)
        cpu = torch.device("cpu")
        timesteps = torch.cat([sampler.sample(1, cpu, g, progress) for g in generators])
        noise = torch.stack([torch.randn(self.latents.shape[1:], generator=g) for g in generators])
        gradient, statistics = prior.gradient(
            self.latents, self.text, timesteps=timesteps.to(prior.device), noise=noise.to(prior.device)
        )
        self.latents.grad = gradient.to(self.latents.dtype)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.step()
        self.step += 1
        found = {**statistics.terms, "fm": statistics.fm, "deviation": statistics.terms["variance"].sqrt()}
        self._rows.append(torch.stack([found[name].float().mean() for name in HISTORY]))

    def save(self, path: pathlib.Path, fingerprint: str) -> None:
        """Writes latents, AdamW's moments and the history as safetensors, atomically."""
        from safetensors.torch import save

        state = self.optimizer.state[self.latents]
        tensors = {
            "latents": self.latents.detach(),
            "exp_avg": state["exp_avg"],
            "exp_avg_sq": state["exp_avg_sq"],
            "history": self.history,
        }
        tensors = {name: x.cpu().contiguous() for name, x in tensors.items()}
        write_atomically(path, save(tensors, {"step": str(self.step), "fingerprint": fingerprint}))

    def load(self, path: pathlib.Path, fingerprint: str) -> None:
        """Continues from a checkpoint.

        Raises:
            UsageError: it is damaged, or belongs to another configuration; nothing is changed then.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                metadata = file.metadata()
            step, found = int(metadata["step"]), metadata["fingerprint"]
            latents, history = tensors["latents"], tensors["history"]
            moments = {name: tensors[name] for name in ("exp_avg", "exp_avg_sq")}
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise UsageError(f"{path} is damaged ({error}); delete it to start again from the beginning") from None
        if found != fingerprint or latents.shape != self.latents.shape:
            raise UsageError(f"{path} belongs to another configuration than {path.parent / 'run.json'} describes")
        with torch.no_grad():
            self.latents.copy_(latents)
        moments = {name: x.to(self.latents.device) for name, x in moments.items()}
        self.optimizer.state[self.latents] = {"step": torch.tensor(float(step)), **moments}
        self.step, self._rows = step, list(history.to(self.latents.device))

    def images(self) -> torch.Tensor:
        """The latents, decoded: `[B, 3, H, W]` in [0, 1], on the CPU."""
        return torch.cat([self.prior.decode(x).cpu() for x in self.latents.detach().split(8)])
