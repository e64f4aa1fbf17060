"""The small world the embedded model knows: simple solids, rendered by sphere tracing, with captions.

Everything here is NumPy, deterministic from a seed, and needs no download. A `Scene` is one solid with one surface; a
`View` is one camera. Names and letters: points `p` are `[N, 3]` in the world (y up, z towards the front camera, the
solid inside the unit ball); images are `[H, W, 3]` uint8, sRGB taken as linear.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib

import numpy as np

SHAPES = ("sphere", "cube", "torus", "cone", "cylinder")
COLOURS = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.97, 0.90, 0.12),
    "green": (0.12, 0.62, 0.18),
    "cyan": (0.15, 0.82, 0.85),
    "blue": (0.12, 0.22, 0.85),
    "purple": (0.55, 0.15, 0.70),
    "white": (0.97, 0.97, 0.97),
}
PATTERNS = ("plain", "striped", "checkered")
VIEWS = ("front", "side", "back", "overhead")
# Words for how high the camera stands, and the elevation in degrees up to which each is used; above them is overhead.
HEIGHTS = {"low": 15.0, "raised": 35.0, "high": 60.0}
FIELD_OF_VIEW = math.radians(40.0)
CAMERA_RADIUS = 3.6
OVERHEAD_ELEVATION = math.radians(60.0)
# Greys behind the solid, far apart: fog that is right before one of them is wrong before the next.
BACKGROUNDS = (0.25, 0.6)
# One light fixed to the world, so that front, side and back can be told apart even on a solid of revolution.
LIGHT = np.array([0.35, 0.70, 0.62]) / np.linalg.norm([0.35, 0.70, 0.62])
AMBIENT, DIFFUSE = 0.70, 0.34


@dataclasses.dataclass(frozen=True)
class Scene:
    """One solid: its shape, its colour, and for a pattern its second colour."""

    shape: str
    colour: str
    pattern: str = "plain"
    second: str | None = None

    def caption(self) -> str:
        """The canonical caption, without article variants and without the view."""
        article = "an" if self.colour[0] == "o" else "a"
        if self.pattern == "striped":
            return f"{article} {self.colour} {self.shape} with {self.second} stripes"
        if self.pattern == "checkered":
            return f"{article} {self.colour} and {self.second} checkered {self.shape}"
        return f"{article} {self.colour} {self.shape}"

    def held_out(self) -> bool:
        """True for the combinations (about one in ten, never a plain solid) that training does not see."""
        return self.pattern != "plain" and zlib.crc32(self.caption().encode()) % 10 == 0


@dataclasses.dataclass(frozen=True)
class View:
    """One camera on a sphere around the solid: angles in radians, radius in world units, grey of the background."""

    azimuth: float
    elevation: float
    radius: float = CAMERA_RADIUS
    background: float = 0.5

    def name(self) -> str:
        """The word a caption uses for this view: front, back (a quarter of the azimuths each), side or overhead."""
        if self.elevation > OVERHEAD_ELEVATION:
            return "overhead"
        angle = abs((self.azimuth + math.pi) % (2 * math.pi) - math.pi)
        return "front" if angle < math.pi / 4 else "side" if angle < 3 * math.pi / 4 else "back"

    def height(self) -> str:
        """The word for the camera's elevation, one of `HEIGHTS`; empty for views from overhead."""
        degrees = math.degrees(self.elevation)
        return next((word for word, limit in HEIGHTS.items() if degrees <= limit), "")

    def agrees(self, caption: str) -> bool:
        """Whether a caption names this view, or none: `…, side view` and `…, low side view` of a low one from aside."""
        if not caption.endswith(" view"):
            return True
        words = caption.rpartition(", ")[2].split()[:-1]
        return set(words) <= {self.name(), self.height()}


def all_scenes() -> list[Scene]:
    """Every scene once: 40 plain, 280 striped (ordered colours), 140 checkered (unordered colours)."""
    scenes = [Scene(s, c) for s in SHAPES for c in COLOURS]
    scenes += [Scene(s, a, "striped", b) for s in SHAPES for a, b in itertools.permutations(COLOURS, 2)]
    scenes += [Scene(s, a, "checkered", b) for s in SHAPES for a, b in itertools.combinations(COLOURS, 2)]
    return scenes


