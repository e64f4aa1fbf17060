"""Schedulers whose way to z_t somebody has replaced: the same z_t is taken, another is refused by name."""

from __future__ import annotations

import functools
import types
from typing import Any

import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior, Schedule, noising

from ..support.models import tiny_unet, tiny_vae
from .test_schedulers import FLOWS, TAKEN, Wrapped, make, quietly, scheduler_class

__all__ = ["quietly"]  # a fixture for every test of this file
# Of every way that diffusers has: by ᾱ_t, by noise levels, by a table of steps, by τ; one has none of its own.
CLASSES = (
    "DDIMScheduler DDPMScheduler EulerDiscreteScheduler HeunDiscreteScheduler UniPCMultistepScheduler "
    "DDIMInverseScheduler RePaintScheduler".split()
)
Method = Any


def method_of(name: str) -> str:
    return "scale_noise" if name in FLOWS else "add_noise"


def ordered(name: str, arguments: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """v, ε and t."""
    return (arguments[0], arguments[2], arguments[1]) if name in FLOWS else arguments  # type: ignore[return-value]


def replaced(name: str, how: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A scheduler whose noise is multiplied, by a wrapper of the class's own method."""
    cls, method = scheduler_class(name), method_of(name)
    own = getattr(cls, method, None)

    def noised(self: Any, *arguments: Any) -> Any:
        v, noise, t = ordered(name, arguments)
        if own is None or name == "RePaintScheduler":  # what their ᾱ_t means
            alpha_bar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
            return alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * factor * noise
        return own(self, v, t, factor * noise) if name in FLOWS else own(self, v, factor * noise, t)

    if how == "subclass":
        made = type("Own" + name, (cls,), {method: noised})()
    else:
        made = make(name)
        if how == "attribute":
            setattr(made, method, types.MethodType(noised, made))
        else:
            wrapper = functools.wraps(own)(noised) if own is not None else noised
            monkeypatch.setattr(cls, method, wrapper, raising=False)
    return made


@pytest.mark.parametrize("how", ["subclass", "attribute", "class"])
@pytest.mark.parametrize("name", [*CLASSES, *FLOWS])
def test_the_same_is_taken_and_another_is_refused(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Schedule.from_scheduler(make(name)).gather(torch.arange(1000))
    state = dict(vars(made)) if (made := replaced(name, how, 1.0, monkeypatch)) else {}
    found = Schedule.from_scheduler(made).gather(torch.arange(1000))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert vars(made).keys() == state.keys() and all(vars(made)[k] is x for k, x in state.items())
    monkeypatch.undo()
    other = replaced(name, how, 1.1, monkeypatch)
    words = rf"scheduler: expected {method_of(name)} to give z_t = .*; that of {type(other).__name__} gives another"
    with pytest.raises(UsageError, match=words):
        Schedule.from_scheduler(other)


def test_a_prior_refuses_it_when_it_is_made_and_when_it_is_handed_over() -> None:
    class Offset(scheduler_class("DDIMScheduler")):  # type: ignore[misc]
        """The noise offset of the fine-tunings, which is an add_noise of their own; draws, as these do."""

        def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
            noise = noise + 0.1 * torch.randn(*noise.shape[:2], 1, 1)
            return super().add_noise(original_samples, noise, timesteps)

    with pytest.raises(UsageError, match="that of Offset gives another at t = "):
        LatentDiffusionPrior(tiny_unet(), tiny_vae(), Offset())
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), make("DDIMScheduler"))
    prior.scheduler, state = Offset(), torch.get_rng_state()
    with pytest.raises(UsageError, match="that of Offset"):
        _ = prior.schedule
    assert torch.equal(torch.get_rng_state(), state), "looking drew from the host's generator"


@pytest.mark.parametrize("how", ["data", "numpy", "in place", "inference"])
def test_a_table_that_is_written_to_is_read_again(how: str) -> None:
    """By whatever writer: torch counts only some of them."""
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), make("DDIMScheduler"))
    before, table = prior.schedule, prior.scheduler.alphas_cumprod
    assert prior.schedule is before
    expected = (0.5 * table.double()).sqrt()
    if how == "data":
        table.data.mul_(0.5)
    elif how == "numpy":
        table.numpy()[:] *= 0.5
    elif how == "in place":
        table.mul_(0.5)
    else:
        with torch.inference_mode():
            prior.scheduler.alphas_cumprod = table * 0.5
    after = prior.schedule
    assert after is not before and prior.schedule is after
    torch.testing.assert_close(after.gather(torch.arange(1000))[0].double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("how", ["attribute", "class", "another class"])
@pytest.mark.parametrize("method", noising.METHODS)
def test_a_method_that_is_replaced_later_is_noticed(how: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "FlowMatchEulerDiscreteScheduler" if method == "scale_noise" else "EulerDiscreteScheduler"
    scheduler = make(name)
    if not hasattr(scheduler, method):
        pytest.skip(f"{name} has none")
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), scheduler)
    own = getattr(type(scheduler), method)

    def other(self: Any, v: Any, *arguments: Any) -> Any:
        return 1.1 * own(self, v, *arguments)

    def same(self: Any, v: Any, *arguments: Any) -> Any:
        return own(self, v, *arguments)

    before = prior.schedule
    for replacement in (same, other):
        if how == "attribute":
            setattr(scheduler, method, types.MethodType(replacement, scheduler))
        elif how == "class":
            monkeypatch.setattr(type(scheduler), method, replacement)
        else:
            scheduler.__class__ = type("Own", (scheduler_class(name),), {method: replacement})
        if replacement is same:
            assert prior.schedule is not before
        else:
            with pytest.raises(UsageError, match=f"scheduler: expected {method} to give .* gives another at t = "):
                _ = prior.schedule
    if how == "attribute":
        delattr(scheduler, method)
    elif how == "class":
        monkeypatch.undo()
    else:
        scheduler.__class__ = scheduler_class(name)
    assert len(prior.schedule) == 1000


