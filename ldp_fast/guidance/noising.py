"""Whether a scheduler's own way to z_t is the one that its tables say: a prior computes z_t itself, from these.

`add_noise`, `scale_noise` and `scale_model_input` of diffusers' classes are known (`schedulers.py`). One that somebody
has put in their place (a subclass, an attribute of the object, a patch of the class) is asked on a tiny tensor, once;
`read_from.py` notices it where it comes later.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import math
import random
import types
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
SAMPLING = ("timesteps", "sigmas", "sigmas_interpol", "num_inference_steps", "_step_index", "_begin_index")
_NOT_CALLED = "cannot be called as diffusers' is"


def behind(scheduler: Any) -> Any:
    """The scheduler of diffusers that a wrapper hands its calls to; the scheduler itself if it is not a wrapper."""
    if scheduler is None or is_of_diffusers(scheduler):
        return scheduler
    for name in (*METHODS, "set_timesteps", "step"):
        owner = getattr(getattr(scheduler, name, None), "__self__", None)
        if owner is not None and is_of_diffusers(owner):
            return owner
    config, table = getattr(scheduler, "config", None), getattr(scheduler, "alphas_cumprod", None)
    for inner in _within(scheduler, 3):
        if (config is not None and inner.config is config) or _equal(table, getattr(inner, "alphas_cumprod", None)):
            return inner
    return scheduler


def _within(wrapper: Any, depth: int) -> Iterator[Any]:
    """The schedulers of diffusers among an object's attributes, and among those of its attributes."""
    for value in list(getattr(wrapper, "__dict__", {}).values()):
        if is_of_diffusers(value):
            if callable(getattr(value, "set_timesteps", None)):
                yield value
        elif depth > 1 and not isinstance(value, (torch.Tensor, torch.nn.Module, type, types.ModuleType)):
            yield from _within(value, depth - 1)


def _equal(table: Any, other: Any) -> bool:
    if table is None or other is None or table is other:
        return table is not None and table is other
    try:
        a, b = (torch.as_tensor(x, device="cpu").detach().double() for x in (table, other))
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    return a.shape == b.shape and bool(((a - b).abs() <= OF_TABLES).all())


def is_of_diffusers(value: Any) -> bool:
    """Whether an object's class, or a parent of it, is one of diffusers' own."""
    kind: Any = type(value)
    return _descends(kind)


@functools.lru_cache(maxsize=128)
def _descends(kind: type) -> bool:
    return any(of_diffusers(cls) for cls in kind.__mro__)


def is_own(scheduler: Any, name: str) -> bool:
    """Whether a method is diffusers' own, as its class was written, or is missing."""
    found = getattr(scheduler, name, None)
    owner = _class_with(_owner(scheduler, found), name)
    return not callable(found) or (_written_so(owner, name) and getattr(found, "__func__", None) is vars(owner)[name])


def _class_with(scheduler: Any, name: str) -> type | None:
    """The class of diffusers that a scheduler has a method of."""
    return next((cls for cls in type(scheduler).__mro__ if of_diffusers(cls) and name in vars(cls)), None)


def _owner(scheduler: Any, found: Any) -> Any:
    """The scheduler that a method belongs to: another of diffusers', whose method it is, or this one."""
    owner = getattr(found, "__self__", None)
    return owner if owner is not None and is_of_diffusers(owner) else scheduler


def _written_so(owner: type | None, name: str) -> bool:
    # By the code's module: `functools.wraps` copies every other name to what it wraps.
    return owner is not None and getattr(vars(owner)[name], "__globals__", {}).get("__name__") == owner.__module__


def check_noising(
    scheduler: Any,
    process: ForwardProcess,
    read: Callable[[Any], ForwardProcess],
    fields: Callable[[Any], Mapping[str, Any]],
) -> None:
    """Checks that noise is added as diffusers' class adds it, or as α_t v + σ_t ε.

    Costs microseconds where the method is diffusers' own.

    Args:
        scheduler: whose methods are looked at.
        process: what its tables say.
        read: what those of another scheduler say, whose method may have been handed over.
        fields: what a scheduler's class is made with.

    Raises:
        UsageError: another z_t, by the name of the class.
    """
    for name in METHODS:
        found = getattr(scheduler, name, None)
        if not callable(found):
            continue
        target, what = _owner(scheduler, found), _expected(scheduler, name)
        if target is not scheduler:
            _same_tables(what, process, read(target))
        if is_own(scheduler, name):
            continue
        known = behind(target)  # whose method a wrapper's own may call
        owner = _class_with(known, name)
        if owner is None and name == SCALES_INPUT:
            continue  # what a class of somebody's own makes of its network's input: the tables say what z_t is
        own = None if owner is None else vars(owner)[name] if _written_so(owner, name) else _written(owner, name)
        # A wrapper may forward to what the scheduler behind it does not have.
        needed = owner is not None or known is target
        _Question(target, known, name, found, own, process, fields(scheduler)).ask(what, needed)


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
    """What sampling changes, as diffusers' class makes it: some look t up among the steps of a sampler."""
    kind = next((c for c in type(scheduler).__mro__ if of_diffusers(c)), None)
    if kind is None:
        return {}
    known = inspect.signature(kind).parameters
    try:
        made = vars(kind(**{name: value for name, value in fields.items() if name in known}))
    except Exception:  # what it needs may not be in its configuration
        return {}
    return {name: made[name] for name in SAMPLING if name in made}


