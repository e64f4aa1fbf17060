"""Every scheduler class of the installed diffusers: its z_t and what its network is told, or why it is refused."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
import warnings
from typing import Any, ClassVar, NamedTuple

import diffusers.schedulers
import numpy as np
import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, Schedule

from ..support.models import tiny_unet, tiny_vae

TAKEN = (
    "CogVideoXDDIMScheduler CogVideoXDPMScheduler DDIMInverseScheduler DDIMParallelScheduler DDIMScheduler "
    "DDPMParallelScheduler DDPMScheduler DEISMultistepScheduler DPMSolverMultistepInverseScheduler "
    "DPMSolverMultistepScheduler DPMSolverSDEScheduler DPMSolverSinglestepScheduler EulerAncestralDiscreteScheduler "
    "EulerDiscreteScheduler HeunDiscreteScheduler KDPM2AncestralDiscreteScheduler KDPM2DiscreteScheduler LCMScheduler "
    "LMSDiscreteScheduler PNDMScheduler RePaintScheduler SASolverScheduler TCDScheduler UnCLIPScheduler "
    "UniPCMultistepScheduler".split()
)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
FLOW_SIGMAS = (
    "UniPCMultistepScheduler DPMSolverMultistepScheduler DPMSolverSinglestepScheduler DEISMultistepScheduler "
    "SASolverScheduler DPMSolverMultistepInverseScheduler".split()
)
REFUSED = {
    "AmusedScheduler": "masks tokens",
    "BlockRefinementScheduler": "unmasks tokens",
    "CMStochasticIterativeScheduler": "sigma_data",
    "ConsistencyDecoderScheduler": "sigma_data",
    "CosineDPMSolverMultistepScheduler": "sigma_data",
    "DDPMWuerstchenScheduler": "a ratio in",
    "DiscreteDDIMScheduler": "replaces tokens",
    "EDMDPMSolverMultistepScheduler": "sigma_data",
    "EDMEulerScheduler": "sigma_data",
    "EntropyBoundScheduler": "unmasks tokens",
    "FlowMapEulerDiscreteScheduler": "",
    "HeliosDMDScheduler": "several sizes",
    "HeliosScheduler": "several sizes",
    "IPNDMScheduler": "",
    "KarrasVeScheduler": "without shrinking it",
    "LTXEulerAncestralRFScheduler": "",
    "MiniMaxH3Scheduler": "",
    "PiflowScheduler": "a policy",
    "RFD4ProteinaScheduler": "atoms",
    "SCMScheduler": "sigma_data",
    "ScoreSdeVeScheduler": "without shrinking it",
    "ScoreSdeVpScheduler": "continuous time",
    "VQDiffusionScheduler": "replaces tokens",
}
REQUIRED: dict[str, dict[str, Any]] = {
    "AmusedScheduler": {"mask_token_id": 1},
    "VQDiffusionScheduler": {"num_vec_classes": 8},
    "RFD4ProteinaScheduler": {
        "schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0,
    },
}  # fmt: skip
SHAPE = (3, 4, 2, 2)
V, NOISE = (torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (0, 1))


@pytest.fixture(autouse=True)
def quietly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torchsde, which two classes import to draw noise that is not drawn here; and no deprecation warnings."""
    for name in ("torchsde",):
        if importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def scheduler_class(name: str) -> Any:
    modules = {
        "DPMSolverSDEScheduler": "scheduling_dpmsolver_sde",
        "CosineDPMSolverMultistepScheduler": "scheduling_cosine_dpmsolver_multistep",
    }
    if name in modules:
        return getattr(importlib.import_module(f"diffusers.schedulers.{modules[name]}"), name)
    if not hasattr(diffusers.schedulers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    return getattr(diffusers.schedulers, name)


def make(name: str, **options: Any) -> Any:
    cls = scheduler_class(name)
    taken = inspect.signature(cls.__init__).parameters
    return cls(**{k: x for k, x in {**REQUIRED.get(name, {}), **options}.items() if k in taken})


def ours(schedule: Schedule, t: torch.Tensor) -> torch.Tensor:
    alpha, sigma = (x.double()[:, None, None, None] for x in schedule.gather(t))
    return alpha * V + sigma * NOISE


def theirs(scheduler: Any, t: torch.Tensor) -> torch.Tensor:
    """z_t as the class has it, in what its network sees."""
    if type(scheduler).__name__ in ("DDIMInverseScheduler", "RePaintScheduler"):  # they only walk
        scheduler = make("DDPMScheduler", **scheduler.config)
    noisy = scheduler.add_noise(V, NOISE, t)
    if getattr(scheduler, "sigmas", None) is None or hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return noisy
    scaled = []
    for sample, step in zip(noisy, t, strict=True):
        scheduler._step_index = None
        scaled.append(scheduler.scale_model_input(sample[None], step))
    return torch.cat(scaled)


def test_every_class_is_decided() -> None:
    """A class that a new version of diffusers brings has to be taken or refused here."""
    names = {n for n in dir(diffusers.schedulers) if n.endswith("Scheduler")}
    if diffusers.__version__ == "0.42.1":  # others may have more or fewer
        assert names == {*TAKEN, *FLOWS, *REFUSED}
    assert not {*TAKEN, *FLOWS} & set(REFUSED)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"},
    {"trained_betas": np.linspace(0.001, 0.02, 200), "num_train_timesteps": 200},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"steps_offset": 1, "timestep_spacing": "trailing", "snr_shift_scale": 2.0},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v) or "plain")
