"""The operators `torch.ops.ldp_fast.*`: importing this package registers them; Triton is imported at the first launch.

Letters, here and in `ldp_fast.reference` and `ldp_fast.kernels`:

    B  batch: samples, each with its own timestep
    K  copies of the batch that the network saw (2 with classifier-free guidance)
    C  channels of the latents (4 or 16)
    H, W  height and width of the latents
    N  elements of one sample, C·H·W
    L  feature levels; C_l, H_l, W_l their sizes, M_l = C_l·H_l·W_l

and for the renderer (csrc/, `ldp_fast.nerf`):

    S  samples, positions in space; rays have them packed one after another
    R  rays; V views (cameras)
    L, F  levels and features of a hash grid; K cascades of an occupancy grid

These functions expect checked arguments. The public calls, with checks, defaults and reductions, are in
`ldp_fast.losses`.
"""

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
from ._compiled import outside_graphs
from ._direct import call, differentiated_otherwise
from ._library import use_native
from ._native import extension, required

__all__ = [
    "call",
    "combine_gradients",
    "composite",
    "differentiated_otherwise",
    "extension",
    "feature_matching",
    "frozen_conv",
    "fused_adam",
    "group_norm_silu",
    "guided_residual",
    "hash_grid",
    "latent_field",
    "latent_kl",
    "march_rays",
    "occupancy",
    "outside_graphs",
    "perp_neg_residual",
    "perturb",
    "required",
    "residual_latents",
    "score_distillation",
    "use_native",
]
