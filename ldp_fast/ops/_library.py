"""Registration of the operators `torch.ops.ldp_fast.*`, and which backend serves which device.

An operator module does three things: `define` its schema, `register` its implementations, and
`register_autograd` or `register_no_gradient`. What runs is then decided per call, by the tensors' device:

* CUDA: the Triton launcher where there is one, else the native operator of csrc, found at the first call; the
  reference for float64.
* CPU: the native operator where there is one and the floating tensors are float32 (shadows apart, and what it stores in
  half precision), else the reference (or the Triton launcher in Triton's interpreter, see `ldp_fast._settings`).
* An operator with neither: the reference, everywhere.
* Meta and fake tensors: the shape function.

The public functions come here by `_direct.call`, which does without torch's dispatcher where nobody would notice.

The shape function allocates the outputs of the launcher too (`launcher(*outputs, *arguments)`), so that shapes,
dtypes and strides promised to `torch.compile` are the real ones by construction, and tests can hand a launcher
buffers of their own.

The table of implementations is looked up at call time: reloading an operator's module replaces its functions
without registering anything twice.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _settings
from . import _native

NAMESPACE = "ldp_fast"
_NO_GUARD = nullcontext()
_SINGLE = {torch.float32}
_NATIVE_DTYPES = {torch.float32, torch.float16}


@dataclass
class Operator:
    """What stands behind one name in `torch.ops.ldp_fast`."""

    schema: str
    reference: Callable[..., Any] | None = None
    launcher: str = ""  # "module:function"
    native: Callable[..., None] | None = None
    suits: Callable[..., bool] | None = None
    cpu_only: bool = False
    stored: frozenset[torch.dtype] = frozenset()
    fake: Callable[..., Any] | None = None
    backward: Callable[..., Any] | None = None
    setup_context: Callable[..., None] | None = None
    function: type[torch.autograd.Function] | None = None  # the same gradient, made by `_direct.call`


# A namespace can be defined once per process; a reload of this module keeps its globals and so finds both again.
LIBRARY: torch.library.Library = globals().get("LIBRARY") or torch.library.Library(NAMESPACE, "DEF")
OPERATORS: dict[str, Operator] = globals().get("OPERATORS") or {}


def define(schema: str) -> None:
    """Defines an operator from its schema, e.g. `"scale(Tensor x, float factor) -> Tensor"`.

    Raises:
        RuntimeError: the operator exists with another schema.
    """
    name = schema.split("(", 1)[0].strip()
    known = OPERATORS.get(name)
    if known is None:
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        OPERATORS[name] = Operator(schema)
    elif known.schema != schema:
        raise RuntimeError(f"{name}: expected the schema it was defined with, got another one; restart Python")


def register(
    name: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    launcher: str = "",
    native: Callable[..., None] | bool = False,
    suits: Callable[..., bool] | None = None,
    cpu_only: bool = False,
    stored: frozenset[torch.dtype] = frozenset(),
) -> None:
    """Registers the implementations of a defined operator: the reference, and a Triton launcher or a native operator.

    With both, the launcher serves CUDA (and the interpreter), and the native operator CPU tensors alone.

    Args:
        name: the operator's name, without the namespace.
        reference: the plain PyTorch implementation; takes the operator's arguments.
        fake: allocates the outputs; takes the operator's arguments.
        launcher: "module:function" of the Triton launcher; takes the outputs, then the operator's arguments.
        native: True for the native operator of the same name in csrc, which takes the same; or a function that
            allocates what more it needs and calls one.
        suits: takes the operator's arguments; whether the native operator serves them, where its dtypes do. It writes
            float32 only, and an argument may ask for another dtype of the result.
        cpu_only: the native operator has no CUDA; the reference serves CUDA tensors where there is no launcher either.
        stored: what the native operator reads and writes beside float32, in which it computes.
    """
    operator = OPERATORS[name]
    operator.native = partial(_native_of, name) if native is True else native or None
    operator.suits, operator.cpu_only, operator.stored = suits, cpu_only, stored
    fresh = operator.fake is None
    operator.reference, operator.launcher, operator.fake = reference, launcher, fake
    if not fresh:
        return

    def run(*args: Any, **kwargs: Any) -> Any:
        return _run(operator, args, kwargs)

    def shapes(*args: Any, **kwargs: Any) -> Any:
        assert operator.fake is not None
        return operator.fake(*args, **kwargs)

    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, run, key)
    torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=LIBRARY)


def register_in_place(name: str, *, reference: Callable[..., None], changed: tuple[int, ...]) -> None:
    """Registers the implementations of a defined operator that changes arguments and returns nothing.

    The native operator of the same name in csrc serves float32 (and float16, which is a shadow, on the CPU as well),
    the reference float64 and machines without the extension. Versions of what was changed are counted up, so that
    autograd notices.

    Args:
        name: the operator's name, without the namespace.
        reference: the plain PyTorch implementation; takes the operator's arguments.
        changed: positions of the arguments that are changed.
    """
    operator = OPERATORS[name]
    fresh = operator.fake is None
    operator.reference, operator.fake = reference, lambda *args, **kwargs: None
    if not fresh:
        return

    def run(*args: Any) -> None:
        assert operator.reference is not None
        tensors = list(_tensors(args))
        floating = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float16}
        if use_native(tensors[0].device.type, floating):
            _native.function(name)(*args)
        else:
            operator.reference(*args)
        written = [args[i] for i in changed if args[i] is not None and not args[i].is_inference()]
        torch.autograd.graph.increment_version(written)

    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, run, key)
    torch.library.register_fake(f"{NAMESPACE}::{name}", lambda *args, **kwargs: None, lib=LIBRARY)


def register_autograd(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Registers the gradient of a registered operator (see `torch.library.register_autograd`)."""
    operator = OPERATORS[name]
    fresh = operator.backward is None
    operator.backward, operator.setup_context = backward, setup_context
    if not fresh:
        return

    def run_backward(ctx: Any, *grads: Any) -> Any:
        assert operator.backward is not None
        return operator.backward(ctx, *grads)

    def run_setup(ctx: Any, inputs: Any, output: Any) -> None:
        assert operator.setup_context is not None
        operator.setup_context(ctx, inputs, output)

    torch.library.register_autograd(f"{NAMESPACE}::{name}", run_backward, setup_context=run_setup, lib=LIBRARY)


