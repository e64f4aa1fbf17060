"""Calls of the operators without torch's dispatcher, where nobody could tell.

`torch.ops.ldp_fast.<op>` goes from Python into C++ and back twice, once for autograd and once for the device, which
takes several times as long as starting a kernel. So in plain eager code `call` goes straight to what serves the device,
and to a function of autograd where a gradient is wanted. Whatever watches operators, or stands in for them, has to see
them, and gets `torch.ops`: compilers, modes (fake tensors among them), transforms of functorch, forward-mode autograd,
tracing, the profiler, subclasses of Tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from ._library import NAMESPACE, OPERATORS, Operator, serve

_PLAIN = (Tensor, Parameter)
_VALUES = frozenset({type(None), bool, int, float, str, torch.dtype})
# None of them is documented, so each may go: then operators are called through the dispatcher, as they always can be.
_DISPATCH_MODES: Any = getattr(torch._C, "_len_torch_dispatch_stack", None)
_FUNCTION_MODES: Any = getattr(torch._C, "_len_torch_function_stack", None)
_TRANSFORMS: Any = getattr(torch._C, "_are_functorch_transforms_active", None)
_TRACING: Any = getattr(torch._C, "_is_tracing", None)
_PROFILING: Any = getattr(torch.autograd, "_profiler_enabled", None)
_KNOWN = None not in (_DISPATCH_MODES, _FUNCTION_MODES, _TRANSFORMS, _TRACING, _PROFILING)
_KNOWN = _KNOWN and hasattr(forward_ad, "_current_level")


def watched() -> bool:
    """Returns whether something looks at torch's operators, or may stand in for them."""
    return not _KNOWN or bool(
        _DISPATCH_MODES() or _FUNCTION_MODES() or _TRACING() or _PROFILING() or differentiated_otherwise()
    )


def differentiated_otherwise() -> bool:
    """Returns whether functorch transforms what is called, or forward-mode differentiation goes on."""
    return not _KNOWN or bool(_TRANSFORMS() or forward_ad._current_level >= 0)


def call(name: str, *args: Any) -> Any:
    """Returns what `torch.ops.ldp_fast.<name>(*args)` returns; all arguments of the schema have to be given."""
    if torch.compiler.is_compiling() or watched():
        return getattr(getattr(torch.ops, NAMESPACE), name)(*args)
    wanted, lists, device, dtypes = False, False, None, set()
    for value in args:
        if type(value) in _VALUES:
            continue
        if isinstance(value, Tensor):
            found: Any = (value,)
        elif isinstance(value, (list, tuple)):
            lists, found = True, value
        else:
            continue
        for tensor in found:
            if type(tensor) is int:  # a list of numbers
                break
            # A negative view (of an imaginary part) is for the dispatcher to resolve.
            if type(tensor) not in _PLAIN or tensor.is_neg():
                return getattr(getattr(torch.ops, NAMESPACE), name)(*args)
            wanted = wanted or tensor.requires_grad
            device = device or tensor.device
            dtypes.add(tensor.dtype)
    operator = OPERATORS[name]
    assert device is not None
    if not wanted or not torch.is_grad_enabled():
        return serve(operator, device, dtypes, *args)
    if operator.schema.endswith("[]"):  # a function of autograd differentiates no list that it returns
        return getattr(getattr(torch.ops, NAMESPACE), name)(*args)
    if operator.function is None:
        operator.function = _function(name, operator)
    if not lists:
        return operator.function.apply(*args, (device, dtypes, None))
    lengths = tuple(len(value) if isinstance(value, (list, tuple)) else -1 for value in args)
    return operator.function.apply(*_flat(args), (device, dtypes, lengths))


def _function(name: str, operator: Operator) -> type[torch.autograd.Function]:
    """The gradient of an operator as a function of autograd, which takes half the time of torch.library's.

    Autograd sees tensors one by one only: lists are flattened for it, and made again.
    """

    def forward(ctx: Any, *flat: Any) -> Any:
        device, dtypes, lengths = flat[-1]
        args, ctx.lengths = flat[:-1], lengths
        if lengths is not None:
            args = _nested(lengths, args)
        outputs = serve(operator, device, dtypes, *args)
        assert operator.setup_context is not None
        operator.setup_context(ctx, args, outputs)
        return outputs

    def backward(ctx: Any, *grads: Any) -> Any:
        assert operator.backward is not None
        if ctx.lengths is None:
            return (*operator.backward(ctx, *grads), None)
        return (*_flat(operator.backward(_Context(ctx), *grads)), None)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"{NAMESPACE}_{name}", (torch.autograd.Function,), methods)


class _Context:
    """A context as torch.library hands it over: for a list of tensors `needs_input_grad` has a list."""

    def __init__(self, ctx: Any):
        self.__dict__.update(vars(ctx))  # what setup_context has left there
        self._ctx = ctx
        self.needs_input_grad = _nested(ctx.lengths, ctx.needs_input_grad)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def _flat(values: tuple[Any, ...]) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        flat += value if isinstance(value, (list, tuple)) else (value,)
    return flat


def _nested(lengths: tuple[int, ...], flat: Sequence[Any]) -> tuple[Any, ...]:
    values, at = [], 0
    for length in lengths:
        values.append(flat[at] if length < 0 else list(flat[at : at + length]))
        at += abs(length)
    return tuple(values)
