"""Cameras: poses, intrinsics, and the rays through their pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _checks

CONVENTIONS = ("opengl", "opencv")
Range = float | Sequence[float]
Values = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of V pinhole cameras; any resolution can be rendered, for the intrinsics are in units of the image.

    The world has y up. A camera looks along −z of its own frame, x to the right and y up (OpenGL's convention;
    `from_poses` converts OpenCV's, +z forward and y down). Azimuth 0 is on +z, the front; 90° on +x. Elevation 90° is
    straight above. Angles are in degrees.

    Attributes:
        poses: [V, 4, 4] camera to world.
        focal: [V, 2] focal lengths over the image's width and height.
        centre: [V, 2] principal point over the image's width and height, from the left upper corner.
    """

    poses: Tensor
    focal: Tensor
    centre: Tensor

    def __post_init__(self) -> None:
        _checks.tensor("Cameras", "poses", self.poses, ("V", 4, 4))
        _checks.tensor("Cameras", "focal", self.focal, (len(self.poses), 2), self.poses)
        _checks.tensor("Cameras", "centre", self.centre, (len(self.poses), 2), self.poses)
        # Values are looked at on the host only: on a GPU that would wait for it.
        if self.poses.device.type == "cpu":
            for name in ("poses", "focal", "centre"):
                bad = (~getattr(self, name).isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
                if bad:
                    _checks.fail("Cameras", name, "finite numbers", f"NaN or infinity in camera {bad[0]}")

    @classmethod
    def orbit(
        cls,
        azimuth: Values,
        elevation: Values = 15.0,
        radius: Values = 3.6,
        fov: Values = 40.0,
        *,
        target: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Cameras:
        """Cameras on a sphere, looking at its centre; the arguments are numbers or V values each.

        Args:
            azimuth: degrees; 0 front (+z), 90 right side (+x), 180 back.
            elevation: degrees above the horizon.
            radius: distance from the target, in world units.
            fov: vertical field of view in degrees (horizontal too: pixels are square on a square image).
            target: what they look at.

        Raises:
            ValueError: sizes that do not go together, a value that is not finite, a radius or field of view that is
                not positive, or a field of view of 180° and more.
        """
        given = [torch.as_tensor(v, dtype=torch.float64).flatten() for v in (azimuth, elevation, radius, fov)]
        sizes = {len(v) for v in given} - {1}
        if len(sizes) > 1 or 0 in sizes:
            _checks.fail("Cameras.orbit", "azimuth, elevation, radius, fov", "one value or V values each", str(sizes))
        v = max(sizes, default=1)
        a, e, r, f = (x.expand(v) for x in given)
        for name, x in (("azimuth", a), ("elevation", e), ("radius", r), ("fov", f)):
            if not x.isfinite().all():
                _checks.fail("Cameras.orbit", name, "finite numbers", str(x.tolist()))
        if (r <= 0).any():
            _checks.fail("Cameras.orbit", "radius", "positive numbers", str(r.tolist()))
        if (f <= 0).any() or (f >= 180).any():
            _checks.fail("Cameras.orbit", "fov", "degrees between 0 and 180", str(f.tolist()))
        a, e, f = a.deg2rad(), e.deg2rad(), f.deg2rad()
        backward = torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], dim=-1)
        # Straight from above the azimuth still says what is right.
        right = torch.stack([a.cos(), torch.zeros_like(a), -a.sin()], dim=-1)
        up = torch.linalg.cross(backward, right)
        poses = torch.eye(4, dtype=torch.float64).repeat(v, 1, 1)
        poses[:, :3, :3] = torch.stack([right, up, backward], dim=-1)
        poses[:, :3, 3] = backward * r[:, None] + torch.tensor(target, dtype=torch.float64)
        focal = (0.5 / (f / 2).tan())[:, None].expand(v, 2)
        return cls(poses.float(), focal.float().contiguous(), torch.full((v, 2), 0.5))

    @classmethod
    def sample(
        cls,
        count: int,
        *,
        azimuth: Range = (0.0, 360.0),
        elevation: Range = (-10.0, 60.0),
        radius: Range = (3.3, 3.9),
        fov: Range = 40.0,
        on_sphere: bool = False,
        generator: torch.Generator | None = None,
    ) -> Cameras:
        """Random cameras on a sphere, looking at its centre. Arguments are a number or (low, high), as in `orbit`.

        Args:
            count: V.
            azimuth, elevation, fov: degrees.
            radius: world units.
            on_sphere: elevations uniform by area on the sphere instead of by angle (which crowds at the poles).
            generator: of the random numbers, on the CPU.

        Raises:
            ValueError: a count below 1, or a range that is not (low, high).
        """
        _checks.whole("Cameras.sample", "count", count, 1)

        def draw(name: str, value: Range) -> Tensor:
            low, high = (value, value) if isinstance(value, (int, float)) else tuple(value)
            if not low <= high:
                _checks.fail("Cameras.sample", name, "a number or (low, high)", repr(value))
            if name == "elevation" and on_sphere:
                low, high = math.sin(math.radians(low)), math.sin(math.radians(high))
            u = torch.rand(count, dtype=torch.float64, generator=generator)
            drawn = low + (high - low) * u
            return drawn.asin().rad2deg() if name == "elevation" and on_sphere else drawn

        values = {"azimuth": azimuth, "elevation": elevation, "radius": radius, "fov": fov}
        return cls.orbit(**{name: draw(name, value) for name, value in values.items()})

    @classmethod
    def from_poses(
        cls,
        poses: Tensor,
        *,
        focal: Tensor,
        width: int,
        height: int,
        centre: Tensor | None = None,
        convention: str = "opengl",
    ) -> Cameras:
        """Cameras from matrices and intrinsics in pixels.

        Args:
            poses: [V, 3 or 4, 4] camera to world.
            focal: [V, 2] (or [2], [V, 1], [1], []) focal lengths in pixels, x and y.
            width, height: of the image the intrinsics belong to.
            centre: [V, 2] or [2] principal point in pixels from the left upper corner; the middle by default.
            convention: "opengl" (looks along −z, y up) or "opencv" (looks along +z, y down).

        Raises:
            ValueError: another convention, shape, or values that are not finite.
        """
        _checks.choice("Cameras.from_poses", "convention", convention, CONVENTIONS)
        _checks.whole("Cameras.from_poses", "width", width, 1)
        _checks.whole("Cameras.from_poses", "height", height, 1)
        if not isinstance(poses, Tensor) or poses.dim() != 3 or poses.shape[1:] not in ((3, 4), (4, 4)):
            got = _checks.shape_text(poses) if isinstance(poses, Tensor) else type(poses).__name__
            _checks.fail("Cameras.from_poses", "poses", "a tensor of shape [V, 4, 4] or [V, 3, 4]", got)
        v, dtype, device = len(poses), poses.dtype, poses.device
        full = torch.eye(4, dtype=dtype, device=device).repeat(v, 1, 1)
        full[:, :3] = poses[:, :3]
        if convention == "opencv":
            full[:, :3, 1:3] *= -1
        size = torch.tensor([width, height], dtype=dtype, device=device)
        middle = size / 2 if centre is None else centre.to(dtype)
        normalised = [(x / size).expand(v, 2).contiguous() for x in (focal.to(dtype), middle)]
        return cls(full, *normalised)

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: int | slice | Tensor) -> Cameras:
        """The cameras of an index, slice or index tensor; always a batch."""
        if isinstance(index, int):
            index = slice(index, index + 1) if index != -1 else slice(index, None)
        return Cameras(self.poses[index], self.focal[index], self.centre[index])

    def to(self, *args: object, **kwargs: object) -> Cameras:
        """As `Tensor.to`."""
        poses, focal, centre = (t.to(*args, **kwargs) for t in (self.poses, self.focal, self.centre))  # type: ignore[call-overload]
        return Cameras(poses, focal, centre)

    @property
    def positions(self) -> Tensor:
        """[V, 3], where the cameras are."""
        return self.poses[:, :3, 3]

    @property
    def azimuth(self) -> Tensor:
        """[V], degrees in [0, 360), of the direction in which a camera is turned away from the front (see `orbit`)."""
        backward = self.poses[:, :3, 2]
        # From straight above the direction of view says nothing; the camera's right does.
        right = self.poses[:, :3, 0]
        steep = backward[:, 1].abs() > 1 - 1e-6
        angle = torch.where(
            steep, torch.atan2(-right[:, 2], right[:, 0]), torch.atan2(backward[:, 0], backward[:, 2])
        ).rad2deg()
        return angle.remainder(360.0)

    @property
    def elevation(self) -> Tensor:
        """[V], degrees in [−90, 90], of the camera above what it looks at (see `orbit`)."""
        return self.poses[:, 1, 2].clamp(-1, 1).asin().rad2deg()

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Rays through the pixels' centres, row by row from the left upper corner, camera after camera.

        Args:
            height, width: of the image, in pixels.

        Returns:
            origins [V·H·W, 3]; directions [V·H·W, 3] of length 1.

        Raises:
            ValueError: a size below 1.
        """
        _checks.whole("Cameras.rays", "height", height, 1)
        _checks.whole("Cameras.rays", "width", width, 1)
        dtype, device = self.poses.dtype, self.poses.device
        x = (torch.arange(width, dtype=dtype, device=device) + 0.5) / width
        y = (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
        u = (x - self.centre[:, :1]) / self.focal[:, :1]  # [V, W]
        v = (y - self.centre[:, 1:]) / self.focal[:, 1:]  # [V, H]
        right, up, backward = (self.poses[:, None, None, :3, i] for i in range(3))
        directions = u[:, None, :, None] * right - v[:, :, None, None] * up - backward
        directions = torch.nn.functional.normalize(directions, dim=-1)
        origins = self.positions[:, None, None].expand_as(directions)
        return origins.reshape(-1, 3).contiguous(), directions.reshape(-1, 3).contiguous()
