"""Attention and its gradients, in one of two ways, chosen by device, precision and size.

`sdpa` is torch's `scaled_dot_product_attention` with its own backward: no tokens × tokens matrix in memory. `plain` is
two products and a softmax, four products backward, by hand. Up to `FEW` tokens it keeps the probabilities; above, it
goes over the queries in parts and computes them again in the backward, so that its memory is bounded there too.

On a CPU few tokens of few heads are `plain`'s, as measured (docs/decoder.md has the table, which
benchmarks/bench_attention.py makes). On CUDA all are `sdpa`'s. `LDP_FAST_ATTENTION` overrides both.

B: samples. H: heads. N: tokens. D: width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _settings
from .narrow import widened
from .pieces import Saved

# Up to so many tokens keeping the probabilities, N² of them, is the faster way on a CPU.
FEW = 1024
# And so many probabilities at most, 64 MiB: at 1024 tokens 16 heads of samples, as eight pairs v, v′ of one head have.
MOST = 2**24
# The most numbers of a part's matrix: 32 MiB of float32 on a CPU, whose caches are small; on a GPU (2, 1, 4096, 512) is
# one part.
PART, PART_ON_GPU = 2**23, 2**25


def way(query: Tensor) -> str:
    """`sdpa` or `plain`, for queries [B, H, N, D]."""
    asked = _settings.attention()
    if asked != "auto":
        return asked
    in_float32 = query.dtype == torch.float32 or widened(query)
    few = query.shape[2] <= FEW and query.shape[0] * query.shape[1] * query.shape[2] ** 2 <= MOST
    return "plain" if query.device.type == "cpu" and in_float32 and few else "sdpa"


def attend(query: Tensor, key: Tensor, value: Tensor) -> Saved:
    """softmax(query · keyᵀ / √D) · value.

    Args:
        query, key, value: [B, H, N, D], without a graph.

    Returns:
        What `gradients` needs; the last of it is the result, [B, H, N, D] in the arguments' dtype. In inference mode,
        where torch keeps no graph, the gradients of `sdpa`'s result are computed by `plain`.
    """
    if not query.numel():
        return query, key, value, torch.empty_like(value)
    chosen, dtype = way(query), query.dtype
    if _in_float32(query, chosen):
        query, key, value = query.float(), key.float(), value.float()
    if chosen == "plain":
        return _plain(query, key, value, dtype)
    query, key, value = (x.detach().requires_grad_() for x in (query, key, value))
    with torch.enable_grad():
        return query, key, value, F.scaled_dot_product_attention(query, key, value).to(dtype)


def gradients(grad: Tensor, saved: Saved) -> tuple[Tensor, ...]:
    """The gradients to query, key and value, in `grad`'s dtype.

    Args:
        grad: to the result, [B, H, N, D].
        saved: of `attend`; a second call with it is allowed.
    """
    *parts, result = saved
    if not grad.numel():
        return tuple(torch.empty_like(grad) for _ in range(3))
    if result.grad_fn is None:
        return _plain_gradients(grad, parts)
    # Retained for a second backward; it is freed with `saved`.
    return tuple(g.to(grad.dtype) for g in torch.autograd.grad(result, parts, grad, retain_graph=True))


def _in_float32(query: Tensor, chosen: str) -> bool:
    """Whether the arithmetic is float32's whatever the precision of the arguments is.

    A CPU that cannot multiply in it is slower in it. And `plain` in two bytes would round the scores before the
    softmax, which `sdpa` does not.
    """
    return widened(query) or (query.device.type == "cpu" and query.dtype.itemsize == 2 and chosen == "plain")


@torch.no_grad()
def _plain(query: Tensor, key: Tensor, value: Tensor, dtype: torch.dtype) -> Saved:
    batch, heads, tokens, width = value.shape
    rows = _rows(query)
    # As rows of tokens in memory, which is how the layer goes on.
    result = value.new_empty((batch, tokens, heads, width), dtype=dtype).transpose(1, 2)
    for part in _parts(tokens, rows):
        probabilities = _probabilities(query[:, :, part], key)
        result[:, :, part] = probabilities @ value
    return (query, key, value, probabilities, result) if tokens <= FEW else (query, key, value, result)


@torch.no_grad()
def _plain_gradients(grad: Tensor, saved: list[Tensor]) -> tuple[Tensor, ...]:
    query, key, value, *kept = saved
    grad_out, scale = grad.to(value.dtype), _scale(query)
    rows = _rows(query)
    of_query = torch.empty_like(query)
    of_key: Tensor | None = None
    of_value: Tensor | None = None
    for part in _parts(query.shape[2], rows):
        queries, grads = query[:, :, part], grad_out[:, :, part]
        probabilities = kept[0] if kept else _probabilities(queries, key)
        of_value = _added(of_value, probabilities.mT @ grads)
        of_scores = grads @ value.mT
        of_scores = torch.ops.aten._softmax_backward_data(of_scores, probabilities, -1, of_scores.dtype)
        of_query[:, :, part] = (of_scores @ key).mul_(scale)
        of_key = _added(of_key, of_scores.mT @ queries)
    assert of_key is not None and of_value is not None
    return of_query.to(grad.dtype), of_key.mul_(scale).to(grad.dtype), of_value.to(grad.dtype)


def _added(total: Tensor | None, more: Tensor) -> Tensor:
    """Sums of more than one part are float32's, or wider."""
    if total is None:
        return more
    return total.add_(more) if total.dtype.itemsize > 2 else total.float().add_(more)


def _probabilities(query: Tensor, key: Tensor) -> Tensor:
    """softmax(query · keyᵀ / √D), [B, H, rows, N], in the query's dtype, the scores in float32 or wider."""
    if query.dtype.itemsize > 2:
        return torch.softmax((query * _scale(query)) @ key.mT, -1)
    flat = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).mT, out_dtype=torch.float32).mul_(_scale(query))
    return torch.softmax(flat, -1).to(query.dtype).view(*query.shape[:3], key.shape[2])


def _scale(query: Tensor) -> float:
    return query.shape[-1] ** -0.5


def _rows(query: Tensor) -> int:
    """How many queries are a part."""
    batch, heads, tokens, _ = query.shape
    limit = PART_ON_GPU if query.is_cuda else PART
    return tokens if tokens <= FEW else min(tokens, max(1, limit // (batch * heads * tokens)))


def _parts(tokens: int, rows: int) -> list[slice]:
    return [slice(start, start + rows) for start in range(0, tokens, rows)]
