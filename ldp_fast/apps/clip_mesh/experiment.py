"""CLIP-Mesh step by step (N. M. Khalid et al. 2022, CLIP-Mesh: Generating Textured Meshes from Text)."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...runs import checkpoints
from ...runs.experiment import Part, Products, as_subject, untimed
from . import products, views
from .configuration import ClipMesh
from .guide import Guide
from .sculpture import Sculpture

# How the weight of the regulariser falls over the run p from 0 to 1: by 10^(−FALL p²) from the first to the last. So
# it does in CLIP-Mesh's 5 000 steps, whose weight's distance to its end is multiplied by 10^(−1e-6 i) at step i.
FALL = 12.5
LOSSES = ("clip", "laplacian")


class ClipMeshExperiment:
    """A run's experiment: the mesh, CLIP, and Adam.

    Args:
        configuration: of the run.
        guide: CLIP and the prompt.
    """

    losses = shown = LOSSES

    def __init__(self, configuration: ClipMesh, guide: Guide):
        c = self.configuration = configuration
        self.guide, self.device = guide, guide.clip.device
        self.sculpture = Sculpture(c, self.device)
        self.step, self.total = 0, c.steps
        self.optimizer = torch.optim.Adam(self.sculpture.mesh.parameters(), lr=c.learning_rate)
        self._last = dict.fromkeys(LOSSES, torch.full((), math.nan))

    def advance(self, part: Part = untimed) -> None:
        """One step; what it draws comes from the seed and the step alone."""
        c, mesh = self.configuration, self.sculpture.mesh
        setting = views.drawn(c, self.step + 1, self.device)
        plain_from = (c.views + 1) // 2 if self.step < c.untextured * self.total else None
        with part("render"):
            pictures = views.pictures(mesh, self.sculpture.rasteriser, setting, c.light, plain_from=plain_from)
        with part("clip"):
            clip = -self.guide.cosines(pictures).mean()
        laplacian = mesh.roughness()
        with part("backward"):
            self.optimizer.zero_grad()
            (clip + self.laplacian_weight() * laplacian).backward()
        with part("optimiser"):
            for group in self.optimizer.param_groups:
                group["lr"] = c.learning_rate * c.final_rate ** (self.step / self.total)
            self.optimizer.step()
            mesh.keep_in_range()
        self.step += 1
        self._last = {"clip": clip.detach(), "laplacian": laplacian.detach()}

    def laplacian_weight(self) -> float:
        """Of the regulariser at this step."""
        first, last = self.configuration.laplacian
        return float(last + (first - last) * 10 ** (-FALL * (self.step / self.total) ** 2))

    def latest(self) -> dict[str, float]:
        """See `Experiment.latest`."""
        return {name: float(value) for name, value in self._last.items()}

    def weights(self) -> dict[str, float]:
        """See `Experiment.weights`."""
        return {"weight_laplacian": self.laplacian_weight(), "lr": self.optimizer.param_groups[0]["lr"]}

    def state(self) -> dict[str, Tensor]:
        """See `Experiment.state`."""
        return {**self.sculpture.state(), **checkpoints.optimiser_state(self.optimizer)}

    def facts(self) -> dict[str, str]:
        """See `Experiment.facts`."""
        return {name: repr(value) for name, value in self.latest().items()}

    def load_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """See `Experiment.load_state`."""
        step, last = int(facts["step"]), {name: torch.tensor(float(facts[name])) for name in LOSSES}
        self.sculpture.load_state(tensors)
        checkpoints.load_optimiser_state(self.optimizer, tensors)
        self.step, self._last = step, last

    def about(self) -> dict[str, Any]:
        """See `Experiment.about`."""
        return {"vertices": len(self.sculpture.mesh.uv), "faces": len(self.sculpture.mesh.faces)}

    def not_finite(self) -> list[str]:
        """See `Experiment.not_finite`."""
        held = {**self._last, "control points": self.sculpture.mesh.control, "texture": self.sculpture.mesh.texture}
        return as_subject([name for name, x in held.items() if not bool(x.isfinite().all())], ["control points"])

    def preview(self) -> Tensor:
        """Four sides in a row, [3, H, 4·W]."""
        return products.preview(self.sculpture)

    def products(self, folder: pathlib.Path) -> Products:
        """The views, a film and the mesh."""
        return products.of(self.sculpture, folder)
