"""The cells of the experiment, the most deciding first, and what all of them have in common."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Sequence

from ldp_fast.errors import UsageError
from ldp_fast.guidance.loading import locate, notes_of
from ldp_fast.guidance.presets import find_preset
from ldp_fast.zoo import captions

MODEL, PRESET = "primitives", "image"
LAMBDAS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
GUIDANCES = (3.0, 5.0, 7.5, 15.0)
SCALES = ("balanced", "latent", "literal")
STEPS, CHECKPOINTS = 300, (25, 50, 100, 150, 200, 300)
DEFAULT_GUIDANCE = 5.0  # the embedded model's own
GROUPS = {
    "fm": "λ1 at the default guidance, scale `balanced`",
    "kl": "λ2 likewise",
    "guidance": "few λ1 and λ2 over the guidance scale",
    "scale": "λ1 and λ2 on the scales `latent` and `literal`",
    "branches": "the factor (1 + α_t)",
    "rest": "the rest of the grid",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One choice of settings: a batch of pictures is made with it.

    Attributes:
        lambda_fm, lambda_kl, lambda_lsd: λ1, λ2, λ3.
        guidance: s of classifier-free guidance.
        scale: of the terms.
        branches: how feature matching's branches are weighed.
        seed: of the initial latents and of everything that a step draws.
    """

    lambda_fm: float
    lambda_kl: float
    guidance: float = DEFAULT_GUIDANCE
    scale: str = "balanced"
    lambda_lsd: float = 1.0
    branches: str = "paper"
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its files."""
        lambdas = f"fm{self.lambda_fm:g}-kl{self.lambda_kl:g}-lsd{self.lambda_lsd:g}"
        return f"{self.scale}-g{self.guidance:g}-{lambdas}-{self.branches}-seed{self.seed}"

    def simplest(self) -> Cell:
        """The cell with the same gradient that is called by the fewest words: what is off has no scale."""
        scale, branches = self.scale, self.branches
        if self.lambda_fm == 0:
            branches = "paper"
            # Without feature matching `latent` is `balanced`, and without the KL term `literal` is too.
            scale = "literal" if scale == "literal" and self.lambda_kl != 0 else "balanced"
        return dataclasses.replace(self, scale=scale, branches=branches)


def _all(fm: float, kl: float) -> Iterator[tuple[str, Cell]]:
    for value in LAMBDAS:
        yield "fm", Cell(value, kl)
    yield "fm", Cell(0.0, 0.0)
    yield "fm", Cell(fm, 0.0)
    for value in LAMBDAS:
        yield "kl", Cell(fm, value)
    for value in LAMBDAS:
        yield "kl", Cell(0.0, value)
    for guidance in GUIDANCES:
        for value in (0.0, 0.3, 3.0):
            yield "guidance", Cell(value, kl, guidance)
        for value in (0.0, 0.1, 1.0):
            yield "guidance", Cell(fm, value, guidance)
        yield "guidance", Cell(0.0, 0.0, guidance)
    for scale in SCALES[1:]:
        for value in LAMBDAS:
            yield "scale", Cell(value, kl, scale=scale)
        for value in LAMBDAS:
            yield "scale", Cell(0.0, value, scale=scale)  # of `latent` they are there
    for branches in ("paper", "ones", "v-prime"):
        # With λ3 = 0 feature matching is alone, beside the KL term.
        yield "branches", Cell(fm, kl, branches=branches, lambda_lsd=0.0)
        for value in (3.0, 1.0, 0.3):
            yield "branches", Cell(value, kl, branches=branches)
        for value in (0.03, 0.1):
            yield "branches", Cell(value, kl, scale="latent", branches=branches)
    for scale in SCALES:
        for guidance in GUIDANCES:
            for value in LAMBDAS:
                yield "rest", Cell(value, kl, guidance, scale)
            for value in LAMBDAS:
                yield "rest", Cell(fm if scale == "balanced" else 0.0, value, guidance, scale)


def cells(seeds: Sequence[int] = (0,)) -> list[tuple[str, Cell]]:
    """Group and cell, each cell once, in the order in which they are made; all of a seed before those of the next."""
    settings = find_preset(PRESET).settings
    found: dict[Cell, str] = {}
    for seed in seeds:
        for group, cell in _all(settings.lambda_fm, settings.lambda_kl):
            found.setdefault(dataclasses.replace(cell, seed=seed).simplest(), group)
    return [(group, cell) for cell, group in found.items()]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all cells have in common.

    Attributes:
        prompts: one picture each.
        steps: of an optimisation.
        checkpoints: steps after which the pictures are measured, the last one included.
        learning_rate: AdamW's.
        final_rate: fraction of it that is left at the end.
        model: name of the embedded model.
        weights: digest of its files.
    """

    prompts: tuple[str, ...]
    steps: int
    checkpoints: tuple[int, ...]
    learning_rate: float
    final_rate: float
    model: str
    weights: str

    @classmethod
    def of(cls, count: int, prompt_seed: int, steps: int) -> Plan:
        """The plan for so many random prompts and steps; checkpoints of longer runs are left out of shorter ones.

        Raises:
            UsageError: more prompts than there are, or too few steps.
        """
        if steps < 1:
            raise UsageError(f"--steps: expected at least 1, got {steps}")
        most = captions.count_of(held_out=False)
        if not 1 <= count <= most:
            raise UsageError(f"--prompts: expected 1 to {most}, got {count}")
        checkpoints = tuple(sorted({*(step for step in CHECKPOINTS if step < steps), steps}))
        prompts = tuple(captions.random_prompts(count, prompt_seed))
        rate = find_preset(PRESET).learning_rate
        return cls(prompts, steps, checkpoints, rate, 0.1, MODEL, digest(MODEL))


def digest(model: str) -> str:
    """Of the networks of an embedded model, or of its folder, that make pictures, sixteen digits; with its edition."""
    total = hashlib.sha256(f"edition {notes_of(model).get('edition', 1)}".encode())
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for file in sorted((pathlib.Path(locate(model)) / part).iterdir()):
            total.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]
