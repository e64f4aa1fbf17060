"""`ldp-fast adapt`: what a run leaves, its settings, a sweep of it, and what is refused."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ldp_fast.apps import registry
from ldp_fast.apps.adapt import products
from ldp_fast.apps.adapt.configuration import ClipGuided, PriorGuided, class_of, model_and_weight
from ldp_fast.apps.adapt.defaults import resolve
from ldp_fast.apps.adapt.entry import described
from ldp_fast.apps.adapt.run import begin, expect, load_source
from ldp_fast.apps.sweep import command as sweep
from ldp_fast.apps.variants import TITLES
from ldp_fast.cli import main
from ldp_fast.generators import load, sampling
from ldp_fast.runs import image_files

from . import adapt_stub as stub

FLAGS = ("--device", "cpu", "--steps", "3", "--samples", "3", "--frames", "4", "--source-prompt", "a cube")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stub.saved(tmp_path_factory.mktemp("generator") / "tiny")


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    stub.guided_by_red(monkeypatch)


def command(*words: str) -> int:
    return main(["adapt", *words])


@pytest.fixture(scope="module")
def finished(generator: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of three steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stub.guided_by_red(patch)
        words = ("--generator", generator, "--seed", "5", "--learning-rate", "0.05", "--preview", "2")
        assert command(stub.PROMPT, *FLAGS, *words, "--out", str(folder)) == 0
    return folder


def test_what_a_run_leaves(finished: pathlib.Path, generator: str) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "finished" and record["step"] == 3 and "left_out" not in record
    assert set(record["last"]) == {"distance", "norm_pixels", "amplitude", "changed", "gradient_norm"}
    assert record["trained"]["tensors"] == 8
    for name in ("config.yaml", "preview.png", "losses.png", "interpolation.mp4", "interpolation.gif"):
        assert (finished / name).stat().st_size > 0 and name in record["files"]
    assert list((finished / "log").iterdir())


def test_the_adapted_generator_is_one(finished: pathlib.Path, generator: str) -> None:
    source, adapted = load(generator), load(finished / "generator")
    assert adapted.about == {
        "made": "by a test",
        "adapted": {
            "prompt": stub.PROMPT,
            "guidance": "ldp",
            "model": "primitives",
            "steps": 3,
            "seed": 5,
            "from": generator,
        },
    }
    own = load_file(finished / "checkpoints" / "step-000003.safetensors")
    before = source.state_dict()
    for name, x in adapted.state_dict().items():
        # The moving average is the result; an embedded model's runs have one where nothing is said.
        assert torch.equal(x, own.get(f"average.{name}", before[name])), name
    assert not torch.equal(adapted.convs[0].weight, source.convs[0].weight)
    assert len([name for name in own if name.startswith("generator.")]) == 8, "what is not trained is not kept twice"


def test_pictures_are_those_of_the_generators(finished: pathlib.Path, generator: str) -> None:
    source, adapted = load(generator), load(finished / "generator")
    z = sampling.latents(5, 0, products.COLUMNS, 6)
    rows = [sampling.pictures(g, z, 0.7).repeat_interleave(8, 2).repeat_interleave(8, 3) for g in (source, adapted)]
    sheet = image_files.read_images([finished / "before_after.png"])[0]
    assert sheet.shape == (3, 2 * 128, products.COLUMNS * 128)
    wanted = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    assert (sheet - wanted).abs().max() < 0.003
    assert (sheet[:, :128] - sheet[:, 128:]).abs().max() > 0.02
    samples = image_files.read_images(sorted((finished / "samples").glob("*.png")))
    assert samples.shape == (3, 3, 16, 16)
    assert (samples - sampling.pictures(adapted, z[:3], 0.7)).abs().max() < 0.003


def test_a_film_is_a_closed_loop_of_zs_as_they_are_drawn() -> None:
    z = products.loop(3, 0, 200, 400)
    steps = (z - z.roll(1, 0)).norm(dim=1)
    assert steps.max() < 3 * steps.mean(), "the last frame goes on to the first"
    assert z.std() == pytest.approx(1, abs=0.05) and z.mean() == pytest.approx(0, abs=0.05)
    assert not torch.allclose(z[:1], products.loop(3, 1, 200, 400)[:1])
    assert torch.equal(z[::2], products.loop(3, 0, 100, 400))


@pytest.mark.parametrize(("side", "shown"), [(8, 128), (64, 128), (100, 100), (256, 256), (512, 256)])
def test_sheets_show_pictures_of_a_fair_size(side: int, shown: int) -> None:
    assert products.sized(torch.rand(1, 3, side, side)).shape == (1, 3, shown, shown)


@pytest.mark.parametrize("guidance", ["ldp", "lsd", "clip-directional"])
def test_each_guidance_guides(guidance: str, generator: str, tmp_path: pathlib.Path) -> None:
    words = ("--generator", generator, "--guidance", guidance, "--samples", "0", "--no-film", "--batch", "1")
    assert command(stub.PROMPT, *FLAGS, *words, "--steps", "1", "--out", str(tmp_path / "run")) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    if guidance == "clip-directional":
        assert {"direction", "changed"} <= set(record["last"]) and "guidance_scale" not in record
    else:
        assert record["guidance_scale"] == resolve({}, {"prompt": "x"})["settings"]["guidance_scale"]
        assert "changed" not in record["last"] and (record["last"]["fm"] > 0) == (guidance == "ldp")
    assert record["last"]["gradient_norm"] > 0
    assert not (tmp_path / "run" / "samples").exists() and not (tmp_path / "run" / "interpolation.mp4").exists()


def test_what_it_takes_is_said(generator: str) -> None:
    for guidance in ("ldp", "clip-directional"):
        experiment = begin(stub.configuration(generator, guidance=guidance, steps=50, batch=1))
        before = experiment.state()
        found = expect(experiment)
        assert found.seconds is not None and found.seconds > 0 and 1e6 < found.needed < 1e9
        after = experiment.state()
        assert experiment.step == 0 and all(torch.equal(before[name], after[name]) for name in before)


def plain(*words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What --print-config says."""
    assert command(*words, "--print-config") == 0
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return found


