"""What every application says of its model and its prior: typed, as flags, and loaded."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import pathlib
from typing import Any, Literal, Self, TypeVar

import torch

from .. import _settings
from ..errors import UsageError
from ..guidance import PRESETS, LatentDiffusionPrior
from ..guidance.loading import edition_of, embedded_models, locate
from ..guidance.presets import PriorSettings, find_preset
from ..runs.configuration import Configuration, merged
from ..runs.flags import build, given
from ..runs.names import as_typed
from ..runs.settings import Wrong, as_plain, setting, underscores
from .config_flag import start_from
from .hub import check_endpoint, reachable

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What says which of a model's files are read; a run records those that were given.
FILES = ("variant", "config", "tokenizer")
# Steps, for an application that does not say.
CHECKPOINT_EVERY = 100
NEGATIVE = "what the result should not show (default: the empty prompt; for SDXL an embedding of zeros)"
_DEVICES = ("cpu", "cuda", "mps", "xpu")
MODEL, PRIOR, RUN = "model", "prior", "run"
GROUPS = {MODEL: None, PRIOR: "what is not given comes from the preset (docs/mathematics.md)"}


def seed_setting() -> Any:
    """The field `seed` of a configuration."""
    return setting(
        "seed of the random numbers (default: 0)",
        flag="seed",
        metavar="S",
        group=RUN,
        low=0,
        below=2**31,
        default=0,
    )


def file_and_weight(word: str) -> tuple[str, float]:
    """`FILE:WEIGHT` or `FILE` as both; a name may hold colons, and stands for itself where there is such a file.

    Raises:
        argparse.ArgumentTypeError: not the name of a file, or a weight that is not finite.
    """
    file, colon, last = word.rpartition(":")
    within = "/" in last or "\\" in last  # of a drive, or of a folder with a colon
    if not colon or within or pathlib.Path(word).exists():
        file, last = word, "1"
    try:
        weight = float(last)
    except ValueError:
        weight = math.nan
    if not file or not math.isfinite(weight):
        raise argparse.ArgumentTypeError(f"expected FILE or FILE:WEIGHT, such as style.safetensors:0.8; got {word!r}")
    return file, weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorOptions:
    """What of `PriorSettings` a run records and flags may change."""

    lambda_fm: float = setting(
        "weight λ1 of feature matching; 0 skips the decoder", flag="lambda-fm", metavar="L1", group=PRIOR, low=0
    )
    lambda_kl: float = setting("weight λ2 of the KL regulariser", flag="lambda-kl", metavar="L2", group=PRIOR, low=0)
    lambda_lsd: float = setting(
        "weight λ3 of latent score distillation", flag="lambda-lsd", metavar="L3", group=PRIOR, low=0
    )
    guidance_scale: float | None = setting(
        "how much more the prompt counts than an empty one", flag="guidance-scale", metavar="S", group=PRIOR
    )
    guidance: Literal["from_uncond", "from_text"] = setting(
        "formula of that scale s: from_uncond, e_u + s (e_c - e_u), or from_text, e_c + s (e_c - e_u)",
        flag="guidance",
        metavar="NAME",
        group=PRIOR,
        spelling=underscores,
    )
    weighting: Literal["uniform", "dreamfusion", "latent_nerf"] = setting(
        "weight w(t) of a timestep: uniform, dreamfusion or latent_nerf",
        flag="weighting",
        metavar="NAME",
        group=PRIOR,
        spelling=underscores,
    )
    scale: Literal["latent", "literal", "balanced"] = setting(
        "what the weights refer to: latent (alike at every size), balanced (feature matching's gradient in proportion "
        "to score distillation's) or literal (the paper's formulas)",
        flag="scale",
        metavar="NAME",
        group=PRIOR,
    )
    nonfinite: Literal["propagate", "zero", "raise"] = setting(
        "NaN and infinity in a gradient: propagate passes them on, zero replaces them with 0 and counts them, raise "
        "ends with an error",
        flag="nonfinite",
        metavar="NAME",
        group=PRIOR,
    )
    levels: tuple[str, ...] = setting(
        "decoder levels that feature matching compares: mid up0 up1 …", flag="levels", metavar="LEVEL", group=PRIOR
    )
    timestep_range: tuple[float, float] = setting(
        "lowest and highest timestep, as fractions of the schedule, such as 0.02 0.98",
        flag="timestep-range",
        metavar="LOW HIGH",
        group=PRIOR,
        low=0,
        high=1,
        ordered=True,
    )
    anneal_to: float | None = setting(
        "highest timestep at the end of the run, as a fraction; it falls to that evenly",
        flag="anneal-to",
        metavar="HIGH",
        group=PRIOR,
        low=0,
        high=1,
    )
    noises: int = setting(
        "how many noises the model looks through at one timestep; their mean is followed (default: 1)",
        flag="noises",
        metavar="K",
        group=PRIOR,
        low=1,
        default=1,
        omitted=True,
    )

    @classmethod
    def of(cls, settings: PriorSettings) -> Self:
        """Those of a prior's settings."""
        return cls(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConfiguration(Configuration):
    """A model, where and in which precision it is computed, and how often a run is kept."""

    model: str = setting(
        "embedded model, folder in diffusers' format, one .safetensors file, or owner/name on the Hugging Face hub",
        flag="model",
        group=MODEL,
        default="primitives",
    )
    device: str | None = setting(
        "where to compute: cpu, cuda, cuda:1, … (default: a GPU if there is one)",
        flag="device",
        group=MODEL,
        default=None,
        about_result=False,
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = setting(
        "precision of the model: float32, bfloat16 or float16 (default: float16 on a GPU; on a CPU, for an embedded "
        "model and for a CLIP float32)",
        flag="dtype",
        group=MODEL,
        default=None,
    )
    checkpoint_every: int = setting(
        "steps between two checkpoints",
        flag="checkpoint-every",
        metavar="N",
        group=RUN,
        low=1,
        about_result=False,
    )
    keep: int = setting(
        "how many checkpoints to keep, the newest (default: 3)",
        flag="keep",
        metavar="N",
        group=RUN,
        low=1,
        default=3,
        about_result=False,
    )

    def check(self) -> None:
        """See `Configuration.check`."""
        if self.device is not None:
            check_device(self.device)

    def fingerprint(self) -> str:
        """See `Configuration.fingerprint`; of later editions of an embedded model it is another."""
        found, edition = super().fingerprint(), self.edition
        return found if edition == 1 else hashlib.sha256(f"{found} {edition}".encode()).hexdigest()

    @property
    def edition(self) -> int:
        """Of the model's weights, see `edition_of`."""
        return edition_of(self.model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfiguration(BaseConfiguration):
    """A latent diffusion model's files, and the prior."""

    variant: str | None = setting(
        "which of the weights in a model's folder to load, such as fp16 (default: those without a suffix)",
        flag="variant",
        metavar="NAME",
        group=MODEL,
        default=None,
        omitted=True,
    )
    # Its flag, --config, is declared by hand: it also names a file of settings.
    config: str | None = setting("kind of model in one .safetensors file, or a folder", default=None, omitted=True)
    tokenizer: str | None = setting(
        "folder with vocab.json and merges.txt, for one .safetensors file (default: CLIP's, which is included)",
        flag="tokenizer",
        metavar="DIR",
        group=MODEL,
        default=None,
        omitted=True,
    )
    lora: list[tuple[str, float]] | None = setting(
        "LoRA to add to the model's weights, times W (default: 1); may be given several times",
        flag="lora",
        metavar="FILE[:W]",
        group=MODEL,
        word=file_and_weight,
        repeated=True,
        default=None,
        omitted=True,
    )
    preset: str = setting(
        f"settings to start from: {', '.join(PRESETS)}",
        flag="preset",
        metavar="NAME",
        group=PRIOR,
        spelling=underscores,
    )
    settings: PriorOptions
    negative_prompt: str = setting(NEGATIVE, flag="negative-prompt", metavar="TEXT", group=RUN, default="")

    def check(self) -> None:
        """See `Configuration.check`."""
        super().check()
        try:
            self.prior_settings()
        except UsageError as error:
            name, _, said = str(error).partition(": ")
            raise Wrong(name if name == "preset" else f"settings.{name}", said) from None

    def prior_settings(self) -> PriorSettings:
        """The prior's settings, the preset's where a run does not record them."""
        return dataclasses.replace(find_preset(self.preset).settings, **vars(self.settings))


M = TypeVar("M", bound=ModelConfiguration)


def check_device(device: str) -> None:
    """Checks that a device is one that computes.

    Raises:
        Wrong: it is not.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in _DEVICES:
        raise Wrong("device", f"{device!r} cannot be used here: expected one of {', '.join(_DEVICES)}, or cuda:1")


def check_device_flag(device: str | None) -> None:
    """Checks --device, where it was given.

    Raises:
        UsageError: it cannot compute.
    """
    if device is not None:
        try:
            check_device(device)
        except Wrong as error:
            raise UsageError(f"--device: {error.said}") from None


def check_backend(device: str | None) -> None:
    """Checks that the operators can run on a device as LDP_FAST_BACKEND has it.

    Raises:
        UsageError: Triton's kernels on a CPU without Triton's interpreter.
    """
    on_cpu = device is None or torch.device(device).type == "cpu"
    if _settings.backend() == "triton" and on_cpu and not _settings.interpreting():
        raise UsageError(
            "LDP_FAST_BACKEND=triton: expected a GPU, or TRITON_INTERPRET=1 for Triton's interpreter on a CPU; got "
            f"device {device or 'cpu'} without either; or leave LDP_FAST_BACKEND unset"
        )


def settle(plain: dict[str, Any]) -> None:
    """Fills in a device and a dtype as they will be, so that another machine does not take others."""
    device = plain.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    half = str(device).startswith("cuda") and plain.get("model") not in embedded_models()
    plain["device"], plain["dtype"] = device, plain.get("dtype") or ("float16" if half else "float32")


def unsaid(cls: type[ModelConfiguration], preset: str = "image") -> dict[str, Any]:
    """What holds for an application without rules of its own where nothing is said: first of all its fields' defaults.

    Args:
        cls: the configuration.
        preset: of the prior, where the field does not have a default.

    Returns:
        `model`, `device`, `dtype`, `preset` and `checkpoint_every`.
    """
    rest = {"preset": preset, "checkpoint_every": CHECKPOINT_EVERY}
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    names = ("model", "device", "dtype", "preset", "checkpoint_every")
    return {name: rest[name] if fields[name] is dataclasses.MISSING else fields[name] for name in names}


def configure(args: argparse.Namespace, cls: type[M], preset: str = "image", **more: Any) -> M:
    """The configuration of an application without rules of its own: its defaults, --config's file, flags, and more.

    Args:
        args: of the command line, with `add_config_flag` and the flags of `cls`.
        cls: the configuration.
        preset: of the prior, where none is chosen.
        more: settings that win over all of them, such as `prompt` and `settings`.

    Raises:
        UsageError: an unknown name, a value of another type or out of its range.
    """
    said, file = start_from(args, cls.application)
    words = given(args, cls)
    if "negative_prompt" in words:
        words["negative_prompt"] = as_typed(words["negative_prompt"], "--negative-prompt")
    known = merged(unsaid(cls, preset), merged(merged(said, words), more))
    settle(known)
    found = find_preset(underscores(str(known["preset"])))
    base = {"settings": as_plain(PriorOptions.of(found.settings))}
    return build(cls, merged(base, known), args, file)


def load_prior(configuration: ModelConfiguration, device: str | None = None) -> LatentDiffusionPrior:
    """The prior that a configuration describes, with per-sample gradients.

    Args:
        configuration: of a run.
        device: in place of the configuration's. What a GPU computes in half precision a CPU computes in full.

    Raises:
        UsageError: unknown model, device, level, …; a model that cannot be fetched.
    """
    c = configuration
    check_backend(device or c.device)
    check_endpoint()
    one_file = pathlib.Path(locate(c.model)).is_file()
    name = c.model if one_file else reachable("model", c.model, "model_index.json")
    where, dtype = device or c.device, DTYPES[c.dtype] if c.dtype else None
    if where == "cpu" and c.device != "cpu" and dtype is torch.float16:
        dtype = torch.float32
    files: dict[str, Any] = {name: value for name in FILES if (value := getattr(c, name)) is not None}
    if c.lora is not None:
        files["lora"] = [(file, weight) for file, weight in c.lora]
    prior = LatentDiffusionPrior.from_pretrained(
        name,
        **files,
        preset=c.preset,
        device=where,
        dtype=dtype,
        batch_reduction="sum",
        **vars(c.settings),
    )
    if prior.settings.lambda_fm != 0:
        try:
            _ = prior.decoder
        except (ValueError, TypeError) as error:
            raise UsageError(str(error)) from None
    return prior