@pytest.mark.parametrize("wrong", [lambda t: t.clamp(min=200), lambda t: t.clamp(max=900)])
def test_the_ends_are_asked_as_well(wrong: Any) -> None:
    class Ends(scheduler_class("DDPMScheduler")):  # type: ignore[misc]
        def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
            return super().add_noise(original_samples, noise, wrong(timesteps))

    with pytest.raises(UsageError, match=r"that of Ends gives another at t = (125|999)$"):
        Schedule.from_scheduler(Ends())


def test_steps_may_be_floats_until_somebody_samples() -> None:
    class Same(scheduler_class("SASolverScheduler")):  # type: ignore[misc]
        def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
            return super().add_noise(original_samples, noise, timesteps)

    assert len(Schedule.from_scheduler(Same())) == 1000


def test_of_another_object() -> None:
    made, other = (make("DDPMScheduler", beta_end=end) for end in (0.02, 0.03))
    made.add_noise = make("DDPMScheduler").add_noise  # of an equal one
    assert len(Schedule.from_scheduler(made)) == 1000
    made.add_noise = other.add_noise
    with pytest.raises(UsageError, match="gives another"):
        Schedule.from_scheduler(made)


class Foreign:
    """A host's own scheduler, with diffusers' names."""

    def __init__(self, noised: Method = None):
        self.alphas_cumprod = torch.linspace(0.99, 0.01, 100)
        if noised is not None:
            self.add_noise = functools.partial(noised, self.alphas_cumprod)


def vp(bar: Any, v: Any, noise: Any, t: Any) -> Any:
    return bar[t].sqrt() * v + (1 - bar[t]).sqrt() * noise


@pytest.mark.parametrize("noised", [None, vp, lambda bar, v, noise, t: vp(bar, v, noise, t) / bar[t].sqrt()])
def test_foreign_classes_are_taken_in_either_scaling(noised: Method) -> None:
    assert len(Schedule.from_scheduler(Foreign(noised))) == 100


@pytest.mark.parametrize(
    ("noised", "words"),
    [
        (lambda bar, v, noise, t: bar[t] * v + (1 - bar[t]) * noise, "gives another at t = 0"),
        (lambda bar, v, noise, t: vp(bar, v, noise, t) * torch.nan, "gives another at t = 0"),
        (lambda bar, v, noise, t: vp(bar, v, noise, t if t < 60 else t - 40), "gives another at t = 61"),
        (lambda bar, v, noise, t: None, r"gives a NoneType for latents \[1, 4, 8, 8\]"),
        (lambda bar, v, noise, t: v[0], r"gives a tensor \[4, 8, 8\] for latents"),
        (lambda bar, v: v, "cannot be called as diffusers' is"),
    ],
    ids=range(6),
)
def test_foreign_classes_that_deviate_are_refused(noised: Method, words: str) -> None:
    with pytest.raises(UsageError, match=f"scheduler: expected add_noise .*; that of Foreign {words}"):
        Schedule.from_scheduler(Foreign(noised))


