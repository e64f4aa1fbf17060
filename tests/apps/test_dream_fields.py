"""dream-fields: a scene in RGB under CLIP, from steps to resuming, pictures, meshes, sweeps and metrics."""

from __future__ import annotations

import json
import math
import os
import pathlib
import signal
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ldp_fast import cli
from ldp_fast.apps.sweep import table as sweep_table
from ldp_fast.apps.text_to_3d import expected
from ldp_fast.apps.text_to_3d.cameras import as_cameras
from ldp_fast.apps.text_to_3d.dream_fields import DreamFieldsTrainer, target_opacity
from ldp_fast.apps.text_to_3d.guide import load_guide
from ldp_fast.apps.text_to_3d.run import begin
from ldp_fast.apps.text_to_3d.scene import load_scene, read_configuration
from ldp_fast.apps.text_to_3d.sections import DreamFields
from ldp_fast.apps.text_to_3d.viewer.pictures import CHANNELS, View, draw
from ldp_fast.runs import checkpoints
from ldp_fast.runs.configuration import write
from ldp_fast.runs.experiment import untimed

from . import text_to_3d_runs as runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that nothing interrupted."""
    folder = runs.prepared(tmp_path_factory.mktemp("dream") / "whole", runs.dream_fields())
    with pytest.MonkeyPatch.context() as patch:
        runs.without_pictures(patch)
        assert runs.command("--resume", folder) == 0
    return folder


def test_target_opacity_is_that_of_the_source() -> None:
    c = runs.dream_fields(transmittance={"opacity": [0.5, 0.1], "until": 0.05})
    fov = 2 * math.degrees(math.atan(800 / (2 * 1.2 * 1111.1111)))
    for step, steps in ((0, 10_000), (100, 10_000), (500, 10_000), (9_000, 10_000)):
        t = min(step / 500, 1.0)
        annealed = math.exp(math.log(0.5) * (1 - t) + math.log(0.1) * t)
        assert target_opacity(c, step / steps, 4.0, fov) == pytest.approx(annealed * 1.2**2 / 1.2, rel=1e-6)
    # An object's area shrinks with the distance squared; no view is more than covered.
    assert target_opacity(c, 1.0, 8.0, fov) == pytest.approx(0.1 * 1.2 / 4, rel=1e-6)
    assert target_opacity(c, 0.0, 1.0, fov) == 1.0
    assert target_opacity(runs.dream_fields(transmittance={"until": 0.0}), 0.0, 4.0, fov) == pytest.approx(
        0.3 * 1.2, rel=1e-6
    )


@pytest.mark.parametrize("opacity", [0.9, 0.01], ids=["transmittance", "cosine"])
def test_the_gradient_is_that_of_both_losses(opacity: float) -> None:
    """Against autograd through everything at once, and with the transmittance loss on its plateau and below it."""
    c = runs.dream_fields(views=2, transmittance={"weight": 0.7, "opacity": [opacity, opacity]})
    made: Any = begin(c)
    assert isinstance(made, DreamFieldsTrainer)
    made._update_occupancy()
    made._gradients(range(2), 2, untimed)
    field = made.scene.field
    found = {name: p.grad.clone() for name, p in field.named_parameters()}
    field.zero_grad()
    loss = torch.zeros(())
    for view in range(2):
        camera, jitter = made._draw(view)
        colours, alpha, _ = made.scene.training_layers(as_cameras([camera], made.device), jitter)
        out = made.prior.guidance(torch.cat([colours, alpha], 1), step=0, stream=view)
        allowed = 1 - target_opacity(c, 0.0, camera[2], camera[3])
        assert (1 - alpha.mean().item() < allowed) == (opacity == 0.01)
        loss = loss + out.loss - 0.7 * torch.minimum(1 - alpha.mean(), torch.tensor(allowed))
    (loss / 2).backward()
    for name, p in field.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6 * float(p.grad.abs().max()))


def test_what_a_run_leaves(whole: pathlib.Path) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert record["status"] == "finished" and record["step"] == record["steps"] == 6
    assert record["guide"] == "primitives" and set(record["last"]) >= {"cosine", "transmittance", "opacity_mean"}
    assert abs(record["last"]["cosine"]) < 1 and 0 < record["last"]["transmittance"] < 1
    configuration = read_configuration(whole)
    assert isinstance(configuration, DreamFields) and configuration == runs.dream_fields()
    plain = yaml.safe_load((whole / "config.yaml").read_text())
    assert plain["guide"] == "primitives" and not {"settings", "preset", "lora"} & plain.keys()


@pytest.mark.usefixtures("only_steps")
def test_it_goes_on_exactly_after_ctrl_c(
    whole: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs.prepared(tmp_path / "run", runs.dream_fields())
    advance = DreamFieldsTrainer.advance

    def and_signal(self: DreamFieldsTrainer, *arguments: Any) -> None:
        advance(self, *arguments)
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DreamFieldsTrainer, "advance", and_signal)
        assert runs.command("--resume", folder) == 130
    assert f"interrupted at step 4; continue with: ldp-fast text-to-3d --resume {folder}" in capsys.readouterr().err
    assert checkpoints.steps(folder) == [3, 4]
    assert runs.command("--resume", folder) == 0
    runs.assert_same(runs.newest(folder), runs.newest(whole))


@pytest.mark.usefixtures("quick_products")
def test_it_is_shown_rendered_exported_and_judged(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Without its CLIP, which nothing that shows it needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldp_fast.clip.model.Clip.load", lambda *_, **__: pytest.fail("the CLIP was loaded"))
        out = tmp_path / "two.png"
        assert (
            cli.main(["render", str(whole), "--frames", "2", "--channels", "decoded", "normals", "--out", str(out)])
            == 0
        )
        scene = load_scene(whole)
        assert cli.main(["export", str(whole), "--resolution", "24", "--texture", "64"]) == 0
    assert out.exists() and (whole / "mesh.obj").exists()
    camera = scene.orbit
    colours = scene.render(
        as_cameras([(0.0, camera["elevation"], camera["radius"], camera["fov"])], scene.prior.device)
    )
    assert colours.latents.shape == (1, 3, 24, 24) and torch.equal(scene.decode(colours.latents), colours.latents)
    for channels in CHANNELS:
        view = View((0.0, 0.0, 3.6), (0.0, 1.0, 0.0, 0.0), 0.7, 1.0, 16, channels)
        picture = draw(scene, view, torch.device("cpu"))
        assert picture.shape[-1] == 3 and picture.dtype.name == "uint8"


@pytest.mark.usefixtures("quick_products")
def test_a_run_from_the_command_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, runs.dream_fields())
    plain = yaml.safe_load((tmp_path / "config.yaml").read_text())
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({name: x for name, x in plain.items() if name not in ("prompt", "method")}))
    words = (
        "--guidance",
        "clip",
        "--config",
        file,
        "--steps",
        2,
        "--preview",
        1,
        "--profile",
        "--out",
        tmp_path / "run",
    )
    assert runs.command("a blue cone", *words) == 0
    said = capsys.readouterr()
    assert "CLIP and its crops" in said.out and "run: 100%" in said.err
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {"views.png", "depth.png", "turntable.gif", "mesh.glb", "preview.png", "config.yaml"}
    kept = load_file(checkpoints.path_of(tmp_path / "run", 2))
    assert kept["history"].shape == (2, 6)


def test_what_a_run_takes() -> None:
    made: Any = begin(runs.dream_fields(steps=40))
    found = expected.expect(made)
    assert found.fits and found.seconds is not None and found.seconds > 0
    needed, guide = expected.memory(made.configuration, made.prior), made.prior
    assert needed["CLIP"] > 2 * guide.crop_bytes > 2 * 128**2 * 3 * 4
    assert expected.to_lower(made.configuration, ["CLIP"]) == "--crops"
    # One view's crops are in CLIP at a time.
    shared = expected.memory(runs.dream_fields(views=4), guide, world=2)
    assert shared["CLIP"] == needed["CLIP"] and shared["rays"] == pytest.approx(2 * needed["rays"], abs=1)
    with pytest.raises(Exception, match=r"\(CLIP [\d,.]+ [GT]B, .* its steps would take about .*; lower --crops$"):
        expected.check_fits(runs.dream_fields(augmentation={"crops": 10**7}), guide)


def test_a_prompt_that_is_not_known_or_too_long() -> None:
    with pytest.raises(Exception, match="prompt: the embedded model does not know 'unicorn'"):
        load_guide(runs.dream_fields(prompt="a red unicorn"))
    with pytest.raises(Exception, match="these words would be lost"):
        load_guide(runs.dream_fields(prompt="a red cube " * 60))


@pytest.mark.usefixtures("only_steps")
def test_a_sweep_of_two_methods(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The prior's choices of losses are made with the prior's methods, and once with CLIP."""
    monkeypatch.setattr("ldp_fast.runs.loop.run", lambda application, folder, configuration, options: 0)
    monkeypatch.setattr(sweep_table, "write_table", lambda *_, **__: None)
    (tmp_path / "prompts.txt").write_text("a red torus\n")
    words = ["sweep", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out"), "--device", "cpu", "--steps", "1"]
    both = ["--method", "latent-nerf", "dream-fields", "--losses", "lsd", "full", "--refinement-steps", "0"]
    assert cli.main([*words, *both]) == 2
    assert "--refinement-steps: dream-fields runs without a refinement" in capsys.readouterr().err
    assert cli.main([*words, *both[:-2]]) in (0, 1)
    jobs = json.loads((tmp_path / "out" / "jobs.json").read_text())["jobs"]
    found = {(job["method"], job["losses"]) for job in jobs}
    assert found == {("latent-nerf", "lsd"), ("latent-nerf", "full"), ("dream-fields", "clip")}
    for more, said in (
        (["--method", "dream-fields", "--losses", "lsd"], "--losses: the terms of the prior"),
        (["--guidance", "clip", "--method", "latent-nerf"], "--guidance clip: expected --method dream-fields, or none"),
        (["--guidance", "clip", "--guidance-clip", "no/such/clip"], "--guidance-clip: there is no folder"),
    ):
        assert cli.main([*words[:3], str(tmp_path / "other"), *words[4:], *more]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "other").exists()
