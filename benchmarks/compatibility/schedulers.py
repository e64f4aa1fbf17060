"""Rows of schedulers, with the options that change what t means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import diffusers

from .common import on, unet


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
