"""Launches past Triton's specialisation: the same kernel with the same arguments, and only where it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ldp_fast import losses

from ..support import samples
from ..support.fake_driver import launching_into_nothing, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """What reaches the driver: the kernel's launcher, then its arguments."""
    from ldp_fast.kernels import _launch

    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr("tests.support.fake_driver._Launcher.__call__", lambda self, *args: seen.append((self, *args)))
    monkeypatch.setattr(_launch, "_KNOWN", {})
    with launching_into_nothing():
        yield seen


def known() -> dict[Any, Any]:
    from ldp_fast.kernels import _launch

    return _launch._KNOWN


def kinds(launch: tuple[Any, ...]) -> list[Any]:
    """A launch with each tensor's dtype and shape for the tensor, and the class of what is made for hooks."""

    def one(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(one, x))
        if isinstance(x, torch.Tensor):
            return x.dtype, x.shape
        return type(x) if type(x).__name__ == "LazyDict" else x

    return [one(x) for x in launch]


@pytest.mark.parametrize("op", ["perturb", "guided_residual", "residual_latents", "score_distillation_loss"])
def test_a_second_launch_is_the_first_one_again(op: str, launched: list[tuple[Any, ...]]) -> None:
    inputs = samples.inputs(op)
    for _ in range(2):
        getattr(losses, op)(**inputs)
    first, second = launched
    assert len(known()) == 1
    assert kinds(first) == kinds(second)
    given = [x for x in inputs.values() if isinstance(x, torch.Tensor)]
    assert sum(any(a is x for x in given) for a in first) == sum(any(a is x for x in given) for a in second) > 0


def test_feature_matching_s_launches_are_the_first_ones_again(launched: list[tuple[Any, ...]]) -> None:
    lists = tuple(samples.feature_matching.inputs().values())
    for _ in range(2):
        losses.feature_matching_loss(*lists).backward()
    assert len(launched) == 6 and len(known()) == 3
    assert [kinds(launch) for launch in launched[:3]] == [kinds(launch) for launch in launched[3:]]


def test_another_number_dtype_or_constant_is_another_kernel(launched: list[tuple[Any, ...]]) -> None:
    inputs = samples.perturb.inputs()
    others = (
        inputs,
        inputs | {"copies": 2},
        inputs | {"latents": inputs["latents"].half()},
        samples.perturb.inputs(shape=(1, 4, 8, 8)),
    )
    for count, other in enumerate(others, 1):
        losses.perturb(**other)
        assert len(known()) == count


def test_misaligned_tensors_go_triton_s_way(launched: list[tuple[Any, ...]]) -> None:
    inputs = samples.perturb.inputs()
    shifted = torch.empty(inputs["latents"].numel() + 1)[1:].view_as(inputs["latents"])
    assert shifted.data_ptr() % 16
    losses.perturb(**inputs)
    losses.perturb(**inputs | {"latents": shifted})
    assert len(launched) == 2 and len(known()) == 1
    assert launched[0][0] is not launched[1][0]


def test_what_is_kept_is_limited(launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    from ldp_fast.kernels import _launch

    monkeypatch.setattr(_launch, "_MOST", 3)
    for batch in range(1, 8):
        losses.perturb(**samples.perturb.inputs(shape=(batch, 4, 8, 8)))
    assert 1 <= len(known()) <= 3


def test_a_kernel_that_is_still_being_compiled_is_not_kept(
    launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton hands out something else until it is there (its asynchronous mode)."""
    from ldp_fast.kernels import _launch

    class Future:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    class Kernel:
        pre_run_hooks: tuple[Any, ...] = ()
        arg_names: tuple[str, ...] = ()

        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda *_, **__: Future()

    monkeypatch.setattr(_launch, "JITFunction", Kernel)
    kernel = Kernel()
    for _ in range(2):
        _launch.launch(kernel, (1,), (torch.empty(4),), (1,), {})
    assert not known()


def test_hooks_before_a_launch_are_called_every_time(launched: list[tuple[Any, ...]]) -> None:
    from ldp_fast.kernels import perturb

    calls: list[int] = []
    inputs = samples.perturb.inputs()
    losses.perturb(**inputs)
    perturb.perturb_kernel.add_pre_run_hook(lambda *_, **__: calls.append(1))
    try:
        losses.perturb(**inputs)
        losses.perturb(**inputs)
    finally:
        perturb.perturb_kernel.pre_run_hooks.clear()
    assert len(calls) == 2 and len(launched) == 3
