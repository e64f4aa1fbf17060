"""Whether a scheduler's own way to z_t is the one that its tables say: a prior computes z_t itself, from these.

`add_noise`, `scale_noise` and `scale_model_input` of diffusers' classes are known (`schedulers.py`). One that somebody
has put in their place (a subclass, an attribute of the object, a patch of the class) is asked on a tiny tensor, once;
`ReadFrom` notices it where it comes later.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UsageError, reason

if TYPE_CHECKING:
    from .schedulers import ForwardProcess

SCALES_INPUT = "scale_model_input"
METHODS = ("add_noise", "scale_noise", SCALES_INPUT)
SHAPE = (1, 4, 8, 8)
# Relative L2 deviation in float32: of two functions on the same numbers, and of one from our tables, which are float64.
TOLERANCE, OF_TABLES = 1e-4, 1e-3


class ReadFrom:
    """What a scheduler was when its tables were read; whether it still is takes microseconds and waits for nothing.

    Its configuration, its ᾱ_t (on a CPU by value, for nobody counts who writes through `.data` or numpy; elsewhere by
    torch's count), and the methods by which it adds noise. A copy and a pickle were read from nothing.

    Args:
        scheduler: None for nothing.
    """

    def __init__(self, scheduler: Any = None):
        self._scheduler = scheduler
        self._parts = _parts(scheduler)
        self._methods = () if scheduler is None else _methods(scheduler)
        self._table = _value(self._parts[1])

    def holds(self, scheduler: Any) -> bool:
        """Whether this is the scheduler, unchanged."""
        if self._scheduler is None or scheduler is not self._scheduler:
            return False
        parts = _parts(scheduler)
        if parts[0] is not self._parts[0] or parts[1] is not self._parts[1]:
            return False
        if torch.compiler.is_compiling():  # the rest has no place in a graph
            return True
        methods = _methods(scheduler)
        return _value(parts[1]) == self._table and all(a is b for a, b in zip(methods, self._methods, strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return (ReadFrom, ())


def _parts(scheduler: Any) -> tuple[Any, Any]:
    return getattr(scheduler, "config", None), getattr(scheduler, "alphas_cumprod", None)


def _methods(scheduler: Any) -> list[Any]:
    """The class, what `set_shift` has set, and what stands under each name in the object and in its class."""
    kind, held = type(scheduler), getattr(scheduler, "__dict__", {})
    found: list[Any] = [kind, held.get("_shift")]
    for name in METHODS:
        found += [held.get(name), next((vars(c)[name] for c in kind.__mro__ if name in vars(c)), None)]
    return found


def version_of(value: Any) -> int:
    """How often a tensor was written to in place, as torch counts; 0 for everything else."""
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def _value(table: Any) -> Any:
    if type(table) is torch.Tensor and table.device.type == "cpu" and table.is_contiguous():
        # The bytes, and not an operation: the prior does nothing on the host's side that torch would have to do.
        return ctypes.string_at(table.data_ptr(), table.numel() * table.element_size())
    if isinstance(table, torch.Tensor):
        return version_of(table)
    return table.tobytes() if isinstance(table, np.ndarray) else tuple(table) if isinstance(table, list) else table


def check_noising(scheduler: Any, process: ForwardProcess) -> None:
    """Checks that noise is added as diffusers' class adds it, or, where there is none, as α_t v + σ_t ε.

    Costs microseconds where the method is diffusers' own.

    Raises:
        UsageError: another z_t, by the name of the class.
    """
    for name in METHODS:
        found = getattr(scheduler, name, None)
        owner = next((c for c in type(scheduler).__mro__ if of_diffusers(c) and name in vars(c)), None)
        own = None if owner is None else vars(owner)[name]
        # By the code's module: `functools.wraps` copies every other name to what it wraps.
        written = owner is not None and getattr(own, "__globals__", {}).get("__name__") == owner.__module__
        mine = getattr(found, "__self__", None) is scheduler and getattr(found, "__func__", None) is own
        # What a class of somebody's own makes of its network's input is its own affair: the tables say what z_t is.
        asked = name != SCALES_INPUT or owner is not None
        if callable(found) and asked and not (written and mine):
            _compare(scheduler, name, found, own if written or owner is None else _written(owner, name), process)


def of_diffusers(cls: type) -> bool:
    """Whether a class is one of diffusers' own."""
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
    meaning = "what its class gives" if name == SCALES_INPUT else "z_t = α_t v + σ_t ε as the prior does"
    what = f"scheduler: expected {name} to give {meaning}; that of {kind}"
    for t in _steps(scheduler, len(process.alpha)):
        try:
            noisy, arguments = _called(scheduler, found, name, v, noise, t.to(device))
        except Exception as error:
            raise UsageError(f"{what} cannot be called as diffusers' is ({reason(error)})") from error
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


def _called(
    scheduler: Any, found: Callable[..., Any], name: str, v: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """What a method gives, and what it was given."""

    def call(told: torch.Tensor) -> tuple[Any, tuple[torch.Tensor, ...]]:
        arguments = {"add_noise": (v, noise, told), "scale_noise": (v, told, noise), SCALES_INPUT: (v, told[0])}[name]
        with _as_it_was(scheduler):
            return found(*arguments), arguments

    try:
        return call(t)
    except Exception:
        # A table of t may be of floats until somebody samples, where t is an index into another table.
        if not t.is_floating_point() or bool((t != t.long()).any()):
            raise
    return call(t.long())


def _steps(scheduler: Any, count: int) -> Iterator[torch.Tensor]:
    """Nine t from end to end, `[1]` on the CPU, of those that the scheduler has now: some look t up among them."""
    steps = getattr(scheduler, "timesteps", None)
    if not isinstance(steps, torch.Tensor) or steps.ndim != 1 or not len(steps):
        steps = torch.arange(count, device="cpu")
    for part in range(9):
        place = part * (len(steps) - 1) // 8
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