class _Question:
    """One method, and what it is held to: z_t of the tables, or what diffusers' own makes of the same.

    Some of diffusers' own are off by a row before `set_timesteps`, so that either is right. Both are asked as if nobody
    had sampled with the scheduler: at the end of sampling diffusers' methods add no noise at all.

    Args:
        scheduler: that the method belongs to.
        known: the scheduler of diffusers that it is, or hands its calls to; or itself.
        name: the method's name.
        found: the method.
        own: diffusers', if there is one.
        process: what the tables say.
        fields: what diffusers' class is made with.
    """

    def __init__(
        self,
        scheduler: Any,
        known: Any,
        name: str,
        found: Callable[..., Any],
        own: Callable[..., Any] | None,
        process: ForwardProcess,
        fields: Mapping[str, Any],
    ):
        self.scheduler, self.known, self.name, self.found, self.own = scheduler, known, name, found, own
        self.process, self.unused = process, _unused(known, fields)
        held = getattr(known, "__dict__", {})
        used = any(held.get(x) is not None for x in ("num_inference_steps", "_step_index", "_begin_index"))
        # Before anybody samples, what a class of somebody's own has there is its own.
        self.state = self.unused if used else {x: held[x] for x in SAMPLING if x in held}
        table = getattr(scheduler, "alphas_cumprod", None)
        self.device = table.device if isinstance(table, torch.Tensor) else torch.device("cpu")
        generator = torch.Generator("cpu").manual_seed(0)
        self.v, self.noise = (
            torch.randn(SHAPE, generator=generator, device="cpu", dtype=torch.float32).to(self.device) for _ in range(2)
        )

    @torch.no_grad()
    def ask(self, what: str, needed: bool) -> None:
        """Asks.

        Args:
            what: begins the sentence.
            needed: whether it has to be possible to call it.

        Raises:
            UsageError: another z_t.
        """
        # In either scaling where nothing says which, and where the network's input is scaled afterwards.
        self.either = self.own is None or self._scales()
        for t in _steps(self.state.get("timesteps"), len(self.process.alpha)):
            problem = ""
            for ask, at in self._ways(t.to(self.device)):
                now = self._answer(ask, at)
                if not now:
                    break
                problem = now if not problem or problem.startswith(_NOT_CALLED) else problem
            else:
                if needed or not problem.startswith(_NOT_CALLED):
                    raise UsageError(f"{what} {problem}")

    def _ways(self, t: torch.Tensor) -> Iterator[tuple[tuple[Any, Callable[..., Any]], torch.Tensor]]:
        """Whom to ask, and for which t."""
        told = [t]
        if t.is_floating_point():
            # A table of t may be of floats until somebody samples, where t is an index into another table.
            told = [t, t.long()]
        bound = getattr(self.found, "__self__", None) is self.scheduler and self.known is self.scheduler
        if bound and hasattr(self.found, "__func__") and hasattr(self.scheduler, "__dict__"):
            copied = _copied(self.scheduler)
            for at in told:
                yield (copied, self.found.__func__.__get__(copied)), at
        for at in told:
            yield (self.known, self.found), at

    def _answer(self, ask: tuple[Any, Callable[..., Any]], t: torch.Tensor) -> str:
        """What is wrong with what a method gives for t; nothing if nothing is."""
        held, found = ask
        try:
            with _as_it_was(held, self.state):
                noisy = found(*self._arguments(t))
        except Exception as error:
            return f"{_NOT_CALLED} ({reason(error)})"
        if not isinstance(noisy, torch.Tensor) or noisy.shape != self.v.shape:
            return f"gives {_said(noisy)} for latents {list(self.v.shape)}"
        off = math.inf
        if self.name != SCALES_INPUT:
            off = _off_tables(noisy, self.v, self.noise, t, self.process, self.either)
        if not off <= 1 and self.own is not None:
            # Some of diffusers' own only say that they are not to be called, others not with the t that this one takes.
            held = _copied(self.known)
            with contextlib.suppress(Exception), _as_it_was(held, self.unused):
                off = _off(noisy, self.own(held, *self._arguments(t))) / TOLERANCE
        return "" if off <= 1 else f"gives another at t = {float(t):g}"

    def _arguments(self, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Copies, for a method may write to what it is given.
        v, noise, t = self.v.clone(), self.noise.clone(), t.clone()
        return {"add_noise": (v, noise, t), "scale_noise": (v, t, noise), SCALES_INPUT: (v, t[0])}[self.name]

    def _scales(self) -> bool:
        """Whether a class of diffusers scales what its network is given, because its `add_noise` has not."""
        held, steps = _copied(self.known), self.unused.get("timesteps")
        scale = getattr(held, SCALES_INPUT, None)
        if scale is None or steps is None:
            return False
        with contextlib.suppress(Exception), _as_it_was(held, self.unused):
            return not torch.equal(scale(self.v.clone(), steps[0]), self.v)
        return False


def _copied(scheduler: Any) -> Any:
    """With the same attributes in a place of its own: somebody may sample with the scheduler in another thread."""
    made = object.__new__(type(scheduler))
    made.__dict__.update(vars(scheduler))
    return made


def _steps(steps: Any, count: int) -> Iterator[torch.Tensor]:
    """Nine t from end to end, `[1]` on the CPU, of those that a scheduler begins with: some look t up among them."""
    if not isinstance(steps, torch.Tensor) or steps.ndim != 1 or not len(steps):
        steps = torch.arange(count, device="cpu")
    for part in range(9):
        place = part * (len(steps) - 1) // 8
        yield steps[place : place + 1].cpu()


@contextlib.contextmanager
def _as_it_was(scheduler: Any, state: dict[str, Any]) -> Iterator[None]:
    """Calls a scheduler in another state; puts back its attributes, and the random numbers of the process."""
    held = getattr(scheduler, "__dict__", {})
    before, numbers, others = dict(held), np.random.get_state(), random.getstate()
    held.update(state)
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        for name in [name for name in held if name not in before]:
            del held[name]
        held.update(before)
        np.random.set_state(numbers)
        random.setstate(others)


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
