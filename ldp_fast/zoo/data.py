"""The rendered data set of the embedded model: shards of images with their scenes and views, remade from a seed."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib

import numpy as np
from tqdm import tqdm

from . import world

SHARD_SIZE = 1024
TRAIN_SHARDS = 14


def _make_shard(path: pathlib.Path, seed: int, index: int, held_out: bool | None) -> None:
    rng = np.random.default_rng((seed, index))
    images, rows = [], []
    for _ in range(SHARD_SIZE):
        scene, view = world.sample_scene(rng, held_out=held_out), world.sample_view(rng)
        images.append(world.render(scene, view))
        rows.append(
            [
                *(scene.shape, scene.colour, scene.pattern, scene.second or ""),
                *map(repr, (view.azimuth, view.elevation, view.radius, view.background)),
            ]
        )
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        np.savez(file, images=np.stack(images), rows=np.array(rows))
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
    """Images `[N, 128, 128, 3]` uint8 with `scenes` and `views` lists, from one or more shards."""

    def __init__(self, folder: pathlib.Path, split: str):
        paths = sorted(folder.glob(f"{split}*.npz"))
        if not paths:
            raise FileNotFoundError(f"no {split} shards in {folder}: run the data stage first")
        shards = [np.load(path) for path in paths]
        self.images = np.concatenate([shard["images"] for shard in shards])
        rows = np.concatenate([shard["rows"] for shard in shards])
        self.scenes = [world.Scene(r[0], r[1], r[2], r[3] or None) for r in rows.tolist()]
        self.views = [world.View(*map(float, r[4:8])) for r in rows.tolist()]

    def __len__(self) -> int:
        return len(self.images)
