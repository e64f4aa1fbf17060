"""What the adapters share that put a step of ours into an object of the host's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from ..errors import UsageError
from ..guidance import Schedule
from ..guidance.check import check_unet, wanted_by
from ._core import HostLosses
from ._live import Attribute, LiveSchedule

STABLE_DIFFUSION = 0.18215  # the scaling factor of its VAEs, 1.x and 2.x


class HostGuidance:
    """A host's object, and the losses with which its step is made; everything of the host's is read at every step.

    A copy of the host (`copy.deepcopy`, torch's `AveragedModel`, a pickle) takes its guidance along, and that computes
    with the copy's modules.

    Args:
        host: the host's object.
        lambda_fm: λ1.
        lambda_kl: λ2.
        lambda_lsd: λ3.
        **options: of `HostLosses`.

    Raises:
        UsageError: an object that is not the host's, a UNet that wants more than hosts tell it, an option out of its
            range, or a VAE that feature matching cannot work with.
    """

    #: Dotted names that the host has to have.
    NEEDS: ClassVar[tuple[str, ...]] = ()
    #: The name under which the host has its autoencoder.
    VAE: ClassVar[str] = "vae"
    #: The name of its method that encodes images.
    ENCODE: ClassVar[str] = "encode_imgs"

    def __init__(self, host: Any, lambda_fm: float, lambda_kl: float, lambda_lsd: float, **options: Any):
        require(host, "unet", self.VAE, "scheduler.alphas_cumprod", *self.NEEDS)
        check_network(host.unet)
        self.host = host
        self.losses = HostLosses(Attribute(host, self.VAE), lambda_fm, lambda_kl, lambda_lsd, **options)
        self._schedule = LiveSchedule(host)
        self._schedule.read("cpu")
        self.losses.check()

    def schedule(self, device: torch.device) -> Schedule:
        """α_t, σ_t and w(t) of the host's scheduler, as it is now."""
        return self._schedule.read(device)

    def check_units(self) -> None:
        """To be called before the host's own encoding is: see `check_units`."""
        if self.losses.lambda_fm != 0:
            check_units(getattr(self.host, self.VAE), getattr(self.host, self.ENCODE, None))


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
        guidance: a `HostGuidance`.
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
