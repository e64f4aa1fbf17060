"""An application of a few lines: one number goes to another, with a little noise. It tests the loop for all of them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ldp_fast.runs import checkpoints, distributed, loop
from ldp_fast.runs.configuration import Configuration
from ldp_fast.runs.experiment import Application, Part, Products, untimed
from ldp_fast.runs.seeds import mixed_generator
from ldp_fast.runs.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Configuration):
    """A run's settings."""

    application: ClassVar[str] = "toy"

    goal: float = setting("where to", default=3.0)
    seed: int = setting("of the noise", low=0, default=0)
    steps: int = setting("there are", low=1, default=8)
    parts: int = setting("of a step", low=1, default=2)
    checkpoint_every: int = setting("steps", low=1, default=2, about_result=False)
    keep: int = setting("checkpoints", low=1, default=2, about_result=False)
    device: str | None = setting("cpu", default="cpu", about_result=False)


class Walk:
    """The experiment."""

    losses = ("distance",)
    shown = ("distance",)
    device = torch.device("cpu")

    def __init__(self, configuration: Toy, device: str | None = None, rank: int = 0, world: int = 1):
        self.configuration, self.rank, self.world = configuration, rank, world
        self.total, self.step = configuration.steps, 0
        self.place = torch.nn.Parameter(torch.zeros(4))
        self.optimizer = torch.optim.Adam([self.place], lr=0.1)
        self._last = 0.0

    def advance(self, part: Part = untimed) -> None:
        gradient = torch.zeros(4)
        for index in range(self.rank, self.configuration.parts, self.world):
            noise = torch.randn(4, generator=mixed_generator(self.configuration.seed, self.step, index))
            gradient += (self.place.detach() - self.configuration.goal + 0.1 * noise) / self.configuration.parts
        if self.world > 1:
            distributed.add(gradient)
        with part("optimiser"):
            self.place.grad = gradient
            self.optimizer.step()
        self.step += 1
        self._last = float((self.place.detach() - self.configuration.goal).norm())

    def latest(self) -> dict[str, float]:
        return {"distance": self._last}

    def weights(self) -> dict[str, float]:
        return {"weight_distance": 1.0}

    def state(self) -> dict[str, Tensor]:
        return {"place": self.place.detach().clone(), **checkpoints.optimiser_state(self.optimizer)}

    def facts(self) -> dict[str, str]:
        return {"last": str(self._last)}

    def load_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        if tensors["place"].shape != self.place.shape:
            raise ValueError("another place")
        with torch.no_grad():
            self.place.copy_(tensors["place"])
        checkpoints.load_optimiser_state(self.optimizer, tensors)
        self.step, self._last = int(facts["step"]), float(facts["last"])

    def about(self) -> dict[str, Any]:
        return {}

    def not_finite(self) -> list[str]:
        return [] if bool(self.place.isfinite().all()) else ["the place is"]

    def preview(self) -> Tensor:
        return self.place.detach().sigmoid()[None, None].expand(3, 4, 4)

    def products(self, folder: pathlib.Path) -> Products:
        def result() -> list[pathlib.Path]:
            (folder / "result.txt").write_text(" ".join(f"{x:.9g}" for x in self.place.tolist()))
            return [folder / "result.txt"]

        return {"result": result}


APPLICATION = Application(
    name="toy",
    class_of=lambda plain: Toy,
    begin=Walk,
    result="result.txt",
    labels={"optimiser": "optimiser"},
    shares=lambda configuration: (configuration.parts, "--parts"),
    to_lower="--parts",
)


def run(folder: pathlib.Path, options: loop.Options | None = None, **settings: Any) -> int:
    """Runs, or goes on with, a toy's run."""
    return loop.run(APPLICATION, pathlib.Path(folder), Toy(**settings), options)
