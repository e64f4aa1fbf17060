"""Cameras: poses, intrinsics, and the rays through their pixels."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks

CONVENTIONS = ("opengl", "opencv")
FLAT = 1e-6
Range = float | Sequence[float]
Values = float | Sequence[float] | Tensor
Index = int | slice | Sequence[int] | Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of V pinhole cameras; any resolution can be rendered, for the intrinsics are in units of the image.

    The world has y up. A camera looks along −z of its own frame, x to the right and y up (OpenGL's convention;
    `from_poses` converts OpenCV's, +z forward and y down). Cameras made of numbers are on the CPU, whatever the default
    device; `to` moves them. Azimuth 0 is on +z, the front; 90° on +x. Elevation 90° is
    straight above. Angles are in degrees.

    Attributes:
        poses: [V, 4, 4] camera to world.
        focal: [V, 2] focal lengths over the image's width and height.
        centre: [V, 2] principal point over the image's width and height, from the left upper corner.

    Raises:
        TypeError, ValueError: another dtype, shape or device. On a CPU also values that are not finite, a focal length
            that is not positive, or a pose whose axes span no volume; on a GPU that would wait for it, and rays that
            are not finite get no samples.

    Examples:
        From the front and from the right, and the rays through 8 × 8 pixels of both:

        >>> from ldp_fast.nerf import Cameras
        >>> cameras = Cameras.orbit(azimuth=[0.0, 90.0], elevation=0.0, radius=2.0)
        >>> cameras.positions.round().abs().tolist()
        [[0.0, 0.0, 2.0], [2.0, 0.0, 0.0]]
        >>> origins, directions = cameras.rays(height=8, width=8)
        >>> directions.shape
        torch.Size([128, 3])
    """

    poses: Tensor
    focal: Tensor
    centre: Tensor

    def __post_init__(self) -> None:
        checks.tensor("Cameras", "poses", self.poses, ("V", 4, 4))
        checks.tensor("Cameras", "focal", self.focal, (len(self.poses), 2), self.poses)
        checks.tensor("Cameras", "centre", self.centre, (len(self.poses), 2), self.poses)
        self._check_values()

    def _check_values(self) -> None:
        for name in ("poses", "focal", "centre"):
            values = checks.memory(getattr(self, name))
            if values is None:
                continue
            bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
            if len(bad):
                checks.fail("Cameras", name, "finite numbers", f"NaN or infinity in camera {bad[0]}")
            if name == "focal" and not (values > 0).all():
                camera = np.flatnonzero((values <= 0).any(axis=1))[0]
                checks.fail("Cameras", name, "positive numbers", f"{values[camera].tolist()} in camera {camera}")
            if name == "poses":
                axes = values[:, :3, :3].astype(np.float64)
                # The volume of the axes over that of a box with their lengths: 1 for a rotation of any scale.
                box = np.sqrt(np.square(axes).sum(axis=1)).prod(axis=1)
                flat = np.flatnonzero(np.abs(np.linalg.det(axes)) <= FLAT * box)
                if len(flat):
                    checks.fail("Cameras", name, "rotations", f"axes that span no volume in camera {flat[0]}")

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
            ValueError: arguments that are not numbers, sizes that do not go together, a value that is not finite, a
                radius or field of view that is not positive, a field of view of 180° and more, or a target that is
                not three numbers.
        """
        what, one_or_all = "Cameras.orbit", "a number or V numbers"
        given = [
            checks.values(what, argument, x, one_or_all, torch.float64).flatten()
            for argument, x in (("azimuth", azimuth), ("elevation", elevation), ("radius", radius), ("fov", fov))
        ]
        towards = checks.values(what, "target", target, "three finite numbers", torch.float64)
        if towards.shape != (3,) or not towards.isfinite().all():
            checks.fail(what, "target", "three finite numbers", repr(target))
        sizes = {len(v) for v in given} - {1}
        if len(sizes) > 1 or 0 in sizes:
            got = ", ".join(str(len(x)) for x in given)
            checks.fail(what, "azimuth, elevation, radius, fov", "one value or V values each", f"{got} of them")
        v = max(sizes, default=1)
        a, e, r, f = (x.expand(v) for x in given)
        for name, x in (("azimuth", a), ("elevation", e), ("radius", r), ("fov", f)):
            if not x.isfinite().all():
                checks.fail(what, name, "finite numbers", str(x.tolist()))
        if (r <= 0).any():
            checks.fail(what, "radius", "positive numbers", str(r.tolist()))
        if (f <= 0).any() or (f >= 180).any():
            checks.fail(what, "fov", "degrees between 0 and 180", str(f.tolist()))
        a, e, f = a.deg2rad(), e.deg2rad(), f.deg2rad()
        backward = torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], dim=-1)
        # Straight from above the azimuth still says what is right.
        right = torch.stack([a.cos(), torch.zeros_like(a), -a.sin()], dim=-1)
        up = torch.linalg.cross(backward, right)
        poses = torch.eye(4, dtype=torch.float64, device="cpu").repeat(v, 1, 1)
        poses[:, :3, :3] = torch.stack([right, up, backward], dim=-1)
        poses[:, :3, 3] = backward * r[:, None] + towards
        focal = (0.5 / (f / 2).tan())[:, None].expand(v, 2)
        return cls(poses.float(), focal.float().contiguous(), torch.full((v, 2), 0.5, device="cpu"))

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
        what, wanted = "Cameras.sample", "a number or (low, high), finite"
        count = checks.whole(what, "count", count, 1)

        def draw(name: str, value: Range) -> Tensor:
            given = checks.values(what, name, value, wanted, torch.float64).flatten().tolist()
            low, high = given if len(given) == 2 else given * 2 if len(given) == 1 else (math.nan, math.nan)
            if not (low <= high and math.isfinite(low) and math.isfinite(high)):
                checks.fail(what, name, wanted, repr(value))
            if name == "elevation" and on_sphere:
                low, high = math.sin(math.radians(low)), math.sin(math.radians(high))
            u = torch.rand(count, dtype=torch.float64, generator=generator, device="cpu")
            drawn = low + (high - low) * u
            return drawn.asin().rad2deg() if name == "elevation" and on_sphere else drawn

        values = {"azimuth": azimuth, "elevation": elevation, "radius": radius, "fov": fov}
        drawn = {name: draw(name, value) for name, value in values.items()}
        return cls.orbit(drawn["azimuth"], drawn["elevation"], drawn["radius"], drawn["fov"])

    @classmethod
    def from_poses(
        cls,
        poses: Tensor,
        *,
        focal: Values,
        width: int,
        height: int,
        centre: Values | None = None,
        convention: str = "opengl",
    ) -> Cameras:
        """Cameras from matrices and intrinsics in pixels.

        Args:
            poses: [V, 3 or 4, 4] camera to world.
            focal: [V, 2] (or [2], [V, 1], [1], [], or numbers) focal lengths in pixels, x and y.
            width, height: of the image the intrinsics belong to.
            centre: [V, 2] or [2] (or numbers) principal point in pixels from the left upper corner; the middle by
                default.
            convention: "opengl" (looks along −z, y up) or "opencv" (looks along +z, y down).

        Raises:
            TypeError, ValueError: another convention, shape or device, or values that `Cameras` refuses.
        """
        what = "Cameras.from_poses"
        checks.choice(what, "convention", convention, CONVENTIONS)
        width, height = checks.whole(what, "width", width, 1), checks.whole(what, "height", height, 1)
        if not isinstance(poses, Tensor) or poses.dim() != 3 or poses.shape[1:] not in ((3, 4), (4, 4)):
            got = checks.shape_text(poses) if isinstance(poses, Tensor) else type(poses).__name__
            checks.fail(what, "poses", "a tensor of shape [V, 4, 4] or [V, 3, 4]", got)
        v, dtype, device = len(poses), poses.dtype, poses.device
        full = torch.eye(4, dtype=dtype, device=device).repeat(v, 1, 1)
        full[:, :3] = poses[:, :3]
        if convention == "opencv":
            full[:, :3, 1:3] *= -1
        # Written on the device: a tensor made from a list would be copied there, and waited for.
        size = poses.new_empty(2)
        size[:1].fill_(width)
        size[1:].fill_(height)
        lengths = _intrinsics("focal", focal, ((), (1,), (2,), (v, 1), (v, 2)), poses)
        middle = size / 2 if centre is None else _intrinsics("centre", centre, ((2,), (v, 2)), poses)
        return cls(full, *((x / size).expand(v, 2).contiguous() for x in (lengths, middle)))

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: Index) -> Cameras:
        """The cameras of an index, a slice, or a list or tensor of indices or truth values; always a batch.

        Raises:
            IndexError: an index outside [−V, V).
            TypeError: something else.
        """
        if isinstance(index, (Tensor, np.ndarray, list)):
            index = (index if isinstance(index, Tensor) else torch.as_tensor(index, device="cpu")).reshape(-1)
            index = index if len(index) else index.long()
        elif not isinstance(index, slice):
            try:
                place = operator.index(index)  # type: ignore[arg-type]
            except TypeError:
                checks.fail("Cameras", "index", "an index, a slice or a tensor of indices", repr(index), TypeError)
            if not -len(self) <= place < len(self):
                checks.fail("Cameras", "index", f"one of {len(self)} cameras", str(place), IndexError)
            place %= len(self)
            index = slice(place, place + 1)
        return Cameras(self.poses[index], self.focal[index], self.centre[index])

    def __iter__(self) -> Iterator[Cameras]:
        """The cameras one after another, each a batch of one."""
        return (self[place] for place in range(len(self)))

    def to(self, *args: Any, **kwargs: Any) -> Cameras:
        """As `Tensor.to`; to a GPU the host does not wait for the copies unless `non_blocking=False` asks it to."""
        target: Any = kwargs.get("device", kwargs.get("other", args[0] if args else None))
        target = target.device if isinstance(target, Tensor) else target
        names_device = isinstance(target, (str, torch.device))
        if names_device and torch.device(target).type == "cuda" and not any(isinstance(x, bool) for x in args):
            kwargs.setdefault("non_blocking", True)
        return Cameras(*(t.to(*args, **kwargs) for t in (self.poses, self.focal, self.centre)))

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
            origins [V·H·W, 3]; directions [V·H·W, 3] of length 1. Both are, in float32, the same bits on CPU and GPU.

        Raises:
            ValueError: a size below 1.
        """
        height, width = (
            checks.whole("Cameras.rays", name, size, 1) for name, size in (("height", height), ("width", width))
        )
        x, y = (self._pixels(size) for size in (width, height))
        u = (x - self.centre[:, :1]) / self.focal[:, :1]  # [V, W]
        v = (y - self.centre[:, 1:]) / self.focal[:, 1:]  # [V, H]
        right, up, backward = (self.poses[:, None, None, :3, i] for i in range(3))
        directions = u[:, None, :, None] * right - v[:, :, None, None] * up - backward
        # One operation at a time, each correctly rounded: a reduction adds in an order that differs between devices,
        # and the vectorised square root of a CPU can be off by its last bit, which float64 puts out of float32's sight.
        dx, dy, dz = directions.unbind(-1)
        length = (dx * dx + dy * dy + dz * dz).double().sqrt().to(dx.dtype)
        directions = directions / length[..., None]
        origins = self.positions[:, None, None].expand_as(directions)
        return origins.reshape(-1, 3).contiguous(), directions.reshape(-1, 3).contiguous()

    def _pixels(self, size: int) -> Tensor:
        """[size], where the centres of an image's pixels are, over its size."""
        places = torch.arange(size, dtype=self.poses.dtype, device=self.poses.device) + 0.5
        # A GPU divides by a number of the host by multiplying with its reciprocal, which rounds otherwise than a CPU.
        return places / places.new_full((), size)


def _intrinsics(argument: str, given: Values, shapes: Sequence[tuple[int, ...]], poses: Tensor) -> Tensor:
    """Returns focal lengths or a principal point in pixels as a tensor like the poses.

    Raises:
        ValueError: values that are not numbers, another shape or device.
    """
    what = "Cameras.from_poses"
    wanted = f"numbers of shape {' or '.join(str(list(shape)) for shape in shapes)}"
    if isinstance(given, Tensor):
        if given.device != poses.device:
            checks.fail(what, argument, f"a tensor on {poses.device}", f"one on {given.device}")
        found = given.to(poses.dtype)
    else:
        found = checks.values(what, argument, given, wanted, poses.dtype).to(poses.device, non_blocking=True)
    if found.shape not in shapes:
        checks.fail(what, argument, wanted, checks.shape_text(found))
    return found