def test_a_sampler_s_steps_are_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `set_timesteps` some look t up among a few, which need not be whole."""
    for name in ("EulerDiscreteScheduler", "UniPCMultistepScheduler", FLOWS[0]):
        for how in ("subclass", "class"):
            made = replaced(name, how, 1.0, monkeypatch)
            made.set_timesteps(7)
            assert len(Schedule.from_scheduler(made)) == 1000
            monkeypatch.undo()


@pytest.mark.parametrize("name", [*TAKEN, *FLOWS])
def test_diffusers_own_are_not_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> None:
        raise AssertionError("compared")

    monkeypatch.setattr(noising, "_Question", asked)
    made = make(name)
    assert len(Schedule.from_scheduler(made)) == 1000
    plain = type("Plain", (type(made),), {"step": lambda self, *_: None})
    assert len(Schedule.from_scheduler(plain())) == 1000


SAMPLED = (
    "EulerDiscreteScheduler EulerAncestralDiscreteScheduler HeunDiscreteScheduler LMSDiscreteScheduler "
    "DPMSolverMultistepScheduler DPMSolverSinglestepScheduler UniPCMultistepScheduler DEISMultistepScheduler "
    "SASolverScheduler DDIMScheduler".split()
)


def sampled(scheduler: Any, how: str) -> Any:
    """As a pipeline leaves it: at the end of img2img, or with the one step of a distilled model."""
    if how == "one step":
        scheduler.set_timesteps(1)
    elif how == "img2img":
        scheduler.set_timesteps(10)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(4)
        x = torch.zeros(1, 4, 8, 8)
        for t in scheduler.timesteps[4:]:
            x = scheduler.step(x, t, scheduler.scale_model_input(x, t)).prev_sample
    return scheduler


@pytest.mark.parametrize("how", ["new", "img2img", "one step"])
@pytest.mark.parametrize("name", [*SAMPLED, FLOWS[0]])
def test_what_somebody_samples_with_hides_nothing(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of sampling diffusers' methods add no noise at all, whoever else is asked."""
    if how == "img2img" and name in FLOWS:
        pytest.skip("has no scale_model_input")
    same = sampled(replaced(name, "subclass", 1.0, monkeypatch), how)
    state = dict(vars(same))
    assert len(Schedule.from_scheduler(same)) == 1000
    assert vars(same).keys() == state.keys() and all(vars(same)[k] is x for k, x in state.items())
    with pytest.raises(UsageError, match="gives another at t = "):
        Schedule.from_scheduler(sampled(replaced(name, "subclass", 1.1, monkeypatch), how))


@pytest.mark.parametrize("how", ["new", "img2img", "one step"])
@pytest.mark.parametrize("name", SAMPLED)
def test_what_the_tables_say_is_right_whatever_diffusers_makes_of_it(name: str, how: str) -> None:
    class Right(scheduler_class(name)):  # type: ignore[misc]
        factor = 1.0

        def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
            return vp(self.alphas_cumprod, original_samples, self.factor * noise, timesteps.long())

    assert len(Schedule.from_scheduler(sampled(Right(), how))) == 1000
    other = sampled(Right(), how)
    other.factor = 1.1
    with pytest.raises(UsageError, match="that of Right gives another at t = "):
        Schedule.from_scheduler(other)


def test_noise_without_shrinking_needs_a_class_that_scales_its_input() -> None:
    def grows(self: Any, v: Any, noise: Any, t: Any) -> Any:
        bar = self.alphas_cumprod[t.long()]
        return v + (1 / bar - 1).sqrt() * noise

    for name in ("EulerDiscreteScheduler", "DDIMScheduler", "UniPCMultistepScheduler"):
        made = type("Grows", (scheduler_class(name),), {"add_noise": grows})()
        if name.startswith("Euler"):
            assert len(Schedule.from_scheduler(made)) == 1000
        else:
            with pytest.raises(UsageError, match="that of Grows gives another"):
                Schedule.from_scheduler(made)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_default_dtype_is_no_matter(dtype: torch.dtype) -> None:
    made = [Foreign(vp), type("Own", (scheduler_class("DDIMScheduler"),), {"add_noise": right})()]
    torch.set_default_dtype(dtype)
    try:
        assert [len(Schedule.from_scheduler(x)) for x in made] == [100, 1000]
    finally:
        torch.set_default_dtype(torch.float32)


def right(self: Any, v: Any, noise: Any, t: Any) -> Any:
    return vp(self.alphas_cumprod, v, noise, t)


def test_another_thread_may_sample_meanwhile() -> None:
    """The scheduler is not touched: a copy is asked."""

    class Steps(scheduler_class("DDIMScheduler")):  # type: ignore[misc]
        def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
            scheduler.set_timesteps(7)  # what another thread does
            return super().add_noise(original_samples, noise, timesteps)

    scheduler = Steps()
    assert len(Schedule.from_scheduler(scheduler)) == 1000
    assert scheduler.num_inference_steps == len(scheduler.timesteps) == 7