def sample_scene(rng: np.random.Generator, *, held_out: bool | None = False) -> Scene:
    """Draws a scene: pattern, then shape and colours, uniformly; `held_out` None draws from all of them."""
    while True:
        shape, pattern = rng.choice(SHAPES), rng.choice(PATTERNS)
        first, second = rng.choice(list(COLOURS), 2, replace=False)
        if pattern == "checkered":
            first, second = sorted((first, second), key=list(COLOURS).index)
        scene = Scene(str(shape), str(first), str(pattern), None if pattern == "plain" else str(second))
        if held_out is None or scene.held_out() == held_out:
            return scene


def sample_view(rng: np.random.Generator) -> View:
    """Draws a camera: any azimuth; elevation −5°…55°, one in six overhead (65°…90°); radius ± 10 %; any grey."""
    overhead = rng.random() < 1 / 6
    elevation = rng.uniform(65, 90) if overhead else rng.uniform(-5, 55)
    return View(
        azimuth=float(rng.uniform(0, 2 * math.pi)),
        elevation=math.radians(float(elevation)),
        radius=float(CAMERA_RADIUS * rng.uniform(0.92, 1.1)),
        background=float(rng.uniform(*BACKGROUNDS)),
    )


def training_caption(rng: np.random.Generator, scene: Scene, view: View) -> str:
    """A caption with the variety a user's prompt has: checkers in either order, a prefix, the view named or not."""
    if scene.pattern == "checkered" and scene.second is not None and rng.random() < 0.5:
        scene = dataclasses.replace(scene, colour=scene.second, second=scene.colour)
    caption = str(rng.choice(["", "", "a photo of ", "a picture of ", "a render of "])) + scene.caption()
    if rng.random() < 0.85:
        height = f"{view.height()} " if view.height() and rng.random() < 0.75 else ""
        caption += f", {height}{view.name()} view"
    return caption


def signed_distance(shape: str, p: np.ndarray) -> np.ndarray:
    """Signed distance of `p` `[N, 3]` to the solid's surface, `[N]` (exact outside, which is where rays march)."""
    x, y, z = p[:, 0], p[:, 1], p[:, 2]
    if shape == "sphere":
        return np.sqrt(x * x + y * y + z * z) - 0.85
    if shape == "cube":
        q = np.abs(p) - 0.6
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)
    rho = np.sqrt(x * x + z * z)
    if shape == "torus":
        return np.sqrt((rho - 0.65) ** 2 + y * y) - 0.28
    if shape == "cylinder":
        dx, dy = rho - 0.58, np.abs(y) - 0.75
        return np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2) + np.minimum(np.maximum(dx, dy), 0)
    # Cone: in the (rho, y) half-plane, the distance to the triangle of the axis, the base and the slope.
    base, low, height = 0.75, -0.7, 1.55
    slope_length = math.hypot(base, height)
    along = np.clip(((base - rho) * base + (y - low) * height) / slope_length**2, 0, 1)
    to_slope = np.hypot(rho - base * (1 - along), y - low - height * along)
    to_base = np.hypot(rho - np.clip(rho, 0, base), y - low)
    inside = (y > low) & ((rho - base) * height + (y - low) * base < 0)
    return np.where(inside, -1, 1) * np.minimum(to_slope, to_base)


def is_second_colour(scene: Scene, p: np.ndarray) -> np.ndarray:
    """Where the surface at `p` `[N, 3]` has the second colour, `[N]` bool."""
    if scene.pattern == "plain":
        return np.zeros(len(p), dtype=bool)
    angle = np.arctan2(p[:, 0], p[:, 2])
    if scene.shape == "torus":
        # Stripes and checks of a torus follow the ring; the tube's angle is the other coordinate.
        across = np.floor(angle / (2 * np.pi) * 12)
        tube = np.arctan2(p[:, 1], np.hypot(p[:, 0], p[:, 2]) - 0.65)
        stripe = (angle / (2 * np.pi) * 8) % 1 > 0.62
        cells = across + np.floor(tube / (2 * np.pi) * 4)
    else:
        stripe = ((p[:, 1] + 1.0) * 2.4) % 1 > 0.62
        if scene.shape == "cube":
            cells = np.floor((np.clip(p, -0.599, 0.599) + 0.6) / 0.4).sum(axis=1)
        else:
            cells = np.floor(angle / (2 * np.pi) * 8) + np.floor((p[:, 1] * 0.999 + 1.0) * 2.2)
            flat = np.abs(p[:, 1] - (0.75 if scene.shape == "cylinder" else -0.7)) < 2e-3
            if scene.shape in ("cylinder", "cone"):
                ring = np.floor(np.hypot(p[:, 0], p[:, 2]) / 0.3)
                cells = np.where(flat, np.floor(angle / (2 * np.pi) * 8) + ring, cells)
    return stripe if scene.pattern == "striped" else cells % 2 == 1


