"""The losses in C++ (csrc/latents, csrc/feature_matching): the reference's numbers, by any number of threads.

That they agree with float64 is in the files of the operators: on a CPU they are what runs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.ops import _library, _native

from ..support import samples
from .common import bitwise_equal, check_launcher

pytestmark = pytest.mark.skipif(_native.extension() is None, reason="the extension was not built")
NAMES = (
    "perturb",
    "guided_residual",
    "residual_latents",
    "residual_latents_backward",
    "score_distillation",
    "score_distillation_backward",
)
SIZES = ((4, 8, 8), (3, 5, 7), (64, 16, 16))
OPS = torch.ops.ldp_fast


@pytest.fixture(autouse=True)
def automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LDP_FAST_BACKEND", raising=False)


def single(name: str) -> list[tuple[Any, ...]]:
    """The samples whose results are float32."""
    return [arguments for arguments in samples.argument_tuples(name) if torch.float16 not in arguments]


def results(name: str, arguments: tuple[Any, ...]) -> list[Tensor]:
    made = getattr(OPS, name)(*arguments)
    return [made] if isinstance(made, Tensor) else list(made)


def both(monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[Any, ...]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of results: of the extension and of the reference."""
    monkeypatch.setenv("LDP_FAST_BACKEND", "auto")
    native = results(name, arguments)
    monkeypatch.setenv("LDP_FAST_BACKEND", "reference")
    return list(zip(native, results(name, arguments), strict=True))