def register_no_gradient(name: str, reason: str) -> None:
    """Makes a backward through an operator an error. Without this PyTorch would warn and go on with no gradient."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{name}: expected no backward through this operator ({reason}), got one")

    register_autograd(name, backward, lambda ctx, inputs, output: None)


def backward_of(name: str) -> str:
    """Returns the reason given for the missing gradient of a backward operator."""
    return f"{name} can be differentiated once, not twice"


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _run(operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # The level is not documented: where torch has none of that name, nothing is refused.
    if getattr(forward_ad, "_current_level", -1) >= 0:
        # What is a tangent in torch.func.jvp cannot be told from here, and to leave it out would be a wrong number.
        name = operator.schema.split("(", 1)[0]
        raise RuntimeError(
            f"{name}: expected no forward-mode differentiation (torch.autograd.forward_ad, torch.func.jvp), got a call "
            "within one; compute what is constant outside of it"
        )
    tensors = list(_tensors((*args, *kwargs.values())))
    return serve(operator, tensors[0].device, {t.dtype for t in tensors}, *args, **kwargs)


def serve(operator: Operator, device: torch.device, dtypes: set[torch.dtype], /, *args: Any, **kwargs: Any) -> Any:
    """Runs the implementation that serves a device and dtypes, those of the tensors among the arguments."""
    assert operator.reference is not None and operator.fake is not None
    kind = device.type
    if kind == "meta":
        return operator.fake(*args, **kwargs)
    run: Callable[..., None] | None = None
    if operator.launcher and _settings.use_triton(kind, double=torch.float64 in dtypes):
        run = _launcher(operator.launcher)
    elif operator.native is not None and not ((operator.launcher or operator.cpu_only) and kind == "cuda"):
        floating = dtypes if dtypes == _SINGLE else {d for d in dtypes if d.is_floating_point} - operator.stored
        if use_native(kind, floating) and (operator.suits is None or operator.suits(*args, **kwargs)):
            run = operator.native
    if run is None:
        return operator.reference(*args, **kwargs)
    if operator.launcher and kind == "cuda":
        with _launching_on(device):
            return _filled(operator.fake, run, args, kwargs)
    return _filled(operator.fake, run, args, kwargs)


def _filled(fake: Callable[..., Any], run: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    outputs = fake(*args, **kwargs)
    if isinstance(outputs, tuple):
        run(*outputs, *args, **kwargs)
    else:
        run(outputs, *args, **kwargs)
    return outputs


def _launching_on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensors'."""
    return _NO_GUARD if device.index == torch.cuda.current_device() else torch.cuda.device(device)


def use_native(device_type: str, floating: set[torch.dtype]) -> bool:
    """Returns whether an operator of csrc takes its native implementation, given a device and the floating dtypes.

    float16 among float32 is a shadow: it is read on a GPU only. On a CPU without the extension the reference serves.

    Raises:
        RuntimeError: CUDA tensors without an extension that has CUDA.
    """
    if _settings.backend() == "reference" or not floating <= _NATIVE_DTYPES:
        return False
    if device_type == "cuda":
        _native.check_cuda("ldp_fast.nerf")
        return True
    return torch.float16 not in floating and _native.extension() is not None


def _native_of(name: str, *args: Any, **kwargs: Any) -> None:
    _native.function(name)(*args, **kwargs)


@cache
def _launcher(path: str) -> Callable[..., None]:
    module, function = path.split(":")
    return getattr(importlib.import_module(module), function)
