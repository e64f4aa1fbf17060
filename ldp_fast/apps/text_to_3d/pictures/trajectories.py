"""Where pictures and films of an object are taken from."""

from __future__ import annotations

import math

from ....errors import UsageError
from ....nerf import Cameras

TRAJECTORIES = ("orbit", "spiral", "views")
# Degrees. A spiral climbs and sinks by this much about its elevation; `views` looks down from OVERHEAD once.
RISE, OVERHEAD = 25.0, 80.0
STEEPEST = 89.0


def trajectory(name: str, frames: int, *, elevation: float, radius: float, fov: float) -> Cameras:
    """Cameras around the object, the first at the front.

    Args:
        name: `orbit`, one turn at one elevation; `spiral`, two turns that climb and sink by 25° (the last frame of
            either leads on to the first, so that a film of it loops); `views`, all around and last one from above.
        frames: V, at least 1.
        elevation: degrees above the horizon.
        radius: distance from the origin, world units.
        fov: vertical field of view, degrees.

    Returns:
        V cameras, on the CPU.

    Raises:
        UsageError: an unknown name, or a value out of its range.
    """
    if name not in TRAJECTORIES:
        raise UsageError(f"trajectory: expected one of {', '.join(TRAJECTORIES)}; got {name!r}")
    if frames < 1:
        raise UsageError(f"frames: expected at least 1, got {frames}")
    if not -90 <= elevation <= 90:
        raise UsageError(f"elevation: expected degrees from -90 to 90, got {elevation:g}")
    if not (radius > 0 and math.isfinite(radius)):
        raise UsageError(f"radius: expected a positive number, got {radius:g}")
    if not 0 < fov < 180:
        raise UsageError(f"fov: expected degrees between 0 and 180, got {fov:g}")
    if name == "views" and frames > 1:
        around = frames - 1
        azimuths = [360.0 * i / around for i in range(around)] + [0.0]
        return Cameras.orbit(azimuths, [elevation] * around + [OVERHEAD], radius, fov)
    if name == "spiral":
        turns = [i / frames for i in range(frames)]
        heights = [elevation + RISE * math.sin(2 * math.pi * u) for u in turns]
        return Cameras.orbit(
            [720.0 * u for u in turns], [max(-STEEPEST, min(STEEPEST, x)) for x in heights], radius, fov
        )
    return Cameras.orbit([360.0 * i / frames for i in range(frames)], elevation, radius, fov)
