"""Vectors of pictures by a network: read ahead, in batches of one size, computed for what is new only."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError, reason
from ...metrics.pictures import WHITE, decode_picture
from ...runs import files
from ..progress import bar
from .gathered import Picture
from .store import Store

T = TypeVar("T")
BATCH = 64
PIXELS = 2**24  # of the pictures that are decoded at once, about: 48 MB, and four times that as float32
PACKAGES = ("torchmetrics", "torch-fidelity", "open_clip_torch", "pillow")  # beside those that every record names


@dataclasses.dataclass(frozen=True)
class Network:
    """What makes vectors of pictures.

    Attributes:
        name: of the numbers.
        about: what the vectors depend on beside pictures and versions, such as a digest of the weights; as JSON.
        compute: `[B, 3, H, W]` uint8 of one size -> `[B, D]`.
    """

    name: str
    about: dict[str, Any]
    compute: Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Keeping:
    """Where vectors are kept, and how pictures are read.

    Attributes:
        folder: of the stores.
        background: RGB, 0 to 255, behind what is transparent.
        progress: whether to show bars.
    """

    folder: pathlib.Path
    background: Sequence[int] = WHITE
    progress: bool = True

    def store(self, network: Network) -> Store:
        """That of a network."""
        about = {**network.about, "background": list(self.background), "versions": files.versions(*PACKAGES)}
        return Store(self.folder, network.name, about)


def digests_of(pictures: Sequence[Picture]) -> list[str]:
    """SHA-256 of each file, in hexadecimal digits.

    Raises:
        UsageError: a file cannot be read.
    """
    return list(_in_threads(lambda picture: _digest(_bytes(picture.file)), pictures))


def features_of(pictures: Sequence[Picture], network: Network, keeping: Keeping) -> np.ndarray:
    """The vectors of pictures; those that are kept are not computed again.

    Args:
        pictures: N of them, of any sizes.
        network: that makes vectors.
        keeping: where they are kept.

    Returns:
        `[N, D]` float32.

    Raises:
        UsageError: a picture that cannot be read, or a folder that cannot be written.
    """
    store, digests = _computed(pictures, network, keeping)
    return store.rows(digests)


def mapped_features_of(pictures: Sequence[Picture], network: Network, keeping: Keeping) -> list[np.ndarray]:
    """As `features_of`, as a list of vectors that are read from their files when they are looked at."""
    store, digests = _computed(pictures, network, keeping)
    return store.mapped(digests)


def _computed(pictures: Sequence[Picture], network: Network, keeping: Keeping) -> tuple[Store, list[str]]:
    digests = digests_of(pictures)
    with keeping.store(network) as store:
        _compute_missing(pictures, digests, network, store, keeping)
    return store, digests


def _compute_missing(
    pictures: Sequence[Picture], digests: Sequence[str], network: Network, store: Store, keeping: Keeping
) -> None:
    by_digest = dict(zip(reversed(digests), reversed(pictures), strict=True))  # of equal ones, the first
    wanted = store.missing(digests)
    with bar(len(wanted), network.name, "picture", keeping.progress) as advance:
        for parts in _chunks([(digest, by_digest[digest]) for digest in wanted], keeping.background):
            by_size: dict[Any, list[tuple[str, Tensor]]] = collections.defaultdict(list)
            for digest, pixels in parts:
                by_size[pixels.shape].append((digest, pixels))
            for same in by_size.values():
                vectors = network.compute(torch.stack([pixels for _, pixels in same]))
                for (digest, _), vector in zip(same, vectors.detach().float().cpu().numpy(), strict=True):
                    store.add(digest, vector)
                advance(len(same))


def _chunks(wanted: Sequence[tuple[str, Picture]], background: Sequence[int]) -> Iterator[list[tuple[str, Tensor]]]:
    def read(item: tuple[str, Picture]) -> tuple[str, Tensor]:
        digest, picture = item
        data = _bytes(picture.file)
        if _digest(data) != digest:
            raise UsageError(f"{picture.file} was changed while it was read: give the command again")
        return digest, decode_picture(data, str(picture.file), background)

    chunk: list[tuple[str, Tensor]] = []
    pixels = 0
    for item in _in_threads(read, wanted):
        chunk.append(item)
        pixels += item[1].shape[1] * item[1].shape[2]
        if len(chunk) >= BATCH or pixels >= PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _in_threads(function: Callable[[Any], T], items: Sequence[Any]) -> Iterator[T]:
    """A function's results in order, a few items ahead of whoever takes them."""
    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if len(items) < 2 or workers < 2:
        yield from map(function, items)
        return
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        ahead: collections.deque[concurrent.futures.Future[T]] = collections.deque()
        rest = iter(items)
        ahead.extend(pool.submit(function, item) for item in itertools.islice(rest, 2 * workers))
        try:
            while ahead:
                found = ahead.popleft().result()
                ahead.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
                yield found
        finally:
            for future in ahead:
                future.cancel()


def _bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({reason(error)})") from None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of_texts(texts: Iterable[str]) -> list[str]:
    """SHA-256 of each text, in hexadecimal digits."""
    return [_digest(text.encode()) for text in texts]