def camera_position(view: View) -> np.ndarray:
    """The camera's place `[3]`: azimuth 0 is the front (+z), positive towards +x; elevation towards +y."""
    c = math.cos(view.elevation)
    direction = (math.sin(view.azimuth) * c, math.sin(view.elevation), math.cos(view.azimuth) * c)
    return view.radius * np.array(direction)


def rays(view: View, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rays of a camera's pixels, from the top left.

    Args:
        view: the camera.
        count: rays per side.

    Returns:
        Where they begin, `[3]`; their directions, `[count·count, 3]` of length 1; float32.
    """
    origin = camera_position(view)
    forward = -origin / np.linalg.norm(origin)
    # The camera's up is world y, except straight overhead, where the azimuth keeps it defined.
    right = np.array([math.cos(view.azimuth), 0.0, -math.sin(view.azimuth)])
    up = np.cross(right, forward)
    ticks = ((np.arange(count) + 0.5) / count * 2 - 1) * math.tan(FIELD_OF_VIEW / 2)
    u, v = np.meshgrid(ticks, -ticks)
    directions = (forward + u[..., None] * right + v[..., None] * up).reshape(-1, 3).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return origin.astype(np.float32), directions


def first_hits(shape: str, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays meet a solid first, by sphere tracing.

    Args:
        shape: of the solid.
        origin: `[3]` float32, of all the rays, outside of the solid.
        directions: `[N, 3]` float32, of length 1.

    Returns:
        The rays that hit, `[K]`, in no particular order; their lengths, `[K]` float32.
    """
    # Only rays through the unit ball (with a margin) can hit.
    closest = -directions @ origin
    miss_sq = origin @ origin - closest**2
    active = np.flatnonzero(miss_sq < 1.15)
    depth = closest[active] - np.sqrt(1.15 - miss_sq[active])
    farthest = math.sqrt(float(origin @ origin)) + 1.2
    hit_index, hit_depth = [], []
    for _ in range(80):
        distance = signed_distance(shape, origin + depth[:, None] * directions[active]).astype(np.float32)
        landed = distance < 1e-3
        hit_index.append(active[landed])
        hit_depth.append(depth[landed])
        depth = depth + distance
        keep = ~landed & (depth < farthest)
        active, depth = active[keep], depth[keep]
        if not len(active):
            break
    return np.concatenate(hit_index), np.concatenate(hit_depth)


def normals(shape: str, p: np.ndarray) -> np.ndarray:
    """The solid's normals at `p` `[N, 3]` on its surface, `[N, 3]` of length 1."""
    # The gradient of the distance (tetrahedron of four samples).
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]]) * 1e-3
    normal = sum(k * signed_distance(shape, p + k)[:, None] for k in corners)
    return normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12)


def render(scene: Scene, view: View, size: int = 128, supersample: int = 2, *, mask: bool = False):
    """Renders one image by sphere tracing.

    Args:
        scene: the solid.
        view: the camera and the background's grey.
        size: pixels per side.
        supersample: samples per pixel and axis.
        mask: also return the solid's coverage.

    Returns:
        `[size, size, 3]` uint8; with `mask` also `[size, size]` float32 in [0, 1].
    """
    n = size * supersample
    origin, directions = rays(view, n)
    index, depth = first_hits(scene.shape, origin, directions)
    p = (origin + depth[:, None] * directions[index]).astype(np.float64)
    normal = normals(scene.shape, p)
    shade = AMBIENT + DIFFUSE * np.maximum(normal @ LIGHT, 0)
    second = COLOURS[scene.second] if scene.second else COLOURS[scene.colour]
    albedo = np.where(is_second_colour(scene, p)[:, None], np.array(second), np.array(COLOURS[scene.colour]))

    image = np.full((n * n, 3), view.background, dtype=np.float32)
    image[index] = albedo * shade[:, None]
    image = image.reshape(size, supersample, size, supersample, 3).mean(axis=(1, 3))
    image = (image * 255 + 0.5).clip(0, 255).astype(np.uint8)
    if not mask:
        return image
    coverage = np.zeros(n * n, dtype=np.float32)
    coverage[index] = 1
    return image, coverage.reshape(size, supersample, size, supersample).mean(axis=(1, 3))
