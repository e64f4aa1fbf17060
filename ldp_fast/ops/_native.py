"""The compiled extension, asked for at the first call: `torch.ops.ldp_fast_native`, registered by csrc/library.cpp."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch

from .. import _settings

MEND = "install again where there is a C++ compiler (LDP_FAST_EXT=1 says what is missing; docs/installation.md)"


@cache
def extension() -> ModuleType | None:
    """Returns `ldp_fast._C`, or None where it was not built.

    Raises:
        ImportError: it was built, but does not load.
        ValueError: LDP_FAST_LANES, which it reads, holds a value that it does not know.
    """
    _settings.lanes()
    try:
        return importlib.import_module("ldp_fast._C")
    except ModuleNotFoundError as error:
        if error.name != "ldp_fast._C":
            raise
        return None


def required(what: str) -> ModuleType:
    """Returns `ldp_fast._C`.

    Raises:
        RuntimeError: it was not built; says how to mend that.
    """
    module = extension()
    if module is None:
        raise RuntimeError(f"{what}: expected the compiled extension ldp_fast._C, found none; {MEND}")
    return module


def function(name: str) -> Callable[..., Any]:
    """Returns the native operator of a name.

    Raises:
        RuntimeError: there is no extension, or it is older than this file.
    """
    required(name)
    found = getattr(torch.ops.ldp_fast_native, name, None)
    if found is None:
        raise RuntimeError(f"{name}: expected an extension that has this operator, got an older build; {MEND}")
    return found


@cache
def _has_cuda(module: ModuleType) -> bool:
    return module.build_info()["cuda"] is not None


def check_cuda(name: str) -> None:
    """Checks that the extension has CUDA code.

    Raises:
        RuntimeError: there is no extension, or it was built without CUDA; says how to mend that.
    """
    if not _has_cuda(required(name)):
        raise RuntimeError(
            f"{name}: expected an extension built with CUDA for CUDA tensors, got one built without; install again "
            "with LDP_FAST_CUDA=1 (docs/installation.md)"
        )
