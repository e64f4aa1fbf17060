"""Where a step's time goes: `--profile`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch

# What is this package's own work, and what is the frozen networks'.
NETWORKS = ("unet", "decoder", "encoder")
LABELS = {
    "unet": "UNet",
    "decoder": "decoder (feature matching)",
    "encoder": "encoder (refinement)",
    "render": "renderer, forward",
    "backward": "backward (renderer, encoder)",
    "prior": "losses and gradient",
    "regularisers": "regularisers",
    "occupancy": "occupancy grid",
    "optimiser": "optimiser",
}


class Profile:
    """Sums the wall-clock time of a step's parts; inner parts are taken out of outer ones.

    On a GPU it waits for the device at the borders of parts, which slows the step down: shares are right, the rate of
    a run without it is higher.

    Args:
        prior: its UNet's and its decoder's calls are timed while this object is attached.
    """

    def __init__(self, prior: Any):
        self.seconds = dict.fromkeys(LABELS, 0.0)
        self.steps = 0
        self._device = prior.device
        self._stack: list[list[float]] = []
        self._hooks = [
            prior.unet.register_forward_pre_hook(lambda *_: self._enter()),
            prior.unet.register_forward_hook(lambda *_: self._leave("unet")),
        ]
        self._decoder = prior.decoder if prior.settings.lambda_fm != 0 else None
        if self._decoder is not None:
            matching = self._decoder.feature_matching

            def timed(*args: Any, **kwargs: Any) -> Any:
                with self.part("decoder"):
                    return matching(*args, **kwargs)

            self._decoder.feature_matching = timed

    def close(self) -> None:
        """Takes the timers off the networks."""
        for hook in self._hooks:
            hook.remove()
        if self._decoder is not None:
            del self._decoder.feature_matching

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
        rows = [(LABELS[name], spent) for name, spent in self.seconds.items() if spent > 0]
        rows.append(("everything else", max(0.0, total - sum(self.seconds.values()))))
        networks = sum(self.seconds[name] for name in NETWORKS)
        lines = [f"{'part of a step':30}{'ms':>10}{'share':>9}"]
        lines += [f"{label:30}{1e3 * spent / steps:>10.2f}{spent / total:>9.1%}" for label, spent in rows]
        lines.append(f"{'a step':30}{1e3 * total / steps:>10.2f}{1:>9.1%}")
        lines.append(f"{'of it the frozen networks':30}{1e3 * networks / steps:>10.2f}{networks / total:>9.1%}")
        return "\n".join(lines)
