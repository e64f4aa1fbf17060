"""Every operator that has kernels, once, small and outside of graphs: the set for compute-sanitizer (`-m sanitize`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.ops import _library

from ..support import samples

OPS = torch.ops.ldp_fast
SHAPE = (2, 4, 4, 4)


def grid(name: str) -> Any:
    return samples.hash_grid.arguments(name, samples.hash_grid.GRIDS["hashed"], size=20, count=17)


def field(backward: bool) -> Any:
    made = samples.latent_field.inputs(samples.latent_field.FIELDS["latent_nerf"], 20, count=17)
    if not backward:
        return samples.latent_field.arguments(made)
    return samples.latent_field.backward_arguments(made, OPS.latent_field(*samples.latent_field.arguments(made))[2])


def features() -> Any:
    rows = [torch.linspace(-1, 1, 2 * 40).sin().view(2, 40)]
    return rows, [2 * x for x in rows], "mean", "mean", "propagate", True


def features_backward() -> Any:
    signs = OPS.feature_matching(*features())[3]
    return torch.ones(()), signs, [40], 2, torch.float32, "mean", "mean", False, True, True


def cells() -> Any:
    found, positions = OPS.occupancy_samples(*samples.occupancy.inputs(uniform=20, occupied=20).values())
    return samples.occupancy.inputs()["ema"], found, positions.norm(dim=-1), 0.9


CASES: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: samples.argument_tuples(name, shape=SHAPE)[-1] for name in (
        "combine_gradients", "guided_residual", "latent_kl", "latent_kl_backward", "perp_neg_residual", "perturb",
        "residual_latents", "residual_latents_backward", "score_distillation", "score_distillation_backward",
    )},
    **{name: lambda name=name: samples.group_norm_silu.argument_tuples(name)[1] for name in (
        "group_norm_moments", "group_norm_silu", "group_norm_silu_backward",
    )},
    **{name: lambda name=name: grid(name) for name in (
        "hash_grid", "hash_grid_backward_table", "hash_grid_backward_positions",
    )},
    "hash_grid_backward_table, deterministic": lambda: (*grid("hash_grid_backward_table")[:-1], True),
    "latent_field": lambda: field(False),
    "latent_field_backward": lambda: field(True),
    "latent_field, half": lambda: (*field(False)[:-1], True),
    "composite": lambda: tuple(samples.composite.inputs((5, 0, 40)).values()),
    "composite_backward": lambda: samples.composite.backward_arguments(samples.composite.inputs((5, 0, 40))),
    "feature_matching": features,
    "feature_matching_backward": features_backward,
    "fused_adam": lambda: tuple(samples.fused_adam.inputs(shadow=True).values()),
    "march_rays": lambda: tuple(samples.march_rays.inputs(5).values()),
    "occupancy_samples": lambda: tuple(samples.occupancy.inputs(uniform=20, occupied=20).values()),
    "occupancy_update": cells,
    "occupancy_bits": lambda: (samples.occupancy.inputs()["ema"], 0.3),
}  # fmt: skip


def moved(value: Any, device: str) -> Any:
    """The same on a device, without a graph; tensors of its own, for some are written to."""
    if isinstance(value, (list, tuple)):
        return type(value)(moved(x, device) for x in value)
    return value.detach().clone().to(device) if isinstance(value, Tensor) else value


def results(outputs: Any, arguments: Any) -> list[Tensor]:
    """What an operator returned, or the tensors it was given if it returns nothing."""
    found = arguments if outputs is None else outputs if isinstance(outputs, (list, tuple)) else (outputs,)
    return [x.detach().cpu() for x in found if isinstance(x, Tensor)]


def test_no_operator_is_missing() -> None:
    kernels = {name for name, op in _library.OPERATORS.items() if op.launcher or (op.native and not op.cpu_only)}
    assert {case.split(",")[0] for case in CASES} == kernels | {"fused_adam"}


@pytest.mark.gpu
@pytest.mark.sanitize
@pytest.mark.parametrize("case", CASES)
def test_once(case: str) -> None:
    operator, arguments = getattr(OPS, case.split(",")[0]), CASES[case]()
    there, here = moved(arguments, "cuda"), moved(arguments, "cpu")
    ours, wanted = results(operator(*there), there), results(operator(*here), here)
    assert ours
    torch.cuda.synchronize()
    for x, y in zip(ours, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=4e-3 if "half" in case else 1e-3, atol=1e-3, equal_nan=True)
