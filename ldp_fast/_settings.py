"""The settings read from the environment; this is the only file that reads them.

`LDP_FAST_BACKEND` chooses the implementation behind every operator:

* `auto` (the default): the Triton kernels for CUDA tensors; for CPU tensors what C++ serves, else the reference.
* `reference`: plain PyTorch on every device, to find out whether a kernel is to blame.
* `triton`: the Triton kernels on every device. For CPU tensors that needs Triton's interpreter
  (`TRITON_INTERPRET=1`, set before Triton is imported).

The variable is read at every call, so that a test or a debugger may change it at any time.

`LDP_FAST_LANES` is the most floats that the extension's vectors on a CPU may have: 16 (AVX-512), 8 (AVX2) or 4, where
`auto` (the default) is what the processor has. csrc/include/ldp/widest_lanes.h reads it once, at the first operator.

`LDP_FAST_CONV` is how the frozen decoder convolves on a CPU where the extension could: `winograd`, `torch`, or `auto`
(the default), whichever is faster for a size (decoder/choice.py). It is read at every call.

`LDP_FAST_ATTENTION` is how its attention is computed: `sdpa` (torch's scaled_dot_product_attention), `plain` (products
and a softmax), or `auto` (the default), by device, precision and size (decoder/attention.py). It is read at every call.

`LDP_FAST_CACHE` is the folder in which the command line remembers what it has said once (default: `ldp_fast` in the
user's cache folder).
"""

from __future__ import annotations

import os
import pathlib
from typing import Any, Literal, cast, get_args

Backend = Literal["auto", "reference", "triton"]

BACKEND_VARIABLE = "LDP_FAST_BACKEND"
LANES_VARIABLE = "LDP_FAST_LANES"
LANES = ("auto", "4", "8", "16")
CONV_VARIABLE = "LDP_FAST_CONV"
CONVOLUTIONS = ("auto", "winograd", "torch")
ATTENTION_VARIABLE = "LDP_FAST_ATTENTION"
CACHE_VARIABLE = "LDP_FAST_CACHE"
ATTENTIONS = ("auto", "sdpa", "plain")

_KEY: Any = os.environ.encodekey(BACKEND_VARIABLE) if hasattr(os.environ, "encodekey") else None


def backend() -> Backend:
    """Returns the requested backend.

    Raises:
        ValueError: the variable holds something other than `auto`, `reference` or `triton`.
    """
    # What stands behind os.environ, where CPython has it: `get` takes longer than all else here.
    behind: Any = getattr(os.environ, "_data", None)
    if behind is not None and _KEY not in behind:
        return "auto"
    value = os.environ.get(BACKEND_VARIABLE, "auto")
    value = value.strip().lower() or "auto"
    if value not in get_args(Backend):
        raise ValueError(f"{BACKEND_VARIABLE}: expected one of {', '.join(get_args(Backend))}, got {value!r}")
    return cast(Backend, value)


def lanes() -> str:
    """Returns the most lanes that the extension may use, as the variable has it: one of `LANES`.

    Raises:
        ValueError: the variable holds something else.
    """
    return _one_of(LANES_VARIABLE, LANES)


def convolutions() -> str:
    """Returns how the decoder shall convolve on a CPU: one of `CONVOLUTIONS`.

    Raises:
        ValueError: the variable holds something else.
    """
    return _one_of(CONV_VARIABLE, CONVOLUTIONS)


def attention() -> str:
    """Returns how the decoder's attention shall be computed: one of `ATTENTIONS`.

    Raises:
        ValueError: the variable holds something else.
    """
    return _one_of(ATTENTION_VARIABLE, ATTENTIONS)


def cache_folder() -> pathlib.Path:
    """Returns the folder of what is remembered between runs; it need not exist, nor be one that can be written."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return pathlib.Path(own)
    users = os.environ.get("XDG_CACHE_HOME", "")
    # The standard has relative paths ignored.
    return pathlib.Path(users if os.path.isabs(users) else os.path.expanduser("~/.cache")) / "ldp_fast"


def _one_of(variable: str, known: tuple[str, ...]) -> str:
    value = os.environ.get(variable, "") or "auto"
    if value not in known:
        raise ValueError(f"{variable}: expected one of {', '.join(known)}, got {value!r}")
    return value


def interpreting() -> bool:
    """Returns whether Triton kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").strip().lower() in {"1", "true", "on"}


def use_triton(device_type: str, *, double: bool) -> bool:
    """Returns whether an operator takes its Triton kernel for tensors on a device.

    Args:
        device_type: "cpu" or "cuda".
        double: whether a tensor argument is float64. The kernels compute in float32, so float64 always takes
            the reference, on every device and under every setting.

    Raises:
        RuntimeError: the Triton kernels were asked for on CPU tensors without the interpreter.
    """
    choice = backend()
    if double or choice == "reference":
        return False
    if choice == "triton" and device_type == "cpu" and not interpreting():
        raise RuntimeError(
            f"{BACKEND_VARIABLE}=triton: expected TRITON_INTERPRET=1 in the environment for CPU tensors, got none"
        )
    return choice == "triton" or device_type == "cuda"
