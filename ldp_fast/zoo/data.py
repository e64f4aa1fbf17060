"""The rendered data set of the embedded model: shards of images with their scenes and views, remade from a seed.

Solids are kept on black with their coverage, so that each time they are drawn another grey can stand behind them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib

import numpy as np
from tqdm import tqdm

from . import world

SHARD_SIZE = 1024
TRAIN_SHARDS = 16


def _make_shard(path: pathlib.Path, seed: int, index: int, held_out: bool | None) -> None:
    rng = np.random.default_rng((seed, index))
    images, coverages, rows = [], [], []
    for _ in range(SHARD_SIZE):
        scene, view = world.sample_scene(rng, held_out=held_out), world.sample_view(rng)
        image, coverage = world.render(scene, dataclasses.replace(view, background=0.0), mask=True)
        images.append(image)
        coverages.append((coverage * 255 + 0.5).astype(np.uint8))
        rows.append(
            [
                *(scene.shape, scene.colour, scene.pattern, scene.second or ""),
                *map(repr, (view.azimuth, view.elevation, view.radius, view.background)),
            ]
        )
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        np.savez(file, images=np.stack(images), coverages=np.stack(coverages), rows=np.array(rows))
    os.replace(temporary, path)


def make(folder: pathlib.Path, seed: int, workers: int | None = None) -> None:
    """Renders the shards that are missing: `TRAIN_SHARDS` of them for training, one for validation.

    Training shards hold no held-out combination; the validation shard (index 10 000) draws from all combinations.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[pathlib.Path, int, int, bool | None]] = [
        (folder / f"train-{i:03d}.npz", seed, i, False) for i in range(TRAIN_SHARDS)
    ]
    jobs.append((folder / "validation.npz", seed, 10_000, None))
    jobs = [job for job in jobs if not job[0].exists()]
    with concurrent.futures.ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        futures = [pool.submit(_make_shard, *job) for job in jobs]
        for future in tqdm(concurrent.futures.as_completed(futures), total=len(jobs), desc="data", unit="shard"):
            future.result()


class RenderedImages:
    """Solids on black `[N, 128, 128, 3]` uint8 and their coverages, with `scenes` and `views` lists, from shards."""

    def __init__(self, folder: pathlib.Path, split: str):
        paths = sorted(folder.glob(f"{split}*.npz"))
        if not paths:
            raise FileNotFoundError(f"no {split} shards in {folder}: run the data stage first")
        shards = [np.load(path) for path in paths]
        self.solids = np.concatenate([shard["images"] for shard in shards])
        self.coverages = np.concatenate([shard["coverages"] for shard in shards])
        rows = np.concatenate([shard["rows"] for shard in shards])
        self.scenes = [world.Scene(r[0], r[1], r[2], r[3] or None) for r in rows.tolist()]
        self.views = [world.View(*map(float, r[4:8])) for r in rows.tolist()]

    def __len__(self) -> int:
        return len(self.scenes)

    def pictures(self, picks: np.ndarray, backgrounds: np.ndarray, opacity: np.ndarray | float = 1.0) -> np.ndarray:
        """Images `[B, 3, 128, 128]` float32 in [-1, 1].

        Args:
            picks: which, `[B]`.
            backgrounds: the greys behind them, 0 to 1, `[B]`; `[B, 3]` are colours.
            opacity: of the solids, `[B]`; below 1 they are like the fog of an unfinished object.
        """
        seen = np.broadcast_to(np.asarray(opacity, dtype=np.float32), len(picks))[:, None, None, None] / 255
        behind = np.asarray(backgrounds, dtype=np.float32).reshape(len(picks), 1, 1, -1)
        solid = self.solids[picks].astype(np.float32) * seen
        empty = 1 - self.coverages[picks].astype(np.float32)[..., None] * seen
        return np.ascontiguousarray(((solid + empty * behind) * 2 - 1).transpose(0, 3, 1, 2))