def test_settings_are_those_of_the_guidance_and_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    ours = plain(stub.PROMPT, "--device", "cpu", capsys=capsys)
    assert (ours["guidance"], ours["generator"], ours["source_prompt"]) == ("ldp", "primitives", "a cube")
    assert ours["train"] == ["convs.*.weight"] and ours["select_layers"] is None and "clips" not in ours
    full = plain("a dog", "--model", "a/b", "--generator", "cats", "--device", "cuda", capsys=capsys)
    assert (full["steps"], full["batch"], full["learning_rate"], full["train"]) == (2000, 1, 8e-4, ["host"])
    assert full["betas"] == pytest.approx([0, 0.992], abs=1e-4) and full["samples"] == 2000
    assert full["settings"]["timestep_range"] == [0.01, 0.3] and full["settings"]["nonfinite"] == "zero"
    assert [full["settings"][f"lambda_{name}"] for name in ("fm", "kl", "lsd")] == [3, 0.05, 1]
    assert full["settings"]["guidance_scale"] is None and full["source_prompt"] is None
    clip = plain("a dog", "--guidance", "clip-directional", "--model", "a/b", *FLAGS, capsys=capsys)
    assert [name for name, _ in clip["clips"]] == [f"openai/clip-vit-base-patch{size}" for size in (32, 16)]
    assert "settings" not in clip and clip["dtype"] == "float32"


