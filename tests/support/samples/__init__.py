"""The inputs of every operator, one module an operator: for correctness, gradients, opcheck and benchmarks alike.

    samples.<op>.inputs(…)                     keyword arguments of the public function, where there is one in
                                               `ldp_fast.losses`, else of the operator, by their names
    samples.<op>.arguments(…)                  positional arguments of one call of the operator, made of inputs
    samples.<op>.backward_arguments(…)         the same of its backward
    samples.<op>.argument_tuples(name, …)      several of `torch.ops.ldp_fast.<name>`, for opcheck
    samples.inputs(name, …), samples.argument_tuples(name, …)
                                               of any operator on latents: a name of OPERATORS, or of an operator

Values are random with the spread of real ones, drawn in float64 and then rounded, so that every dtype sees the same
numbers.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from . import (
    combine_gradients,
    composite,
    feature_matching,
    frozen_conv,
    fused_adam,
    group_norm_silu,
    guided_residual,
    hash_grid,
    latent_field,
    latent_kl,
    march_rays,
    occupancy,
    perp_neg_residual,
    perturb,
    residual_latents,
    score_distillation,
)
from .tensors import DTYPES, LAYOUTS, PREDICTIONS, SHAPE, SHAPES, Shape, lay_out, widen

# Of `ldp_fast.losses`, on latents.
DIFFERENTIABLE = ("residual_latents", "latent_kl_loss", "score_distillation_loss")
OPERATORS = ("perturb", "guided_residual", "perp_neg_residual", *DIFFERENTIABLE, "combine_gradients")

__all__ = [
    "DIFFERENTIABLE",
    "DTYPES",
    "LAYOUTS",
    "OPERATORS",
    "PREDICTIONS",
    "SHAPE",
    "SHAPES",
    "Shape",
    "argument_tuples",
    "combine_gradients",
    "composite",
    "feature_matching",
    "frozen_conv",
    "fused_adam",
    "group_norm_silu",
    "guided_residual",
    "hash_grid",
    "inputs",
    "latent_field",
    "latent_kl",
    "lay_out",
    "march_rays",
    "occupancy",
    "perp_neg_residual",
    "perturb",
    "residual_latents",
    "score_distillation",
    "widen",
]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f".{name.removesuffix('_loss').removesuffix('_backward')}", __name__)


def inputs(name: str, **options: Any) -> dict[str, Any]:
    """Keyword arguments of `ldp_fast.losses.<name>`, a name of `OPERATORS`; the options are the module's."""
    return _module(name).inputs(**options)


def argument_tuples(name: str, **options: Any) -> list[tuple[Any, ...]]:
    """Positional arguments of `torch.ops.ldp_fast.<name>`; the options are the module's."""
    return _module(name).argument_tuples(name, **options)
