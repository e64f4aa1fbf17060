"""A web page with the object, rendered live from where its visitors look: of a finished run or of one in progress."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import socket
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from ....errors import UsageError
from ..colours import Colours
from .page import Page
from .pictures import View, Viewable, draw
from .worker import Turns, Worker

# Seconds that a picture may take while the camera moves; a size that takes longer is halved, then quartered.
SMOOTH = 0.15
SMALLEST = 8
Losses = Mapping[str, Any]


class Visitor(Protocol):
    """Somebody who looks: a browser's page, or a test."""

    def view(self) -> View:
        """What is wanted now."""

    def show(self, picture: Any, text: str, final: bool) -> None:
        """Takes a picture (uint8 [H, W, 3]) and a line about it."""

    def fail(self, message: str) -> None:
        """Takes a line about what went wrong."""

    def inform(self, text: str) -> None:
        """Takes a line about the object: step and losses."""


class Viewer:
    """Serves the page until it is closed.

    A training loop takes `lock` for each step, and for whatever else draws random numbers or changes parameters, and
    calls `update` after it:

        viewer = Viewer(lambda step: scene, port)
        while training:
            with viewer.lock:
                trainer.advance()
            viewer.update(trainer.step, losses)
        viewer.close()

    Rendering changes neither the random state nor the modules' training flags, so that a run that is watched ends like
    one that is not.

    Args:
        provide: step of a checkpoint, or None for the only or newest one -> the scene; called before the page is up,
            and in the viewer's thread whenever another checkpoint is chosen.
        port: to serve on; 0: any free one (see `url`).
        host: address to serve on; 127.0.0.1 lets in this machine only, 0.0.0.0 the whole network.
        steps: the checkpoints there are, for the page's list; None: no list.
        title: of the page's panel.

    Raises:
        UsageError: the port is taken or not allowed, or the host is not an address of this machine.
        ModuleNotFoundError: viser is not installed.
    """

    def __init__(
        self,
        provide: Callable[[int | None], Viewable],
        port: int = 8080,
        host: str = "127.0.0.1",
        *,
        steps: Callable[[], list[int]] | None = None,
        title: str = "ldp-fast",
    ):
        check_address(host, port)
        self._provide = provide
        self._wanted: int | None = None
        self._shown: int | None = None
        self._scene = provide(None)
        self._progress = f"step {self._scene.step}"
        self._visitors: dict[Hashable, Visitor] = {}
        self._seconds: dict[tuple[int, str, float], float] = {}
        self._names = itertools.count()
        self.lock = Turns()
        self._worker = Worker(self._draw)
        try:
            self._page = Page(self, host, port, title, steps)
        except BaseException:
            self._worker.close()
            raise

    @property
    def scene(self) -> Viewable:
        """What is shown now."""
        return self._scene

    @property
    def url(self) -> str:
        """Where the page is."""
        return self._page.url

    def update(self, step: int, losses: Losses | Callable[[], Losses] | None = None) -> None:
        """Tells that training went on; it does not wait for a picture.

        Args:
            step: steps done.
            losses: to be shown beside it, numbers or tensors; read, or called for, only while somebody looks, so that
                a GPU is not waited for in vain.
        """
        values = ""
        if self._visitors:
            found = losses() if callable(losses) else losses or {}
            values = "".join(f" · {name} {float(value):.3g}" for name, value in found.items())
        self._progress = f"step {step}{values}"
        self._worker.refresh()

    def choose(self, step: int) -> None:
        """Shows another checkpoint, to all."""
        self._wanted = step
        for name in list(self._visitors):
            self._worker.changed(name)

    def join(self, visitor: Visitor) -> Hashable:
        """Lets a visitor in. Returns its name for `moved`, `changed` and `leave`."""
        name = next(self._names)
        self._visitors[name] = visitor
        self._worker.changed(name)
        return name

    def leave(self, name: Hashable) -> None:
        """A visitor has gone."""
        self._visitors.pop(name, None)
        self._worker.forget(name)

    def moved(self, name: Hashable) -> None:
        """A visitor's camera moves: a quick picture now, a fine one once it rests."""
        if name in self._visitors:
            self._worker.moved(name)

    def changed(self, name: Hashable) -> None:
        """A visitor wants something else to be shown."""
        if name in self._visitors:
            self._worker.changed(name)

    def close(self) -> None:
        """Ends the page, after the picture that is being drawn."""
        self._worker.close()
        self._page.close()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _draw(self, name: Hashable, coarse: bool) -> bool:
        visitor = self._visitors.get(name)
        if visitor is None:
            return True
        try:
            self._load()
            visitor.inform(self._progress)
            wanted = visitor.view()
            view = self._quick(wanted) if coarse else wanted
            started = time.perf_counter()
            with self.lock:
                waited = time.perf_counter() - started
                with undisturbed(self._scene):
                    picture = draw(self._scene, view, torch.device(self._scene.prior.device))
            seconds = time.perf_counter() - started - waited
            self._seconds[_cost(view)] = seconds
            height, width = view.shape()
            coloured = self._scene.refined or isinstance(self._scene.prior, Colours)
            size = f"{width} × {height} {'pixels' if coloured else 'latents'}"
            if name in self._visitors:  # who has left meanwhile cannot be sent anything
                visitor.show(picture, f"{size} in {1000 * seconds:.0f} ms", view == wanted)
        except Exception as error:
            # One picture that cannot be drawn (memory, no normals) must end neither the page nor training.
            traceback.print_exc(file=sys.stderr)
            visitor.fail(f"{type(error).__name__}: {error}")
        else:
            return view == wanted
        return True

    def _load(self) -> None:
        if self._wanted == self._shown:
            return
        # Whatever comes of it, it is not tried again with each movement of a camera.
        self._shown = wanted = self._wanted
        try:
            self._scene = self._provide(wanted)
            self._progress = f"step {self._scene.step}"
        except Exception as error:
            if not isinstance(error, (UsageError, OSError)):
                traceback.print_exc(file=sys.stderr)
            self._progress = f"step {self._scene.step}, for step {wanted} cannot be shown: {error}"

    def _quick(self, view: View) -> View:
        """The view at the highest of its resolution, a half and a quarter that is smooth, as far as is known."""
        for factor in (1, 2, 4):
            size = max(SMALLEST, view.size // factor)
            smaller = dataclasses.replace(view, size=min(size, view.size))
            if self._seconds.get(_cost(smaller), 0.0) <= SMOOTH:
                break
        return smaller


def _cost(view: View) -> tuple[int, str, float]:
    return view.size, view.channels, round(view.aspect, 1)


@contextlib.contextmanager
def undisturbed(scene: Any) -> Iterator[None]:
    """Leaves random states and training flags as they were."""
    device = torch.device(scene.prior.device)
    modules = list(scene.modules()) if isinstance(scene, nn.Module) else []
    flags = [module.training for module in modules]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


def check_address(host: str, port: int) -> None:
    """Sees that a server can start; viser itself would silently take the next port, or wait for ever.

    Raises:
        UsageError: the port is out of range, taken or not allowed, or the host is not an address of this machine.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port: expected a number from 0 to 65535, got {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"host: expected an address of this machine such as 127.0.0.1, got {host!r}") from None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"port: expected a free one, got {port}, which is taken on {host}") from None
            if error.errno in (errno.EACCES, errno.EPERM):
                raise UsageError(f"port: expected one that this user may serve on, got {port}") from None
            raise UsageError(f"host: expected an address of this machine such as 127.0.0.1, got {host!r}") from None


def open_page(scene: Viewable, port: int, title: str) -> Viewer:
    """A page of a run that is in progress; says where it is."""
    page = Viewer(lambda step: scene, port, title=title)
    print(f"shown at {page.url}", file=sys.stderr)
    return page
