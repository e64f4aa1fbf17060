"""Steps of dream-fields: crops of views in front of random backgrounds, CLIP, and the transmittance loss.

Source: Jain et al. 2022, Zero-Shot Text-Guided Object Generation with Dream Fields, and google-research's
`dreamfields/dreamfields/lib.py`. What a step draws comes from (seed, step, view) alone, as in `trainer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...runs.experiment import Part, as_subject
from .cameras import as_cameras
from .guide import ClipGuide
from .scene import Scene
from .scene_trainer import SceneTrainer, view_generator
from .sections import DreamFields

# The target's camera: NeRF's synthetic scenes, 1111 of 800 pixels, from 4 units.
FOCAL, RADIUS, ENLARGED = 1111.1111 / 800, 4.0, 1.2


def target_opacity(configuration: DreamFields, progress: float, radius: float, fov: float) -> float:
    """Mean opacity that a view may have for nothing (1 − τ), at most 1.

    An object's area grows with the focal length squared and shrinks with the distance squared; the target goes along.

    Args:
        configuration: of the run.
        progress: fraction of the run that is over.
        radius: distance of the camera, world units.
        fov: its field of view, degrees.
    """
    options = configuration.transmittance
    (first, last), over = options.opacity, min(1.0, progress / options.until) if options.until else 1.0
    target = first ** (1 - over) * last**over
    focal = 0.5 / math.tan(math.radians(fov) / 2) / FOCAL
    return min(1.0, target * focal**2 / (radius / RADIUS) ** 2 / ENLARGED)


class DreamFieldsTrainer(SceneTrainer):
    """Optimises a scene in RGB under CLIP.

    A view's loss is −cos(E(crop), E(prompt)), the mean over its crops, minus λ·min(τ, mean transmittance); a step's is
    the mean over its views.

    Args:
        scene: what is optimised; its decoder is the guide.
        guide: the CLIP with the prompt.
        rank, world: see `SceneTrainer`.

    Attributes:
        losses, shown: see `Experiment`.
        step, total, columns: see `SceneTrainer`.
    """

    losses = ("cosine", "transmittance")
    shown = ("cosine", "opacity_mean")

    def __init__(self, scene: Scene, guide: ClipGuide, *, rank: int = 0, world: int = 1):
        c = scene.configuration
        assert isinstance(c, DreamFields)
        self.configuration, self.prior = c, guide
        super().__init__(scene, self.losses, rank=rank, world=world)

    def alike(self, scene: Scene) -> DreamFieldsTrainer:
        """See `SceneTrainer.alike`."""
        return DreamFieldsTrainer(scene, self.prior)

    def _gradients(self, mine: Sequence[int], count: int, part: Part) -> Tensor:
        """See `SceneTrainer._gradients`."""
        scene, guide, c = self.scene, self.prior, self.configuration
        drawn = [self._draw(view) for view in mine]
        with part("render"):
            rendered = [scene.training_layers(as_cameras([at], self.device), jitter) for at, jitter in drawn]
        loss, row = rendered[0][0].new_zeros(()), self._row({}, 0.0)
        for view, ((*_, radius, fov), _), (colours, opacity, out) in zip(mine, drawn, rendered, strict=True):
            layers = torch.cat([colours, opacity], dim=1)
            with part("clip"):
                gradient, statistics = guide.guidance.gradient(layers, step=self.step, stream=view)
            loss = loss + (layers * gradient).sum()
            clear = 1 - opacity.mean()
            allowed = 1 - target_opacity(c, self.progress(), radius, fov)
            loss = loss - c.transmittance.weight * clear.clamp(max=allowed)
            values = {"cosine": statistics.terms["cosine"], "transmittance": clear, "opacity_mean": 1 - clear}
            values["samples"] = out.statistics.counts[0]
            row += self._row(values, 1 / count)
        with part("backward"):
            (loss / count).backward()
        return row

    def _draw(self, view: int) -> tuple[tuple[float, float, float, float], int]:
        """A view's camera, and the seed of its jitter; what CLIP's crops draw, they draw themselves."""
        generator = view_generator(self.configuration.seed, self.step, view)
        camera = self.scene.ranges.draw(generator)
        return camera, int(torch.randint(2**31 - 1, (1,), generator=generator))

    def about(self) -> dict[str, Any]:
        """The CLIP that guides."""
        return {"guide": self.configuration.guide}

    def not_finite(self) -> list[str]:
        """Losses and gradient of the last step that are not finite."""
        last = self.latest()
        return as_subject([name for name in (*self.shown, "gradient_norm") if not math.isfinite(last[name])])

    def weights(self) -> dict[str, float]:
        """The transmittance loss' weight, for a log."""
        return {"weight_transmittance": self.configuration.transmittance.weight}