@pytest.mark.parametrize("kind", ["parameter", "strided", "list of tensors", "list", "array"])
def test_every_kind_of_table_is_read_again(kind: str) -> None:
    bar = torch.linspace(0.99, 0.01, 100)
    table: Any = {
        "parameter": torch.nn.Parameter(bar),
        "strided": torch.stack([bar, bar], 1)[:, 0],
        "list of tensors": list(bar.clone().unbind()),
        "list": bar.tolist(),
        "array": bar.numpy(),
    }[kind]
    scheduler = types.SimpleNamespace(alphas_cumprod=table)
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), scheduler)
    before = prior.schedule
    assert prior.schedule is before
    if kind == "list":
        table[40] = 0.5
    elif kind == "array":
        table[40] = 0.5
    else:
        table[40].data.fill_(0.5)
    after = prior.schedule
    assert after is not before and prior.schedule is after
    assert float(after.gather(torch.tensor([40]))[0]) == pytest.approx(0.5**0.5)


def test_what_a_wrapper_wraps_may_change_later() -> None:
    inner = make("DDIMScheduler")
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), Wrapped(inner))
    before = prior.schedule
    assert prior.schedule is before
    own = inner.add_noise
    inner.add_noise = lambda v, noise, t: own(v, 1.1 * noise, t)
    with pytest.raises(UsageError, match="that of Wrapped gives another at t = "):
        _ = prior.schedule
    del inner.add_noise
    assert len(prior.schedule) == 1000
    flow = make(FLOWS[0])
    prior.scheduler = Wrapped(flow)
    assert len(prior.schedule) == 1000
    flow.set_shift(3.0)
    with pytest.raises(UsageError, match=r"expected the shift of its configuration, 1\.0"):
        _ = prior.schedule


def offset(name: str, how: str) -> Any:
    """Deviates by what it writes to in place."""
    cls = scheduler_class(name)

    def add_noise(self: Any, v: Any, noise: Any, t: Any) -> Any:
        if how == "noise":
            noise += 0.1 * torch.randn(*noise.shape[:2], 1, 1)
        else:
            (v if how == "v" else noise).mul_(1.1)
        return cls.add_noise(self, v, noise, t)

    def scale_noise(self: Any, v: Any, t: Any, noise: Any) -> Any:
        noise.mul_(1.1)
        return cls.scale_noise(self, v, t, noise)

    def scale_model_input(self: Any, x: Any, *t: Any) -> Any:
        return cls.scale_model_input(self, x.mul_(1.1), *t)

    methods = {"scale_noise": scale_noise} if name in FLOWS else {"add_noise": add_noise}
    return type("Offset", (cls,), {"scale_model_input": scale_model_input} if how == "input" else methods)()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, how) for name in (*CLASSES[:3], "DPMSolverMultistepScheduler") for how in ("noise", "v", "times")),
        *((name, "input") for name in CLASSES[:3]),
        (FLOWS[0], "times"),
    ],
)
def test_what_is_written_in_place_is_seen(name: str, how: str) -> None:
    with pytest.raises(UsageError, match="that of Offset gives another at t = "):
        Schedule.from_scheduler(offset(name, how))


class Forwards(Wrapped):
    """With a method of its own."""

    factor = 1.0

    def add_noise(self, v: Any, noise: Any, t: Any) -> Any:
        return self.inner.add_noise(v, self.factor * noise, t)

    def scale_noise(self, v: Any, t: Any, noise: Any) -> Any:
        return self.inner.scale_noise(v, t, self.factor * noise)


class Explicit:
    """Forwards nothing that it does not name."""

    factor = 1.0

    def __init__(self, inner: Any):
        self.inner = inner
        if hasattr(inner, "alphas_cumprod"):
            self.alphas_cumprod = inner.alphas_cumprod.clone()

    @property
    def config(self) -> Any:
        return self.inner.config

    add_noise, scale_noise = Forwards.add_noise, Forwards.scale_noise


class Nested(Forwards):
    def __init__(self, inner: Any):
        super().__init__(Explicit(inner))
        self.inner.set_timesteps = inner.set_timesteps


