"""The operators in plain PyTorch: the definition, the CPU backend and the oracle of the tests.

Whatever the inputs are, the arithmetic is float32, or float64 as soon as one input is float64. Coefficients
(`alpha`, `sigma`, `weight`, `guidance_scale`) are tensors [B] here; the public functions in `ldp_fast.losses` take
numbers as well and check their arguments.
"""

from ._common import compute_dtype, empty_like, memory_format, widened
from .combine_gradients import combine_gradients
from .composite import composite, composite_backward
from .fused_adam import fused_adam
from .guided_residual import guided_residual
from .hash_grid import (
    hash_grid,
    hash_grid_backward_positions,
    hash_grid_backward_positions_backward,
    hash_grid_backward_table,
)
from .latent_field import latent_field, latent_field_backward
from .latent_kl import KL_VARIANCE_FLOOR, latent_kl, latent_kl_backward
from .march_rays import march_rays
from .occupancy import occupancy_bits, occupancy_samples, occupancy_update
from .perp_neg_residual import PERP_NEG_FLOOR, perp_neg_residual
from .perturb import perturb
from .residual_latents import residual_latents, residual_latents_backward
from .score_distillation import score_distillation, score_distillation_backward

__all__ = [
    "KL_VARIANCE_FLOOR",
    "PERP_NEG_FLOOR",
    "combine_gradients",
    "composite",
    "composite_backward",
    "compute_dtype",
    "empty_like",
    "fused_adam",
    "guided_residual",
    "hash_grid",
    "hash_grid_backward_positions",
    "hash_grid_backward_positions_backward",
    "hash_grid_backward_table",
    "latent_field",
    "latent_field_backward",
    "latent_kl",
    "latent_kl_backward",
    "march_rays",
    "memory_format",
    "occupancy_bits",
    "occupancy_samples",
    "occupancy_update",
    "perp_neg_residual",
    "perturb",
    "residual_latents",
    "residual_latents_backward",
    "score_distillation",
    "score_distillation_backward",
    "widened",
]
