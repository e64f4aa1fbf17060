"""The paper's settings, as data (§5; the hosts' own where the paper names a host)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import torch

from ..errors import UsageError

Weighting = Literal["uniform", "dreamfusion", "latent_nerf"] | Callable[[torch.Tensor], torch.Tensor]

_CHOICES = {
    "guidance": ("from_uncond", "from_text"),
    "order": ("uncond_first", "text_first"),
    "prediction": (None, "epsilon", "v_prediction", "sample", "flow"),
    "scale": ("latent", "literal", "balanced"),
    "batch_reduction": ("mean", "sum"),
    "nonfinite": ("propagate", "zero", "raise"),
}


@dataclasses.dataclass(frozen=True)
class PriorSettings:
    """Everything that decides the gradient, besides the models and the prompt.

    Attributes:
        lambda_fm: λ1, weight of feature matching; 0 skips the decoder.
        lambda_kl: λ2, weight of the KL regulariser.
        lambda_lsd: λ3, weight of latent score distillation.
        guidance_scale: s of classifier-free guidance: how much more the prompt counts than an empty one. None takes the
            model's own (100 if it does not name one); `False` in place of a number runs without guidance (the batch is
            not doubled).
        guidance: `from_uncond` e_u + s(e_c − e_u), or `from_text` e_c + s(e_c − e_u).
        order: of the doubled batch, `uncond_first` or `text_first`.
        prediction: what the network predicts; None asks the scheduler.
        weighting: w(t): `uniform` 1, `dreamfusion` 1 − ᾱ_t, `latent_nerf` √ᾱ_t (1 − ᾱ_t), or a callable that takes t
            `[B]` and returns `[B]`.
        scale: `latent`: both regularisers as N times a mean, so that λ's mean the same at every resolution; `literal`:
            Eq. 2–4 as printed; `balanced`: as `latent`, but λ1 over the number of levels is the ratio of feature
            matching's gradient norm to score distillation's, per sample. See docs/mathematics.md.
        batch_reduction: `mean` or `sum` over the samples.
        nonfinite: what happens to NaN and infinity: `propagate` passes them on, `zero` replaces them with 0 and counts
            them, `raise` ends with an error (and waits for the device).
        levels: decoder levels of feature matching.
        timestep_range: lowest and highest t as fractions of the schedule.
        anneal_to: highest fraction at the end of the run; None keeps the range (see `progress=` of the prior).
        noises: K, how many ε the noise predictor sees at a sample's one t: r is the mean of their residuals, which
            varies less by chance, nearly 1/K as much; the network's batch is K times as large.
    """

    lambda_fm: float = 0.01
    lambda_kl: float = 0.1
    lambda_lsd: float = 1.0
    guidance_scale: float | None = None
    guidance: Literal["from_uncond", "from_text"] = "from_uncond"
    order: Literal["uncond_first", "text_first"] = "uncond_first"
    prediction: Literal["epsilon", "v_prediction", "sample", "flow"] | None = None
    weighting: Weighting = "uniform"
    scale: Literal["latent", "literal", "balanced"] = "latent"
    batch_reduction: Literal["mean", "sum"] = "mean"
    nonfinite: Literal["propagate", "zero", "raise"] = "propagate"
    levels: tuple[str, ...] = ("up0", "up1", "up2")
    timestep_range: tuple[float, float] = (0.02, 0.98)
    anneal_to: float | None = None
    noises: int = 1

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value not in choices:
                names = ", ".join(str(c) for c in choices)
                raise UsageError(f"{field}: expected one of {names}; got {value!r}")
        if not callable(self.weighting) and self.weighting not in ("uniform", "dreamfusion", "latent_nerf"):
            raise UsageError(
                f"weighting: expected uniform, dreamfusion, latent_nerf or a callable of t; got {self.weighting!r}"
            )
        numbers = {name: getattr(self, name) for name in ("lambda_fm", "lambda_kl", "lambda_lsd", "guidance_scale")}
        for name, value in numbers.items():
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{name}: expected a finite number; got {value}")
        low, high = self.timestep_range
        if not 0 <= low <= high <= 1:
            raise UsageError(f"timestep_range: expected fractions 0 <= low <= high <= 1; got ({low}, {high})")
        if self.anneal_to is not None and not low <= self.anneal_to <= 1:
            raise UsageError(f"anneal_to: expected a fraction between {low} and 1; got {self.anneal_to}")
        if isinstance(self.noises, bool) or not isinstance(self.noises, int) or self.noises < 1:
            raise UsageError(f"noises: expected a whole number of at least 1; got {self.noises!r}")


@dataclasses.dataclass(frozen=True)
class Preset:
    """A row of the paper's §5: the prior's settings and what the application runs them with."""

    settings: PriorSettings
    iterations: int
    optimizer: str
    learning_rate: float
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "jacobian_nerf": Preset(PriorSettings(0.1, 0.1, 1.0), 10_000, "adamax", 0.05),
    "latent_nerf": Preset(
        PriorSettings(0.01, 0.1, 1.0, weighting="latent_nerf"),
        5_000,
        "adam",
        1e-3,
        {"refinement_iterations": 2_000, "sparsity": 5e-4, "eps": 1e-15},
    ),
    # Here and in `image` λ1 is larger than λ3: on the latent scale feature matching would be all there is
    # (docs/mathematics.md, "What λ1 = 3 means").
    "stylegan": Preset(PriorSettings(3.0, 0.05, 1.0, weighting="dreamfusion", scale="balanced"), 2_000, "adam", 2e-3),
    "layered": Preset(PriorSettings(1e-5, 1e-7, 1e-6), 1_000, "adam", 1e-3, {"mask": 1.0}),
    "image": Preset(PriorSettings(3.0, 0.1, 1.0, scale="balanced"), 1_000, "adamw", 0.1),
}


def find_preset(name: str) -> Preset:
    """The preset of that name; an unknown one is a `UsageError` that lists them."""
    if name not in PRESETS:
        raise UsageError(f"preset: expected one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]


def apply_changes(settings: PriorSettings, changes: dict[str, Any]) -> PriorSettings:
    """`settings` with some fields changed; an unknown field is a `UsageError` that lists them."""
    known = [field.name for field in dataclasses.fields(PriorSettings)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise UsageError(f"settings: unknown {', '.join(unknown)}; expected some of {', '.join(known)}")
    return dataclasses.replace(settings, **changes)
