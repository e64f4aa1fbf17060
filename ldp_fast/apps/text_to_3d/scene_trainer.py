"""What trains a scene, whatever guides it: the optimiser, the steps' rates, what is kept, and what is made of it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...nerf import FusedAdam
from ...runs import checkpoints, distributed
from ...runs.experiment import Part, Products, untimed
from ...runs.seeds import mixed_generator
from ...schedules import cosine_decay
from .mesh import export_mesh
from .pictures import products as pictures
from .scene import Scene, apply_scene_state, scene_state
from .sections import TextTo3D, VoxelOptions

MESH_FILES = ("mesh.glb", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.json")
# Where the learning rate begins that warms up, as a fraction.
COLD = 0.1


def view_generator(seed: int, step: int, view: int) -> torch.Generator:
    """The generator of one view of one step, the same on every machine."""
    return mixed_generator(seed, step, view)


class SceneTrainer:
    """Optimises a scene; a subclass says what the gradients of a step's views are.

    Args:
        scene: what is optimised.
        columns: names of what a subclass records a step, beside what every one does.
        rank, world: which share of a step's views is this process's; with a world above 1 gradients are summed over the
            default process group.

    Attributes:
        step: steps done.
        total: steps there are, the refinement's included.
        columns: names of what is recorded a step.
    """

    def __init__(self, scene: Scene, columns: Sequence[str], *, rank: int = 0, world: int = 1):
        self.scene, self.rank, self.world = scene, rank, world
        c: TextTo3D = scene.configuration
        self.device = scene.prior.device
        self.steps = c.steps
        self.total = self.steps + (c.refinement.steps if c.refinement else 0)
        self.columns = (*columns, "opacity_mean", "samples", "learning_rate", "gradient_norm")
        self.optimizer = self.make_optimizer()
        self._rows: list[Tensor] = []
        scene.train()

    def alike(self, scene: Scene) -> SceneTrainer:
        """One of its kind, with the same networks, for another scene."""
        raise NotImplementedError

    def _gradients(self, mine: Sequence[int], count: int, part: Part) -> Tensor:
        """Adds this process's share of the gradients; returns its share of what is recorded.

        Args:
            mine: which of the step's views are this process's.
            count: how many views the step has.
            part: see `advance`.
        """
        raise NotImplementedError

    @property
    def step(self) -> int:
        """Steps done."""
        return self.scene.step

    @property
    def history(self) -> Tensor:
        """[steps so far, len(columns)] float32; reading it synchronises with the device."""
        return torch.stack(self._rows).cpu() if self._rows else torch.zeros(0, len(self.columns))

    def latest(self) -> dict[str, float]:
        """What the last step recorded."""
        return dict(zip(self.columns, self._rows[-1].tolist(), strict=True))

    def progress(self) -> float:
        """The fraction of this stage (latents, or the refinement) that is over."""
        if self.scene.refined:
            return (self.step - self.steps) / max(1, self.total - self.steps)
        return self.step / max(1, self.steps)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """A new one, of the parameters that this stage trains."""
        scene, options = self.scene, self.scene.configuration.optimizer
        refinement = self.scene.configuration.refinement
        rate = refinement.learning_rate if scene.refined and refinement is not None else options.learning_rate
        groups: list[dict[str, Any]] = scene.field.parameter_groups(rate)  # type: ignore[operator]
        others = list(scene.background.parameters()) if scene.background is not None else []
        others += list(scene.to_rgb.parameters()) if scene.refined and scene.to_rgb is not None else []
        if others:
            groups.append({"params": others, "lr": rate})
        self._rates = [float(group["lr"]) for group in groups]
        if options.kind == "adamax":
            return torch.optim.Adamax(groups)
        return FusedAdam(groups, betas=(0.9, 0.99), eps=1e-15)

    def _rate_factor(self) -> float:
        """Rises exponentially while it warms up; constant to the first half's end, then a cosine to the final rate."""
        options, progress = self.scene.configuration.optimizer, self.progress()
        cold = progress < options.warm_up and not self.scene.refined
        rising = COLD ** (1 - progress / options.warm_up) if cold else 1.0
        return rising * cosine_decay(progress, options.final_rate, 2)

    def advance(self, part: Part = untimed) -> None:
        """One step.

        Args:
            part: a context manager that is entered with the name of each part of the step, for a profile.
        """
        scene, c = self.scene, self.scene.configuration
        if c.refinement and self.step == self.steps and not scene.refined and self.total > self.steps:
            scene.begin_refinement()
            distributed.share(scene.state_dict(), self.world)
            self.optimizer = self.make_optimizer()
        with part("occupancy"):
            self._update_occupancy()
        count = c.refinement.views if scene.refined and c.refinement is not None else c.views
        row = self._gradients(range(self.rank, count, self.world), count, part)
        with part("optimiser"):
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            if self.world > 1:
                distributed.add_gradients(parameters, row)
            if isinstance(c.field, VoxelOptions) and c.field.smoothing is not None:
                scene.field.smooth_gradient(c.field.smoothing.at(self.progress()))  # type: ignore[operator]
            factor = self._rate_factor()
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor
            norms = [p.grad.norm() for p in parameters if p.grad is not None]
            # Filled on the device: a number that is assigned may be copied there, for which a GPU is waited for.
            row[self.columns.index("learning_rate")].fill_(self._rates[0] * factor)
            if norms:
                row[self.columns.index("gradient_norm")] = torch.stack(norms).norm()
            self.optimizer.step()
            if not isinstance(self.optimizer, FusedAdam):
                self.optimizer.zero_grad()
        scene.step += 1
        self._rows.append(row)

    def _update_occupancy(self) -> None:
        grid, options = self.scene.occupancy, self.scene.configuration.occupancy
        if grid is not None and options is not None and self.step % options.every == 0:
            grid.update(self.scene.field)  # type: ignore[arg-type]

    def _row(self, found: Mapping[str, Tensor], share: float) -> Tensor:
        row = torch.zeros(len(self.columns), device=self.device)
        for name, value in found.items():
            if name in self.columns:
                row[self.columns.index(name)] = value.detach().float().mean() * share
        return row

    def state(self) -> dict[str, Tensor]:
        """Scene, optimiser and history, on the CPU."""
        return {**scene_state(self.scene), **checkpoints.optimiser_state(self.optimizer), "history": self.history}

    def facts(self) -> dict[str, str]:
        """Whether the refinement has begun."""
        return {"refined": str(int(self.scene.refined))}

    def load_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Goes on from `state` and `facts`.

        Raises:
            ValueError: they do not fit; nothing is changed then.
        """
        apply_scene_state(self.scene, tensors, facts)
        self.optimizer = self.make_optimizer()
        checkpoints.load_optimiser_state(self.optimizer, tensors)
        self._rows = list(tensors["history"].to(self.device))

    def preview(self) -> Tensor:
        """A row of decoded views."""
        return pictures.preview(self.scene)

    def products(self, folder: pathlib.Path) -> Products:
        """Pictures, film and mesh."""
        scene = self.scene.eval()

        def mesh() -> list[pathlib.Path]:
            print(f"mesh: {export_mesh(scene, folder)}")
            return [folder / name for name in MESH_FILES]

        return {
            "pictures": lambda: pictures.write_grids(scene, folder),
            "film": lambda: pictures.write_turntable(scene, folder, progress=True),
            "mesh": mesh,
        }
