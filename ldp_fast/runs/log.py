"""A run's TensorBoard log, which goes on where the run goes on, and never stops it."""

from __future__ import annotations

import itertools
import os
import pathlib
import sys
import time
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from . import files

# Seconds. Each event is in the file at the latest this long after it was logged, while the run logs at all.
FLUSH_EVERY = 1.0
# Of the logs that one process begins within a second.
_numbers = itertools.count()
_GROUPS = {"norm_": "gradient_norm/", "lambda_": "weight/", "weight_": "weight/"}


def grouped(values: Mapping[str, float], losses: Collection[str]) -> dict[str, float]:
    """Names as TensorBoard groups them: `loss/lsd`, `gradient_norm/fm`, `weight/lambda_fm`, `run/opacity_mean`.

    Args:
        values: what an experiment recorded, and its weights.
        losses: names of those that are losses.
    """
    found = {}
    for name, value in values.items():
        group = next((prefix for prefix in _GROUPS if name.startswith(prefix)), None)
        if group:
            found[_GROUPS[group] + name.removeprefix(group)] = value
        elif name in losses:
            found[f"loss/{name}"] = value
        else:
            found["gradient_norm/parameters" if name == "gradient_norm" else f"run/{name}"] = value
    return found


class RunLog:
    """Writes scalars and pictures to `folder/log` for TensorBoard.

    A resumed run adds a file to the same log, which hides what was logged after the step it goes on from.
    Without the package `tensorboard`, on a full disk or in a folder that cannot be written, one line on stderr says
    that there is no log from here on, and the run goes on. Events are written where they are logged, not by a thread of
    TensorBoard's own, whose errors nobody could catch.

    Args:
        folder: the run's.
        step: the steps done already: 0 for a new run, the checkpoint's for a resumed one.
    """

    def __init__(self, folder: pathlib.Path, step: int = 0):
        self._file: Any = None
        self._folder = folder / "log"
        self._flushed = time.monotonic()
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard import summary
        except ImportError as error:
            missing = error.name or "tensorboard"
            self._leave(f"{missing} is not installed: pip install 'ldp-fast[apps]'")
            return
        self._event, self._summary = Event, summary
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{files.host()}.{os.getpid()}.{next(_numbers)}"
            self._file = open(self._folder / name, "ab")
        except OSError as error:
            self._leave(error.strerror or str(error))
            return
        self._writer = RecordWriter(self._file)
        # A checkpoint's own step was logged before it was saved; what a new run finds is another run's.
        purge = step + 1 if step else 0
        self._write(purge, file_version="brain.Event:2")
        self._write(purge, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def _leave(self, reason: str) -> None:
        """Says why there is no log from here on."""
        file, self._file = self._file, None
        print(f"{self._folder} is left out: {reason}", file=sys.stderr)
        if file is not None:
            try:
                file.close()
            except OSError:
                pass  # what could not be written cannot be flushed either

    def _write(self, step: int, **content: Any) -> None:
        if self._file is None:
            return
        event = self._event(wall_time=time.time(), step=step, **content)
        try:
            self._writer.write(event.SerializeToString())
        except OSError as error:
            self._leave(error.strerror or str(error))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers by name; a slash groups names (`loss/lsd`)."""
        if self._file is None:
            return
        for name, value in values.items():
            self._write(step, summary=self._summary.scalar(name, value))
        if time.monotonic() - self._flushed > FLUSH_EVERY:
            self.flush()

    def image(self, step: int, name: str, picture: Tensor) -> None:
        """Logs a picture [3, H, W] in [0, 1]."""
        if self._file is None:
            return
        pixels = picture.detach().float().clamp(0, 1).cpu().numpy()
        self._write(step, summary=self._summary.image(name, pixels, dataformats="CHW"))
        self.flush()

    def flush(self) -> None:
        """Puts what was logged into the file, where TensorBoard and a killed run's successor find it."""
        if self._file is not None:
            try:
                self._file.flush()
                self._flushed = time.monotonic()
            except OSError as error:
                self._leave(error.strerror or str(error))

    def close(self) -> None:
        """Flushes and closes; closing twice does nothing."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
