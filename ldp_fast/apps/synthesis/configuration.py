"""What a run of image synthesis is made from (config.yaml)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from ...guidance.presets import find_preset
from ...runs.configuration import merged
from ...runs.settings import Wrong, as_plain, setting
from ..options import RUN, ModelConfiguration, PriorOptions, settle

NAME = "synthesize"
# Steps; where nothing else is said.
CHECKPOINT_EVERY, PRESET = 100, "image"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    prompts: list[str] = setting("one or several; each is made with each seed")
    seeds: list[int] = setting(
        "seeds of the random numbers (default: 0)", flag="seeds", metavar="SEED", group=RUN, low=0, below=2**31
    )
    steps: int = setting("iterations (default: the preset's, 1000)", flag="steps", metavar="N", group=RUN, low=1)
    # Above this a latent, whose spread is about 1, is nothing but the last step.
    learning_rate: float = setting(
        "step size of AdamW (default: the preset's, 0.1)", flag="learning-rate", metavar="LR", group=RUN, above=0
    )
    final_rate: float = setting(
        "learning rate at the end, as a fraction of that at the start (default: 0.1)",
        flag="final-rate",
        metavar="F",
        group=RUN,
        low=0,
        high=1,
        expected="a fraction between 0 and 1",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthesis(ModelConfiguration, _Run):
    """A run of image synthesis: a batch of latents, one for each prompt and seed."""

    application: ClassVar[str] = NAME

    def check(self) -> None:
        """See `Configuration.check`."""
        super().check()
        if not self.prompts:
            raise Wrong("prompts", 'expected at least one, such as ldp-fast synthesize "a red cube"')
        if not self.seeds:
            raise Wrong("seeds", "expected at least one")


def resolve(said: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    """All settings of a run, plain, from those that were said.

    Args:
        said: by a file.
        words: by flags, which win.

    Raises:
        UsageError: an unknown preset.
    """
    known = merged(said, words)
    known.setdefault("model", "primitives")
    settle(known)
    preset = find_preset(str(known.get("preset", PRESET)).replace("-", "_"))
    base = {
        "seeds": [0],
        "steps": preset.iterations,
        "learning_rate": preset.learning_rate,
        "final_rate": 0.1,
        "checkpoint_every": CHECKPOINT_EVERY,
        "preset": PRESET,
        "settings": as_plain(PriorOptions.of(preset.settings)),
    }
    return merged(base, known)
