"""What stands beside the cells: the truth itself, what of feature matching's branches cancels, what a step costs."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldp_fast.apps.synthesis.latents import generator_for
from ldp_fast.guidance import LatentDiffusionPrior, TextEmbeddings, terms
from ldp_fast.guidance.loading import locate
from ldp_fast.guidance.step import evaluate
from ldp_fast.runs.seeds import mixed_generator
from ldp_fast.zoo import captions, world
from ldp_fast.zoo.evaluate import sample

from .measures import Perception, measure_all
from .plan import DEFAULT_GUIDANCE, Cell, Plan
from .runs import decoded, prior_of, seeds_of

SEED = 20_000  # of views and noise; far from the cells'
SAMPLING_STEPS = 25
START = "initial latents, decoded"
TIMES = (100, 300, 500, 700, 900)
# r is made this much smaller: what cancels to first order in r falls with its square.
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01)
STUDIED = 8  # prompts of the study of branches
ROUNDS = 6  # of the timing


def starts(prior: LatentDiffusionPrior, plan: Plan) -> Tensor:
    """The latents that the cells of seed 0 begin with."""
    seeds = seeds_of(Cell(0.0, 0.0), len(plan.prompts))
    return torch.stack([torch.randn(prior.latent_shape, generator=generator_for(seed, -1)) for seed in seeds])


def true_renders(plan: Plan) -> Tensor:
    """A render of each prompt from a random view of training, `[B, 3, 128, 128]` in [0, 1]."""
    rng = np.random.default_rng(SEED)
    scenes = [captions.scene_of(prompt) for prompt in plan.prompts]
    images = np.stack([world.render(scene, world.sample_view(rng)) for scene in scenes if scene is not None])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def references(prior: LatentDiffusionPrior, plan: Plan, perception: Perception) -> dict[str, Any]:
    """The measures of pictures that are right by what they are: rows as a cell's checkpoints have them."""
    true = true_renders(plan)
    latents = prior.encode(true.to(prior.device), sample=False)
    samples = sample(
        locate(plan.model), list(plan.prompts), steps=SAMPLING_STEPS, guidance_scale=DEFAULT_GUIDANCE, seed=SEED
    )
    rows = {
        START: decoded(prior, starts(prior, plan)),
        "true renders": true,
        "true renders, encoded and decoded": decoded(prior, latents),
        f"samples of the model, {SAMPLING_STEPS} steps": samples,
    }
    return {name: measure_all(pictures, plan.prompts, perception) for name, pictures in rows.items()}


@torch.no_grad()
def branches(prior: LatentDiffusionPrior, text: TextEmbeddings, plan: Plan) -> list[dict[str, float | str]]:
    """What of the two branches cancels: their gradients on noise (how a run begins) and on encoded true renders.

    Returns:
        For each kind of latents and t, means over the samples: α_t; the root mean square of r; ‖b‖ of the branch of
        v′ alone (b = J(v′)ᵀ ∂L/∂x′), ‖a + b‖ of both with weight 1, over ‖b‖; the cosines of b, of a + b and of the
        paper's a + (1 + α_t) b with r. And ‖a + b‖ / ‖b‖ where r is made smaller by each of `SHARES`.
    """
    changed = prior_of(prior, Cell(1.0, 0.0)).prior
    count = min(STUDIED, len(plan.prompts))
    prompts = text.select(torch.arange(count, device=text.text.device))
    noise = torch.stack([torch.randn(prior.latent_shape, generator=mixed_generator(SEED, i)) for i in range(count)])
    start = torch.stack([torch.randn(prior.latent_shape, generator=mixed_generator(SEED, 1, i)) for i in range(count)])
    true = prior.encode(true_renders(plan)[:count].to(prior.device), sample=False)
    found: list[dict[str, float | str]] = []
    for kind, latents in (("noise", start.to(prior.device)), ("true renders", true)):
        for t in TIMES:
            times = torch.full((count,), t, device=prior.device)
            step = evaluate(changed, latents, prompts, times, noise.to(prior.device), None, 0.0)
            found.append({"latents": kind, "t": t, **_compared(changed, step)})
    return found


def _compared(prior: LatentDiffusionPrior, step: terms.Step) -> dict[str, float]:
    result: dict[str, float] = {}
    for share in SHARES:
        smaller = terms.Step(step.latents, share * step.residual, step.alpha, step.weight, step.timesteps)
        matching = terms.match(prior.settings, lambda: prior.decoder, smaller)
        assert matching.grad_v is not None and matching.grad_v_prime is not None
        a, b, r = (x.flatten(1) for x in (matching.grad_v, matching.grad_v_prime, smaller.residual))
        paper = a + (1 + step.alpha)[:, None] * b
        result[f"left at {share:g}"] = float(((a + b).norm(dim=1) / b.norm(dim=1)).mean())
        if share == 1:
            cosines = {"v_prime": b, "both": a + b, "paper": paper}
            result |= {f"cosine_{name}": float(torch.cosine_similarity(x, r).mean()) for name, x in cosines.items()}
            result |= {"alpha": float(step.alpha[0]), "rms": float(r.square().mean().sqrt())}
    return result


def cost(prior: LatentDiffusionPrior, text: TextEmbeddings, plan: Plan) -> dict[str, Any]:
    """Seconds of a step's gradient with each choice of terms, in turn: what else the machine does meets all alike.

    Returns:
        Samples of a step; for each choice the shortest and the median time.
    """
    choices = {"lsd": Cell(0, 0), "lsd-kl": Cell(0, 0.1), "lsd-fm": Cell(3, 0), "full": Cell(3, 0.1)}
    priors = {name: prior_of(prior, cell) for name, cell in choices.items()}
    count = len(plan.prompts)
    latents = torch.stack([torch.randn(prior.latent_shape, generator=mixed_generator(SEED, i)) for i in range(count)])
    latents = latents.to(prior.device)
    times = torch.full((count,), 500, device=prior.device)
    seconds: dict[str, list[float]] = {name: [] for name in choices}
    for number in range(ROUNDS + 1):
        for name, one in priors.items():
            started = time.perf_counter()
            one.gradient(latents, text, timesteps=times, noise=latents)
            if latents.is_cuda:
                torch.cuda.synchronize()
            if number:  # the first ones compile and allocate
                seconds[name].append(time.perf_counter() - started)
    rows = {name: {"min": min(found), "median": statistics.median(found)} for name, found in seconds.items()}
    return {"samples": count, "seconds": rows}
