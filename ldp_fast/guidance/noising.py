"""Whether a scheduler's own way to z_t is the one that its tables say: a prior computes z_t itself, from these.

`add_noise`, `scale_noise` and `scale_model_input` of diffusers' classes are known (`schedulers.py`). One that somebody
has put in their place (a subclass, an attribute of the object, a patch of the class) is asked on a tiny tensor, once;
`ReadFrom` notices it where it comes later.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
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
# What sampling changes in a scheduler, of what its ways to add noise look at.
_SAMPLING = ("timesteps", "sigmas", "sigmas_interpol", "num_inference_steps", "_step_index", "_begin_index")
_LARGE = 1 << 20  # bytes of a storage that are not compared at every step


class ReadFrom:
    """What a scheduler was when its tables were read; whether it still is takes microseconds and waits for nothing.

    What its configuration says of z_t and its ᾱ_t by value, for nobody counts who writes to them (a tensor on another
    device than a CPU by torch's count); and the methods by which it adds noise. Inside of a graph of torch.compile they
    are compared by identity alone. A copy and a pickle were read from nothing.

    Args:
        scheduler: None for nothing.
        said: what is to be compared of the configuration, called with the scheduler.
    """

    def __init__(self, scheduler: Any = None, said: Callable[[Any], Any] | None = None):
        self._scheduler, self._said = scheduler, said
        self._objects = _objects(scheduler)
        self._values = None if scheduler is None else self._compared(scheduler)

    def holds(self, scheduler: Any) -> bool:
        """Whether this is the scheduler, unchanged."""
        if self._scheduler is None or scheduler is not self._scheduler:
            return False
        if torch.compiler.is_compiling():  # the rest has no place in a graph
            config, table = _objects(scheduler)
            return config is self._objects[0] and table is self._objects[1]
        return bool(self._compared(scheduler) == self._values)

    def _compared(self, scheduler: Any) -> tuple[Any, ...]:
        table = getattr(scheduler, "alphas_cumprod", None)
        return _methods(scheduler), _value(table), None if self._said is None else self._said(scheduler)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ReadFrom, ())


def _objects(scheduler: Any) -> tuple[Any, Any]:
    return getattr(scheduler, "config", None), getattr(scheduler, "alphas_cumprod", None)


class _Same:
    """Equal to another of the same object, whatever that says of equality; keeps it, lest its address be another's."""

    __slots__ = ("of",)

    def __init__(self, of: Any):
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.of is other.of

    __hash__ = None  # type: ignore[assignment]


def _methods(scheduler: Any) -> list[Any]:
    """The class, what `set_shift` has set, and what stands under each name in the object, its class, or behind it."""
    kind: Any = type(scheduler)
    held = getattr(scheduler, "__dict__", {})
    found: list[Any] = [_Same(kind), plain(held.get("_shift"))]
    for name in METHODS:
        standing = held.get(name, next((vars(c)[name] for c in kind.__mro__ if name in vars(c)), None))
        if standing is None and not _descends(kind):
            # A wrapper's, which is bound anew at every look.
            forwarded = getattr(scheduler, name, None)
            owner, standing = getattr(forwarded, "__self__", None), getattr(forwarded, "__func__", None)
            found += [_Same(owner), plain(getattr(owner, "__dict__", {}).get("_shift"))]
        found.append(_Same(standing))
    return found


def plain(value: Any) -> Any:
    """A value that can be compared with another: a number or a text itself, of everything else which object it is."""
    return value if value is None or type(value) in (bool, int, float, str) else _Same(value)


def version_of(value: Any) -> int:
    """How often a tensor was written to in place, as torch counts; 0 for everything else."""
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def _value(table: Any) -> Any:
    if isinstance(table, torch.Tensor):
        if type(table) in (torch.Tensor, torch.nn.Parameter) and table.device.type == "cpu":
            # The bytes, and not an operation: the prior does nothing on the host's side that torch would have to do.
            shape = (table.dtype, tuple(table.shape), table.stride())
            if table.is_contiguous():
                return *shape, ctypes.string_at(table.data_ptr(), table.numel() * table.element_size())
            storage = table.untyped_storage()
            if storage.nbytes() <= _LARGE:
                return *shape, table.storage_offset(), ctypes.string_at(storage.data_ptr(), storage.nbytes())
        return _Same(table), version_of(table)
    if isinstance(table, (list, tuple)):
        return tuple(_value(x) for x in table) if table and isinstance(table[0], torch.Tensor) else tuple(table)
    return (table.dtype, table.shape, table.tobytes()) if isinstance(table, np.ndarray) else _Same(table)


def behind(scheduler: Any) -> Any:
    """The scheduler of diffusers that a wrapper hands its calls to; the scheduler itself where there is none."""
    if not is_of_diffusers(scheduler):
        for name in (*METHODS, "set_timesteps", "step"):
            owner = getattr(getattr(scheduler, name, None), "__self__", None)
            if owner is not None and is_of_diffusers(owner):
                return owner
    return scheduler


def is_of_diffusers(value: Any) -> bool:
    """Whether an object's class, or a parent of it, is one of diffusers' own."""
    kind: Any = type(value)
    return _descends(kind)


@functools.lru_cache(maxsize=128)
def _descends(kind: type) -> bool:
    return any(of_diffusers(cls) for cls in kind.__mro__)


def check_noising(
    scheduler: Any, process: ForwardProcess, read: Callable[[Any], ForwardProcess], fields: Mapping[str, Any]
) -> None:
    """Checks that noise is added as diffusers' class adds it, or as α_t v + σ_t ε.

    Costs microseconds where the method is diffusers' own.

    Args:
        scheduler: whose methods are looked at.
        process: what its tables say.
        read: what those of another scheduler say, whose method may have been handed over.
        fields: what its class is made with.

    Raises:
        UsageError: another z_t, by the name of the class.
    """
    for name in METHODS:
        found = getattr(scheduler, name, None)
        if not callable(found):
            continue
        target, what = getattr(found, "__self__", None), _expected(scheduler, name)
        if target is None or not is_of_diffusers(target):
            target = scheduler
        elif target is not scheduler:
            _same_tables(what, process, read(target))
        owner = next((c for c in type(target).__mro__ if of_diffusers(c) and name in vars(c)), None)
        own = None if owner is None else vars(owner)[name]
        # By the code's module: `functools.wraps` copies every other name to what it wraps.
        written = owner is not None and getattr(own, "__globals__", {}).get("__name__") == owner.__module__
        if written and getattr(found, "__func__", None) is own:
            continue
        if name == SCALES_INPUT and owner is None:
            continue  # what a class of somebody's own makes of its network's input: the tables say what z_t is
        first = own if written or owner is None else _written(owner, name)
        _compare(target, name, found, first, process, what, _unused(target, fields))


def _expected(scheduler: Any, name: str) -> str:
    meaning = "what its class gives" if name == SCALES_INPUT else "z_t = α_t v + σ_t ε as the prior does"
    return f"scheduler: expected {name} to give {meaning}; that of {type(scheduler).__name__}"


def _same_tables(what: str, ours: ForwardProcess, theirs: ForwardProcess) -> None:
    count = min(len(ours.alpha), len(theirs.alpha))
    off = torch.zeros(count, dtype=torch.bool, device="cpu")
    for a, b in ((ours.alpha, theirs.alpha), (ours.sigma, theirs.sigma)):
        off |= (a[:count] - b[:count]).abs() > TOLERANCE
    if bool(off.any()) or len(ours.alpha) != len(theirs.alpha):
        t = int(off.nonzero()[0]) if bool(off.any()) else count
        raise UsageError(f"{what} gives another at t = {t}")


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


def _unused(scheduler: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What sampling changes, as it was before: some look t up among the steps that somebody samples with."""
    kind = next((c for c in type(scheduler).__mro__ if of_diffusers(c)), None)
    if kind is None:
        return {}
    known = inspect.signature(kind).parameters
    try:
        made = vars(kind(**{name: value for name, value in fields.items() if name in known}))
    except Exception:  # a host's class need not take what its parent takes
        return {}
    return {name: made[name] for name in _SAMPLING if name in made}


@torch.no_grad()
def _compare(
    scheduler: Any,
    name: str,
    found: Callable[..., Any],
    own: Callable[..., Any] | None,
    process: ForwardProcess,
    what: str,
    unused: dict[str, Any],
) -> None:
    """Holds a method to z_t of the tables, or to what diffusers' own makes of the same: some of these are off by a row.

    Args:
        scheduler: that it belongs to.
        name: its name.
        found: the method.
        own: diffusers', if there is one.
        process: what the tables say.
        what: the sentence so far.
        unused: the scheduler's attributes before anybody has sampled with it.
    """
    table = getattr(scheduler, "alphas_cumprod", None)
    device = table.device if isinstance(table, torch.Tensor) else torch.device("cpu")
    generator = torch.Generator("cpu").manual_seed(0)
    v, noise = (torch.randn(SHAPE, generator=generator, device="cpu", dtype=torch.float32).to(device) for _ in range(2))
    if getattr(found, "__self__", None) is scheduler and hasattr(scheduler, "__dict__"):
        # A copy is asked, for somebody may sample with the scheduler in another thread.
        copied = object.__new__(type(scheduler))
        copied.__dict__.update(vars(scheduler))
        scheduler, found = copied, found.__func__.__get__(copied)  # type: ignore[attr-defined]
    # In either scaling where nothing says which, and where the network's input is scaled afterwards.
    either = own is None or _scales(scheduler, v, unused)
    for t in _steps(unused.get("timesteps"), len(process.alpha)):
        try:
            noisy, arguments = _called(scheduler, found, name, v, noise, t.to(device), unused)
        except Exception as error:
            raise UsageError(f"{what} cannot be called as diffusers' is ({reason(error)})") from error
        if not isinstance(noisy, torch.Tensor) or noisy.shape != v.shape:
            raise UsageError(f"{what} gives {_said(noisy)} for latents {list(v.shape)}")
        off = math.inf if name == SCALES_INPUT else _off_tables(noisy, v, noise, t, process, either)
        if not off <= 1 and own is not None:
            # Some of diffusers' own only say that they are not to be called, others not with the t that this one takes.
            with contextlib.suppress(Exception), _as_it_was(scheduler, unused):
                off = _off(noisy, own(scheduler, *arguments)) / TOLERANCE
        if not off <= 1:
            raise UsageError(f"{what} gives another at t = {float(t):g}")


def _scales(scheduler: Any, v: torch.Tensor, unused: dict[str, Any]) -> bool:
    """Whether a class of diffusers scales what its network is given, because its `add_noise` has not."""
    scale, steps = getattr(scheduler, SCALES_INPUT, None), unused.get("timesteps")
    if scale is None or steps is None:
        return False
    with _as_it_was(scheduler, unused):
        return not torch.equal(scale(v, steps[0]), v)


def _called(
    scheduler: Any,
    found: Callable[..., Any],
    name: str,
    v: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    unused: dict[str, Any],
) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """What a method gives, and what it was given."""

    def call(told: torch.Tensor) -> tuple[Any, tuple[torch.Tensor, ...]]:
        arguments = {"add_noise": (v, noise, told), "scale_noise": (v, told, noise), SCALES_INPUT: (v, told[0])}[name]
        with _as_it_was(scheduler, unused):
            return found(*arguments), arguments

    try:
        return call(t)
    except Exception:
        # A table of t may be of floats until somebody samples, where t is an index into another table.
        if not t.is_floating_point() or bool((t != t.long()).any()):
            raise
    return call(t.long())


def _steps(steps: Any, count: int) -> Iterator[torch.Tensor]:
    """Nine t from end to end, `[1]` on the CPU, of those that a scheduler begins with: some look t up among them."""
    if not isinstance(steps, torch.Tensor) or steps.ndim != 1 or not len(steps):
        steps = torch.arange(count, device="cpu")
    for part in range(9):
        place = part * (len(steps) - 1) // 8
        yield steps[place : place + 1].cpu()


@contextlib.contextmanager
def _as_it_was(scheduler: Any, unused: dict[str, Any]) -> Iterator[None]:
    """Calls a scheduler as if nobody had sampled with it; puts back its attributes, and torch's random numbers."""
    held = getattr(scheduler, "__dict__", {})
    before = dict(held)
    held.update(unused)
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        for name in [name for name in held if name not in before]:
            del held[name]
        held.update(before)


def _off(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative deviation; 0 where there is nothing to compare with."""
    if not bool(expected.isfinite().all()):
        return 0.0
    return float((actual - expected).norm()) / max(float(expected.norm()), 1e-30)


def _off_tables(
    noisy: torch.Tensor, v: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, process: ForwardProcess, either: bool
) -> float:
    """The deviation of z_t, or (`either`) z_t / α_t, from the tables, in units of what is allowed."""
    rows = np.arange(len(process.alpha)) if process.time is None else process.time.numpy()
    alpha, sigma = (float(np.interp(float(t), rows, x.numpy())) for x in (process.alpha, process.sigma))
    expected = alpha * v + sigma * noise
    off = _off(noisy, expected)
    return (min(off, _off(alpha * noisy, expected)) if either else off) / OF_TABLES


def _said(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
