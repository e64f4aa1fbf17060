"""How long each part of a step takes: `--profile`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

# The parts that are the frozen networks'; the others are this package's own work.
NETWORKS = ("unet", "decoder", "encoder", "clip")


class Profile:
    """Sums the wall-clock time of a step's parts; inner parts are taken out of outer ones.

    On a GPU it waits for the device at the borders of parts, which slows the step down: shares are right, but a run
    without it is faster.

    Args:
        labels: what the table calls each part, by its name.
        device: of the steps.
    """

    def __init__(self, labels: Mapping[str, str], device: torch.device):
        self.labels, self.seconds = labels, dict.fromkeys(labels, 0.0)
        self.steps = 0
        self._device = device
        self._stack: list[list[float]] = []
        self._undo: list[Callable[[], None]] = []

    def time_prior(self, prior: Any) -> None:
        """Times the calls of a prior's UNet and of its decoder as parts, until `close`."""
        unet = prior.unet
        self._undo += [
            unet.register_forward_pre_hook(lambda *_: self._enter()).remove,
            unet.register_forward_hook(lambda *_: self._leave("unet")).remove,
        ]
        if prior.settings.lambda_fm != 0:
            decoder = prior.decoder
            matching = decoder.feature_matching

            def timed(*args: Any, **kwargs: Any) -> Any:
                with self.part("decoder"):
                    return matching(*args, **kwargs)

            decoder.feature_matching = timed
            self._undo.append(lambda: delattr(decoder, "feature_matching"))

    def close(self) -> None:
        """Takes the timers off the networks."""
        while self._undo:
            self._undo.pop()()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _enter(self) -> None:
        self._stack.append([self._now(), 0.0])

    def _leave(self, name: str) -> None:
        begin, inner = self._stack.pop()
        spent = self._now() - begin
        self.seconds[name] += spent - inner
        if self._stack:
            self._stack[-1][1] += spent

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times a part of a step."""
        self._enter()
        try:
            yield
        finally:
            self._leave(name)

    def table(self, total: float) -> str:
        """The parts as a table, for people.

        Args:
            total: wall-clock seconds of all the steps.
        """
        steps = max(1, self.steps)
        rows = [(self.labels[name], spent) for name, spent in self.seconds.items() if spent > 0]
        rows.append(("everything else", max(0.0, total - sum(self.seconds.values()))))
        networks = sum(self.seconds.get(name, 0.0) for name in NETWORKS)
        lines = [f"{'part of a step':30}{'ms':>10}{'share':>9}"]
        lines += [f"{label:30}{1e3 * spent / steps:>10.2f}{spent / total:>9.1%}" for label, spent in rows]
        lines.append(f"{'a step':30}{1e3 * total / steps:>10.2f}{1:>9.1%}")
        lines.append(f"{'of which frozen networks':30}{1e3 * networks / steps:>10.2f}{networks / total:>9.1%}")
        return "\n".join(lines)
