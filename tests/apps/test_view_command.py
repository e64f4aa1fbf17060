"""`ldp-fast view`: from a run's folder to a page, until Ctrl-C, and its errors."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading
import time
import types
import urllib.request

import pytest
import torch

import ldp_fast.apps.text_to_3d as package
from ldp_fast import UsageError, cli
from ldp_fast.apps.text_to_3d.viewer.pictures import CHANNELS, draw
from ldp_fast.runs import checkpoints
from ldp_fast.runs.configuration import write

from .viewer_scene import FRONT, TorusScene

CPU = torch.device("cpu")


def test_a_runs_checkpoints_share_one_model(tmp_path: pathlib.Path) -> None:
    from ldp_fast.apps.options import load_prior
    from ldp_fast.apps.text_to_3d.configuration import resolve
    from ldp_fast.apps.text_to_3d.scene import Scene, scene_state
    from ldp_fast.apps.text_to_3d.sections import JacobianNerf
    from ldp_fast.apps.text_to_3d.viewer.command import provider

    said = {"prompt": "a red torus", "method": "jacobian-nerf", "steps": 20, "device": "cpu"}
    configuration = JacobianNerf.from_plain(resolve({}, {**said, "field": {"resolution": 16}}))
    write(tmp_path, configuration)
    made = Scene(configuration, load_prior(configuration))
    for made.step in (10, 20):
        with torch.no_grad():
            for parameter in made.field.parameters():
                parameter.add_(0.3)
        checkpoints.write(
            checkpoints.path_of(tmp_path, made.step),
            scene_state(made),
            {"refined": "0"},
            made.step,
            configuration.fingerprint(),
        )
    provide = provider(tmp_path, None, "cpu")
    newest, older = provide(None), provide(10)
    assert (newest.step, older.step) == (20, 10) and newest.prior is older.prior
    wide = dataclasses.replace(FRONT, aspect=1.5)
    pictures = [draw(scene, wide, CPU) for scene in (made, newest, older)]
    assert pictures[0].shape == (128, 192, 3)
    assert (pictures[0] == pictures[1]).all() and (pictures[1] != pictures[2]).any()
    for name in CHANNELS:
        assert draw(newest, dataclasses.replace(FRONT, channels=name), CPU).std() > 0
    checkpoints.path_of(tmp_path, 10).write_bytes(b"nonsense")
    with pytest.raises(UsageError, match=r"step-000010\.safetensors is damaged"):
        provide(10)
    with pytest.raises(UsageError, match=r"--checkpoint: expected one of 10, 20, which .* has; got 7"):
        provider(tmp_path, 7, "cpu")(None)
    with pytest.raises(UsageError, match="does not hold a run of text-to-3d"):
        provider(tmp_path / "elsewhere", None, "cpu")(None)
    (tmp_path / "images").mkdir()
    record = {"application": "synthesize", "status": "finished", "versions": {"ldp-fast": "1"}}
    (tmp_path / "images" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="holds a run of synthesize: only runs of text-to-3d can be exported, viewed"):
        provider(tmp_path / "images", None, "cpu")(None)


@pytest.fixture
def shown(viser: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command shows the tests' scene, whatever the folder."""
    module = types.ModuleType("ldp_fast.apps.text_to_3d.scene")
    monkeypatch.setattr(checkpoints, "steps", lambda folder: [100, 300])
    module.Scene, module.load_scene_state = TorusScene, None  # type: ignore[attr-defined]
    module.load_scene = lambda folder, step=None, device=None: TorusScene(step or 300)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(package, "scene", module, raising=False)


def test_the_command_serves_until_ctrl_c(shown: None, free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    page, said, found = f"http://127.0.0.1:{free_port}", [], []

    def look_and_press_ctrl_c() -> None:
        limit = time.monotonic() + 60
        while not any(said) and time.monotonic() < limit:
            said.append(capsys.readouterr().out)
            time.sleep(0.02)
        try:
            found.append(urllib.request.urlopen(page, timeout=10).status)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    # A shell starts what runs in its background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    visitor = threading.Thread(target=look_and_press_ctrl_c)
    visitor.start()
    try:
        code = cli.main(["view", "out/torus", "--port", str(free_port), "--checkpoint", "100"])
    finally:
        visitor.join()
        signal.signal(signal.SIGINT, before)
    assert (code, found) == (0, [200])
    out, err = capsys.readouterr()
    assert ("".join(said) + out, err) == (f"out/torus is shown at {page} (Ctrl-C ends)\nended\n", "")


def test_the_commands_errors_are_one_line(shown: None, taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (("--port", str(taken_port)), f"port: expected a free one, got {taken_port}, which is taken on 127.0.0.1"),
        (
            ("--port", "0", "--host", "nowhere.invalid"),
            "host: expected an address of this machine such as 127.0.0.1, got 'nowhere.invalid'",
        ),
    ):
        assert cli.main(["view", "out/torus", *words]) == 2
        assert capsys.readouterr() == ("", f"ldp-fast: error: {message}\n")
