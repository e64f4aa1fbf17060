"""A resumable training loop: every batch is drawn from (seed, step), so that a resumed run continues the same run."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import torch

from ..schedules import cosine_decay


def quick_in_bfloat16(device: str) -> bool:
    """Whether bfloat16 saves time there: on a GPU, and on a CPU with instructions for it (15 times slower without)."""
    return device == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())


def rate_at(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Learning rate: linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * cosine_decay((step - warmup) / max(1, steps - warmup), 0.01)


class Ema:
    """Exponential moving average of a module's parameters, with the usual warm-up of the decay."""

    def __init__(self, module: torch.nn.Module, decay: float):
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.shadow[name].lerp_(value, weight)
            else:
                self.shadow[name].copy_(value)


def train(
    module: torch.nn.Module,
    loss_at: Callable[[int], tuple[torch.Tensor, dict[str, float]]],
    *,
    steps: int,
    peak_rate: float,
    checkpoint: pathlib.Path,
    name: str,
    ema_decay: float = 0.995,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    largest_norm: float = 1.0,
    checkpoint_every: int = 200,
) -> dict[str, torch.Tensor]:
    """Trains `module` with AdamW and returns the averaged weights as a state dict.

    Args:
        module: what is trained.
        loss_at: gives the loss of a step and what to show of it, from nothing but the step and the weights.
        steps: how many.
        peak_rate: the highest learning rate.
        checkpoint: file to resume from, replaced atomically.
        name: shown in the progress bar.
        ema_decay: of the returned weights.
        weight_decay: AdamW's.
        betas: AdamW's.
        largest_norm: of the gradient, which is clipped to it.
        checkpoint_every: steps between checkpoints.
    """
    optimizer = torch.optim.AdamW(module.parameters(), peak_rate, betas=betas, weight_decay=weight_decay)
    ema, start = Ema(module, ema_decay), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow, start = state["ema"], state["step"]

    def save(step: int) -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = checkpoint.with_suffix(".part")
        torch.save(
            {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.shadow, "step": step}, part
        )
        os.replace(part, checkpoint)

    from tqdm import tqdm

    progress = tqdm(range(start, steps), initial=start, total=steps, desc=name, mininterval=5)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, peak_rate)
        loss, shown = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), largest_norm)
        optimizer.step()
        ema.update(module, step)
        if step % 20 == 0:
            progress.set_postfix({key: f"{value:.4g}" for key, value in shown.items()}, refresh=False)
        if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
            save(step + 1)
    return ema.shadow
