"""`torch.ops.ldp_fast.frozen_conv`: the decoder's 3×3 convolutions, no gradient to their weights.

On a CPU in float32, with channels in multiples of 16, by Winograd's minimal filtering (csrc/frozen_conv); elsewhere,
and for images narrower than a tile, as the reference does it. Inside `shared_workspace()` the calls of a thread use one
workspace after the other's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from ..reference import frozen_conv as reference
from ._library import define, register, register_no_gradient
from ._native import extension, function

_shared = threading.local()


@contextmanager
def shared_workspace() -> Iterator[None]:
    """Keeps the workspace of one call for the next; freed at the end. Fresh memory costs a page fault every 4 KB."""
    outermost = not hasattr(_shared, "workspace")
    if outermost:
        _shared.workspace = None
    try:
        yield
    finally:
        if outermost:
            del _shared.workspace


def _workspace(x: Tensor, elements: int) -> Tensor:
    held: Tensor | None = getattr(_shared, "workspace", None)
    if held is None or held.numel() < elements:
        if hasattr(_shared, "workspace"):
            _shared.workspace = held = None  # the smaller one goes before the larger one comes
        held = x.new_empty(elements)
        if hasattr(_shared, "workspace"):
            _shared.workspace = held
    return held


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    addend: Tensor | None,
    kind: str,
) -> Tensor:
    shape = reference.check_arguments(x, weight, bias, scale, shift, addend, kind)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _pixels(image: Tensor | None) -> Tensor | None:
    """[B, H, W, C], contiguous: a view of a channels-last image, else of a copy."""
    return None if image is None else image.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def _native(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    addend: Tensor | None,
    kind: str,
) -> None:
    if not winograd(x, weight, kind):
        out.copy_(reference.frozen_conv(x, weight, bias, scale, shift, addend, kind))
        return
    run, module, pixels = function("frozen_conv"), cast(Any, extension()), _pixels(x)
    number, threads = reference.KINDS.index(kind), torch.get_num_threads()
    needed = module.frozen_conv_workspace(number, *cast(Tensor, pixels).shape, out.shape[1], scale is not None, threads)
    small = [None if t is None else t.contiguous() for t in (bias, scale, shift)]
    run(_pixels(out), _workspace(x, needed), pixels, weight, *small, _pixels(addend), number, threads)


def winograd(x: Tensor, weight: Tensor, kind: str) -> bool:
    """Whether csrc/frozen_conv serves x and weights [O, I, 3, 3] on a CPU with the extension: float32, multiples of 16.

    An image narrower than a tile of 4×4 would have the whole tile's work and error, several times those of the few
    terms that are left where most of the taps lie in the padding.
    """
    narrowest = min(x.shape[2:]) // (2 if kind == "upsample_transposed" else 1)
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and weight.shape[0] % 16 == 0
        and weight.shape[1] % 16 == 0
        and narrowest >= 4
    )


define(
    "frozen_conv(Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift, Tensor? addend, str kind) "
    "-> Tensor"
)
register("frozen_conv", reference=reference.frozen_conv, fake=_fake, native=_native, cpu_only=True)
register_no_gradient("frozen_conv", "its gradient to x is the transposed kind; ldp_fast.decoder calls it")