def test_lsd_is_the_same_without_the_other_terms(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = plain(stub.PROMPT, "--device", "cpu", capsys=capsys)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(whole))
    lsd = plain("--config", str(tmp_path / "config.yaml"), "--guidance", "lsd", capsys=capsys)
    assert {name for name in whole if whole[name] != lsd[name]} == {"guidance", "settings"}
    different = {name for name, x in whole["settings"].items() if lsd["settings"][name] != x}
    assert different == {"lambda_fm", "lambda_kl"} and lsd["settings"]["lambda_fm"] == 0
    assert command(stub.PROMPT, "--guidance", "lsd", "--lambda-fm", "1", "--device", "cpu") == 2
    assert "--lambda-fm: expected 0 with --guidance lsd, got 1" in capsys.readouterr().err


def test_a_timestep_range_ends_the_annealing(capsys: pytest.CaptureFixture[str]) -> None:
    said = plain(stub.PROMPT, "--device", "cpu", "--timestep-range", "0.1", "0.2", capsys=capsys)
    assert said["settings"]["timestep_range"] == [0.1, 0.2] and said["settings"]["anneal_to"] is None
    with_preset = plain(stub.PROMPT, "--device", "cpu", "--preset", "stylegan", capsys=capsys)
    assert with_preset["settings"]["lambda_fm"] == 3, "whoever names a preset gets it"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("openai/clip", ("openai/clip", 1.0)),
        ("openai/clip:0.5", ("openai/clip", 0.5)),
        ("open_clip:ViT-B-32:openai", ("open_clip:ViT-B-32:openai", 1.0)),
        ("open_clip:ViT-B-32:openai:2", ("open_clip:ViT-B-32:openai", 2.0)),
    ],
)
def test_a_clip_and_its_weight(word: str, expected: tuple[str, float]) -> None:
    assert model_and_weight(word) == expected


def test_tables_tell_guidances_apart() -> None:
    ldp, clip = (described(stub.configuration(guidance=name)) for name in ("ldp", "clip-directional"))
    assert ldp["method"] == clip["method"] == "adapt" and ldp["settings"]["lambda_fm"] > 0
    assert clip["settings"] == {"lambda_lsd": 0, "lambda_fm": 0, "lambda_kl": 0} and clip["guided_by"] == "CLIP"
    assert registry.find("adapt").application.name == "adapt"


def test_the_flag_that_others_call_guidance_has_another_name() -> None:
    assert class_of({"guidance": "clip_directional"}) is ClipGuided and class_of({}) is PriorGuided
    found = stub.configuration(settings={"guidance": "from_text"})
    assert isinstance(found, PriorGuided) and found.settings.guidance == "from_text"


