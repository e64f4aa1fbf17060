"""What the viewer shows: a visitor's camera in this package's conventions, and the picture of a channel."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ....nerf import Cameras, RenderOutput
from ....runs import image_files

CHANNELS = ("decoded", "raw latents", "depth", "normals", "opacity")
# The VAE scales its latents to about unit variance; a fixed range keeps colours still while the camera moves.
LATENT_RANGE = 2.5
# World units about the middle of the scene between which depth goes from white to black.
DEPTH_RANGE = 1.2
# Pictures below this height are enlarged to about it, pixel by pixel, so that the browser does not blur them.
SHOWN_HEIGHT = 512


class Viewable(Protocol):
    """What the viewer asks of a scene."""

    step: int
    refined: bool
    prior: Any

    @property
    def size(self) -> int: ...

    @property
    def orbit(self) -> dict[str, Any]: ...

    def render(
        self, cameras: Cameras, size: int | None = None, *, normals: bool = False, shade: float = 0.5
    ) -> RenderOutput: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class View:
    """What a visitor looks at.

    Attributes:
        position: of the camera, world units.
        wxyz: its rotation to the world as a quaternion; it looks along its +z, y down (OpenCV's convention).
        fov: vertical field of view in radians.
        aspect: width of the window over its height.
        size: latents along the window's shorter side.
        channels: one of CHANNELS.
        shade: of the background, 0 (dark) to 1.
    """

    position: tuple[float, float, float]
    wxyz: tuple[float, float, float, float]
    fov: float
    aspect: float
    size: int
    channels: str = "decoded"
    shade: float = 0.5

    def cameras(self) -> Cameras:
        """One camera on the CPU whose square picture's middle part is the window, the longer side fitting exactly."""
        height, width = self.shape()
        side = max(height, width)
        rotation = rotation_of(self.wxyz)
        place = torch.tensor(self.position, dtype=torch.float64)[:, None]
        pose = torch.cat([rotation, place], dim=1)[None].float()
        # What is drawn fills the window, whose shape is not one of whole latents: their own shape makes up for it.
        focal = torch.tensor([width / self.aspect, height]).float() / (2 * math.tan(self.fov / 2))
        return Cameras.from_poses(pose, focal=focal, width=side, height=side, convention="opencv")

    def shape(self) -> tuple[int, int]:
        """Height and width in latents; both even or both odd, so that the window lies amid the square."""
        longer = self.size + 2 * round(self.size * (max(self.aspect, 1 / self.aspect) - 1) / 2)
        return (self.size, longer) if self.aspect >= 1 else (longer, self.size)


def first_camera(scene: Viewable) -> tuple[list[float], float]:
    """Where a page's camera begins: its position, and its vertical field of view in radians."""
    camera = Cameras.orbit(0.0, **scene.orbit)
    return camera.positions[0].tolist(), math.radians(scene.orbit["fov"])


def rotation_of(wxyz: Sequence[float]) -> Tensor:
    """The rotation [3, 3] (float64) of a quaternion of any length but zero."""
    w, x, y, z = (v / math.hypot(*wxyz) for v in wxyz)
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def draw(scene: Viewable, view: View, device: torch.device) -> Any:
    """Renders a view.

    Returns:
        A uint8 array [H, W, 3].

    Raises:
        ValueError: unknown channels, or a field without normals.
    """
    if view.channels not in CHANNELS:
        raise ValueError(f"channels: expected one of {', '.join(CHANNELS)}; got {view.channels!r}")
    height, width = view.shape()
    cameras = view.cameras().to(device)
    # The square round the window: what is cut away costs rays, which are cheap, but nothing in the decoder.
    out = scene.render(cameras, max(height, width), normals=view.channels == "normals", shade=view.shade)
    if view.channels == "decoded":
        return image_files.to_pixels(scene.decode(_middle(out.latents, height, width)))[0]
    picture = _middle(_channels(out, view), height, width)
    picture = F.interpolate(picture, scale_factor=max(1, round(SHOWN_HEIGHT / height)), mode="nearest")
    return image_files.to_pixels(picture)[0]


def _middle(pictures: Tensor, height: int, width: int) -> Tensor:
    top, left = (pictures.shape[2] - height) // 2, (pictures.shape[3] - width) // 2
    return pictures[:, :, top : top + height, left : left + width].contiguous()


def _channels(out: RenderOutput, view: View) -> Tensor:
    """[1, 3, H, W] in [0, 1]."""
    opacity = out.opacity.float()
    if view.channels == "raw latents":
        latents = out.latents.float()
        if latents.shape[1] == 3:
            return latents.clamp(0, 1)  # after the RGB refinement they are colours
        return (latents[:, :3] / (2 * LATENT_RANGE) + 0.5).clamp(0, 1)
    if view.channels == "opacity":
        return opacity.expand(-1, 3, -1, -1)
    if view.channels == "normals":
        assert out.normals is not None
        # Both sums carry the weights of their samples, so that fog fades into the background by itself.
        return (0.5 * out.normals.float() + 0.5 * opacity + view.shade * (1 - opacity)).clamp(0, 1)
    distance = out.depth.float() / opacity.clamp(min=1e-6)
    middle = math.hypot(*view.position)
    near = max(middle - DEPTH_RANGE, 0.0)
    bright = 1 - (distance - near) / (middle + DEPTH_RANGE - near)
    return (opacity * bright.clamp(0, 1)).expand(-1, 3, -1, -1)
