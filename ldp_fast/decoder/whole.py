"""A VAE's own `encode` and `decode`, in the precision that it needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .fallback import SWAPPING, in_dtype

_PARTS = {"decode": ("decoder", "post_quant_conv"), "encode": ("encoder", "quant_conv")}


def working_dtype(vae: Any, part: str = "decoder") -> torch.dtype:
    """The precision a VAE's part is to be run in: its own, but float32 for float16 with `force_upcast`."""
    held = getattr(vae, part, None)
    own = next((held if isinstance(held, nn.Module) else vae).parameters()).dtype
    if own.itemsize == 1:
        # A storage format (layerwise casting), which diffusers' models know of themselves.
        own = getattr(vae, "dtype", own)
    upcast = own == torch.float16 and getattr(getattr(vae, "config", None), "force_upcast", False)
    return torch.float32 if upcast else own


class _Call(nn.Module):
    """A method as a module's call, to hand it other weights."""

    def __init__(self, vae: nn.Module, method: str):
        super().__init__()
        self.vae, self.method = vae, method

    def forward(self, x: Tensor) -> Any:
        return getattr(self.vae, self.method)(x)


def run(vae: Any, method: str, x: Tensor, dtype: torch.dtype | None = None) -> Any:
    """`vae.decode(x)` or `vae.encode(x)` in a precision, differentiable in x; the VAE stays as it is.

    Args:
        vae: diffusers' or CompVis'.
        method: decode or encode.
        x: latents in the VAE's units (units.py), or images in [−1, 1].
        dtype: None is `working_dtype`. Weights of another precision are converted for this call, as a pipeline
            converts its VAE, and get no gradient from it.
    """
    dtype = working_dtype(vae, _PARTS[method][0]) if dtype is None else dtype
    x = x.to(dtype)
    held = ((name, getattr(vae, name, None)) for name in _PARTS[method])
    parts = [(name, part) for name, part in held if isinstance(part, nn.Module)]
    weights = [p for _, part in parts for p in part.parameters()]
    # Autograd will not have tensors of inference mode.
    if all((p.dtype == dtype or p.element_size() == 1) and not p.is_inference() for p in weights):
        return getattr(vae, method)(x)
    given = {f"vae.{name}.{key}": w for name, part in parts for key, w in in_dtype(part, dtype).items()}
    with SWAPPING:
        return torch.func.functional_call(_Call(vae, method), given, (x,), strict=False)
