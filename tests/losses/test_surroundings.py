"""The losses where they are used: autocast, GradScaler, torch.compile, checkpointing, DDP; and without a host sync."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldp_fast import losses
from ldp_fast.losses import (
    LatentKLLoss,
    ScoreDistillationLoss,
    combine_gradients,
    guided_residual,
    latent_kl_loss,
    perturb,
    residual_latents,
    score_distillation_loss,
)

from ..ops.common import NoSync
from ..support import samples
from ..support.ranks import needs_gloo, run_on_ranks

GRADIENT_TAKERS = sorted(samples.DIFFERENTIABLE)


def first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def step(v: Tensor, noise: Tensor, out: Tensor, alpha: Tensor, sigma: Tensor, weight: Tensor) -> Tensor:
    """Everything in a row, as a host would call it."""
    perturb(v, noise, alpha, sigma, copies=2)
    r = guided_residual(out, noise, guidance_scale=7.5)
    updated = residual_latents(v, r, alpha)
    return score_distillation_loss(v, r, weight) + 0.1 * latent_kl_loss(v) + 0.01 * updated.square().mean()


def step_inputs(**options: Any) -> tuple[Tensor, ...]:
    a = samples.guided_residual.inputs(prediction="sample", **options)
    v = samples.latent_kl.inputs(**options)["latents"].requires_grad_()
    return v, a["noise"], a["model_output"], a["alpha"], a["sigma"], a["alpha"]


@pytest.mark.parametrize("op", samples.OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(op: str, dtype: torch.dtype) -> None:
    inputs = samples.inputs(op)
    plain = first(getattr(losses, op)(**inputs))
    with torch.autocast("cpu", dtype=dtype):
        cast = first(getattr(losses, op)(**inputs))
    assert cast.dtype == plain.dtype and torch.equal(cast, plain)


def test_autocast_around_forward_and_backward() -> None:
    inputs = step_inputs()
    (plain,) = torch.autograd.grad(step(*inputs), inputs[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = step(*inputs)
    (cast,) = torch.autograd.grad(loss, inputs[0])
    assert loss.dtype == torch.float32 and torch.equal(cast, plain)


@pytest.mark.parametrize("op", GRADIENT_TAKERS)
def test_a_grad_scaler_scales_the_gradient(op: str) -> None:
    """Hosts that ignore the incoming gradient are wrong by the scaler's factor; here unscaling gives the gradient."""
    inputs = samples.inputs(op)
    v = inputs["latents"].requires_grad_()
    loss = getattr(losses, op)(**inputs).sum()
    (plain,) = torch.autograd.grad(loss, v, retain_graph=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimiser = torch.optim.SGD([v], lr=1.0)
    scaler.scale(loss).backward()
    assert v.grad is not None and torch.allclose(v.grad, 1024 * plain, rtol=1e-6)
    scaler.unscale_(optimiser)
    assert torch.allclose(v.grad, plain, rtol=1e-6)


def test_compiles_as_one_graph_with_its_backward() -> None:
    inputs = step_inputs()
    loss = step(*inputs)
    (wanted,) = torch.autograd.grad(loss, inputs[0])
    compiled: Callable[..., Tensor] = torch.compile(step, backend="aot_eager", fullgraph=True)
    result = compiled(*inputs)
    (grad,) = torch.autograd.grad(result, inputs[0])
    assert torch.allclose(result, loss, rtol=1e-6) and torch.allclose(grad, wanted, rtol=1e-6, atol=1e-8)


def test_compiles_for_changing_shapes() -> None:
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in ((2, 4, 8, 8), (3, 4, 6, 10)):
        inputs = step_inputs(shape=shape)
        assert torch.allclose(compiled(*inputs), step(*inputs), rtol=1e-6)


def test_gradient_mode_compiles_as_one_graph() -> None:
    inputs = samples.combine_gradients.inputs()
    g, statistics = combine_gradients(**inputs)
    compiled = torch.compile(combine_gradients, backend="aot_eager", fullgraph=True)
    for lambda_kl in (0.1, torch.tensor(0.1)):
        other, others = compiled(**inputs | {"lambda_kl": lambda_kl})
        assert torch.allclose(other, g) and torch.allclose(others.norm_total, statistics.norm_total)


@pytest.mark.parametrize("op", GRADIENT_TAKERS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradient(op: str, reentrant: bool) -> None:
    inputs = samples.inputs(op)
    v = inputs.pop("latents").requires_grad_()

    def function(latents: Tensor) -> Tensor:
        return getattr(losses, op)(latents=2 * latents, **inputs).sum()

    (wanted,) = torch.autograd.grad(function(v), v)
    checkpoint(function, v, use_reentrant=reentrant).backward()
    assert v.grad is not None and torch.equal(v.grad, wanted)


@pytest.mark.parametrize("op", samples.OPERATORS)
@pytest.mark.parametrize("layout", ["contiguous", "mixed"])
def test_nothing_waits_for_the_device(op: str, layout: str) -> None:
    inputs = samples.inputs(op, layout=layout)
    if op in samples.DIFFERENTIABLE:
        inputs["latents"].requires_grad_()
    with NoSync():
        result = first(getattr(losses, op)(**inputs))
        if result.requires_grad:
            result.sum().backward()


def test_the_guard_against_waiting_sees_a_read() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoSync():
        torch.ones(()).item()


def test_nonfinite_raise_is_documented_to_wait() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoSync():
        latent_kl_loss(torch.randn(1, 4, 8, 8), nonfinite="raise")


def test_modules_are_the_functions() -> None:
    inputs = samples.score_distillation.inputs()
    v, r, w = inputs["latents"], inputs["residual"], inputs["weight"]
    assert torch.equal(ScoreDistillationLoss("sum")(v, r, w), score_distillation_loss(v, r, w, batch_reduction="sum"))
    assert torch.equal(ScoreDistillationLoss()(v, r), score_distillation_loss(v, r, 1.0))
    assert torch.equal(LatentKLLoss(nonfinite="zero")(v), latent_kl_loss(v))
    assert repr(LatentKLLoss("sum")) == "LatentKLLoss(batch_reduction='sum', nonfinite='propagate')"
    with pytest.raises(ValueError, match="LatentKLLoss: batch_reduction: expected one of"):
        LatentKLLoss("max")  # type: ignore[arg-type]


class Field(nn.Module):
    """Latents as a parameter, as image synthesis has them."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.linspace(-1, 1, 2 * 4 * 8 * 8).view(2, 4, 8, 8))

    def forward(self, noise: Tensor) -> Tensor:
        return self.latents + 0.1 * noise


def _train_on_one_rank(rank: int) -> Tensor:
    model = nn.parallel.DistributedDataParallel(Field())
    inputs = samples.score_distillation.inputs(seed=rank)
    v = model(inputs["latents"])
    loss = score_distillation_loss(v, inputs["residual"], inputs["weight"]) + 10 * latent_kl_loss(v)
    loss.backward()
    return model.module.latents.grad


def _gradient_alone(rank: int) -> Tensor:
    model, inputs = Field(), samples.score_distillation.inputs(seed=rank)
    v = model(inputs["latents"])
    (score_distillation_loss(v, inputs["residual"], inputs["weight"]) + 10 * latent_kl_loss(v)).backward()
    assert model.latents.grad is not None
    return model.latents.grad


@needs_gloo
def test_ddp_averages_the_gradients() -> None:
    grads = run_on_ranks(_train_on_one_rank)
    wanted = (_gradient_alone(0) + _gradient_alone(1)) / 2
    for grad in grads:
        assert torch.allclose(grad, wanted, rtol=1e-5, atol=1e-7)
