"""The decoder's attention: both ways against float64, their memory, and which is taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.decoder import FrozenDecoder, attention

from ..ops.common import bitwise_equal
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import all_levels, architecture, check_features, scaling

WAYS = ("sdpa", "plain")
FULL = ((2, 1, 20, 16), (1, 2, 33, 8), (2, 1, 1, 4))


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """query, key, value and the gradient, laid out as the layer has them; queries of some weight."""
    batch, heads, tokens, width = shape
    together = torch.randn(batch, tokens, 4, heads, width)
    together[:, :, 0] *= 3
    return [x.transpose(1, 2).to(dtype) for x in together.unbind(2)]


def by_torch(query: Tensor, key: Tensor, value: Tensor, grad: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in (query, key, value)]
    result = F.scaled_dot_product_attention(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, grad)]


def ours(query: Tensor, key: Tensor, value: Tensor, grad: Tensor) -> list[Tensor]:
    saved = attention.attend(query, key, value)
    return [saved[-1].detach(), *attention.gradients(grad, saved)]


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("shape", FULL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_by_the_rule(
    way: str, dtype: torch.dtype, shape: tuple[int, ...], parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDP_FAST_ATTENTION", way)
    if parts:
        monkeypatch.setattr(attention, "FEW", 0)
        monkeypatch.setattr(attention, "PART", 7 * shape[0] * shape[1] * shape[2])
    given = drawn(shape, dtype)
    results = zip(ours(*given), by_torch(*given), by_torch(*(x.double() for x in given)), strict=True)
    for i, (x, y, z) in enumerate(results):
        assert x.dtype == dtype
        # Of one token the scores' gradients are zero, and nothing is what they can be relative to.
        if shape[2] == 1 and i in (1, 2):
            assert float(x.abs().max()) <= 8 * torch.finfo(dtype).eps * float(given[3].abs().max()) ** 2 * shape[3]
        else:
            assert_close(x, y, z, factor=GRADIENT if i else OUTPUT, what=("result", "query", "key", "value")[i])


@pytest.mark.parametrize("way", WAYS)
def test_float64_stays_float64(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_ATTENTION", way)
    given = drawn((2, 1, 9, 4), torch.float64)
    for x, y in zip(ours(*given), by_torch(*given), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_a_second_backward_is_the_first(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_ATTENTION", way)
    *parts, grad = drawn((2, 2, 9, 4), torch.float32)
    saved = attention.attend(*parts)
    monkeypatch.setenv("LDP_FAST_ATTENTION", "sdpa" if way == "plain" else "plain")  # what was kept decides
    first, second = (attention.gradients(grad, saved) for _ in range(2))
    assert all(bitwise_equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_no_samples(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_ATTENTION", way)
    assert all(x.shape == (0, 1, 4, 8) for x in ours(*drawn((0, 1, 4, 8), torch.float32)))


def test_many_tokens_keep_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """And few keep one: what is kept, and the rows of a part."""
    monkeypatch.setenv("LDP_FAST_ATTENTION", "plain")
    *parts, _ = drawn((1, 1, attention.FEW + 1, 4), torch.float32)
    assert sum(x.numel() for x in attention.attend(*parts)) == 4 * parts[0].numel()
    few = [x[:, :, 1:] for x in parts]
    assert sum(x.numel() for x in attention.attend(*few)) == 4 * few[0].numel() + attention.FEW**2
    meta = torch.empty(2, 1, 4096, 512, device="meta")
    assert attention._rows(meta) == 1024 and len(attention._parts(4096, 1024)) == 4


def test_what_the_processor_does_not_multiply_in_is_float32_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "widened", lambda x: x.dtype == torch.bfloat16)
    given = drawn((2, 1, 20, 16), torch.bfloat16)
    saved = attention.attend(*given[:3])
    assert saved[-1].dtype == torch.bfloat16 and all(x.dtype == torch.float32 for x in saved[:-1])
    wide = by_torch(*(x.float() for x in given))
    for x, y in zip([saved[-1].detach(), *attention.gradients(given[3], saved)], wide, strict=True):
        torch.testing.assert_close(x, y.bfloat16(), rtol=2**-7, atol=2**-7 * float(y.abs().max()))


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["sd1", "compvis 2"])
def test_in_the_decoder(name: str, way: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_ATTENTION", way)
    vae = architecture(name)
    decoder = FrozenDecoder(vae, all_levels(vae), memory=memory, **scaling(vae))  # type: ignore[arg-type]
    check_features(vae, decoder, torch.randn(2, 4, 7, 5))


def test_an_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_ATTENTION", "flash")
    with pytest.raises(ValueError, match="LDP_FAST_ATTENTION: expected one of auto, sdpa, plain, got 'flash'"):
        attention.way(torch.zeros(1, 1, 4, 4))
