"""A scene for the viewer's tests: a torus of known latents, decoded by a fixed linear map."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldp_fast.apps.text_to_3d.viewer.pictures import View
from ldp_fast.nerf import Cameras, LatentRenderer, RenderOutput

from ..nerf.scenes import Torus


class TiltedTorus(Torus):
    """Leans to the front and to the right, so that no two sides look alike; has normals, as fields have."""

    def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, y, z = positions.unbind(-1)
        return super().forward(torch.stack([x, y + 0.6 * z + 0.3 * x, z], dim=-1), count)

    def normals(self, positions: Tensor) -> Tensor:
        with torch.enable_grad():
            at = positions.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self(at)[0].sum(), at)
        return -F.normalize(gradient, dim=-1)


class StandInPrior:
    """Where a scene's decoder would be."""

    device = torch.device("cpu")


class TorusScene(nn.Module):
    """What `Viewable` asks for; rendering draws random numbers and forgets the training flag, which must not matter."""

    size, refined = 16, False

    def __init__(self, step: int = 300, renderer: LatentRenderer | None = None):
        super().__init__()
        self.renderer = renderer or LatentRenderer(TiltedTorus(), steps_per_ray=48)
        self.prior: Any = StandInPrior()
        self.step = step
        self.orbit = {"elevation": 20.0, "radius": 3.6, "fov": 40.0}
        self.sizes: list[int] = []
        self.cameras: list[Cameras] = []

    def render(
        self, cameras: Cameras, size: int | None = None, *, normals: bool = False, shade: float = 0.5
    ) -> RenderOutput:
        self.eval()
        torch.rand(3)
        self.sizes.append(size or self.size)
        self.cameras.append(cameras)
        side = size or self.size
        behind = torch.full((4,), 4 * shade - 2 + self.step / 1000)
        with torch.no_grad():
            return self.renderer(cameras, side, side, background=behind, normals=normals)

    def decode(self, latents: Tensor) -> Tensor:
        pictures = F.interpolate(latents[:, :3] + latents[:, 3:] / 2, scale_factor=8, mode="bilinear")
        return (pictures / 4 + 0.5).clamp(0, 1)


class Watcher:
    """A visitor without a browser."""

    def __init__(self, view: View):
        self.wanted = view
        self.pictures: list[tuple[Any, bool]] = []
        self.errors: list[str] = []
        self.texts: list[str] = []
        self.arrived = threading.Condition()

    def view(self) -> View:
        return self.wanted

    def show(self, picture: Any, text: str, final: bool) -> None:
        with self.arrived:
            self.pictures.append((picture, final))
            self.arrived.notify_all()

    def fail(self, message: str) -> None:
        with self.arrived:
            self.errors.append(message)
            self.arrived.notify_all()

    def inform(self, text: str) -> None:
        self.texts.append(text)

    def wait(self, count: int, seconds: float = 60.0) -> None:
        """Until so many pictures or errors have come."""
        with self.arrived:
            came = self.arrived.wait_for(lambda: len(self.pictures) + len(self.errors) >= count, seconds)
        assert came, f"{len(self.pictures)} pictures, {len(self.errors)} errors, expected {count}"


def quaternion(rotation: torch.Tensor) -> tuple[float, float, float, float]:
    """Of a rotation: the eigenvector of Bar-Itzhack's symmetric matrix that belongs to its greatest eigenvalue."""
    r = rotation.double().numpy()
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return float(w), float(x), float(y), float(z)


def view_of(camera: Cameras, aspect: float = 1.0, size: int = 16, fov: float = 40.0, **more: object) -> View:
    """What viser would report of one of our cameras: its axes are right, down, forward."""
    pose = camera.poses[0]
    axes = torch.stack([pose[:3, 0], -pose[:3, 1], -pose[:3, 2]], dim=1)
    place = tuple(pose[:3, 3].tolist())
    return View(place, quaternion(axes), math.radians(fov), aspect, size, **more)  # type: ignore[arg-type]


FRONT = view_of(Cameras.orbit(0.0, 20.0))
