"""Which Triton kernels a run would have compiled: the launchers run, and what they launch is written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .trees import mapped

SEEN: set[tuple[Any, ...]] = set()
"""A kernel's name, and what Triton compiles it anew for: dtypes, constants, options; integers that are 1, that 16
divides or that 32 bits do not hold; addresses that 16 divides."""


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dtype, value.data_ptr() % 16 == 0
    if isinstance(value, int) and not isinstance(value, bool):
        return "int", value == 1, value % 16 == 0, -(2**31) <= value < 2**31
    if isinstance(value, (tuple, list)):
        return tuple(_kind(each) for each in value)
    return type(value).__name__, value if value is None else None


def _launch(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    names = [p.name for p in self.params]
    given = dict(zip(names, args, strict=False)) | {k: v for k, v in options.items() if k in names}
    constants = {p.name for p in self.params if p.is_constexpr}
    key = tuple((k, v if k in constants else _kind(v)) for k, v in sorted(given.items()))
    rest = tuple(sorted((k, v) for k, v in options.items() if k not in names))
    SEEN.add((self.fn.__name__, key, rest))


@contextmanager
def written_down() -> Iterator[None]:
    """Launches of Triton kernels are added to `SEEN` and run nothing."""
    from triton.runtime.jit import JITFunction

    before = JITFunction.run
    JITFunction.run = _launch
    try:
        yield
    finally:
        JITFunction.run = before


def count(func: Any, outputs: Any, args: Any, kwargs: Any) -> None:
    """Runs the launcher of an operator that serves CUDA by one, with launches written down."""
    from ldp_fast import _settings
    from ldp_fast.ops import _library

    operator = _library.OPERATORS.get(func.overloadpacket.__name__)
    if operator is None or not operator.launcher:
        return
    double = any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in (*args, *kwargs.values()))
    if not _settings.use_triton("cuda", double=double):
        return
    with written_down(), _disable_current_modes(), torch.no_grad():
        results = outputs if isinstance(outputs, tuple) else (outputs,)
        results = mapped(lambda x: torch.empty_like(x) if isinstance(x, Tensor) else x, results)
        _library._launcher(operator.launcher)(*results, *args, **kwargs)
