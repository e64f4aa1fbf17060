"""Rows of schedulers, with the options that change what t means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch

from .common import on, unet


class Watched(diffusers.DDPMScheduler):
    """A trainer's, which looks on."""

    def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
        return super().add_noise(original_samples, noise, timesteps)


class OffsetNoise(diffusers.DDPMScheduler):
    """A trainer's, which moves a picture's mean as well."""

    def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
        offset = 0.1 * torch.randn(*noise.shape[:2], 1, 1)
        return super().add_noise(original_samples, noise + offset, timesteps)


def schedulers() -> Iterator[tuple[str, Callable[[], str]]]:
    given: list[tuple[str, dict[str, Any]]] = [
        *(
            (kind, {})
            for kind in (
                "DDIMScheduler",
                "DDPMScheduler",
                "PNDMScheduler",
                "LMSDiscreteScheduler",
                "EulerDiscreteScheduler",
                "EulerAncestralDiscreteScheduler",
                "HeunDiscreteScheduler",
                "KDPM2DiscreteScheduler",
                "TCDScheduler",
                "DPMSolverMultistepScheduler",
                "DPMSolverSinglestepScheduler",
                "DEISMultistepScheduler",
                "UniPCMultistepScheduler",
                "LCMScheduler",
                "UnCLIPScheduler",
                "DDPMWuerstchenScheduler",
            )
        ),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
        *(
            (kind, {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0})
            for kind in (
                "UniPCMultistepScheduler",
                "DPMSolverMultistepScheduler",
                "SASolverScheduler",
                "DEISMultistepScheduler",
                "DPMSolverSinglestepScheduler",
            )
        ),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
        ("FlowMatchHeunDiscreteScheduler", {}),
        ("EDMEulerScheduler", {}),
        ("EDMDPMSolverMultistepScheduler", {}),
        ("KarrasVeScheduler", {}),
        ("ScoreSdeVeScheduler", {}),
        ("VQDiffusionScheduler", {"num_vec_classes": 8}),
    ]
    for kind, options in given:
        if hasattr(diffusers, kind):
            said = ", ".join(f"{name}={value!r}" for name, value in options.items())
            yield (
                kind + (f"({said})" if said else ""),
                lambda kind=kind, options=options: on(unet(), scheduler=getattr(diffusers, kind)(**options)),
            )
    yield "A subclass whose `add_noise` gives the same", lambda: on(unet(), scheduler=Watched())
    yield "A subclass whose `add_noise` adds offset noise", lambda: on(unet(), scheduler=OffsetNoise())