@pytest.mark.parametrize("name", TAKEN)
def test_z_and_t_are_the_class_s_own(name: str, variant: dict[str, Any]) -> None:
    if name == "UnCLIPScheduler":
        variant = {key: value for key, value in variant.items() if key != "beta_schedule"}  # it has one
    scheduler = make(name, **variant)
    schedule = Schedule.from_scheduler(scheduler)
    last = len(schedule) - 1
    assert last + 1 == len(scheduler.alphas_cumprod)
    t = torch.tensor([1, last // 2, last])
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t") and name != "SASolverScheduler":
        # Their add_noise looks t up among the steps that they sample with; before there are any it is the wrong way up.
        scheduler.set_timesteps(20)
        t = scheduler.timesteps[[0, 9, 19]].long()
    torch.testing.assert_close(ours(schedule, t), theirs(scheduler, t), rtol=1e-6, atol=1e-6)
    # Told is the number of the row: the schedulers' timesteps are those of add_noise.
    assert torch.equal(schedule.network_time(t), t)


@pytest.mark.parametrize("grid", ["use_karras_sigmas", "use_exponential_sigmas"])
@pytest.mark.parametrize("name", [*TAKEN, *FLOWS])
def test_how_one_samples_is_no_matter(name: str, grid: str) -> None:
    t = torch.arange(1000)
    plain, other = (Schedule.from_scheduler(make(name, **options)) for options in ({}, {grid: True}))
    assert all(torch.equal(a, b) for a, b in zip(plain.gather(t), other.gather(t), strict=True))
    assert torch.equal(plain.network_time(t), other.network_time(t))


@pytest.mark.parametrize("name", [*TAKEN, *FLOWS])
def test_sampling_with_a_scheduler_changes_nothing(name: str) -> None:
    scheduler = make(name, use_dynamic_shifting=False)
    before = Schedule.from_scheduler(scheduler)
    scheduler.set_timesteps(7)
    after = Schedule.from_scheduler(scheduler)
    t = torch.arange(len(before))
    for a, b in zip(before.gather(t), after.gather(t), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(before.network_time(t), after.network_time(t))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", FLOWS)
def test_flow_matching(name: str, shift: float) -> None:
    scheduler = make(name, shift=shift)
    schedule = Schedule.from_scheduler(scheduler)
    assert schedule.prediction == "flow"
    rows = torch.tensor([0, 500, 999])
    told = scheduler.timesteps.flip(0)[rows]  # theirs begin with noise
    torch.testing.assert_close(schedule.network_time(rows), told.float(), rtol=1e-6, atol=1e-3)
    expected = []
    for v, x, noise in zip(V, told, NOISE, strict=True):
        scheduler._step_index = None  # Heun's remembers where it was
        expected.append(scheduler.scale_noise(v[None], x[None], noise[None]))
    torch.testing.assert_close(ours(schedule, rows), torch.cat(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FLOW_SIGMAS)
def test_flow_sigmas_and_their_shift(name: str) -> None:
    """z 27 % off and t 500 for 750.7, when they were read as ᾱ_t."""
    scheduler = make(name, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    schedule = Schedule.from_scheduler(scheduler)
    assert schedule.prediction == "flow"
    rows = torch.tensor([10, 500, 999])
    assert float(schedule.network_time(rows)[1]) == pytest.approx(3 * 0.501 / (1 + 2 * 0.501) * 1000)
    alpha, sigma = schedule.gather(rows)
    for a, s, expected in zip(alpha, sigma, (0.011, 0.501, 1.0), strict=True):
        # Theirs from σ, which they shift as ours.
        theirs_a, theirs_s = scheduler._sigma_to_alpha_sigma_t(torch.tensor(3 * expected / (1 + 2 * expected)).double())
        assert (float(a), float(s)) == pytest.approx((float(theirs_a), float(theirs_s)), abs=1e-7)
    # The pairs of level and told time that they sample with lie on our line; they round t down to a whole number.
    scheduler.set_timesteps(20)
    told = scheduler.sigmas[: len(scheduler.timesteps)].double() * 1000
    assert float((told - scheduler.timesteps).abs().max()) <= 1
    assert torch.allclose(schedule.network_time(rows), sigma * 1000)
    if hasattr(scheduler, "sigmas") and name != "SASolverScheduler":  # whose add_noise takes no notice of them
        step, level = scheduler.timesteps[5], float(scheduler.sigmas[5])
        noisy = scheduler.add_noise(V[:1], NOISE[:1], step[None])
        torch.testing.assert_close(noisy, (1 - level) * V[:1] + level * NOISE[:1], rtol=1e-6, atol=1e-6)


def test_epsilon_and_sample_go_with_flow_sigmas_too() -> None:
    for prediction in ("epsilon", "sample"):
        schedule = Schedule.from_scheduler(
            make("UniPCMultistepScheduler", prediction_type=prediction, use_flow_sigmas=True)
        )
        assert schedule.prediction == prediction
        alpha, sigma = schedule.gather(torch.tensor([499]))
        assert float(alpha) == pytest.approx(0.5) == float(sigma)


def test_eulers_continuous_time() -> None:
    scheduler = make("EulerDiscreteScheduler", timestep_type="continuous", prediction_type="v_prediction")
    schedule = Schedule.from_scheduler(scheduler)
    rows = torch.arange(1000)
    torch.testing.assert_close(schedule.network_time(rows).flip(0), scheduler.timesteps, rtol=1e-4, atol=1e-5)
    discrete = make("EulerDiscreteScheduler", timestep_type="continuous")  # no effect without v_prediction
    assert torch.equal(Schedule.from_scheduler(discrete).network_time(rows), rows)


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name(name: str) -> None:
    scheduler = make(name)
    with pytest.raises(UsageError, match=f"^scheduler: expected alphas_cumprod, or one of .*; got {name}") as caught:
        Schedule.from_scheduler(scheduler)
    assert REFUSED[name] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (FLOWS[0], {"invert_sigmas": True}, "one without invert_sigmas; got invert_sigmas=True of FlowMatchEuler"),
        (FLOWS[2], {"scale_factors": [0.5, 1.0]}, "one without scale_factors; got scale_factors=[0.5, 1.0] of"),
        (
            "UniPCMultistepScheduler",
            {"prediction_type": "flow_prediction"},
            "use_flow_sigmas=True with prediction_type",
        ),
        (
            "UniPCMultistepScheduler",
            {"prediction_type": "v_prediction", "use_flow_sigmas": True},
            "flow_prediction, epsilon or sample with use_flow_sigmas; got v_prediction of UniPC",
        ),
        ("DDPMScheduler", {"prediction_type": "score"}, "prediction_type of epsilon, v_prediction, sample"),
        ("DDPMScheduler", {"prediction_type": None}, "original_sample, flow_prediction; got None of DDPMScheduler"),
    ],
)
def test_what_would_be_read_by_half_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Schedule.from_scheduler(make(name, **options))
    assert words in str(caught.value)


def with_a_field(module: str) -> type:
    from diffusers import DDIMScheduler
    from diffusers.configuration_utils import register_to_config

    class Offset(DDIMScheduler):
        @register_to_config
        def __init__(self, beta_start: float = 0.0001, noise_offset: float = 0.0):
            super().__init__(beta_start=beta_start)
            self.register_to_config(noise_offset=noise_offset)

    Offset.__module__ = module
    return Offset


def test_a_field_that_nobody_knows() -> None:
    """Of a later version's class."""
    cls = with_a_field("diffusers.schedulers.scheduling_offset")
    assert len(Schedule.from_scheduler(cls())) == 1000
    with pytest.raises(UsageError, match=r"known not to change z_t; got noise_offset=0\.1 of Offset"):
        Schedule.from_scheduler(cls(noise_offset=0.1))


def test_a_field_of_a_hosts_class_acts_through_its_methods() -> None:
    """And these are asked (test_noising.py); a field that none of them looks at is the host's own affair."""
    cls = with_a_field("host")
    assert len(Schedule.from_scheduler(cls(noise_offset=0.1))) == 1000


def test_fields_of_other_classes_are_carried_along_without_effect() -> None:
    flow = make("UniPCMultistepScheduler", prediction_type="epsilon", use_flow_sigmas=True, flow_shift=3.0)
    scheduler = make("DDIMScheduler").from_config(flow.config)
    assert scheduler.config.use_flow_sigmas
    t = torch.tensor([1, 500, 999])
    torch.testing.assert_close(ours(Schedule.from_scheduler(scheduler), t), theirs(scheduler, t), rtol=1e-6, atol=1e-6)


def test_things_with_alphas_cumprod_are_schedulers() -> None:
    bar = torch.linspace(0.99, 0.01, 10)
    for thing in (
        types.SimpleNamespace(alphas_cumprod=bar),
        types.SimpleNamespace(alphas_cumprod=bar.numpy(), config=types.SimpleNamespace(num_train_timesteps=10)),
        types.SimpleNamespace(alphas_cumprod=bar.tolist(), config={"prediction_type": "epsilon"}),
    ):
        alpha, _ = Schedule.from_scheduler(thing).gather(torch.tensor([3]))
        assert float(alpha) == pytest.approx(float(bar[3].double().sqrt()))
    for wrong in (bar * 2, bar * torch.nan, bar[None]):
        with pytest.raises(UsageError, match=r"alphas_cumprod of shape \[T\] in \[0, 1\]; got"):
            Schedule.from_scheduler(types.SimpleNamespace(alphas_cumprod=wrong))
    with pytest.raises(TypeError, match="alphas_cumprod"):
        Schedule.from_scheduler(object())


@pytest.mark.parametrize(
    ("scheduler", "prediction", "words"),
    [
        ("DDIMScheduler", "flow", "(epsilon, sample, v_prediction); got flow, which needs α_t + σ_t = 1"),
        (FLOWS[0], "v_prediction", "(epsilon, sample, flow); got v_prediction, which needs α_t² + σ_t² = 1"),
    ],
)
def test_a_prediction_that_does_not_go_with_the_scheduler(scheduler: str, prediction: Any, words: str) -> None:
    """It is refused when the prior is made, and when its settings are changed."""
    settings = PriorSettings(prediction=prediction)
    with pytest.raises(UsageError) as caught:
        LatentDiffusionPrior(tiny_unet(), tiny_vae(), make(scheduler), settings=settings)
    assert words in str(caught.value)
    with pytest.raises(UsageError, match="got " + prediction):
        LatentDiffusionPrior(tiny_unet(), tiny_vae(), make(scheduler)).with_settings(prediction=prediction)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_zero_terminal_snr(prediction: str) -> None:
    """α_T = 0: z is ε, and a right prediction leaves r = 0 in every type; nothing is divided by α."""
    scheduler = make("DDIMScheduler", rescale_betas_zero_snr=True, prediction_type=prediction)
    schedule = Schedule.from_scheduler(scheduler)
    t = torch.full((3,), 999)
    alpha, sigma = schedule.gather(t)
    assert not alpha.any() and (sigma == 1).all()
    from ldp_fast.losses import guided_residual

    right = {"epsilon": NOISE, "v_prediction": -V, "sample": V}[prediction]
    residual = guided_residual(
        right, NOISE, guidance_scale=None, prediction=prediction, noisy_latents=NOISE, alpha=alpha, sigma=sigma
    )
    assert float(residual.abs().max()) == 0


class Wrapped:
    """A host's, which forwards what it does not have."""

    def __init__(self, inner: Any):
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("name", [*TAKEN, *FLOWS])
def test_wrappers_are_what_they_wrap(name: str, used: bool) -> None:
    inner = make(name)
    expected = Schedule.from_scheduler(inner)
    if used:
        inner.set_timesteps(7)
    found = Schedule.from_scheduler(Wrapped(inner))
    t = torch.arange(1000)
    assert found.prediction == expected.prediction
    assert all(torch.equal(a, b) for a, b in zip(found.gather(t), expected.gather(t), strict=True))
    assert torch.equal(found.network_time(t), expected.network_time(t))


def test_a_wrapper_with_another_table_than_it_adds_noise_by_is_refused() -> None:
    wrapped = Wrapped(make("DDIMScheduler"))
    wrapped.alphas_cumprod = make("DDIMScheduler", beta_end=0.03).alphas_cumprod
    with pytest.raises(UsageError, match=r"expected add_noise .*; that of Wrapped gives another at t = "):
        Schedule.from_scheduler(wrapped)


CONFIGURED = types.SimpleNamespace(prediction_type="v_prediction")


class OfTheClass:
    prediction_type = "v_prediction"


class Slots:
    __slots__ = ("prediction_type",)

    def __init__(self) -> None:
        self.prediction_type = "v_prediction"


class Tuple(NamedTuple):
    prediction_type: str = "v_prediction"


@pytest.mark.parametrize(
    "own",
    [
        {"config": CONFIGURED},
        {"config": {"prediction_type": "v_prediction"}},
        {"config": OfTheClass()},
        {"config": Slots()},
        {"config": Tuple()},
        {"prediction_type": "v_prediction"},
        {"parameterization": "v"},
        {"config": {"prediction_type": "v_prediction"}, "parameterization": "eps"},
    ],
    ids=range(8),
)
def test_a_class_of_somebodys_own_says_what_is_predicted_in_its_own_way(own: dict[str, Any]) -> None:
    bar = make("DDIMScheduler").alphas_cumprod
    assert Schedule.from_scheduler(types.SimpleNamespace(alphas_cumprod=bar, **own)).prediction == "v_prediction"


def test_a_word_that_is_not_known_is_refused_wherever_it_stands() -> None:
    bar = make("DDIMScheduler").alphas_cumprod
    for own in ({"parameterization": "eps-ish"}, {"prediction_type": "score"}, {"config": {"prediction_type": 3}}):
        with pytest.raises(UsageError, match="expected a prediction_type of epsilon"):
            Schedule.from_scheduler(types.SimpleNamespace(alphas_cumprod=bar, **own))


def test_fields_that_only_some_classes_mean_need_a_class() -> None:
    """`from_config` carries them along: DDPM's configuration can say what only Euler's class does."""
    bar = make("DDIMScheduler").alphas_cumprod
    for fields, words in (
        ({"timestep_type": "continuous", "prediction_type": "v_prediction"}, "timestep_type; got timestep_type='cont"),
        ({"use_flow_sigmas": True}, "a class of diffusers with use_flow_sigmas; got use_flow_sigmas=True"),
    ):
        with pytest.raises(UsageError, match=words):
            Schedule.from_scheduler(types.SimpleNamespace(alphas_cumprod=bar, config=fields))
    harmless = {"timestep_type": "continuous", "sigma_data": 0.5, "stages": 3, "log_every": 20}
    for kind in (
        types.SimpleNamespace(alphas_cumprod=bar, config=harmless),
        make("DDIMScheduler").from_config(harmless),
    ):
        assert len(Schedule.from_scheduler(kind)) == 1000


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_configurations_attribute_is_what_counts(name: str) -> None:
    """diffusers reads attributes; what it calls frozen can be assigned to."""
    scheduler = make(name)
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), scheduler)
    assert prior.schedule.prediction == "epsilon"
    scheduler.config.prediction_type = "v_prediction"
    assert Schedule.from_scheduler(scheduler).prediction == prior.schedule.prediction == "v_prediction"
    scheduler.register_to_config(prediction_type="sample")
    assert prior.schedule.prediction == "sample"


@pytest.mark.parametrize("kind", [dict, types.SimpleNamespace])
def test_a_configuration_that_is_changed_in_place_is_read_again(kind: Any) -> None:
    bar = make("DDIMScheduler").alphas_cumprod
    scheduler = types.SimpleNamespace(alphas_cumprod=bar, config=kind(prediction_type="epsilon"))
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), scheduler)
    before = prior.schedule
    assert prior.schedule is before and before.prediction == "epsilon"
    if kind is dict:
        scheduler.config["prediction_type"] = "v_prediction"
    else:
        scheduler.config.prediction_type = "v_prediction"
    assert prior.schedule.prediction == "v_prediction"