@pytest.mark.parametrize("how", ["new", "img2img", "one step"])
@pytest.mark.parametrize("wrapper", [Forwards, Explicit, Nested])
@pytest.mark.parametrize("name", [*SAMPLED, *FLOWS])
def test_wrappers_with_methods_of_their_own(name: str, wrapper: Any, how: str) -> None:
    if how == "img2img" and name in FLOWS:
        pytest.skip("has no scale_model_input")
    inner = sampled(make(name), how)
    state = dict(vars(inner))
    made = wrapper(inner)
    t = torch.arange(1000)
    expected = Schedule.from_scheduler(make(name))
    found = Schedule.from_scheduler(made)
    assert all(torch.equal(a, b) for a, b in zip(found.gather(t), expected.gather(t), strict=True))
    assert vars(inner).keys() == state.keys() and all(vars(inner)[k] is x for k, x in state.items())
    made.factor = 1.1
    with pytest.raises(UsageError, match="gives another at t = "):
        Schedule.from_scheduler(made)


def decided(scheduler: Any, factor: float) -> None:
    """Taken where noise is added as it is, refused where it is multiplied."""
    if factor == 1.0:
        assert len(Schedule.from_scheduler(scheduler)) == 1000
    else:
        with pytest.raises(UsageError, match="gives another at t = "):
            Schedule.from_scheduler(scheduler)


@pytest.mark.parametrize("how", ["new", "img2img", "one step"])
@pytest.mark.parametrize("name", SAMPLED)
def test_a_patch_around_the_objects_own_method(name: str, how: str) -> None:
    for factor in (1.0, 1.1):
        made = sampled(make(name), how)
        own = made.add_noise
        made.add_noise = types.MethodType(lambda self, v, e, t, own=own, f=factor: own(v, f * e, t), made)
        decided(made, factor)


def test_methods_of_every_kind() -> None:
    base = scheduler_class("DDIMScheduler")

    def times(self: Any, factor: float, v: Any, noise: Any, t: Any) -> Any:
        return base.add_noise(self, v, factor * noise, t)

    class Slotted(base):  # type: ignore[misc, valid-type]
        __slots__ = ("factor",)

        def add_noise(self, v: Any, noise: Any, t: Any) -> Any:
            return base.add_noise(self, v, self.factor * noise, t)

    for factor in (1.0, 1.1):
        slotted = Slotted()
        slotted.factor = factor
        methods = {"times": times, "add_noise": functools.partialmethod(times, factor)}
        for made in (slotted, type("Partial", (base,), methods)()):
            decided(made, factor)


def test_noise_levels_of_a_classs_own_are_seen() -> None:
    class Shifted(scheduler_class("EulerDiscreteScheduler")):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.sigmas = 1.1 * self.sigmas

        def add_noise(self, v: Any, noise: Any, t: Any) -> Any:
            return super().add_noise(v, noise, t)

    with pytest.raises(UsageError, match="that of Shifted gives another at t = "):
        Schedule.from_scheduler(Shifted())


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"])
def test_steps_that_are_not_whole(name: str) -> None:
    made = type("Whole", (scheduler_class(name),), {"add_noise": lambda self, v, e, t: right(self, v, e, t.long())})
    assert len(Schedule.from_scheduler(made(use_karras_sigmas=True))) == 1000


class Property(Explicit):
    add_noise = property(lambda self: self.inner.add_noise)  # type: ignore[assignment]


class Fresh(Explicit):
    add_noise = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name != "add_noise":
            return super().__getattribute__(name)
        bound = super().__getattribute__("inner").add_noise  # another object at every look, and so is what it is in
        return lambda v, noise, t: bound(v, noise, t)


@pytest.mark.parametrize("wrapper", [Wrapped, Forwards, Explicit, Property, Fresh])
def test_another_scheduler_in_a_wrapper_is_noticed(wrapper: Any) -> None:
    made = wrapper(make("DDIMScheduler"))
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), made)
    before = prior.schedule
    assert prior.schedule is before
    made.inner = replaced("DDIMScheduler", "subclass", 1.1, None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="gives another at t = "):
        _ = prior.schedule
    made.inner = make("DDIMScheduler")
    assert len(prior.schedule) == 1000
    own = made.inner.add_noise
    made.inner.add_noise = lambda v, noise, t: own(v, 1.1 * noise, t)
    with pytest.raises(UsageError, match="gives another at t = "):
        _ = prior.schedule


def test_a_number_that_somebodys_own_method_looks_at_is_followed() -> None:
    class Own(scheduler_class("DDIMScheduler")):  # type: ignore[misc]
        factor = 1.0

        def add_noise(self, v: Any, noise: Any, t: Any) -> Any:
            return super().add_noise(v, self.factor * noise, t)

    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), Own())
    before = prior.schedule
    assert prior.schedule is before
    prior.scheduler.factor = 1.1
    with pytest.raises(UsageError, match="that of Own gives another at t = "):
        _ = prior.schedule
