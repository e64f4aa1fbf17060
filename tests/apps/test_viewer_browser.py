"""The viewer's page in a real headless browser."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldp_fast.apps.text_to_3d.viewer.pictures import CHANNELS

from .viewer_scene import TorusScene

pytest.importorskip("viser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WINDOW = {"width": 1224, "height": 600}  # of which the panel takes 324
# Without the panel at the right and viser's notice about software rendering at the upper left.
CLIP = {"x": 20, "y": 300, "width": 850, "height": 280}
# Software rendering: a machine for tests has no GPU. The sandbox needs rights that containers lack.
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=found, args=FLAGS)
        yield opened
        opened.close()


class Page:
    """A page that keeps what it asked for and complained of.

    Warnings are not complaints: three.js, in viser, announces a deprecation, and software rendering is one.
    """

    def __init__(self, browser: Any, url: str):
        self.page = browser.new_page(viewport=WINDOW)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url[:200]}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda opened: self.requests.append(opened.url))
        self.page.goto(url)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "assert"):
            self.complaints.append(message.text)

    def look(self) -> np.ndarray[Any, Any]:
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=CLIP))).convert("RGB")).astype(int)

    def wait_text(self, *wanted: str, absent: str = "(moving)") -> None:
        """Until the panel has these texts."""
        self.until(lambda: all(text in self.text() for text in wanted) and absent not in self.text(), str(wanted))

    def wait_change(self, before: np.ndarray[Any, Any], least: float = 2.0) -> np.ndarray[Any, Any]:
        """Until the picture differs from another by so many grey values on average, and keeps still."""
        self.until(lambda: difference(self.look(), before) > least, "another picture")
        last = self.look()

        def still() -> bool:
            nonlocal last
            last, previous = self.look(), last
            return difference(last, previous) == 0

        self.until(still, "a still picture")
        return last

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_text(label, exact=True).locator("xpath=following::input[1]").click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def text(self) -> str:
        return str(self.page.inner_text("body"))

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 40.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited in vain for {what}; complaints: {self.complaints}; {self.text()}"
            self.page.wait_for_timeout(100)

    def drag(self, right: int, down: int) -> None:
        self.page.mouse.move(350, 420)
        self.page.mouse.down()
        self.page.mouse.move(350 + right, 420 + down, steps=8)
        self.page.mouse.up()


def difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(np.abs(one - other).mean())


def test_the_page_shows_the_object_from_where_one_looks(browser: Any) -> None:
    from ldp_fast.apps.text_to_3d.viewer.server import Viewer

    loaded = {step: TorusScene(step) for step in (100, 300, 400)}
    loaded[400].size, loaded[400].refined = 32, True
    with Viewer(lambda step: loaded[step or 300], 0, steps=lambda: list(loaded), title="a red torus") as viewer:
        page = Page(browser, viewer.url)
        page.wait_text("a red torus", "step 300", "24 × 16 latents in")
        first = page.wait_change(np.zeros((CLIP["height"], CLIP["width"], 3)))
        # Its camera is the orbit's.
        seen = loaded[300].cameras[-1]
        assert (float(seen.azimuth) + 180) % 360 - 180 == pytest.approx(0.0, abs=1e-3)
        assert float(seen.elevation) == pytest.approx(20.0, abs=1e-3)
        assert float(seen.positions.norm()) == pytest.approx(3.6, rel=1e-4)

        page.drag(90, 0)
        turned = page.wait_change(first)
        page.wait_text("24 × 16 latents in")
        seen = loaded[300].cameras[-1]
        # Dragged to the right, the object turns to the right: the camera goes to its left. Nothing else changes.
        assert 200 < float(seen.azimuth) < 355
        assert float(seen.elevation) == pytest.approx(20.0, abs=0.5)
        assert float(seen.positions.norm()) == pytest.approx(3.6, rel=1e-3)

        pictures = [turned]
        for name in CHANNELS[1:]:
            page.choose("Show", name)
            pictures.append(page.wait_change(pictures[-1]))
        assert all(difference(a, b) > 2 for i, a in enumerate(pictures) for b in pictures[:i])
        page.choose("Show", "decoded")
        assert difference(page.wait_change(pictures[-1]), turned) < 1

        page.choose("Checkpoint", "100")
        page.wait_text("step 100")
        page.wait_change(turned, least=1.0)
        assert len(loaded[100].sizes) >= 1

        # Refined, the object is made of pixels; the resolution follows.
        page.choose("Checkpoint", "400")
        page.wait_text("step 400", "48 × 32 pixels in")
        assert loaded[400].sizes[-1] == 48

        assert page.complaints == []
        port = viewer.url.rsplit(":", 1)[1]
        outside = [url for url in page.requests if f"//127.0.0.1:{port}" not in url and not url.startswith("data:")]
        assert outside == []
        page.page.close()


def test_who_leaves_harms_nobody_and_training_shows(browser: Any) -> None:
    from ldp_fast.apps.text_to_3d.viewer.server import Viewer

    scene = TorusScene(0)
    with Viewer(lambda step: scene, 0) as viewer:
        leaving, staying = Page(browser, viewer.url), Page(browser, viewer.url)
        for page in (leaving, staying):
            page.wait_text("step 0", "24 × 16 latents in")
            assert "Checkpoint" not in page.text()
        before = staying.wait_change(np.zeros((CLIP["height"], CLIP["width"], 3)))
        leaving.drag(60, 20)
        leaving.page.close()
        staying.until(lambda: len(viewer._visitors) == 1, "the other's leaving")
        with viewer.lock:
            scene.step = 500  # the stand-in's background follows its step
        viewer.update(500, {"lsd": 1.25})
        staying.wait_text("step 500 · lsd 1.25")
        staying.wait_change(before)
        assert staying.complaints == []
        staying.page.close()