def test_what_is_made_anew_at_every_look_is_read_once() -> None:
    bar = make("DDIMScheduler").alphas_cumprod

    class Anew:
        @property
        def config(self) -> dict[str, Any]:
            return {"prediction_type": "epsilon", "trained_betas": np.zeros(3)}

        @property
        def alphas_cumprod(self) -> torch.Tensor:
            return bar.clone()

    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), Anew())
    assert prior.schedule is prior.schedule


def test_schedulers_that_lack_their_numbers_are_refused_in_a_sentence() -> None:
    made = make("DDIMScheduler")
    made.alphas_cumprod = made.alphas_cumprod.to("meta")  # as one that was made without memory has it
    with pytest.raises(UsageError, match="expected alphas_cumprod with values; got a tensor on meta of DDIMScheduler"):
        Schedule.from_scheduler(made)

    class FlowMatchEulerDiscreteScheduler:
        config: ClassVar = {"shift": 1.0}

    for count in (None, 0, 10.5):
        FlowMatchEulerDiscreteScheduler.config = {"shift": 1.0, "num_train_timesteps": count}
        with pytest.raises(UsageError, match=r"a whole number of num_train_timesteps; got (None|0|10\.5) of FlowMatch"):
            Schedule.from_scheduler(FlowMatchEulerDiscreteScheduler())


def test_a_shift_that_is_set_later_is_refused() -> None:
    """The configuration's is what networks are trained with; `set_shift` changes what a sampler goes through."""
    made = make("FlowMatchEulerDiscreteScheduler")
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), made)
    assert len(prior.schedule) == 1000
    made.set_shift(3.0)
    with pytest.raises(UsageError, match=r"expected the shift of its configuration, 1\.0 .*; got 3\.0 of FlowMatch"):
        _ = prior.schedule
    made.set_shift(1.0)
    assert len(prior.schedule) == 1000


def test_a_shift_that_is_chosen_by_the_picture_is_no_matter() -> None:
    made = make("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
    expected = Schedule.from_scheduler(made)
    made.set_shift(3.0)
    t = torch.arange(1000)
    assert torch.equal(Schedule.from_scheduler(made).gather(t)[0], expected.gather(t)[0])
