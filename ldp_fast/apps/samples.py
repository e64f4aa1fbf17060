"""Samples of a generator in a folder: numbered pictures, and a record of what they are; an interruption goes on."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import os
import pathlib
from typing import Any

from ..errors import UsageError
from ..generators import StyleGAN2, sampling
from ..metrics.pictures import SAMPLES
from ..metrics.weights import digest_of
from ..runs import files, image_files
from .progress import bar

# What pictures depend on, beside their numbers.
SAME = ("weights", "seed", "truncation", "noise")
END = b"IEND\xaeB`\x82"  # of a PNG


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Samples of a generator.

    Attributes:
        count: how many.
        truncation: ψ.
        seed: of their z.
        noise: `fixed` or `fresh`.
        batch: pictures at a time; None: as many as `sampling.batch_of` says.
    """

    count: int
    truncation: float
    seed: int
    noise: str = sampling.FIXED
    batch: int | None = None


def record_of(generator: Any, wanted: Wanted, name: str) -> dict[str, Any]:
    """What `samples.json` says of samples.

    Args:
        generator: that makes them, a StyleGAN2 or a module like one.
        wanted: which.
        name: of the generator, for people.
    """
    return {
        "generator": name,
        "weights": digest_of(generator),
        "about": generator.about if isinstance(generator, StyleGAN2) else {},
        **{key: getattr(wanted, key) for key in ("count", "truncation", "seed", "noise")},
        "size": _side_of(generator),
        "z": f"that of picture i is ldp_fast.generators.sampling.latents({wanted.seed}, i, 1, {generator.z_dim})",
        "versions": files.versions("pillow"),
    }


def held_in(out: pathlib.Path) -> dict[str, Any]:
    """The record of the samples that a folder holds; empty where it does not have one.

    Raises:
        UsageError: it is damaged, or of something else.
    """
    if not (out / SAMPLES).exists():
        return {}
    try:
        found = files.read_json(out / SAMPLES)
    except UsageError as error:
        # What else lies there may be somebody else's, so that --overwrite does not help either.
        raise UsageError(
            f"{error}: choose another --out, or remove {out / SAMPLES} and the pictures that lie beside it"
        ) from None
    if not isinstance(found, dict) or not all(key in found for key in SAME) or not _is_count(found.get("count")):
        raise UsageError(f"{out / SAMPLES} is not of ldp-fast generate: choose another --out")
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def clear(out: pathlib.Path, record: dict[str, Any]) -> None:
    """Removes the samples of a record, the record last: what is interrupted here is still known as what it is."""
    for path in paths(out, record["count"]):
        path.unlink(missing_ok=True)
    (out / SAMPLES).unlink()


def paths(out: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Of the first pictures."""
    return [out / sampling.file_name(index) for index in range(count)]


def fill(generator: Any, wanted: Wanted, out: pathlib.Path, name: str, *, label: str) -> list[pathlib.Path]:
    """Makes a folder of this process's own hold some samples; what else of samples it held is replaced.

    Args:
        generator, wanted, name: see `record_of`.
        out: the folder.
        label: of the progress bar.

    Returns:
        Its files: the pictures, and the record.
    """
    record = record_of(generator, wanted, name)
    try:
        before = held_in(out)
    except UsageError:
        before = {}
    if before and (any(before[key] != record[key] for key in SAME) or before["count"] > wanted.count):
        clear(out, before)
        before = {}
    if not before:
        # Pictures without a record may be of another generator, such as those of a run that --overwrite replaced.
        for path in paths(out, wanted.count):
            path.unlink(missing_ok=True)
    files.write_json(out / SAMPLES, record)
    write_missing(generator, wanted, out, label=label)
    return [*paths(out, wanted.count), out / SAMPLES]


def write_missing(
    generator: Any, wanted: Wanted, out: pathlib.Path, *, label: str, progress: bool = True
) -> tuple[int, list[str]]:
    """Writes those samples that a folder lacks, or of which it holds something that is damaged or of another size.

    A batch of which some pictures are there is computed as a whole, so that what is written does not depend on when it
    was interrupted.

    Args:
        generator: that makes them.
        wanted: which of its pictures.
        out: the folder.
        label: of the progress bar.
        progress: whether to show one.

    Returns:
        How many were made, and the names of those that were there and were made again.

    Raises:
        UsageError: pictures are not finite.
    """
    side = _side_of(generator)
    batch = wanted.batch or sampling.batch_of(generator)
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        there = {index: path for index, path in enumerate(paths(out, wanted.count)) if os.path.lexists(path)}
        whole = pool.map(lambda path: _is_whole(path, side), there.values())
        damaged = [index for index, good in zip(there, whole, strict=True) if not good]
        missing = {index for index in range(wanted.count) if index not in there}.union(damaged)
        with bar(len(missing), label, "picture", progress) as advance:
            writing: list[concurrent.futures.Future[None]] = []
            for start in range(0, wanted.count, batch):
                numbers = range(start, min(start + batch, wanted.count))
                todo = missing.intersection(numbers)
                if not todo:
                    continue
                z = sampling.latents(wanted.seed, start, len(numbers), generator.z_dim)
                noise = sampling.noises(wanted.seed, start, len(numbers)) if wanted.noise == sampling.FRESH else None
                images = sampling.pictures(generator, z, wanted.truncation, batch, noise, first=start)
                for future in writing:
                    future.result()
                # A large PNG takes longer than its picture.
                writing = [
                    pool.submit(image_files.save_png, out / sampling.file_name(i), images[i - start])
                    for i in sorted(todo)
                ]
                advance(len(todo))
            for future in writing:
                future.result()
    return len(missing), [sampling.file_name(index) for index in damaged]


def _side_of(generator: Any) -> int | None:
    """Pixels per side, where a generator says so: one of somebody else's need not."""
    found = getattr(generator, "resolution", None)
    return found if isinstance(found, int) else None


def _is_whole(path: pathlib.Path, side: int | None) -> bool:
    """Whether a file is a PNG as it was written: of that size, to its end, and with its checksums."""
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.verify()  # but for the last checksum
            return data.endswith(END) and image.mode == "RGB" and (side is None or image.size == (side, side))
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise whatever the bytes lead them to
        return False
