"""A run's TensorBoard log, which goes on where the run goes on."""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Seconds. Each event is in the file at the latest this long after it was logged, while the run logs at all.
FLUSH_EVERY = 1.0


class RunLog:
    """Writes scalars and pictures to `folder/log` for TensorBoard.

    A resumed run adds a file to the same log, which hides what was logged after the step it goes on from.
    Without the package `tensorboard` nothing is written, and one line on stderr says so.

    Args:
        folder: the run's.
        step: the steps done already: 0 for a new run, the checkpoint's for a resumed one.
    """

    def __init__(self, folder: pathlib.Path, step: int = 0):
        self._writer: Any = None
        self._flushed = time.monotonic()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            missing = error.name or "tensorboard"
            print(
                f"{folder / 'log'} is left out: {missing} is not installed: pip install 'ldp-fast[apps]'",
                file=sys.stderr,
            )
            return
        # A checkpoint's own step was logged before it was saved; what a new run finds is another run's.
        purge = step + 1 if step else 0
        self._writer = SummaryWriter(str(folder / "log"), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers by name; a slash groups names (`loss/lsd`)."""
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if time.monotonic() - self._flushed > FLUSH_EVERY:
            self.flush()

    def image(self, step: int, name: str, picture: Tensor) -> None:
        """Logs a picture [3, H, W] in [0, 1]."""
        if self._writer is None:
            return
        self._writer.add_image(name, picture.detach().float().clamp(0, 1).cpu(), step)
        self.flush()

    def flush(self) -> None:
        """Puts what was logged into the file, where TensorBoard and a killed run's successor find it."""
        if self._writer is not None:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes; closing twice does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
