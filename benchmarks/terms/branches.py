"""The prior's gradient with feature matching's two branches weighed otherwise than the paper does.

The paper's rule is that the branch of v′ counts 1 + α_t and the branch of v counts 1 (docs/mathematics.md). What an
experiment changes lies between the two steps that the prior itself takes, `terms.match` and `terms.gradient`; the
package has no option for it, so that nobody leaves the rule by accident.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ldp_fast.guidance import LatentDiffusionPrior, PriorStatistics, TextEmbeddings, terms
from ldp_fast.guidance.step import evaluate

BRANCHES = {
    "paper": "(1 + α_t) of v′, 1 of v: the paper's rule",
    "ones": "1 of each: without the factor",
    "v-prime": "v′ alone",
}


def weighed(branches: str, step: terms.Step, matching: terms.Matching) -> tuple[terms.Step, terms.Matching]:
    """What `terms.gradient` is given, for one of `BRANCHES`.

    Raises:
        ValueError: another name.
    """
    if branches not in BRANCHES:
        raise ValueError(f"weighed: branches: expected one of {', '.join(BRANCHES)}; got {branches!r}")
    if branches == "ones":
        # There α_t is nothing but the factor.
        return dataclasses.replace(step, alpha=torch.zeros_like(step.alpha)), matching
    if branches == "v-prime" and matching.grad_v is not None:
        return step, matching._replace(grad_v=torch.zeros_like(matching.grad_v))
    return step, matching


class BranchedPrior:
    """A prior for `LatentOptimiser` whose `gradient` weighs the branches; everything else is the prior's own.

    Args:
        prior: whose models and settings are used.
        branches: one of `BRANCHES`.
    """

    def __init__(self, prior: LatentDiffusionPrior, branches: str):
        self.prior, self.branches = prior, branches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    @torch.no_grad()
    def gradient(
        self, latents: Tensor, text: TextEmbeddings, *, timesteps: Tensor, noise: Tensor
    ) -> tuple[Tensor, PriorStatistics]:
        """As `LatentDiffusionPrior.gradient`; with `paper` the same bits."""
        prior = self.prior
        step = evaluate(prior, latents.detach(), text, timesteps, noise, None, 0.0)
        matching = terms.match(prior.settings, lambda: prior.decoder, step)
        return terms.gradient(prior.settings, *weighed(self.branches, step, matching))