@pytest.mark.usefixtures("red", "only_steps")
def test_a_sweep_compares_guidances(
    generator: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = list[Any]()
    monkeypatch.setattr(sweep, "write_table", lambda jobs, store, **more: made.extend(jobs))
    (tmp_path / "prompts.txt").write_text("a red sphere\na blue cone\n")
    words = ["sweep", str(tmp_path / "prompts.txt"), "--application", "adapt", "--out", str(tmp_path / "out"), *FLAGS]
    words += ["--generator", generator, "--no-film", "--seeds", "3", "--lambda-fm", "0.1", "--steps", "1"]
    words += ["--guidance-clip", "primitives:2"]
    assert main([*words, "--guidance", "ldp", "lsd", "clip_directional"]) == 0
    guidances = ("ldp", "lsd", "clip-directional")
    assert [job.labels for job in made] == [
        {"prompt": prompt, "method": "adapt", "losses": name, "seed": 3}
        for prompt in ("a red sphere", "a blue cone")
        for name in guidances
    ]
    for job in made:
        record = json.loads((tmp_path / "out" / job.name / "run.json").read_text())
        assert record["status"] == "finished" and job.configuration.guidance == job.labels["losses"] in TITLES
    ldp, lsd, clip = (job.configuration for job in made[:3])
    assert (ldp.settings.lambda_fm, lsd.settings.lambda_fm, clip.clips) == (0.1, 0, [("primitives", 2)])
    capsys.readouterr()
    assert main([*words, "--losses", "lsd"]) == 2
    assert "--losses: adapt compares guidances: give --guidance ldp lsd clip-directional" in capsys.readouterr().err
    assert main([*words, "--guidance", "ldp", "sds"]) == 2
    assert "--guidance: expected some of ldp, lsd, clip-directional; got 'sds'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], 'prompt: expected one, such as ldp-fast adapt "a red sphere"'),
        (["a rd sphere"], "did you mean 'red'?"),
        ([stub.PROMPT, "--generator", "no/such"], "--generator: no/such does not exist: expected primitives"),
        ([stub.PROMPT, "--generator", "network.pkl"], "ldp-fast convert-generator network.pkl --out DIR"),
        ([stub.PROMPT, "--model", "no/such/model"], "there is no folder no/such/model"),
        ([stub.PROMPT, "--guidance", "sds"], "--guidance: expected one of ldp, lsd, clip-directional; got 'sds'"),
        ([stub.PROMPT, "--train", "convolutions"], "--train: 'convolutions' does not name any parameter"),
        ([stub.PROMPT, "--select-layers", "9"], "--select-layers: expected at most 6, the layers of the generator"),
        ([stub.PROMPT, "--ema", "1"], "--ema: expected a decay above 0 and below 1, got 1"),
        ([stub.PROMPT, "--batch", "0"], "--batch: expected a whole number between 1 and 4096, got 0"),
        (
            [stub.PROMPT, "--guidance-clip", "primitives"],
            "--guidance-clip: expected only with --guidance clip-directional",
        ),
        (
            [stub.PROMPT, "--guidance", "clip-directional", "--lambda-kl", "1"],
            "--lambda-kl: expected only with --guidance ldp or lsd, got clip-directional",
        ),
        ([stub.PROMPT, "--guidance", "clip-directional", "--source-prompt", " "], "--source-prompt: expected a text"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], said: str, generator: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [] if "--generator" in words else ["--generator", generator]
    assert command(*words, *more, "--device", "cpu", "--out", str(tmp_path / "out")) == 2
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 1 and said in found[0], found
    assert not (tmp_path / "out").exists()


def test_a_generator_without_a_word_for_what_it_makes(generator: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--guidance", "clip-directional", "--generator", generator, "--device", "cpu")
    assert command(stub.PROMPT, *words) == 2
    assert "--source-prompt: expected what the generator makes before, such as" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "other", "config"])
def test_a_damaged_generator_is_one_line(
    damage: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pathlib.Path(stub.saved(tmp_path / "generator"))
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "other":
        save_file({"x": torch.zeros(1)}, weights)
    else:
        (folder / "config.json").write_text("{}")
    assert command(stub.PROMPT, "--generator", str(folder), "--device", "cpu", "--out", str(tmp_path / "out")) == 2
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 1 and "--generator: " in found[0] and str(folder) in found[0], found
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("red", "only_steps")
def test_what_was_adapted_can_be_adapted_again(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = ("--generator", str(finished), "--steps", "1", "--out", str(tmp_path / "out"))
    assert command("a blue sphere", *FLAGS, *words) == 0
    found = load_source(stub.configuration(str(finished)))
    assert torch.equal(found.convs[0].weight, load(finished / "generator").convs[0].weight)


def test_samples_are_those_of_generate(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = ["--count", "3", "--truncation", "0.7", "--seed", "5", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["generate", str(finished), *words]) == 0
    for name in ("000000.png", "000002.png"):
        made, held = (image_files.read_images([folder / name]) for folder in (tmp_path / "out", finished / "samples"))
        assert (made - held).abs().max() < 0.005


def test_the_embedded_generator_is_the_default(tmp_path: pathlib.Path) -> None:
    words = ("--guidance", "clip-directional", "--device", "cpu", "--steps", "1", "--samples", "0", "--no-film")
    assert command(stub.PROMPT, *words, "--out", str(tmp_path / "run")) == 0
    found = load(tmp_path / "run" / "generator")
    assert found.resolution == 64 and found.about["adapted"]["source_prompt"] == "a cube"
    assert found.about["adapted"]["from"] == "primitives"
