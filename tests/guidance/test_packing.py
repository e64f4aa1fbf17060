"""Packed layers compute what torch's do, at any size and in any copy; what others may look into stays as it is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from ldp_fast.guidance import packing

from ..support.models import tiny_unet
from ..support.tolerances import OUTPUT, assert_close

pytestmark = pytest.mark.skipif(
    not packing.available(torch.float32), reason="this torch cannot keep oneDNN's blocks of a weight"
)
DTYPES = (torch.float32, torch.bfloat16)


class Host(nn.Module):
    """A host's own module, which looks into the layer that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * self.conv.weight.mean()


def network(dtype: torch.dtype) -> nn.Module:
    """Strides, groups, dilation, a layer twice, one without bias, projections."""
    torch.manual_seed(0)
    same = nn.Conv2d(8, 8, 3, padding=1)
    made = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.Sequential(same, nn.SiLU(), same),
        nn.Conv2d(8, 16, 3, stride=2, padding=2, dilation=2, groups=4),
        nn.Flatten(2),
        nn.Linear(16, 24),
    )
    return made.to(dtype).requires_grad_(False).eval()


def packed(dtype: torch.dtype, channels_last: bool) -> nn.Module:
    if not packing.available(dtype):
        pytest.skip(f"oneDNN does not serve {dtype} on this processor")
    made = network(dtype)
    with torch.no_grad():
        packing.pack(made, channels_last, lambda: made(torch.ones(2, 4, 8, 8, dtype=dtype)))
    return made


def kinds(module: nn.Module) -> list[str]:
    return [type(m).__name__ for m in module.modules() if hasattr(m, "weight") or hasattr(m, "held")]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 4, 8, 8), (1, 4, 16, 4)], ids=str)
