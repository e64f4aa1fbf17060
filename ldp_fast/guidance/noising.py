"""Whether a scheduler's own way to z_t is the one that its tables say: a prior computes z_t itself, from these.

`add_noise` and `scale_noise` of diffusers' classes are known (`schedulers.py`). One that somebody has put in their
place (a subclass, an attribute of the object, a patch of the class) is asked once, on a tiny tensor.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UsageError

if TYPE_CHECKING:
    from .schedulers import ForwardProcess

METHODS = ("add_noise", "scale_noise")
SHAPE = (1, 4, 8, 8)
# Relative L2 deviation in float32: of two functions on the same numbers, and of one from our tables, which are float64.
TOLERANCE, OF_TABLES = 1e-4, 1e-3


def check_noising(scheduler: Any, process: ForwardProcess) -> None:
    """Checks that noise is added as diffusers' class adds it, or, where there is none, as α_t v + σ_t ε.

    Costs microseconds where the method is diffusers' own.

    Raises:
        UsageError: another z_t, by the name of the class.
    """
    for name in METHODS:
        found = getattr(scheduler, name, None)
        owner = next((c for c in type(scheduler).__mro__ if _of_diffusers(c) and name in vars(c)), None)
        own = None if owner is None else vars(owner)[name]
        # By the code's module: `functools.wraps` copies every other name to what it wraps.
        written = owner is not None and getattr(own, "__globals__", {}).get("__name__") == owner.__module__
        mine = getattr(found, "__self__", None) is scheduler and getattr(found, "__func__", None) is own
        if callable(found) and not (written and mine):
            _compare(scheduler, name, found, own if written or owner is None else _written(owner, name), process)


def _of_diffusers(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "diffusers"


def _written(owner: type, name: str) -> Callable[..., Any] | None:
    """The method that a patched class was written with: its module is run once more, and forgotten."""
    spec = importlib.util.find_spec(owner.__module__)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(getattr(module, owner.__name__)).get(name)


@torch.no_grad()
def _compare(
    scheduler: Any, name: str, found: Callable[..., Any], own: Callable[..., Any] | None, process: ForwardProcess
) -> None:
    table = getattr(scheduler, "alphas_cumprod", None)
    device = table.device if isinstance(table, torch.Tensor) else torch.device("cpu")
    generator = torch.Generator("cpu").manual_seed(0)
    v, noise = (torch.randn(SHAPE, generator=generator, device="cpu").to(device) for _ in range(2))
    kind = type(scheduler).__name__
    what = f"scheduler: expected {name} to give z_t = α_t v + σ_t ε as the prior does; that of {kind}"
    for t in _steps(scheduler, len(process.alpha)):
        told = t.to(device)
        arguments = (v, noise, told) if name == "add_noise" else (v, told, noise)
        try:
            with _as_it_was(scheduler):
                noisy = found(*arguments)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(f"{what} cannot be called as diffusers' is ({reason})") from error
        if not isinstance(noisy, torch.Tensor) or noisy.shape != v.shape:
            raise UsageError(f"{what} gives {_said(noisy)} for latents {list(v.shape)}")
        expected: torch.Tensor | None = None
        if own is not None:
            # Some of diffusers' own only say that they are not to be called.
            with contextlib.suppress(NotImplementedError), _as_it_was(scheduler):
                expected = own(scheduler, *arguments)
        off = _off(noisy, expected) / TOLERANCE if expected is not None else _off_tables(noisy, v, noise, t, process)
        if not off <= 1:
            raise UsageError(f"{what} gives another at t = {float(t):g}")


def _steps(scheduler: Any, count: int) -> Iterator[torch.Tensor]:
    """Three t, `[1]` on the CPU, of those that the scheduler has now: some look t up among them."""
    steps = getattr(scheduler, "timesteps", None)
    if not isinstance(steps, torch.Tensor) or steps.ndim != 1 or not len(steps):
        steps = torch.arange(count, device="cpu")
    for quarter in (1, 2, 3):
        place = quarter * len(steps) // 4
        yield steps[place : place + 1].cpu()


@contextlib.contextmanager
def _as_it_was(scheduler: Any) -> Iterator[None]:
    """Puts back what a call changes: attributes (diffusers' remember steps), and torch's random numbers."""
    held = getattr(scheduler, "__dict__", {})
    before = dict(held)
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        held.clear()
        held.update(before)


def _off(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative deviation; 0 where there is nothing to compare with."""
    if not bool(expected.isfinite().all()):
        return 0.0
    return float((actual - expected).norm()) / max(float(expected.norm()), 1e-30)


def _off_tables(
    noisy: torch.Tensor, v: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, process: ForwardProcess
) -> float:
    """The deviation of z_t or z_t / α_t from the tables, in units of what is allowed."""
    rows = np.arange(len(process.alpha)) if process.time is None else process.time.numpy()
    alpha, sigma = (float(np.interp(float(t), rows, x.numpy())) for x in (process.alpha, process.sigma))
    expected = alpha * v + sigma * noise
    return min(_off(noisy, expected), _off(alpha * noisy, expected)) / OF_TABLES


def _said(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
