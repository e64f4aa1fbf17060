"""z_t = α_t v + σ_t ε, written `copies` times in the network's dtype.

Reads v and ε once, writes every copy: no intermediate, no `torch.cat`, no cast. A program handles one block of one
sample, so that α_t and σ_t are scalars.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import load_float
from ._host import STREAM, ordered_like, sample_size, stream_grid
from ._launch import launch


@triton.jit(do_not_specialize=["blocks", "batch"])
def perturb_kernel(
    out,  # [COPIES * batch, size]
    latents,  # [batch, size]
    noise,  # [batch, size]
    alpha,  # [batch] float32
    sigma,  # [batch] float32
    size,
    blocks,  # per sample
    batch,
    out_stride,  # between samples, in elements
    latents_stride,
    noise_stride,
    COPIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < size - start

    v = load_float(latents + sample * latents_stride + start, offsets, mask)
    e = load_float(noise + sample * noise_stride + start, offsets, mask)
    noisy = tl.load(alpha + sample) * v + tl.load(sigma + sample) * e
    for copy in tl.static_range(COPIES):
        target = out + (sample + tl.cast(batch, tl.int64) * copy) * out_stride + start
        tl.store(target + offsets, noisy.to(out.dtype.element_ty), mask=mask)


def perturb(
    out: Tensor,
    latents: Tensor,
    noise: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    copies: int = 1,
    dtype: torch.dtype | None = None,
) -> None:
    """Launches `perturb_kernel`; `out` is [copies·B, C, H, W] with dense samples and holds the result's dtype."""
    batch, size = latents.shape[0], sample_size(latents)
    if batch == 0 or copies == 0:
        return
    latents, noise = ordered_like(latents, out), ordered_like(noise, out)
    grid, blocks = stream_grid(batch, size)
    tensors = out, latents, noise, alpha, sigma
    numbers = size, blocks, batch, out.stride(0), latents.stride(0), noise.stride(0)
    launch(perturb_kernel, grid, tensors, numbers, {"COPIES": copies, **STREAM})
