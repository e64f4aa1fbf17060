"""The embedded generator: a StyleGAN2 of plain cubes, in any colour, from the front and both sides, before any grey.

It is trained the stable way, by regression: five numbers of a z say what its picture shows (`attributes`), and the
network learns to draw that. So what a picture shows is known, and whether an adapted generator has kept it can be
measured. In half of the pictures the finer layers (32 pixels and up) have the w of another z, whose colours they then
have to take: styles can be mixed. Its noise does almost nothing, since nothing of a picture is left to chance.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..generators import Settings, StyleGAN2, save, usual_channels
from . import loop, world

SIZE = 64
SETTINGS = Settings(
    resolution=SIZE,
    z_dim=8,
    w_dim=96,
    mapping_layers=4,
    mapping_multiplier=1.0,
    channels=usual_channels(SIZE, 1024, 64),
)
# Of a z: what each of its first numbers says; the others say nothing.
AZIMUTH, ELEVATION, RADIUS, BACKGROUND, COLOUR = range(5)
AZIMUTHS = (math.radians(-90), math.radians(90))
HEIGHTS = (math.radians(-5), math.radians(55))
DISTANCES = (world.CAMERA_RADIUS * 0.92, world.CAMERA_RADIUS * 1.1)
# Colours in a row: each keeps to itself for this share of its place, and goes over into the next in the rest.
ORDER = ("white", "red", "orange", "yellow", "green", "cyan", "blue", "purple")
PLATEAU = 0.6
# w of this layer and of those after it: 32 pixels and up.
FINE = 5
POSES = 8192


@dataclasses.dataclass(frozen=True)
class Attributes:
    """What pictures show, one row a picture.

    Attributes:
        azimuth: of the camera, radians; 0 is the front.
        elevation: of the camera, radians.
        radius: distance of the camera, world units.
        background: grey, 0 to 1.
        colour: of the cube, [B, 3], 0 to 1.
        place: where in `ORDER` that colour is, 0 to 8.
    """

    azimuth: np.ndarray
    elevation: np.ndarray
    radius: np.ndarray
    background: np.ndarray
    colour: np.ndarray
    place: np.ndarray

    def views(self) -> list[world.View]:
        """The cameras, with the greys."""
        rows = zip(self.azimuth, self.elevation, self.radius, self.background, strict=True)
        return [world.View(*map(float, row)) for row in rows]

    def names(self) -> list[str]:
        """The names of the colours; of one that goes over into the next, the nearer one's."""
        return [ORDER[min(int(place), len(ORDER) - 1)] for place in self.place]


