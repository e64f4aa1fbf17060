"""What a host's object has to have, and how a step of ours is put into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import UsageError
from ..guidance.check import check_unet, wanted_by

STABLE_DIFFUSION = 0.18215  # the scaling factor of its VAEs, 1.x and 2.x


def check_network(unet: Any) -> None:
    """Checks that a UNet is told what these hosts tell it: noisy latents, t and text, and nothing else.

    Raises:
        UsageError: it wants more; says what.
    """
    if isinstance(unet, torch.nn.Module):
        check_unet(unet)
        if wanted_by(unet).pooled:
            raise UsageError("unet: expected a network that is told latents, t and text; SDXL's wants pooled text too")


def check_units(vae: Any, encode: Callable[..., Any] | None) -> None:
    """Checks that latents encoded by a host are in the units that the VAE's configuration says, and its decoder reads.

    The hosts multiply by one number. Where that is not all, neither the network nor feature matching would see what
    they were trained on.

    Args:
        vae: the host's autoencoder.
        encode: the host's method. Some have Stable Diffusion's factor as a number in their code, others ask the VAE.

    Raises:
        UsageError: they are not; names the entry.
    """
    config = getattr(vae, "config", None)
    for name in ("latents_mean", "latents_std", "shift_factor"):
        value = getattr(config, name, None)
        if value is not None and value != 0:
            raise UsageError(
                f"vae: expected one whose latents are scaled by a number, as the host encodes; got {name}={value!r} in "
                f"its configuration (lambda_fm=0 leaves it alone)"
            )
    scale = getattr(config, "scaling_factor", None)
    if scale not in (None, STABLE_DIFFUSION) and _has_number(encode, STABLE_DIFFUSION):
        raise UsageError(
            f"vae: expected the scaling factor with which the host encodes, {STABLE_DIFFUSION}; got "
            f"scaling_factor={scale} in its configuration (lambda_fm=0 leaves it alone)"
        )


def _has_number(function: Any, number: float) -> bool:
    """Whether a function's code has a number, as a constant or as a global of its module."""
    code = getattr(function, "__code__", None)
    names = [getattr(function, "__globals__", {}).get(name) for name in code.co_names] if code else []
    return code is not None and any(isinstance(x, float) and x == number for x in (*code.co_consts, *names))


def install(guidance: Any, *methods: str) -> Any:
    """Puts methods of a guidance in the place of its host's, and the guidance into the host's attribute `ldp`.

    Args:
        guidance: an `Adapter`.
        *methods: names that both have.

    Returns:
        The host's object.

    Raises:
        UsageError: see `attach`.
    """
    host = attach(guidance.host, **{name: getattr(guidance, name) for name in methods})
    object.__setattr__(host, "ldp", guidance)
    return host


def attach(host: Any, **steps: Callable[..., Any]) -> Any:
    """Puts our steps in the place of a host object's methods; the object stays what it is, and is returned.

    Args:
        host: an instance of a host's class. Its class, its modules and its state dict are left alone.
        **steps: by the name of the method. Bound methods and objects, no closures: the host may be copied and pickled.

    Raises:
        UsageError: the host has no such method, so it is not the host that the adapter was written for.
    """
    for name, step in steps.items():
        if not callable(getattr(host, name, None)):
            raise UsageError(f"{type(host).__name__}: expected an object with a method {name}, got one without")
        object.__setattr__(host, name, step)
    return host


def require(host: Any, *names: str) -> None:
    """Checks that an object has what an adapter reads, by dotted names.

    Raises:
        UsageError: it does not; names what is missing.
    """
    missing = []
    for name in names:
        value = host
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is None:
            missing.append(name)
    if missing:
        raise UsageError(
            f"{type(host).__name__}: expected an object with {', '.join(names)}, got one without {', '.join(missing)}"
        )
