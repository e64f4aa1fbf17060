"""One cell: its pictures are made, its checkpoints kept, and then measured; each file is there as a whole or not."""

from __future__ import annotations

import math
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ldp_fast.apps.synthesis.latents import LARGEST, LatentOptimiser
from ldp_fast.guidance import LatentDiffusionPrior, TextEmbeddings
from ldp_fast.runs import files, image_files

from .branches import BranchedPrior
from .measures import Perception, measure_all, thresholds
from .plan import Cell, Plan

FORM = 1  # of a record; those of another are measured again
COLUMNS = 6  # of the sheet of pictures


def seeds_of(cell: Cell, count: int) -> list[int]:
    """One a picture: the same in every cell, so that cells can be compared picture by picture."""
    return [10_000 * cell.seed + index for index in range(count)]


def prior_of(prior: LatentDiffusionPrior, cell: Cell) -> BranchedPrior:
    """The prior of a cell, with the same models."""
    changed = prior.with_settings(
        lambda_fm=cell.lambda_fm,
        lambda_kl=cell.lambda_kl,
        lambda_lsd=cell.lambda_lsd,
        guidance_scale=cell.guidance,
        scale=cell.scale,
        batch_reduction="sum",
    )
    return BranchedPrior(changed, cell.branches)


def make(
    prior: LatentDiffusionPrior,
    text: TextEmbeddings,
    plan: Plan,
    cell: Cell,
    begun: pathlib.Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Optimises the latents of a cell.

    Args:
        prior: the models.
        text: of the plan's prompts.
        plan: steps and checkpoints.
        cell: the settings.
        begun: file of what is stopped, from which a later call goes on to the same latents.
        stop: asked before each step.

    Returns:
        The latents at each checkpoint `[K, B, C, H, W]` and the history `[steps, 7]`, and facts: median and sum of the
        seconds of a step, and the step at which the run left what a decoder takes, where it did. None: it was stopped.
    """
    optimiser = LatentOptimiser(
        prior_of(prior, cell),  # type: ignore[arg-type]  # it has all that is asked of a prior
        text,
        seeds_of(cell, len(plan.prompts)),
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        final_rate=plan.final_rate,
    )
    kept: list[Tensor] = []
    seconds: list[float] = []
    diverged = ""
    if begun is not None and begun.exists():
        tensors, facts = load(begun)
        optimiser.load_state(tensors, facts)
        kept, seconds, diverged = list(tensors["kept"]), tensors["seconds"].tolist(), facts["diverged"]
    while optimiser.step < plan.steps:
        if stop():
            if begun is not None and optimiser.step:
                state = {**optimiser.state(), "kept": torch.stack([*kept, optimiser.latents.detach().cpu()])[:-1]}
                state["seconds"] = torch.tensor(seconds, dtype=torch.float64)
                save(begun, state, {"step": str(optimiser.step), "diverged": diverged})
            return None
        started = time.perf_counter()
        optimiser.advance()
        within = bool(optimiser.latents.detach().abs().max() < LARGEST)  # a GPU is waited for here
        seconds.append(time.perf_counter() - started)
        if not within:
            diverged = diverged or str(optimiser.step)
        if optimiser.step in plan.checkpoints:
            kept.append(optimiser.latents.detach().clone().cpu())
    made = {"latents": torch.stack(kept), "history": optimiser.history}
    # The first step compiles and allocates.
    median = statistics.median(seconds[1:] or seconds)
    facts = {"cell": cell.name, "seconds": f"{median:.6g}", "took": f"{sum(seconds):.6g}", "diverged": diverged}
    return made, facts


def save(path: pathlib.Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Writes tensors and facts, atomically."""
    from safetensors.torch import save as packed

    files.write_atomically(path, packed({name: x.contiguous() for name, x in tensors.items()}, metadata=facts))


def load(path: pathlib.Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `save` wrote."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})


@torch.no_grad()
def decoded(prior: LatentDiffusionPrior, latents: Tensor) -> Tensor:
    """Pictures `[B, 3, H, W]` in [0, 1]; grey where latents are not finite."""
    safe = torch.nan_to_num(latents, 0.0, 0.0, 0.0).clamp(-LARGEST, LARGEST)
    pictures = torch.cat([prior.decode(part.to(prior.device)).cpu() for part in safe.split(8)])
    return torch.nan_to_num(pictures, 0.5)


def measured(
    prior: LatentDiffusionPrior,
    plan: Plan,
    tensors: dict[str, Tensor],
    facts: dict[str, str],
    perception: Perception,
    judge: str,
) -> tuple[dict[str, Any], Tensor]:
    """The record of a cell from what `make` kept; the pictures at the end."""
    rows, pictures = [], torch.empty(0)
    for step, latents in zip(plan.checkpoints, tensors["latents"], strict=True):
        pictures = decoded(prior, latents)
        found = measure_all(pictures, plan.prompts, perception)
        spread = latents.flatten(1).std(dim=1, unbiased=False)
        deviations = [value if math.isfinite(value) else None for value in spread.tolist()]
        rows.append({"step": step, "images": [{**x, "deviation": d} for x, d in zip(found, deviations, strict=True)]})
    record = {
        "form": FORM,
        "judge": judge,
        "thresholds": thresholds(),
        "seconds": float(facts["seconds"]),
        "diverged": int(facts["diverged"]) if facts["diverged"] else None,
        "checkpoints": rows,
    }
    return record, pictures


def record_of(path: pathlib.Path, judge: str) -> dict[str, Any] | None:
    """A record, if it is there and was made by these measures and this judge."""
    if not path.exists():
        return None
    held: dict[str, Any] = files.read_json(path)
    fits = held.get("form") == FORM and held.get("judge") == judge and held.get("thresholds") == thresholds()
    return held if fits else None


def fits(path: pathlib.Path, judge: str) -> bool:
    """Whether there is a record made by these measures and this judge."""
    return record_of(path, judge) is not None


def keep(folder: pathlib.Path, name: str, record: dict[str, Any], pictures: Tensor) -> None:
    """Writes the record of a cell and the sheet of its pictures; the record comes last."""
    image_files.save_png(folder / f"{name}.png", image_files.contact_sheet(pictures, COLUMNS))
    files.write_json(folder / f"{name}.json", record)
