"""The whole of Eq. 2-4 on v in one launch: the KL term from v, the weighted sum of the three terms, the statistics.

Reads v, r, dL/dv and dL/dv′ and writes g: one program per sample. For μ and σ² a sample of up to 16384 elements is held
in registers; then all is read chunk by chunk (v a second time, from the cache), and the statistics are summed lane by
lane and reduced once at the end. A lane is four elements that one thread holds: with a lane for each element the
sums took 64 registers a thread, and Triton 3.6 spilled. Holding the whole sample through the sum as well was tried, and
so was unrolling the chunks: in both the loads moved together and registers spilled. The sums run in a fixed order: the
result is the same from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._device import is_finite, kl_gradient, kl_value, load_float, sample_moments
from ._host import CHUNK, FUSED, ordered_like, reduction_shape, sample_size


@triton.jit
def weight_of(number, tensor, sample):
    """λ of a sample: a number, or a number times an element of a tensor."""
    factor = number
    if tensor is not None:
        factor = number * tl.load(tensor + sample)
    return factor


@triton.jit
def cleaned(term, mask, ZERO: tl.constexpr):
    """Returns the term, zero past the end of the sample, and where it is not finite, as 0 or 1."""
    term = tl.where(mask, term, 0.0)
    finite = is_finite(term)
    if ZERO:
        term = tl.where(finite, term, 0.0)
    return term, (~finite).to(tl.int32)


@triton.jit
def add_weighted(g, factor, term):
    # A weight of zero switches a term off, even one with a NaN in it.
    return tl.where(factor != 0.0, g + factor * term, g)


@triton.jit
def by_fours(x, WIDE: tl.constexpr):
    """Sums of four elements that one thread holds: a quarter of the registers, and nothing is exchanged."""
    if WIDE:
        return tl.sum(tl.reshape(x, (x.shape[0] // 4, 4)), 1)
    return tl.sum(tl.reshape(x, (4, x.shape[0] // 4)), 0)


@triton.jit
def combine_chunk(
    sums,  # four elements a lane: energy, squares of lsd, fm, kl, g; counts of lsd, fm, kl
    start,
    sample,
    size,
    out,
    latents,
    residual,
    grad_v,
    grad_v_prime,
    mean,
    variance,
    w,
    prime_factor,
    factor_lsd,
    factor_fm,
    factor_kl,
    batch_scale,
    LITERAL: tl.constexpr,
    ZERO: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Writes g for the elements of a sample from `start` on, and adds the chunk's share to the sums."""
    energy, lsd_squares, fm_squares, kl_squares, g_squares, lsd_bad, fm_bad, kl_bad = sums
    offsets = tl.arange(0, CHUNK)
    mask = offsets < size - start

    kl = kl_gradient(load_float(latents + start, offsets, mask), mean, variance)
    if LITERAL:
        kl = kl / size
    kl, bad = cleaned(kl, mask, ZERO)
    kl_squares += by_fours(kl * kl, WIDE)
    kl_bad += by_fours(bad, WIDE)
    g = add_weighted(tl.zeros((CHUNK,), tl.float32), factor_kl, kl)

    r = load_float(residual + start, offsets, mask)
    lsd, bad = cleaned(w * r, mask, ZERO)
    # Not lsd * r: an infinite r would turn a zeroed element into NaN.
    energy += by_fours(tl.where(bad != 0, 0.0, lsd * r) if ZERO else lsd * r, WIDE)
    lsd_squares += by_fours(lsd * lsd, WIDE)
    lsd_bad += by_fours(bad, WIDE)
    g = add_weighted(g, factor_lsd, lsd)

    if grad_v is not None or grad_v_prime is not None:
        fm = tl.zeros((CHUNK,), tl.float32)
        if grad_v_prime is not None:
            fm = prime_factor * load_float(grad_v_prime + start, offsets, mask)
        if grad_v is not None:
            fm += load_float(grad_v + start, offsets, mask)
        if not LITERAL:
            fm *= size
        fm, bad = cleaned(fm, mask, ZERO)
        fm_squares += by_fours(fm * fm, WIDE)
        fm_bad += by_fours(bad, WIDE)
        g = add_weighted(g, factor_fm, fm)

    g *= batch_scale
    g_squares += by_fours(g * g, WIDE)
    tl.store(out + start + offsets, g, mask=mask)
    return energy, lsd_squares, fm_squares, kl_squares, g_squares, lsd_bad, fm_bad, kl_bad