def test_computes_what_torch_does(dtype: torch.dtype, channels_last: bool, shape: tuple[int, ...]) -> None:
    """At the size it was packed for and at others."""
    made, plain = packed(dtype, channels_last), network(dtype)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    truth = network(torch.float64)
    for mine, theirs in zip(truth.parameters(), plain.parameters(), strict=True):
        mine.copy_(theirs)
    with torch.no_grad():
        result, eager, exact = made(x), plain(x), truth(x.double())
    assert_close(result, eager, exact, factor=OUTPUT, what=f"{dtype}")
    assert packing.is_channels_last(made) == channels_last and packing.is_channels_last(plain) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_pickles_and_what_compilers_get_hold_the_same_weights(dtype: torch.dtype) -> None:
    made, plain, x = packed(dtype, True), network(dtype), torch.randn(2, 4, 8, 8).to(dtype)
    with torch.no_grad():
        expected = made(x)
        for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert kinds(other) == kinds(made) and torch.equal(other(x), expected)
    rows = packing.unpacked(made)
    for (name, mine), (other, theirs) in zip(rows.named_parameters(), plain.named_parameters(), strict=True):
        assert name == other and torch.equal(mine, theirs) and not mine.requires_grad
    assert kinds(rows) == kinds(plain) and packing.unpacked(plain) is plain and not rows.training


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_goes_through(dtype: torch.dtype) -> None:
    grads = []
    for made in (packed(dtype, False), network(dtype)):
        x = torch.full((2, 4, 8, 8), 0.5, dtype=dtype, requires_grad=True)
        made(x).float().square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_a_layer_keeps_its_precision_under_autocast() -> None:
    made, x = packed(torch.float32, True), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        expected = made[0](x)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(made[0](x.bfloat16()), expected, atol=0.05, rtol=0.05)
            assert made[0](x).dtype == torch.float32
    # And where a gradient is wanted, which torch's operators serve.
    linear = packing.PackedLinear(nn.Linear(8, 6), torch.Size((2, 8))).requires_grad_(False)
    for layer, image in ((made[0], x), (linear, torch.randn(2, 8))):
        wanting = image.clone().requires_grad_()
        expected = layer(wanting)
        with torch.autocast("cpu", torch.bfloat16):
            result = layer(wanting)
        assert result.dtype == torch.float32 and torch.equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conversions_and_state_dicts_hold_the_weights(dtype: torch.dtype) -> None:
    """What `parameters()` lacks is neither left behind in another precision nor lost."""
    plain, made = network(dtype), packed(dtype, False)
    assert list(made.state_dict()) and set(made.state_dict()) == set(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name
    other = {name: value * 2 for name, value in plain.state_dict().items()}
    assert not any(made.load_state_dict(other))
    assert all(torch.equal(made.state_dict()[name], value) for name, value in other.items())
    with pytest.raises(RuntimeError, match="Missing key"):
        made.load_state_dict({})
    x = torch.ones(2, 4, 8, 8)
    wide = copy.deepcopy(made).float()
    torch.testing.assert_close(wide(x), packing.unpacked(made).float()(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_a_precision_without_blocks_is_held_in_rows(dtype: torch.dtype) -> None:
    """The whole network is converted, and back."""
    made, plain = packed(torch.float32, True).to(dtype), network(torch.float32).to(dtype)
    assert {value.dtype for value in made.state_dict().values()} == {dtype}
    x = torch.randn(2, 4, 8, 8).to(dtype)
    for other in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        torch.testing.assert_close(other(x), plain(x))
    made, plain = made.float(), plain.float()
    torch.testing.assert_close(made(x.float()), plain(x.float()))
    assert all(layer.in_blocks for layer in made.modules() if isinstance(layer, packing.PackedConv2d))
    assert packed(torch.float32, True).to("meta")(x.to("meta", torch.float32)).shape == plain(x.float()).shape


def test_what_is_loaded_leaves_no_graph_and_may_come_in_another_precision() -> None:
    made, plain = packed(torch.float32, False), network(torch.float32).requires_grad_()
    assert not any(made.load_state_dict(dict(plain.named_parameters(remove_duplicate=False))))
    x = torch.randn(2, 4, 8, 8)
    assert not made(x).requires_grad and not copy.deepcopy(made)(x).requires_grad
    torch.testing.assert_close(made(x), plain(x).detach())
    half = network(torch.bfloat16)
    assert not any(made.load_state_dict(half.state_dict(), assign=True))
    assert {value.dtype for value in made.state_dict().values()} == {torch.bfloat16}
    torch.testing.assert_close(made(x.bfloat16()), half(x.bfloat16()), rtol=0.05, atol=0.05)


def test_a_layer_whose_weight_is_read_and_that_is_called_by_keyword() -> None:
    """As diffusers' custom diffusion reads it, and as torch's own encoder layers do."""
    layer = torch.nn.Conv2d(4, 8, 3, padding=1).requires_grad_(False)
    made = torch.nn.Sequential(copy.deepcopy(layer))
    packing.pack(made, False, lambda: made(torch.ones(2, 4, 8, 8)))
    kept = made[0]
    assert isinstance(kept, packing.PackedConv2d) and torch.equal(kept.weight, layer.weight)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(kept(input=x), layer(x))
    torch.testing.assert_close(kept(x[0]), layer(x[0]))  # without a batch

    class ByKeyword(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[0](input=x)

    ByKeyword.__module__ = "torch.nn.made_up"
    made = ByKeyword(copy.deepcopy(layer))
    packing.pack(made, False, lambda: made(x))
    assert type(made[0]) is torch.nn.Conv2d


HOOKS = (
    "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
    "register_full_backward_pre_hook", "register_state_dict_pre_hook", "register_load_state_dict_post_hook",
)  # fmt: skip


@pytest.mark.parametrize("name", HOOKS)
def test_layers_with_hooks_stay(name: str) -> None:
    made = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False))
    getattr(made[0], name)(lambda *_: None)
    packing.pack(made, True, lambda: made(torch.ones(1, 4, 8, 8)))
    assert kinds(made) == ["Conv2d"]


def test_hooks_that_come_later_are_kept() -> None:
    made, x = packed(torch.float32, True), torch.randn(2, 4, 8, 8)
    made[0].register_forward_hook(lambda module, inputs, output: output * 0)
    with torch.no_grad():
        assert not made[0](x).any()
        for other in (packing.unpacked(made), copy.deepcopy(made)):
            torch.testing.assert_close(other(x), made(x))


def test_differentiated_by_whatever_torch_has() -> None:
    layer, x = nn.Conv2d(4, 8, 3, padding=1).requires_grad_(False), torch.randn(2, 4, 8, 8)
    linear, rows = nn.Linear(8, 6).requires_grad_(False), torch.randn(3, 8)
    for plain, made, v in (
        (layer, packing.PackedConv2d(layer, x.shape, False), x),
        (linear, packing.PackedLinear(linear, rows.shape), rows),
    ):
        results: list[list[torch.Tensor]] = []
        for module in (made, plain):
            with forward_ad.dual_level():
                dual = forward_ad.unpack_dual(module(forward_ad.make_dual(v, torch.ones_like(v))))
            results.append(
                [
                    dual.tangent,
                    torch.func.jvp(module, (v,), (torch.ones_like(v),))[1],
                    torch.func.grad(lambda v, module=module: module(v).square().sum())(v),
                    torch.func.vmap(module)(v[None]),
                ]
            )
        torch.testing.assert_close(*results)
        made.requires_grad_()
        made(v).sum().backward()
        assert made.bias is not None and made.bias.grad is not None


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_compilers_trace_through_it() -> None:
    """In one graph; with a gradient, for which the weight is copied to rows, in several."""
    made, x, grads = packed(torch.float32, False), torch.randn(2, 4, 8, 8), []
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(made, backend="aot_eager", fullgraph=True)(x), made(x))
    for module in (made, torch.compile(made, backend="aot_eager")):
        v = x.clone().requires_grad_()
        module(v).square().sum().backward()
        grads.append(v.grad)
    torch.testing.assert_close(*grads)


def test_state_dicts_are_torch_s() -> None:
    made, plain = packed(torch.float32, False), network(torch.float32)
    assert list(made.state_dict()) == list(plain.state_dict())
    weights = plain.state_dict()
    for wrong in (3, weights["0.weight"].to("meta"), weights["0.weight"][:1]):
        with pytest.raises(RuntimeError, match=r"0\.weight: expected"):
            made.load_state_dict(weights | {"0.weight": wrong})
    assert "float32 in blocks" in repr(made) and "float64 in rows" in repr(made.double())


def test_a_network_keeps_a_parameter() -> None:
    """Its device and its precision are read from the first."""
    made = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1, bias=False).requires_grad_(False) for _ in range(2)))
    packing.pack(made, False, lambda: made(torch.ones(1, 4, 8, 8)))
    assert sorted(kinds(made)) == ["Conv2d", "PackedConv2d"] and next(made.parameters()).dtype == torch.float32