@functools.cache
def _shares(dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """The distribution function of one number of a unit vector: its arguments and values."""
    at = np.linspace(-1, 1, 20001)
    density = (1 - at**2).clip(0) ** ((dimensions - 3) / 2)
    total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return at, total / total[-1]


def uniform(z: Tensor | np.ndarray) -> np.ndarray:
    """z [B, Z] → [B, Z] in [0, 1], each number of it uniform over all z; the length of a z does not matter."""
    z = np.asarray(z, dtype=np.float64)
    at, total = _shares(z.shape[1])
    return np.interp(z / np.linalg.norm(z, axis=1, keepdims=True), at, total)


def colours_at(place: np.ndarray) -> np.ndarray:
    """The colours [B, 3] at places [B] of the row `ORDER`, 0 to 8."""
    palette = np.array([world.COLOURS[name] for name in ORDER])
    # Between the middles of two neighbours: the one, the way over, the other.
    between = np.clip(place - 0.5, 0, len(ORDER) - 1)
    first = np.minimum(between.astype(int), len(ORDER) - 2)
    way = np.clip((between - first - PLATEAU / 2) / (1 - PLATEAU), 0, 1)[:, None]
    return palette[first] * (1 - way) + palette[first + 1] * way


def attributes(z: Tensor | np.ndarray) -> Attributes:
    """What the pictures of z [B, 8] show; each attribute is uniform over its range."""
    u = uniform(z)
    place = u[:, COLOUR] * len(ORDER)
    return Attributes(
        azimuth=AZIMUTHS[0] + u[:, AZIMUTH] * (AZIMUTHS[1] - AZIMUTHS[0]),
        elevation=HEIGHTS[0] + u[:, ELEVATION] * (HEIGHTS[1] - HEIGHTS[0]),
        radius=DISTANCES[0] + u[:, RADIUS] * (DISTANCES[1] - DISTANCES[0]),
        background=world.BACKGROUNDS[0] + u[:, BACKGROUND] * (world.BACKGROUNDS[1] - world.BACKGROUNDS[0]),
        colour=colours_at(place),
        place=place,
    )


def white_cube(view: world.View) -> tuple[np.ndarray, np.ndarray]:
    """A cube in white on black, `[SIZE, SIZE]` uint8, and its coverage, `[SIZE, SIZE]` float32 in [0, 1]."""
    scene = world.Scene("cube", "white")
    image, coverage = world.render(scene, dataclasses.replace(view, background=0.0), SIZE, mask=True)
    return image[..., 0], coverage


def recoloured(shades: np.ndarray, coverages: np.ndarray, seen: Attributes) -> np.ndarray:
    """Cubes in other colours before other greys.

    Args:
        shades: [B, H, W] 0 to 255, of cubes in white on black.
        coverages: [B, H, W] 0 to 1.
        seen: whose colours and greys are taken, of B pictures.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    layers = np.stack([shades / (255 * world.COLOURS["white"][0]), 1 - coverages], axis=1)
    greys = np.repeat(seen.background[:, None], 3, axis=1)
    return painted(layers, np.stack([seen.colour, greys], axis=1)).clip(0, 1)


def painted(layers: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Layers in colours: `[B, K, …]`, how much of each there is in a pixel, and `[B, K, 3]` → `[B, 3, …]`."""
    colours = colours.reshape(*colours.shape, *[1] * (layers.ndim - 2))
    total: np.ndarray = layers[:, 0, None] * colours[:, 0]
    for kind in range(1, layers.shape[1]):
        total = total + layers[:, kind, None] * colours[:, kind]
    return total


def view_words(z: Tensor | np.ndarray) -> list[str]:
    """From where the pictures of z [B, 8] show their solid, in the words of captions: "low side", "raised front", …"""
    return [_words(view) for view in attributes(z).views()]


def _words(view: world.View) -> str:
    return f"{view.height()} {view.name()}"


def all_view_words() -> list[str]:
    """All that `view_words` says."""
    sides, heights = (np.linspace(*limits, 25) for limits in (AZIMUTHS, HEIGHTS))
    return sorted({_words(world.View(float(side), float(height))) for side in sides for height in heights})


class Poses:
    """Cubes in white on black with their coverage, and the z that say their poses: rendered once, from a seed.

    Args:
        path: of the file, which is made where it is missing.
        seed: of the z.
        count: how many.
    """

    def __init__(self, path: pathlib.Path, seed: int, count: int = POSES):
        if not path.exists():
            self._make(path, seed, count)
        with np.load(path) as file:
            self.z, self.shades, self.coverages = (file[name] for name in ("z", "shades", "coverages"))

    @staticmethod
    def _make(path: pathlib.Path, seed: int, count: int) -> None:
        z = np.random.default_rng((seed, 0)).standard_normal((count, SETTINGS.z_dim))
        shades, coverages = [], []
        for view in attributes(z).views():
            shade, coverage = white_cube(view)
            shades.append(shade)
            coverages.append((coverage * 255 + 0.5).astype(np.uint8))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, z=z.astype(np.float32), shades=np.stack(shades), coverages=np.stack(coverages))
        os.replace(part, path)

    def batch(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Two z for each picture, [B, 8], and the pictures [B, 3, 64, 64] in [−1, 1].

        The first z says the pose. So does it the colours in the first half of the pictures, where both are the same; in
        the second half these are the second's.
        """
        picks = rng.integers(len(self.z), size=count)
        # A unit vector with the pose's numbers, and all others drawn anew.
        pose = self.z[picks] / np.linalg.norm(self.z[picks], axis=1, keepdims=True)
        rest = rng.standard_normal((count, SETTINGS.z_dim - BACKGROUND))
        left = np.sqrt(1 - (pose[:, :BACKGROUND] ** 2).sum(1, keepdims=True))
        rest *= left / np.linalg.norm(rest, axis=1, keepdims=True)
        first = np.concatenate([pose[:, :BACKGROUND], rest], axis=1)
        second = first.copy()
        half = count // 2
        second[half:] = rng.standard_normal((count - half, SETTINGS.z_dim))
        seen = attributes(second)
        pictures = recoloured(self.shades[picks], self.coverages[picks] / 255, seen)
        z = (torch.from_numpy(x).float() for x in (first, second))
        return *z, torch.from_numpy(pictures * 2 - 1).float()  # type: ignore[return-value]


def mixed(generator: StyleGAN2, first: Tensor, second: Tensor) -> Tensor:
    """w [B, L, W] with the layers below `FINE` from the first z and the others from the second."""
    return torch.cat([generator.mapping(first)[:, :FINE], generator.mapping(second)[:, FINE:]], dim=1)


def train(work: pathlib.Path, made: pathlib.Path, *, seed: int, steps: int, batch: int = 16) -> None:
    """Trains the generator and writes it to `made/generator`."""
    poses = Poses(work / "data" / "poses.npz", seed)
    torch.manual_seed(seed)
    generator = StyleGAN2(SETTINGS)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        first, second, wanted = poses.batch(np.random.default_rng((seed, 1, step)), batch)
        error = generator.synthesis(mixed(generator, first, second)) - wanted
        loss = error.abs().mean() + error.square().mean() + F.avg_pool2d(error, 4).abs().mean()
        return loss, {"loss": loss.item(), "mse": error.square().mean().item() / 4}

    averaged = loop.train(
        generator,
        loss_at,
        steps=steps,
        # With a rate of 0.003, momentum and clipping, poses are not yet learned when this is half-way.
        peak_rate=1e-2,
        betas=(0.0, 0.99),
        largest_norm=math.inf,
        checkpoint=work / "generator.pt",
        name="generator",
        ema_decay=0.998,
    )
    generator.load_state_dict(averaged)
    generator.average()
    about = {
        "shows": "a cube",
        "trained": f"by regression onto renders of ldp_fast.zoo.world, {steps} steps of {batch}",
    }
    save(made / "generator", generator, about)
