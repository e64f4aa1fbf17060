"""The TensorBoard log: what is in it, that a resumed run goes on in it, and a run without the package."""

from __future__ import annotations

import pathlib

import pytest
import torch

from ldp_fast.runs.log import RunLog

from ..apps.test_pictures import hide


def read(folder: pathlib.Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of a scalar."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="reads the log")
    accumulator = events.EventAccumulator(str(folder / "log"), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def test_a_resumed_run_continues_the_log(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("tensorboard", reason="writes the log")
    log = RunLog(tmp_path)
    for step in range(1, 8):
        log.scalars(step, {"loss/lsd": float(step), "rate": 0.5})
    log.flush()  # and then it is killed: never closed
    with RunLog(tmp_path, 4) as resumed:
        for step in range(5, 10):
            resumed.scalars(step, {"loss/lsd": 100.0 + step})
    assert read(tmp_path, "loss/lsd") == [(s, float(s)) for s in range(1, 5)] + [(s, 100.0 + s) for s in range(5, 10)]
    assert read(tmp_path, "rate") == [(s, 0.5) for s in range(1, 5)]
    log.close()


def test_a_new_run_hides_an_older_one(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("tensorboard", reason="writes the log")
    with RunLog(tmp_path) as old:
        old.scalars(0, {"loss": 1.0})
        old.scalars(1, {"loss": 1.0})
    with RunLog(tmp_path) as new:
        new.scalars(1, {"loss": 2.0})
    assert read(tmp_path, "loss") == [(1, 2.0)]


def test_events_are_in_the_file_soon(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="writes the log")
    from ldp_fast.runs import log as module

    monkeypatch.setattr(module, "FLUSH_EVERY", 0.0)
    log = RunLog(tmp_path)
    log.scalars(1, {"loss": 3.0})
    assert read(tmp_path, "loss") == [(1, 3.0)]
    log.close()
    log.close()


def test_pictures(tmp_path: pathlib.Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="reads the log")
    log = RunLog(tmp_path)
    picture = torch.zeros(3, 8, 12)
    picture[0] = 2.0  # clamped
    log.image(3, "views", picture.requires_grad_())
    accumulator = events.EventAccumulator(str(tmp_path / "log"))
    accumulator.Reload()
    (image,) = accumulator.Images("views")
    assert (image.step, image.width, image.height) == (3, 12, 8)
    log.close()


def test_without_the_package_it_says_so_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import sys

    for name in [n for n in sys.modules if n.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    hide(monkeypatch, "tensorboard")
    log = RunLog(tmp_path)
    log.scalars(1, {"loss": 1.0})
    log.image(1, "views", torch.zeros(3, 4, 4))
    log.flush()
    log.close()
    said = capsys.readouterr().err.strip()
    assert said.endswith("log is left out: tensorboard is not installed: pip install 'ldp-fast[apps]'")
    assert len(said.splitlines()) == 1 and not list(tmp_path.iterdir())