def test_what_others_may_look_into_stays() -> None:
    hooked = nn.Conv2d(4, 4, 3, padding=1)
    hooked.register_forward_hook(lambda *_: None)
    holding = nn.Conv2d(4, 4, 3, padding=1)
    holding.register_buffer("seen", torch.zeros(1))
    replaced: Any = nn.Conv2d(4, 4, 1)
    replaced.forward = lambda x: x
    reflecting = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    made = nn.Sequential(
        Host(), hooked, holding, replaced, reflecting, nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 1)
    )
    with torch.no_grad():
        packing.pack(made, True, lambda: made(torch.ones(1, 4, 8, 8)))
    assert kinds(made) == ["Conv2d"] * 6 + ["PackedConv2d"]
    first = made[-2:]
    with torch.no_grad():
        packing.pack(first, True, lambda: None)  # calls nothing
    assert kinds(first) == ["Conv2d", "PackedConv2d"]
    # The hooks that recorded the sizes are gone.
    assert not any(m._forward_pre_hooks for m in made.modules())


def test_every_convolution_of_diffusers_unet_is_packed() -> None:
    unet, text = tiny_unet(), torch.randn(2, 5, tiny_unet().config.cross_attention_dim)
    arguments = (torch.randn(2, 4, 8, 8), torch.tensor(7), text)
    with torch.no_grad():
        expected = unet(*arguments).sample
        packing.pack(unet, False, lambda: unet(*arguments))
        torch.testing.assert_close(unet(*arguments).sample, expected)
    assert not any(type(m) is nn.Conv2d for m in unet.modules()) and unet.dtype == torch.float32
