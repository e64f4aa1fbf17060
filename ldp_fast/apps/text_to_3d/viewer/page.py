"""The page itself: viser's server, its controls, and a browser as a visitor."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

from ....errors import UsageError
from .pictures import CHANNELS, View, first_camera

if TYPE_CHECKING:
    from .server import Viewer

STEP = 8  # of the resolution's slider, in latents
# Before a browser has said how large its window is.
SQUARE = 1.0


class Page:
    """A viser server for a viewer.

    Args:
        viewer: what it belongs to.
        host, port, title: as the viewer's.
        steps: the checkpoints there are, or None.

    Raises:
        UsageError: the port was taken while the server started.
    """

    def __init__(self, viewer: Viewer, host: str, port: int, title: str, steps: Callable[[], list[int]] | None):
        import viser

        self._viewer, self._steps = viewer, steps
        self._names: dict[int, Hashable] = {}
        with silence():
            self._server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        if port and self._server.get_port() != port:
            self.close()
            raise UsageError(f"port: expected a free one, got {port}, which is taken on {host}")
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.get_port()}"
        # Sharing would send the page through a public server, which nobody here has asked for.
        self._server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        # Beside the picture: floating, it would cover a part of the object.
        self._server.gui.main_panel.dock_right()
        scene = self._server.scene
        scene.set_up_direction("+y")
        # Nothing is lit here, and viser's environment map is a picture from the internet.
        scene.configure_environment_map(None)
        scene.configure_default_lights(False)
        position, fov = first_camera(viewer.scene)
        camera = self._server.initial_camera
        camera.position, camera.look_at, camera.fov = position, (0.0, 0.0, 0.0), fov  # type: ignore[assignment]
        self.about = self._server.gui.add_markdown("")
        if steps is not None:
            self._add_checkpoints(steps())
        self._server.on_client_disconnect(self._leave)
        self._server.on_client_connect(self._join)

    @property
    def native(self) -> int:
        """Latents (refined: pixels) per side at which the object is trained."""
        return self._viewer.scene.size

    def close(self) -> None:
        """Stops the server."""
        with silence():
            self._server.stop()

    def _add_checkpoints(self, steps: list[int]) -> None:
        gui = self._server.gui
        names = [str(step) for step in steps]
        chosen = str(self._viewer.scene.step)
        self._checkpoints = gui.add_dropdown(
            "Checkpoint", names, initial_value=chosen if chosen in names else names[-1], hint="step; for all visitors"
        )
        self._checkpoints.on_update(lambda event: self._viewer.choose(int(event.target.value)))
        gui.add_button("Look for new checkpoints").on_click(lambda event: self._look_again())

    def _look_again(self) -> None:
        assert self._steps is not None
        names = tuple(str(step) for step in self._steps())
        if names:
            self._checkpoints.options = names

    def _join(self, client: Any) -> None:
        browser = Browser(self, client)
        name = self._names[client.client_id] = self._viewer.join(browser)
        browser.watch(lambda: self._viewer.moved(name), lambda: self._viewer.changed(name))
        # Who left while the controls were made is not announced any more.
        if client.client_id not in self._server.get_clients():
            self._leave(client)

    def _leave(self, client: Any) -> None:
        name = self._names.pop(client.client_id, None)
        if name is not None:
            self._viewer.leave(name)


class Browser:
    """A page somebody has open: its camera, its controls, its picture.

    Args:
        page: whose it is.
        client: viser's handle.
    """

    def __init__(self, page: Page, client: Any):
        self._page, self._client = page, client
        self._native = page.native
        with client.atomic():
            self._channels = client.gui.add_dropdown("Show", CHANNELS, initial_value=CHANNELS[0])
            self._size = client.gui.add_slider(
                "Resolution",
                min=STEP,
                max=_finest(self._native),
                step=STEP,
                initial_value=_usual(self._native),
                hint="latents along the window's shorter side, pixels once the object is refined to colours; more "
                "than training's shows finer detail, or artefacts",
            )
            self._shade = client.gui.add_slider("Background", min=0.0, max=1.0, step=0.05, initial_value=0.5)
            self._status = client.gui.add_markdown("")

    def watch(self, moved: Callable[[], None], changed: Callable[[], None]) -> None:
        """Has movements and changes reported."""
        self._client.camera.on_update(lambda camera: moved())
        for control in (self._channels, self._size, self._shade):
            control.on_update(lambda event: changed())

    def view(self) -> View:
        """The camera and the controls as they are now."""
        if self._native != self._page.native:
            # Another stage of the run: refined objects are made of pixels, of which there are more.
            self._native = self._page.native
            self._size.max, self._size.value = _finest(self._native), _usual(self._native)
        camera = self._client.camera
        aspect = float(camera.aspect) if camera.image_height > 0 else SQUARE
        return View(
            position=tuple(camera.position.tolist()),
            wxyz=tuple(camera.wxyz.tolist()),
            fov=float(camera.fov),
            aspect=aspect if math.isfinite(aspect) and aspect > 0 else SQUARE,
            size=int(self._size.value),
            channels=self._channels.value,
            shade=float(self._shade.value),
        )

    def show(self, picture: Any, text: str, final: bool) -> None:
        """Fills the window with the picture."""
        self._client.scene.set_background_image(picture, format="jpeg", jpeg_quality=95 if final else 85)
        self._status.content = text if final else f"{text} (moving)"

    def fail(self, message: str) -> None:
        """Says what went wrong below the controls."""
        self._status.content = f"**{message}**"

    def inform(self, text: str) -> None:
        """Says how far the object is, above them."""
        if self._page.about.content != text:
            self._page.about.content = text


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps viser's own announcements off the terminal, where a progress bar may be."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _usual(native: int) -> int:
    """Where the resolution's slider stands to begin with."""
    return max(STEP, native // STEP * STEP)


def _finest(native: int) -> int:
    """Where it ends."""
    return max(64, 2 * _usual(native))
