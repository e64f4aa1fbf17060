"""What a diffusers scheduler says of its forward process, read from its configuration.

z_t = α_t v + σ_t ε, what the network is told of t, and what it predicts. Everything comes from the configuration and
from ᾱ_t, which is made of it: `set_timesteps` changes neither. A field counts where the class itself takes it
(`Scheduler.from_config` carries along those of other classes, without effect). `_SAMPLING` are the fields that only
choose how one walks back from noise; a field that is in no table and differs from the class's default is refused, for
nobody knows whether it changes z_t.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch

from ..errors import UsageError
from .noising import behind, check_noising, is_of_diffusers, of_diffusers

# The prediction types that schedulers name, and what `guided_residual` calls them.
PREDICTIONS = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "original_sample": "sample",
    "flow_prediction": "flow",
}
# Flow matching whose configuration has neither alphas_cumprod nor a prediction type; told is τ·T in all of them.
_FLOW_MATCHING = frozenset(
    ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
)
# Fields that z_t and t depend on, and that are honoured: those of ᾱ_t in the scheduler's own `alphas_cumprod`.
_FORWARD = frozenset(
    "num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr snr_shift_scale "
    "prediction_type timestep_type use_flow_sigmas flow_shift shift use_dynamic_shifting invert_sigmas scale_factors"
    "".split()
)
_SAMPLING = frozenset(
    "algorithm_type base_image_seq_len base_shift clip_sample clip_sample_range corrector_order disable_corrector "
    "dynamic_thresholding_ratio eta euler_at_final final_sigmas_type interpolation_type lambda_min_clipped "
    "lower_order_final max_image_seq_len max_shift noise_sampler_seed original_inference_steps predict_x0 "
    "predictor_order sample_max_value set_alpha_to_one shift_terminal sigma_max sigma_min skip_prk_steps solver_order "
    "solver_p solver_type steps_offset stochastic_sampling tau_func thresholding time_shift_type timestep_scaling "
    "timestep_spacing upscale_mode use_beta_sigmas use_exponential_sigmas use_karras_sigmas use_lu_lambdas "
    "variance_type".split()
)
# Those of them that a scheduler may change while it lives; the others are in its table.
_LIVE = (
    "prediction_type", "timestep_type", "use_flow_sigmas", "flow_shift", "shift", "use_dynamic_shifting",
    "invert_sigmas", "scale_factors", "num_train_timesteps",
)  # fmt: skip
# What CompVis' `parameterization` calls what the network predicts.
_PARAMETERIZATIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
# Fields of processes that are another kind of thing, and what it is.
_FOREIGN = {
    "sigma_data": "scales its network's input and output by sigma_data (EDM, consistency models, sCM)",
    "beta_max": "is a stochastic differential equation in continuous time",
    "snr": "adds noise to v without shrinking it, at noise levels that no table of t has",
    "s_churn": "adds noise to v without shrinking it, at noise levels that no table of t has",
    "scaler": "tells its network a ratio in [0, 1] in place of t",
    "mask_token_id": "masks tokens in place of adding noise",
    "num_vec_classes": "replaces tokens in place of adding noise",
    "entropy_bound": "unmasks tokens in place of adding noise",
    "block_length": "unmasks tokens in place of adding noise",
    "corrector_k": "replaces tokens in place of adding noise",
    "stages": "adds noise to pictures of several sizes",
    "n_grid": "has a network that predicts a policy for several steps",
    "schedule_mode": "adds noise to the coordinates of atoms",
}


@dataclasses.dataclass(frozen=True)
class ForwardProcess:
    """α_t, σ_t `[T]` in float64; what the network is told `[T]` (None: t itself); what it predicts."""

    alpha: torch.Tensor
    sigma: torch.Tensor
    time: torch.Tensor | None
    prediction: str


def read_scheduler(scheduler: Any) -> ForwardProcess:
    """The forward process of a scheduler: its ᾱ_t, or the shift of a flow-matching one.

    Raises:
        TypeError: the argument is not a scheduler.
        UsageError: one whose process is another, or not known, by name; one that adds noise in another way than its
            tables say (`noising.py`).
    """
    process = _read(scheduler)
    check_noising(scheduler, process, _read, _fields)
    return process


def said(scheduler: Any) -> tuple[Any, ...]:
    """What the configuration says of z_t at the moment, besides ᾱ_t: to be compared, in microseconds."""
    config = getattr(scheduler, "config", None)
    words = [_word(config, name) for name in _LIVE]
    return (*words, _own_word(scheduler) if words[0] is None else None)


def _read(scheduler: Any) -> ForwardProcess:
    fields, known = _fields(scheduler), behind(scheduler)
    flow, name = _matches_flows(scheduler), type(scheduler).__name__
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    expected = f"scheduler: expected alphas_cumprod, or one of {', '.join(sorted(_FLOW_MATCHING))}; got {name}"
    for field, reason in _FOREIGN.items():
        # A configuration carries along those of other classes: with a table, only diffusers' own mean it.
        if field in fields and (alphas_cumprod is None or is_of_diffusers(known)):
            raise UsageError(f"{expected}, which {reason}")
    if not flow and alphas_cumprod is None:
        raise (UsageError if fields else TypeError)(expected)
    for field in ("invert_sigmas", "scale_factors"):
        if fields.get(field):
            # The first turns time and the network's output around (Mochi), the second changes the size with the noise.
            raise _refused(scheduler, f"one without {field}", f"{field}={fields[field]!r}")
    prediction = _prediction(scheduler, fields)
    if not is_of_diffusers(known):
        # A configuration carries along the fields of other classes, without effect; these two would have one.
        for field, sure in (("use_flow_sigmas", prediction == "flow"), ("timestep_type", prediction != "v_prediction")):
            if fields.get(field) in (True, "continuous") and not sure:
                raise _refused(scheduler, f"a class of diffusers with {field}", f"{field}={fields[field]!r}")
    if flow or fields.get("use_flow_sigmas"):
        if prediction == "v_prediction":
            raise _refused(scheduler, "flow_prediction, epsilon or sample with use_flow_sigmas", "v_prediction")
        count = fields.get("num_train_timesteps")
        if not isinstance(count, Integral) or count < 1:
            raise _refused(scheduler, "a whole number of num_train_timesteps", repr(count))
        # With dynamic shifting the size of the picture chooses the shift when somebody samples.
        dynamic, shift = bool(fields.get("use_dynamic_shifting")), fields.get("shift" if flow else "flow_shift") or 1.0
        held = getattr(known, "_shift", None) if flow else None
        if not dynamic and held is not None and held != shift:
            made = f"{type(known).__name__}.from_config(scheduler.config, shift=…)"
            raise _refused(scheduler, f"the shift of its configuration, {shift} (another: {made})", f"{held}")
        tau = torch.arange(1, int(count) + 1, dtype=torch.float64, device="cpu") / int(count)
        shift = 1.0 if dynamic else shift
        tau = shift * tau / (1 + (shift - 1) * tau)
        # Flow-matching networks are told the noise level, not the row of the table.
        return ForwardProcess(1 - tau, tau, tau * int(count), prediction)
    if prediction == "flow":
        raise _refused(
            scheduler, "use_flow_sigmas=True with prediction_type 'flow_prediction'", "use_flow_sigmas=False"
        )
    if isinstance(alphas_cumprod, torch.Tensor) and alphas_cumprod.is_meta:
        raise _refused(scheduler, "alphas_cumprod with values", "a tensor on meta")
    alpha_bar = torch.as_tensor(alphas_cumprod, device="cpu").detach().double()
    if alpha_bar.ndim != 1 or not ((alpha_bar > -1e-6) & (alpha_bar < 1 + 1e-6)).all():
        raise _refused(scheduler, "alphas_cumprod of shape [T] in [0, 1]", f"{list(alpha_bar.shape)}, some outside")
    alpha_bar = alpha_bar.clamp(0, 1)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    # Euler's: without v_prediction it has no effect there either.
    continuous = fields.get("timestep_type") == "continuous" and prediction == "v_prediction"
    return ForwardProcess(alpha, sigma, 0.25 * (sigma / alpha).log() if continuous else None, prediction)


def _prediction(scheduler: Any, fields: Mapping[str, Any]) -> str:
    """What a scheduler says that its network predicts: epsilon, v_prediction, sample or flow.

    Raises:
        UsageError: something else.
    """
    if _matches_flows(scheduler):
        return "flow"
    named = fields.get("prediction_type", "epsilon")
    if not isinstance(named, str) or named not in PREDICTIONS:
        raise _refused(scheduler, f"a prediction_type of {', '.join(PREDICTIONS)}", repr(named))
    return PREDICTIONS[named]


def _matches_flows(scheduler: Any) -> bool:
    return any(cls.__name__ in _FLOW_MATCHING for cls in type(behind(scheduler)).__mro__)


def _refused(scheduler: Any, expected: str, got: str) -> UsageError:
    return UsageError(f"scheduler: expected {expected}; got {got} of {type(scheduler).__name__}")


def _fields(scheduler: Any) -> dict[str, Any]:
    """The fields of the configuration that the scheduler's class takes; of a class that is not diffusers', all we know.

    Raises:
        UsageError: a field of diffusers' that nobody here knows, with another value than the class's default.
    """
    config, known = getattr(scheduler, "config", None), behind(scheduler)
    kind: Any = type(known)
    if not is_of_diffusers(known):
        names = {*_FORWARD, *_FOREIGN}
        fields = {name: value for name in names if (value := _word(config, name)) is not None}
        own = _own_word(scheduler)
        return fields | ({"prediction_type": own} if own is not None and "prediction_type" not in fields else {})
    defaults = _defaults(kind)
    fields = {name: _word(config, name, default) for name, default in defaults.items()}
    if any(name in fields for name in _FOREIGN):
        return fields  # of another kind altogether, which is the better reason
    for name, value in fields.items():
        known_field = name.startswith("_") or name in _FORWARD or name in _SAMPLING or name in _FOREIGN
        if not known_field and value is not None and value is not False and value is not defaults.get(name):
            if repr(value) != repr(defaults.get(name)):
                raise _refused(scheduler, "fields that are known not to change z_t", f"{name}={value!r}")
    return fields


def _word(config: Any, name: str, default: Any = None) -> Any:
    """What a configuration says under a name. diffusers' is a dictionary whose attributes are read, and can be set."""
    if isinstance(config, Mapping):
        held = getattr(config, "__dict__", None)
        return held[name] if held is not None and name in held and name in config else config.get(name, default)
    return getattr(config, name, default)


def _own_word(scheduler: Any) -> Any:
    """What a class of somebody's own says of its network without a configuration."""
    if is_of_diffusers(scheduler):
        return None
    own = getattr(scheduler, "prediction_type", None)
    if own is None and (own := getattr(scheduler, "parameterization", None)) is not None:
        return _PARAMETERIZATIONS.get(own, own) if isinstance(own, str) else own
    return own


@functools.lru_cache(maxsize=128)
def _defaults(cls: type) -> dict[str, Any]:
    """What diffusers' class, or those of a class's parents, take when they are made, with the defaults.

    What a host's class takes besides can only act through its table and its methods, and these are looked at.
    """
    found: dict[str, Any] = {}
    for parent in reversed(cls.__mro__):
        if not of_diffusers(parent) or "__init__" not in vars(parent):
            continue
        for name, parameter in list(inspect.signature(vars(parent)["__init__"]).parameters.items())[1:]:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found[name] = None if parameter.default is parameter.empty else parameter.default
    return found