def close(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for got, wanted in pairs:
        assert (got.dtype, got.stride()) == (wanted.dtype, wanted.stride())
        torch.testing.assert_close(got, wanted, rtol=2e-6, atol=2e-6, equal_nan=True)


def hurt(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same with NaN, infinities and numbers whose squares are infinite in every batch."""
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 0.0])

    def one(x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.dim() == 4):
            return x
        x = x.detach().clone()
        x[0, 0, 0, : len(odd)] = odd
        return x

    return tuple(map(one, arguments))


@pytest.mark.parametrize("name", NAMES)
def test_has_the_reference_s_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in single(name):
        close(both(monkeypatch, name, arguments))
        close(both(monkeypatch, name, hurt(arguments)))


@pytest.mark.parametrize("name", NAMES)
def test_serves_float32_on_a_cpu_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, called = _library.OPERATORS[name], []

    def spy(kind: str, function: Any) -> Any:
        return lambda *arguments: (called.append(kind), function(*arguments))[1]

    monkeypatch.setattr(operator, "native", spy("native", operator.native))
    monkeypatch.setattr(operator, "reference", spy("reference", operator.reference))
    arguments = single(name)[0]
    results(name, arguments)
    results(name, tuple(x.double() if isinstance(x, Tensor) else x for x in arguments))
    monkeypatch.setattr(_native, "extension", lambda: None)
    results(name, arguments)
    assert called == ["native", "reference", "reference"]


def unserved(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Makes it an error that native code is asked."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("native code was asked")

    for name in names:
        monkeypatch.setattr(_library.OPERATORS[name], "native", refuse)


def test_what_is_to_be_stored_in_half_precision_is_the_reference_s(monkeypatch: pytest.MonkeyPatch) -> None:
    unserved(monkeypatch, "perturb", "score_distillation_backward")
    v, r, a, s = samples.perturb.argument_tuples("perturb")[0]
    assert OPS.perturb(v, r, a, s, 2, torch.bfloat16).dtype == torch.bfloat16
    assert OPS.score_distillation_backward(a, r, s, torch.float16).dtype == torch.float16


@pytest.mark.parametrize("name", NAMES)
def test_writes_its_outputs_and_nothing_else(name: str) -> None:
    operator = _library.OPERATORS[name]
    for arguments in single(name):
        arguments = tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)
        made = check_launcher(operator.native, operator.fake(*arguments), arguments)
        close(list(zip(made, [x.contiguous() for x in results(name, arguments)], strict=True)))


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    arguments = samples.argument_tuples(name, shape=(4, 4, 130, 129))[0]
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            made.append(results(name, arguments))
    finally:
        torch.set_num_threads(before)
    assert all(bitwise_equal(a, b) for other in made[1:] for a, b in zip(made[0], other, strict=True))


def test_what_does_not_fit_is_refused() -> None:
    v, r, a, s = samples.perturb.argument_tuples("perturb")[0]
    for call, message in (
        (lambda: OPS.perturb(v, r[:1], a, s), "perturb: noise: expected 2 samples"),
        (lambda: OPS.perturb(v, r, a[:1], s), r"perturb: alpha: expected shape \[2\]"),
        (lambda: OPS.guided_residual(v, r, a), "model_output: expected 4 samples"),
        (lambda: OPS.guided_residual(v, r, None, None, a, s, "", "", "sample"), "noisy_latents: expected a tensor"),
        (lambda: OPS.residual_latents(v, r[:, :2], a), "residual: expected 2 samples"),
        (lambda: OPS.score_distillation(v, r, a[:1]), "weight: expected shape"),
        (lambda: OPS.score_distillation_backward(a[:1], r, s, torch.float32), "grad: expected shape"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()


def rows(layout: str, zero: bool = False, **options: Any) -> list[tuple[Any, ...]]:
    """Arguments of the operator: lists of rows, of samples, and of halves."""
    x, y = samples.feature_matching.inputs(SIZES, layout=layout, requires_grad=False, **options).values()
    x[0][0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), 3e38])
    y[0][0, 0, 0, 2] = -3e38
    rest = ("mean", "mean", "zero" if zero else "propagate")
    flat = [a.flatten(1) for a in x], [a.flatten(1) for a in y]
    halves = [torch.cat(pair) for pair in zip(x, y, strict=True)]
    lists = [flat, (halves, [])] + ([(x, y)] if layout == "contiguous" else [])
    return [(*both, *rest, signs) for both in lists for signs in (True, False)]


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "sliced", "offset"])
def test_feature_matching_has_the_reference_s_numbers_and_signs(
    layout: str, zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in rows(layout, zero):
        pairs = both(monkeypatch, "feature_matching", arguments)
        close(pairs)
        assert bitwise_equal(*pairs[3]) and torch.equal(*pairs[2])
        if not arguments[-1]:
            continue
        halves, sizes = not arguments[1], [x.shape[1:].numel() for x in arguments[0]]
        for needs in ((True, True), (True, False), (False, True)):
            backward = (torch.tensor(1.5), pairs[3][0], sizes, 2, torch.float32, "mean", "sum", halves, *needs)
            gradients = both(monkeypatch, "feature_matching_backward", backward)
            assert gradients and all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in gradients)


def test_feature_matching_s_half_precision_is_the_reference_s(monkeypatch: pytest.MonkeyPatch) -> None:
    unserved(monkeypatch, "feature_matching", "feature_matching_backward")
    x, y = samples.feature_matching.inputs(SIZES, dtype=torch.bfloat16, requires_grad=False).values()
    flat = [a.flatten(1) for a in x], [a.flatten(1) for a in y]
    signs = OPS.feature_matching(*flat, "mean", "mean", "propagate", True)[3]
    sizes = [a.shape[1] for a in flat[0]]
    backward = (torch.ones(()), signs, sizes, 2, torch.bfloat16, "mean", "mean", False, True, True)
    assert all(g.dtype == torch.bfloat16 for g in OPS.feature_matching_backward(*backward))


def test_feature_matching_by_any_number_of_threads_has_the_same_bits() -> None:
    x, y = samples.feature_matching.inputs(((16, 70, 71), (3, 5, 7)), batch=3, requires_grad=False).values()
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            made.append(OPS.feature_matching(x, y, "sum", "sum", "propagate", True))
    finally:
        torch.set_num_threads(before)
    assert all(bitwise_equal(a, b) for other in made[1:] for a, b in zip(made[0], other, strict=True))


def test_feature_matching_refuses_what_does_not_fit() -> None:
    x, y = (list(part) for part in samples.feature_matching.inputs(SIZES, requires_grad=False).values())
    rest = ("mean", "mean", "propagate", True)
    for lists, message in (
        ((x, y[:2]), "as many levels"),
        ((x, [*y[:2], y[2][:, :1].contiguous()]), "features_prime: expected 2 rows of 16384 elements"),
        ((x, [*y[:2], y[2][:1]]), "features_prime: expected 2 rows"),
        (([a[:1] for a in x], []), "an even number of rows"),
    ):
        with pytest.raises(RuntimeError, match=message):
            OPS.feature_matching(*lists, *rest)
    with pytest.raises(RuntimeError, match="signs: expected shape"):
        backward = (torch.ones(()), torch.empty(1, 512, dtype=torch.int32), [256], 2, torch.float32, "mean", "mean")
        OPS.feature_matching_backward(*backward, False, True, True)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow", "sigma"])
def test_guided_residual_has_the_reference_s_bits(prediction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that Perp-Neg without negatives, which is the reference's, is guidance to the bit."""
    v, r, a, s = samples.perturb.argument_tuples("perturb")[0]
    for arguments in ((v, r, None), (torch.cat([v, r]), r, a)):
        pairs = both(monkeypatch, "guided_residual", (*arguments, v, a, s, "from_text", "uncond_first", prediction))
        assert all(bitwise_equal(*pair) for pair in pairs)


def test_no_copies_are_nothing_written() -> None:
    """`losses.perturb` refuses that; the operator by itself has an empty result."""
    latents, ones = torch.ones(2, 4, 3, 3), torch.ones(2)
    _native.function("perturb")(torch.empty(0, 4, 3, 3), latents, latents, ones, ones)