@triton.jit
def combine_gradients_kernel(
    out,  # [batch, size] float32
    values,  # [8, batch] float32
    counts,  # [3, batch] int32
    latents,  # [batch, size]
    residual,  # [batch, size]
    grad_v,  # [batch, size], or None
    grad_v_prime,  # [batch, size], or None
    alpha,  # [batch] float32
    weight,  # [batch] float32
    lambda_fm,  # float, or a factor of the tensor
    lambda_kl,
    lambda_lsd,
    lambda_fm_tensor,  # [batch] float32, or None
    lambda_kl_tensor,
    lambda_lsd_tensor,
    batch_scale,  # 1, or 1 / batch
    size,
    batch,
    out_stride,  # between samples, in elements
    latents_stride,
    residual_stride,
    grad_v_stride,
    grad_v_prime_stride,
    LITERAL: tl.constexpr,
    ZERO: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,  # neighbours are a thread's; otherwise a thread's elements are as far apart as they can be
):
    sample = tl.program_id(0).to(tl.int64)
    out += sample * out_stride
    latents += sample * latents_stride
    residual += sample * residual_stride
    if grad_v is not None:
        grad_v += sample * grad_v_stride
    if grad_v_prime is not None:
        grad_v_prime += sample * grad_v_prime_stride
    w = tl.load(weight + sample)
    prime_factor = 1.0 + tl.load(alpha + sample)
    factor_lsd = weight_of(lambda_lsd, lambda_lsd_tensor, sample)
    factor_fm = weight_of(lambda_fm, lambda_fm_tensor, sample)
    factor_kl = weight_of(lambda_kl, lambda_kl_tensor, sample)

    offsets = tl.arange(0, BLOCK)
    v = load_float(latents, offsets, offsets < size)
    mean, variance = sample_moments(v, latents, size, BLOCK, WHOLE)
    values += sample
    rows = tl.cast(batch, tl.int64)
    tl.store(values, mean)
    tl.store(values + rows, variance)
    tl.store(values + 2 * rows, kl_value(mean, variance))

    zero = tl.zeros((CHUNK // 4,), tl.float32)
    none = tl.zeros((CHUNK // 4,), tl.int32)
    sums = (zero, zero, zero, zero, zero, none, none, none)
    for start in range(0, size, CHUNK):
        sums = combine_chunk(
            sums, start, sample, size, out, latents, residual, grad_v, grad_v_prime, mean, variance,
            w, prime_factor, factor_lsd, factor_fm, factor_kl, batch_scale, LITERAL, ZERO, CHUNK, WIDE,
        )  # fmt: skip

    energy, lsd_squares, fm_squares, kl_squares, g_squares, lsd_bad, fm_bad, kl_bad = sums
    tl.store(values + 3 * rows, 0.5 * (tl.sum(energy, 0) / size))
    tl.store(values + 4 * rows, tl.sqrt_rn(tl.sum(lsd_squares, 0)))
    tl.store(values + 5 * rows, tl.sqrt_rn(tl.sum(fm_squares, 0)))
    tl.store(values + 6 * rows, tl.sqrt_rn(tl.sum(kl_squares, 0)))
    tl.store(values + 7 * rows, tl.sqrt_rn(tl.sum(g_squares, 0)))
    counts += sample
    tl.store(counts, tl.sum(lsd_bad, 0))
    tl.store(counts + rows, tl.sum(fm_bad, 0))
    tl.store(counts + 2 * rows, tl.sum(kl_bad, 0))


def registers_of(warps: int) -> int:
    """What a thread can have. Triton 3.6's assembler may choose half of it, so that two programs fit, and spills."""
    return min(2048 // warps, 255)


def combine_gradients(
    out: Tensor,
    values: Tensor,
    counts: Tensor,
    latents: Tensor,
    residual: Tensor,
    grad_v: Tensor | None,
    grad_v_prime: Tensor | None,
    alpha: Tensor,
    weight: Tensor,
    lambda_fm: float,
    lambda_kl: float,
    lambda_lsd: float,
    lambda_fm_tensor: Tensor | None = None,
    lambda_kl_tensor: Tensor | None = None,
    lambda_lsd_tensor: Tensor | None = None,
    literal: bool = False,
    batch_mean: bool = True,
    zero_nonfinite: bool = False,
) -> None:
    """Launches `combine_gradients_kernel`; `out` is [B, C, H, W] float32 with dense samples."""
    batch, size = latents.shape[0], sample_size(latents)
    if batch == 0:
        return
    latents, residual = ordered_like(latents, out), ordered_like(residual, out)
    grad_v = None if grad_v is None else ordered_like(grad_v, out)
    grad_v_prime = None if grad_v_prime is None else ordered_like(grad_v_prime, out)
    block, whole, warps = reduction_shape(size)
    chunk = min(block, CHUNK)
    combine_gradients_kernel[(batch,)](
        out, values, counts, latents, residual, grad_v, grad_v_prime, alpha, weight,
        float(lambda_fm), float(lambda_kl), float(lambda_lsd), lambda_fm_tensor, lambda_kl_tensor, lambda_lsd_tensor,
        1.0 / batch if batch_mean else 1.0, size, batch,
        out.stride(0), latents.stride(0), residual.stride(0),
        0 if grad_v is None else grad_v.stride(0), 0 if grad_v_prime is None else grad_v_prime.stride(0),
        LITERAL=literal, ZERO=zero_nonfinite, BLOCK=block, WHOLE=whole, CHUNK=chunk, WIDE=size % 16 == 0,
        num_warps=warps, maxnreg=registers_of(warps), **FUSED,
    )  # fmt: skip
