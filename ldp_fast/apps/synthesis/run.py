"""A run of image synthesis: what it is to the loop, and what it leaves."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...runs import files, image_files, loop
from ...runs.experiment import Application, Products
from ...runs.names import name_of
from ...runs.profile import Profile
from ..options import load_prior
from .configuration import NAME, Synthesis
from .expected import TO_LOWER, check_fits, expect
from .latents import HISTORY, LatentOptimiser

LABELS = {
    "unet": "UNet",
    "decoder": "decoder (feature matching)",
    "prior": "losses and gradient",
    "optimiser": "optimiser",
}
FORMER_CHECKPOINT = "checkpoint.safetensors"


class ImageSynthesis(LatentOptimiser):
    """A run's experiment: a latent for each prompt and seed.

    Args:
        configuration: of the run.
        device: in place of the configuration's.
    """

    def __init__(self, configuration: Synthesis, device: str | None = None):
        c = self.configuration = configuration
        prior = load_prior(c, device)
        check_fits(c, prior)
        encoded = prior.encode_prompt(c.prompts, c.negative_prompt or None)
        rows = torch.arange(len(c.prompts), device=encoded.text.device).repeat_interleave(len(c.seeds))
        self.items = [(prompt, seed) for prompt in c.prompts for seed in c.seeds]
        super().__init__(
            prior,
            encoded.select(rows),
            [seed for _, seed in self.items],
            steps=c.steps,
            learning_rate=c.learning_rate,
            final_rate=c.final_rate,
            columns=len(c.seeds),
        )

    def products(self, folder: pathlib.Path) -> Products:
        """The pictures, and the losses as a figure."""
        return {"pictures": lambda: self._write_pictures(folder), "losses": lambda: self._write_losses(folder)}

    def _write_pictures(self, folder: pathlib.Path) -> list[pathlib.Path]:
        images, written = self.images(), [folder / "image.png"]
        if len(self.items) > 1:
            for index, ((prompt, seed), image) in enumerate(zip(self.items, images, strict=True)):
                written.append(folder / "images" / f"{index:03d}-{name_of(prompt)}-seed{seed}.png")
                image_files.save_png(written[-1], image)
        image_files.save_png(written[0], image_files.contact_sheet(images, self.columns))
        return written

    def _write_losses(self, folder: pathlib.Path) -> list[pathlib.Path]:
        image_files.save_figure(folder / "losses.png", loss_figure(self.history))
        return [folder / "losses.png"]


def begin(configuration: Synthesis, *, device: str | None = None, rank: int = 0, world: int = 1) -> ImageSynthesis:
    """A run's experiment at step 0.

    Raises:
        UsageError: a model, a prompt or a device that cannot be used, or too little memory.
    """
    return ImageSynthesis(configuration, device)


def _time_networks(experiment: Any, profile: Profile) -> None:
    profile.time_prior(experiment.prior)


def former_configuration(folder: pathlib.Path) -> dict[str, Any] | None:
    """The plain configuration of a run of an earlier version, which kept it in run.json; None if it is not there.

    Raises:
        UsageError: run.json is damaged.
    """
    if (folder / "config.yaml").exists() or not (folder / "run.json").exists():
        return None
    found = files.read_json(folder / "run.json")
    configuration = found.get("configuration") if isinstance(found, dict) else None
    if not isinstance(configuration, dict):
        raise UsageError(f"{folder / 'run.json'} is damaged: it lacks 'configuration'")
    return configuration


def former_state(folder: pathlib.Path, configuration: Any) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The checkpoint of a run of an earlier version; None if it is not there.

    Raises:
        UsageError: it is damaged, or belongs to another configuration.
    """
    path = folder / FORMER_CHECKPOINT
    if not path.exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            facts = dict(file.metadata() or {})
        found, _ = facts["fingerprint"], int(facts["step"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise UsageError(f"{path} is damaged ({error}); delete it to start again from the beginning") from None
    if found != _former_fingerprint(configuration.plain()) or configuration.edition != 1:
        raise UsageError(
            f"{path} belongs to another configuration than {folder / 'run.json'} describes, or to another "
            f"edition of its embedded model"
        )
    return tensors, facts


def _former_fingerprint(plain: Mapping[str, Any]) -> str:
    former = {name: value for name, value in plain.items() if name != "keep"}
    return hashlib.sha256(json.dumps(former, sort_keys=True).encode()).hexdigest()


APPLICATION = Application(
    name=NAME,
    class_of=lambda plain: Synthesis,
    begin=begin,
    result="image.png",
    labels=LABELS,
    networks=_time_networks,
    to_lower=TO_LOWER,
    expect=expect,
    former_files=(FORMER_CHECKPOINT, "image.png", "losses.png", "images/*-seed*.png"),
    former_configuration=former_configuration,
    former_state=former_state,
)


def synthesize(folder: pathlib.Path, configuration: Synthesis, options: loop.Options | None = None) -> int:
    """Runs a configuration in a folder; see `runs.loop.run`."""
    return loop.run(APPLICATION, folder, configuration, options)


def loss_figure(history: torch.Tensor) -> Any:
    """The three losses, and each term's gradient norm before its λ, over the steps.

    Args:
        history: `[steps, len(HISTORY)]` of a `LatentOptimiser`.
    """
    figure, (axes,) = image_files.new_figure(1, 2, (11, 3.8))
    steps = range(1, len(history) + 1)
    for name, label in (("lsd", "L_LSD"), ("fm", "L_FM"), ("kl", "L_KL")):
        axes[0].plot(steps, history[:, HISTORY.index(name)], label=label, linewidth=0.9)
        axes[1].plot(steps, history[:, HISTORY.index(f"norm_{name}")], label=label, linewidth=0.9)
    axes[0].set(title="losses (mean-type values)", xlabel="step", yscale="log")
    axes[1].set(title="gradient norms on the latent, before the λ's", xlabel="step", yscale="log")
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    return figure
