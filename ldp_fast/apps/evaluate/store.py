"""Vectors of pictures and captions, kept on disk by content, so that a network sees each of them once."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
import time
import zlib
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ...errors import UsageError, reason
from ...runs import files

MAGIC = "ldp-fast vectors 1"
ROWS = 512  # of a file at most
BYTES = 2**26  # of what waits to be written
ALIGN = 64  # bytes
SECONDS = 10.0  # after which it is written even if it is little


class Store:
    """The vectors that one network makes, float32, by the digests of what they were made of.

    A file holds some rows: a line of JSON with their digests and a checksum, then the numbers. A file that is damaged
    is removed, and its rows are missing again. Rows that are added are written from time to time, and at the end of the
    `with` block however that is left.

    Args:
        folder: that holds the folders of stores.
        name: of the network, for people.
        about: what the vectors depend on beside what they are made of: weights, versions, preprocessing.

    Attributes:
        folder: of this store.
    """

    def __init__(self, folder: pathlib.Path, name: str, about: dict[str, Any]):
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
        word = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")[-60:]
        self.folder = folder / f"{word}-{key}"
        self._places: dict[str, tuple[pathlib.Path, int]] = {}
        self._waiting: dict[str, np.ndarray] = {}
        self._since = time.monotonic()
        for path in sorted(self.folder.glob("*.vectors")):
            for row, digest in enumerate(_read(path, whole=False) or ()):
                self._places[digest] = (path, row)

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that are not held, each once, in their order; files that hold the others are read and checked."""
        wanted = list(dict.fromkeys(digests))
        for path in {self._places[digest][0] for digest in wanted if digest in self._places}:
            if _read(path) is None:
                path.unlink(missing_ok=True)
                self._places = {digest: place for digest, place in self._places.items() if place[0] != path}
        return [digest for digest in wanted if digest not in self._places and digest not in self._waiting]

    def add(self, digest: str, vector: np.ndarray) -> None:
        """Holds a vector `[D]`; it is on disk some seconds later."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting[digest] = np.ascontiguousarray(vector, dtype="<f4")
        size = len(self._waiting) * self._waiting[digest].nbytes
        late = time.monotonic() - self._since > SECONDS
        if len(self._waiting) >= ROWS or size >= BYTES or late:
            self.flush()

    def flush(self) -> None:
        """Writes what waits.

        Raises:
            UsageError: the folder cannot be written to.
        """
        if not self._waiting:
            return
        digests, rows = list(self._waiting), np.stack(list(self._waiting.values()))
        data = rows.tobytes()
        head = json.dumps(
            {"is": MAGIC, "shape": list(rows.shape), "checksum": zlib.crc32(data), "digests": digests}
        ).encode()
        head += b" " * (-(len(head) + 1) % ALIGN) + b"\n"  # so that numbers lie as a processor likes to read them
        name = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.vectors"
        try:
            files.write_atomically(path, head + data)
        except OSError as error:
            raise UsageError(f"--out: {self.folder} cannot be written to ({reason(error)}): choose another") from None
        self._places |= {digest: (path, row) for row, digest in enumerate(digests)}
        self._waiting.clear()

    def rows(self, digests: Sequence[str]) -> np.ndarray:
        """The vectors of digests, all of which are held: `[N, D]` float32.

        Raises:
            KeyError: one is not held.
        """
        found = self.mapped(digests)
        return np.stack(found) if found else np.empty((0, 0), dtype=np.float32)

    def mapped(self, digests: Sequence[str]) -> list[np.ndarray]:
        """As `rows`, as a list of vectors that are read from their files when they are looked at."""
        self.flush()
        held = {path: _mapped(path) for path in {self._places[digest][0] for digest in digests}}
        return [held[path][row] for path, row in (self._places[digest] for digest in digests)]

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def _mapped(path: pathlib.Path) -> np.ndarray:
    with open(path, "rb") as file:
        count, width = json.loads(file.readline())["shape"]
        return np.memmap(path, dtype="<f4", mode="r", offset=file.tell(), shape=(count, width))


def _read(path: pathlib.Path, whole: bool = True) -> list[str] | None:
    """A file's digests; None where it is damaged, as far as that is looked at: its numbers only if it is read whole."""
    try:
        with open(path, "rb") as file:
            head = json.loads(file.readline())
            (count, width), digests = head["shape"], head["digests"]
            if head["is"] != MAGIC or len(digests) != count:
                return None
            if not whole:
                return list(digests)
            checksum = size = 0
            while part := file.read(2**24):
                checksum, size = zlib.crc32(part, checksum), size + len(part)
        return list(digests) if size == 4 * count * width and checksum == head["checksum"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
