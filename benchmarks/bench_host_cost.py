"""What a call costs the host: every public function of `ldp_fast.losses` against the lines it replaces.

    python -m pytest benchmarks/bench_host_cost.py

On tensors of 4×8×8 nothing is computed to speak of: what is left is checks, dispatch and autograd, which on a GPU is
the time in which the host has to hand over work. `naive` is what a reader of the formulas writes eagerly, results and
statistics the same; where a gradient is wanted it goes through autograd, and where the paper's is not a derivative of
the value (Eq. 1, and 1 + α_t of Eq. 2), through the usual detours.

On `cpu` both sides compute, on `meta` neither does. `cuda, launched into nothing` is our path on a GPU up to the
driver: Triton's launcher with a driver that does nothing, on CPU tensors, beside the naive lines on the same tensors.
A GPU's naive lines pay for each of their kernels' launch as well, which is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast import losses
from tests.support import naive, samples
from tests.support.fake_driver import launching_into_nothing, missing

SHAPE = (1, 4, 8, 8)
PLACES = ("cpu", "meta", "cuda, launched into nothing")
Case = tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]


class _Specify(torch.autograd.Function):
    """A loss whose gradient is given: how score distillation is written in stable-dreamfusion and its kin."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, field: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(field)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (field,) = ctx.saved_tensors
        return grad * field, None, None


def score_distillation(latents: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
    """The gradient w r by a function of autograd, and the value ½·mean(w r²)."""
    field = weight.view(-1, 1, 1, 1) * residual
    return _Specify.apply(latents, field / len(latents), 0.5 * (field * residual).mean())


def combine_gradients(**inputs: Any) -> tuple[Tensor, ...]:
    """The gradient of Eq. 4 with the statistics that `GradientStatistics` has."""
    lambdas = {name: inputs.pop(name) for name in ("lambda_fm", "lambda_kl", "lambda_lsd")}
    terms = naive.combine_terms(**inputs)
    g = naive.combine_terms_weighted(terms, **lambdas)
    v, r, lsd = inputs["latents"], inputs["residual"], terms["lsd"]
    mean, variance = v.mean((1, 2, 3)), v.var((1, 2, 3), unbiased=False)
    kl = 0.5 * (mean**2 + variance - variance.log() + 1)
    norms = [x.flatten(1).norm(dim=1) for x in (*terms.values(), g)]
    counts = [(~x.isfinite()).sum((1, 2, 3)) for x in terms.values()]
    return g, mean, variance, kl, 0.5 * (lsd * r).mean((1, 2, 3)), *norms, *counts


def feature_matching(features: list[Tensor], features_prime: list[Tensor]) -> Any:
    """L1 of every level, and their sum."""
    return sum(F.l1_loss(x, y) for x, y in zip(features, features_prime, strict=True))


def cases() -> dict[str, Case]:
    """Naive lines, ours, and the inputs of both, by name."""
    v_prediction = {"prediction": "v_prediction"}
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "perturb": ("perturb", {"copies": 2}),
        "guided_residual": ("guided_residual", {}),
        "guided_residual, v-prediction": ("guided_residual", v_prediction),
        "perp_neg_residual": ("perp_neg_residual", {}),
        "residual_latents": ("residual_latents", {}),
        "latent_kl_loss": ("latent_kl_loss", {}),
        "score_distillation_loss": ("score_distillation_loss", {}),
        "combine_gradients": ("combine_gradients", {}),
    }
    written = {"score_distillation_loss": score_distillation, "combine_gradients": combine_gradients}
    found: dict[str, Case] = {}
    for name, (op, wanted) in options.items():
        inputs = samples.inputs(op, shape=SHAPE, **wanted)
        found[name] = (written.get(op) or getattr(naive, op), getattr(losses, op), inputs)
    x, y = samples.feature_matching.inputs((SHAPE[1:],) * 3, batch=1).values()
    inputs = {"features": x, "features_prime": y}
    found["feature_matching_loss"] = (feature_matching, losses.feature_matching_loss, inputs)
    return found


CASES = cases()
DIFFERENTIABLE = ("residual_latents", "latent_kl_loss", "score_distillation_loss", "feature_matching_loss")
KINDS = [(name, "forward and backward" if name in DIFFERENTIABLE else "forward") for name in CASES]


def prepare(name: str, side: str, direction: str, device: str) -> Callable[[], Any]:
    """The call that is timed."""
    theirs, ours, inputs = CASES[name]
    function = theirs if side == "naive" else ours

    def moved(x: Any) -> Any:
        if isinstance(x, list):
            return [moved(y) for y in x]
        return x.detach().to(device).requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x

    inputs = {key: moved(value) for key, value in inputs.items()}
    if name not in DIFFERENTIABLE:
        return lambda: function(**inputs)
    leaves = [*inputs["features"], *inputs["features_prime"]] if "features" in inputs else [inputs["latents"]]
    for leaf in leaves:
        leaf.requires_grad_()
    if direction == "forward":
        return lambda: function(**inputs)
    upstream = torch.ones_like(function(**inputs))
    return lambda: torch.autograd.grad(function(**inputs), leaves, upstream)


@pytest.mark.parametrize("side", ["naive", "ours"])
@pytest.mark.parametrize("name, direction", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_host_cost(benchmark: Any, place: str, name: str, direction: str, side: str) -> None:
    """One side of one function."""
    nowhere = place not in ("cpu", "meta")
    if nowhere and (reason := missing()) is not None:
        pytest.skip(reason)
    benchmark.group = f"host cost, {name}{', ' + direction if name in DIFFERENTIABLE else ''}, {place}"
    benchmark.extra_info |= {"backend": side, "place": place, "function": name}
    run = prepare(name, side, direction, "meta" if place == "meta" else "cpu")
    with launching_into_nothing(nowhere and side == "ours"):
        benchmark.pedantic(run, rounds=100, iterations=10, warmup_rounds=5)
