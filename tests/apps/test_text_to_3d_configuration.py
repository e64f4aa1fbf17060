"""What the command refuses, in one line that names the flag, before anything is written; config.yaml."""

from __future__ import annotations

import copy
import math
import pathlib
import re
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml

from ldp_fast import cli
from ldp_fast.apps.text_to_3d.configuration import EMBEDDED, QUALITIES, defaults, resolve
from ldp_fast.apps.text_to_3d.run import check_channels
from ldp_fast.apps.text_to_3d.scene import CameraRanges, background_of, field_of, occupancy_of, read_configuration
from ldp_fast.apps.text_to_3d.sections import METHODS, class_of
from ldp_fast.errors import UsageError
from ldp_fast.nerf import LatentField
from ldp_fast.runs import files
from ldp_fast.runs.configuration import merged, write
from ldp_fast.runs.flags import put
from ldp_fast.runs.settings import Wrong

from . import text_to_3d_runs as runs

JACOBIAN = ("--method", "jacobian-nerf")
# Words after the prompt and what the line has to say; the embedded model, which none of them gets to.
REFUSED = [
    (("--method", "nerf"), "--method: expected one of latent-nerf, jacobian-nerf, dream-fields; got 'nerf'"),
    (("--preset", "images"), "preset: expected one of"),
    (("--background", "white"), "--background: expected one of greys, network, texture, none, got 'white'"),
    (("--steps", "-1"), "--steps: expected a whole number of at least 1, got -1"),
    (("--steps", "0"), "--steps"),
    (("--steps", "many"), "--steps: expected a whole number, got 'many'"),
    (("--refinement-size", "0"), "--refinement-size: expected a whole number of at least 1, got 0"),
    (("--lambda-kl", "-0.1"), "--lambda-kl: expected a number of at least 0, got -0.1"),
    (("--refinement-steps", "-1"), "--refinement-steps: expected a whole number of at least 0, got -1"),
    (("--quality", "best"), "--quality: expected one of normal, high; got 'best'"),
    (("--quality", "high", "--model", "some/model"), "--quality: expected normal with 'some/model'"),
    ((*JACOBIAN, "--refinement-steps", "5"), "--refinement-steps: jacobian-nerf runs without a refinement"),
    (("--seed", "-1"), "--seed: expected a whole number from 0 to less than 2147483648, got -1"),
    (("--seed", str(2**31)), "--seed: expected a whole number from 0 to less than 2147483648, got 2147483648"),
    (("--views", "0"), "--views"),
    (("--size", "0"), "--size"),
    (("--supersample", "0"), "--supersample"),
    (("--steps-per-ray", "1"), "--steps-per-ray: expected a whole number of at least 2, got 1"),
    (("--checkpoint-every", "0"), "--checkpoint-every"),
    (("--keep", "0"), "--keep"),
    (("--preview", "0"), "--preview"),
    (("--learning-rate", "0"), "--learning-rate: expected a positive number, got 0"),
    (("--learning-rate", "nan"), "--learning-rate"),
    (("--final-rate", "1.5"), "--final-rate: expected a fraction between 0 and 1, got 1.5"),
    (("--elevation", "50", "10"), "--elevation: expected LOW HIGH between -90 and 90, got 50 10"),
    (("--elevation", "0", "91"), "--elevation"),
    (("--radius", "4", "3"), "--radius: expected LOW HIGH"),
    (("--radius", "nan", "3"), "--radius"),
    (("--fov", "40", "180"), "--fov"),
    (("--fov", "40"), "--fov: expected 2 arguments"),
    (("--overhead", "2"), "--overhead: expected a share between 0 and 1, got 2"),
    (("--emptiness", "1", "2"), "--emptiness: expected a weight, or FIRST LAST FROM TO; got 2 numbers"),
    (("--emptiness", "1", "2", "0.8", "0.2"), "--emptiness: expected a weight >= 0, or FIRST LAST FROM TO with"),
    (("--sparsity", "-1"), "--sparsity"),
    (("--opacity", "inf"), "--opacity"),
    (("--voxels", "32"), "--voxels: latent-nerf has a hash grid, not voxels"),
    ((*JACOBIAN, "--voxels", "1"), "--voxels: expected a whole number between 2 and 512, got 1"),
    (("--sigma-range", "0.1", "5", "--timestep-range", "0.1", "0.9"), "--sigma-range and --timestep-range: give one"),
    (("--sigma-range", "5", "0.1"), "--sigma-range: expected LOW HIGH of at least 0, got 5 0.1"),
    (("--sigma-range", "-0.1", "5"), "--sigma-range: expected LOW HIGH of at least 0, got -0.1 5"),
    (("--timestep-range", "0.9", "0.1"), "--timestep-range: expected LOW HIGH between 0 and 1, got 0.9 0.1"),
    (("--lambda-fm", "nan"), "--lambda-fm"),
    (("--weighting", "sjc"), "weighting"),
    (("--noises", "0"), "--noises: expected a whole number of at least 1, got 0"),
    (("--dtype", "int8"), "--dtype"),
    (("--model", "stable-difusion"), "'stable-difusion'"),
    (("--model", "."), "model: "),
    (("--model", "no/such/folder"), "model: there is no folder no/such/folder"),
    (("--no-such-flag",), "--no-such-flag"),
]


def said_in_a_line(capsys: pytest.CaptureFixture) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ldp-fast: error: "), lines
    return lines[0]


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_flags(
    words: tuple[str, ...],
    expected: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.command("a red torus", *words, "--out", tmp_path / "out") == 2
    assert expected in said_in_a_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "prompt: expected one, such as"),
        (("",), "prompt: expected one, such as"),
        (("  ",), "prompt: expected one, such as"),
        (("a red unicorn",), "prompt: the embedded model does not know 'unicorn'"),
        (("a red torus", "--negative-prompt", "blurry"), "does not know 'blurry'"),
        (("a red torus", "--sigma-range", "20", "30"), "sigma_range: expected LOW HIGH around"),
        (("a red torus", "--levels", "up9"), "up9"),
        (("a red torus", "--device", "tpu"), "device: 'tpu' cannot be used here"),
        (("a red torus", "blue"), "unrecognized arguments: blue"),
    ],
)
def test_bad_prompts_and_what_the_model_refuses(
    words: tuple[str, ...],
    expected: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.command(*words) == 2
    assert expected in said_in_a_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_taken(small_model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    held = runs.prepared(tmp_path / "held", runs.configuration(small_model))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("mine")
    for name, expected in (
        ("held", f"{held} holds a run already: continue it with --resume {held}"),
        ("foreign", f"{foreign} is not empty and does not hold a run"),
        ("file", f"{tmp_path / 'file'} is not a folder"),
    ):
        before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
        assert runs.command("abc", "--model", small_model, "--out", tmp_path / name) == 2
        assert expected in said_in_a_line(capsys)
        assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    words = ["text-to-3d", "abc", "--model", small_model, "--overwrite", *("--out", str(tmp_path / "file" / "below"))]
    assert cli.main(words) == 2
    said_in_a_line(capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ["primitives", "some/model"])
def test_round_trip(method: str, model: str, tmp_path: pathlib.Path) -> None:
    said = {"prompt": "ein Würfel: «rot» # 1", "sigma_range": [0.1, 5.5], "method": method, "model": model}
    plain = resolve({}, said)
    given = class_of(plain).from_plain(plain)
    assert {name: given.plain()[name] for name in plain} == files.plain(plain) and given.method == method
    write(tmp_path, given)
    found = read_configuration(tmp_path)
    assert found == given and found.fingerprint() == given.fingerprint()
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("method", "name", "value", "part"),
    [
        ("jacobian-nerf", "smoothing", [1, 0, 0, 1], {"resolution": 24}),
        ("latent-nerf", "initial", 0.5, {"levels": 4}),
        ("latent-nerf", "outside", 0.5, {"levels": 4}),
    ],
)
def test_a_whole_field_without_what_may_be_left_out_has_none(
    method: str, name: str, value: object, part: dict[str, int]
) -> None:
    said = {"prompt": "a red torus", "method": method}
    plain = resolve({}, said)
    without = {**plain, "field": {**plain["field"], name: None}}
    # What is None is not written, as in a run of an edition that knew nothing of it.
    written = class_of(without).from_plain(without).plain()
    assert name not in written["field"] and name not in resolve(written, {})["field"]
    assert resolve(written, {"field": {name: value}})["field"][name] == value
    assert resolve({**said, "field": part}, {})["field"][name] == plain["field"][name]


@pytest.mark.parametrize(("initial", "expected"), [(None, 1e-4), (0.25, 0.25)])
def test_the_entries_of_a_hash_grid_start_within_what_is_said(initial: float | None, expected: float) -> None:
    plain = resolve({"prompt": "a red torus", "method": "latent-nerf", "field": {"initial": initial}}, {})
    field = field_of(class_of(plain).from_plain(plain).field, 4)
    assert isinstance(field, LatentField)
    assert 0.95 * expected < field.grid.table.abs().max().item() <= expected


@pytest.mark.parametrize("outside", [None, 0.25])
def test_the_density_far_from_the_blob_starts_as_what_is_said(outside: float | None) -> None:
    said = {"initial": 1e-4, "outside": outside, "blob": [3.0, 0.2]}
    plain = resolve({"prompt": "a red torus", "method": "latent-nerf", "field": said}, {})
    field = field_of(class_of(plain).from_plain(plain).field, 4)
    assert isinstance(field, LatentField) and field.bias == (outside is not None)
    far, middle = field.density(torch.tensor([[0.9, -0.9, 0.9], [0.0, 0.0, 0.0]])).tolist()
    assert far == pytest.approx(outside or 1.0, rel=1e-3)
    assert middle == pytest.approx(math.exp(3.0) * (outside or 1.0), rel=1e-3)


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        (
            [2, 0, 0.7, 0.6],
            "expected FIRST LAST FROM TO with FIRST, LAST >= 0 and 0 <= FROM <= TO <= 1; got 2 0 0.7 0.6",
        ),
        ([-1, 0, 0, 1], "expected FIRST LAST FROM TO"),
        ([0, math.nan, 0, 1], "finite"),
        ([0, 33, 0, 1], "expected at most the 32 voxels there are, got 33"),
        ([1, 2], "expected 4 values, got 1 2"),
        ([0, 1, 2, 3, 4], "expected 4 values, got 0 1 2 3 4"),
        ([0, 1, 2, "x"], "expected a number, got 'x'"),
        (3, "expected a list of 4 values, got 3"),
    ],
)
def test_a_smoothing_that_cannot_be(smoothing: Any, expected: str) -> None:
    said = {"prompt": "a red torus", "method": "jacobian-nerf", "field": {"smoothing": smoothing}}
    plain = resolve(said, {})
    with pytest.raises(Wrong, match=rf"^field.smoothing: .*{expected}"):
        class_of(plain).from_plain(plain)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        (
            "method: latentnerf",
            (),
            "{file}: method: expected one of latent-nerf, jacobian-nerf, dream-fields; got 'latentnerf'",
        ),
        (
            "method: latent-nerf",
            ("--method", "no"),
            "--method: expected one of latent-nerf, jacobian-nerf, dream-fields; got 'no'",
        ),
        ("preset: foo", (), "{file}: preset: expected one of"),
        ("quality: high", (), "{file}: quality: there is no such setting"),
        ("settings: 3", (), "{file}: settings: expected a section of settings, got 3"),
        ("settings: 3", ("--quality", "high"), "{file}: settings: expected a section of settings, got 3"),
        ("cameras: {fov: [40]}", (), "{file}: cameras.fov: expected 2 values, got 40"),
        ("regularisers: {opacity: -1}", (), "{file}: regularisers.opacity: expected a weight >= 0, .*; got -1$"),
        ("regularisers: {opacity: [1, 2]}", (), "{file}: regularisers.opacity: expected 4 values, got 1 2"),
        (
            "regularisers: {opacity: [0.1, .nan, 0, 1]}",
            (),
            "{file}: regularisers.opacity: expected a weight .*; got 0.1 nan",
        ),
        (
            "regularisers: {opacity: [.inf, 0.1, 0, 1]}",
            (),
            "{file}: regularisers.opacity: expected a weight .*; got inf 0.1",
        ),
        (
            "background: {kind: greys, low: 0.6, high: 0.25}",
            (),
            "{file}: background.high: expected at least low, 0.6, got 0.25",
        ),
        ("field: {outside: 0}", (), "{file}: field.outside: expected a positive number, got 0"),
        ("field: {initial: 1.0e+39}", (), "{file}: field.initial: expected a number between 0 and 60000, got 1e.39"),
        (
            "{method: jacobian-nerf, refinement: {steps: 10}}",
            (),
            "{file}: refinement: expected nothing, as jacobian-nerf runs without one",
        ),
    ],
)
def test_what_a_file_says_wrongly_is_told_with_its_name(
    text: str, words: tuple[str, ...], expected: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert runs.command("a red torus", "--config", file, "--print-config", *words) == 2
    assert re.search(expected.replace("{file}", re.escape(str(file))), said_in_a_line(capsys))


def test_a_weight_of_a_file_may_be_one_number() -> None:
    plain = resolve({"prompt": "a red torus", "regularisers": {"opacity": 1, "emptiness": [0, 1, 0, 1]}}, {})
    assert plain["regularisers"] == {"opacity": [1, 1, 0, 0], "emptiness": [0, 1, 0, 1]}


@pytest.mark.parametrize("off", [None, {"steps": 0}])
def test_a_refinement_that_a_file_turned_off_stays_off(off: Any) -> None:
    for quality in QUALITIES:
        assert resolve({"prompt": "a red torus", "refinement": off}, {}, quality)["refinement"] is None


def test_what_the_fingerprint_sees() -> None:
    given = runs.configuration("x")
    for name, value in (("checkpoint_every", 7), ("keep", 9), ("device", "cuda:1")):
        assert runs.changed(given, **{name: value}).fingerprint() == given.fingerprint()
    for name, value in (("seed", 4), ("prompt", "b"), ("settings", {"lambda_kl": 0.2}), ("settings", {"noises": 2})):
        assert runs.changed(given, **{name: value}).fingerprint() != given.fingerprint()


@pytest.mark.parametrize("method", METHODS)
def test_a_quality_is_a_flag_and_what_is_given_one_by_one_wins(method: str) -> None:
    said = {"prompt": "a red cube", "method": method}
    normal, high = (resolve({}, said, quality) for quality in QUALITIES)
    assert high == merged(normal, {"settings": {"noises": 3}}) and normal == resolve({}, said)
    two = merged(normal, {"settings": {"noises": 2}})
    assert resolve(two, {}) == two and resolve(two, {}, "high") == high, "a flag wins over a file"
    assert resolve({}, {**said, "settings": {"noises": 2}}, "high") == two
    assert resolve({}, {**said, "steps": 7}, "high") == {**high, "steps": 7}


def test_defaults_are_nobody_elses() -> None:
    mine = defaults("latent-nerf", embedded=True)
    mine["optimizer"]["learning_rate"] = mine["cameras"]["overhead"] = math.pi
    assert EMBEDDED["latent-nerf"]["optimizer"]["learning_rate"] != math.pi
    assert defaults("latent-nerf", embedded=True)["cameras"]["overhead"] != math.pi


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prompt: [unclosed", "is damaged"),
        ("", "expected a configuration of format 1, but the file is empty"),
        ("- a\n- b\n", "expected a configuration of format 1, got list"),
        ("format: 2\nprompt: a\n", "expected a configuration of format 1, got 2"),
        ("format: 1\nprompt: a\n", "is damaged: it lacks method, steps, size"),
        ("\x00\x01", "is damaged"),
    ],
)
def test_damaged_configurations(
    text: str, expected: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert runs.command("--resume", tmp_path) == 2
    said = said_in_a_line(capsys)
    assert expected in said and str(tmp_path / "config.yaml") in said
    assert (tmp_path / "config.yaml").read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_a_configuration_without_one_of_its_parts(tmp_path: pathlib.Path) -> None:
    write(tmp_path, runs.configuration("x"))
    whole = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for name in ("prompt", "method", "steps", "cameras", "field", "occupancy", "settings", "preset"):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(UsageError, match=f"is damaged: it lacks {name}$"):
            read_configuration(tmp_path)


def places(plain: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a plain configuration, sections included."""
    for name, value in plain.items():
        yield f"{above}{name}", value
        if isinstance(value, dict):
            yield from places(value, f"{above}{name}.")


def dumped(plain: dict[str, Any]) -> str:
    """As `yaml.safe_dump`, by libyaml where PyYAML was built with it."""
    return str(yaml.dump(plain, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_that_a_hand_has_spoiled_is_named(
    method: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    """Of another type, out of its range, misspelt: one line with the file and the field; nothing is computed."""
    write(tmp_path, runs.configuration("x", method))
    whole = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del whole["application"], whole["format"]
    count = 0
    for place, value in list(places(whole)):
        for bad in ({"a": [1]}, [[]], -math.inf if not isinstance(value, str) else 7.5):
            plain = copy.deepcopy(whole)
            put(plain, place, bad)
            (tmp_path / "config.yaml").write_text(dumped({"format": 1, **plain}))
            # What the command reads, without the command: below and above it says these lines.
            with pytest.raises(UsageError) as raised:
                read_configuration(tmp_path)
            said = str(raised.value)
            assert str(tmp_path / "config.yaml") in said and place.split(".")[0] in said, (place, bad, said)
            count += 1
    assert count > 100
    for place, word in (("optimizer.learning_rat", "did you mean learning_rate?"), ("seeed", "did you mean seed?")):
        plain = copy.deepcopy(whole)
        put(plain, place, 1)
        (tmp_path / "config.yaml").write_text(dumped({"format": 1, **plain}))
        assert runs.command("--resume", tmp_path) == 2
        assert f"config.yaml: {place}: there is no such setting; {word}" in said_in_a_line(capsys)
    for place, bad, expected in (
        ("optimizer.kind", "sgd", "optimizer.kind: expected one of adam, adamax, got 'sgd'"),
        ("method", None, "method: expected one of latent-nerf, jacobian-nerf, dream-fields, got nothing"),
        ("optimizer.learning_rate", -1.0, "optimizer.learning_rate: expected a positive number, got -1"),
        ("cameras.fov", [50.0, 40.0], "cameras.fov: expected LOW HIGH between 1 and 179, got 50 40"),
        ("seed", True, "seed: expected a whole number, got True"),
        ("steps", 2.5, "steps: expected a whole number, got 2.5"),
    ):
        plain = copy.deepcopy(whole)
        put(plain, place, bad)
        (tmp_path / "config.yaml").write_text(dumped({"format": 1, **plain}))
        assert runs.command("--resume", tmp_path) == 2
        assert f"config.yaml: {expected}" in said_in_a_line(capsys)


@pytest.mark.parametrize("method", METHODS)
def test_a_number_that_is_accepted_is_one_that_the_modules_take(method: str) -> None:
    """What is out of their ranges is refused while it is read, and not where they are made."""
    whole, counts = runs.configuration("x", method).plain(), [0, 0]

    def numbers(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if isinstance(value, (dict, list)):
            for name in value if isinstance(value, dict) else range(len(value)):
                yield from numbers(value[name], (*place, name))
        elif isinstance(value, (int, float)):
            yield place

    for section in ("field", "occupancy", "cameras", "background"):
        for *above, last in list(numbers(whole[section], (section,))):
            for bad in (0, -1, 1, 2, 3, 7, 12, 96, 100, 128, 512, 1000, -0.5, 1e30, 2**20, 2**30):
                plain = copy.deepcopy(whole)
                inner = plain
                for name in above:
                    inner = inner[name]
                inner[last] = bad
                try:
                    configuration = class_of(plain).from_plain(plain)
                except Wrong as error:
                    assert error.place.startswith(section), (above, last, bad, error)
                    counts[0] += 1
                    continue
                with torch.device("meta"):
                    field_of(configuration.field, 4)
                    occupancy_of(configuration)
                    background_of(configuration, 4)
                CameraRanges.of(configuration.cameras)
                counts[1] += 1
    assert min(counts) > 50


def test_latents_of_more_channels_than_a_field_makes_are_refused() -> None:
    prior: Any = types.SimpleNamespace(latent_shape=(15, 8, 8))
    check_channels(prior)
    prior.latent_shape = (16, 8, 8)
    with pytest.raises(UsageError, match=r"--model: expected one whose latents have at most 15 channels, .*; got 16"):
        check_channels(prior)


def test_numbers_that_yaml_1_1_takes_for_text(tmp_path: pathlib.Path) -> None:
    write(tmp_path, runs.configuration("x"))
    text = (tmp_path / "config.yaml").read_text()
    assert "learning_rate: 0.001\n" in text
    (tmp_path / "config.yaml").write_text(text.replace("learning_rate: 0.001\n", "learning_rate: 1e-3\n"))
    assert read_configuration(tmp_path) == runs.configuration("x")


def test_a_run_starts_from_a_file_and_flags_win(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    def printed(*words: object) -> dict[str, Any]:
        assert runs.command(*words, "--print-config") == 0
        return yaml.safe_load(capsys.readouterr().out)

    whole = printed("a red torus", "--method", "jacobian_nerf", "--steps", "7", "--emptiness", "0.5", "--device", "cpu")
    assert (whole["method"], whole["steps"], whole["application"]) == ("jacobian-nerf", 7, "text-to-3d")
    assert whole["regularisers"]["emptiness"] == [0.5, 0.5, 0.0, 0.0]
    del whole["regularisers"]["opacity"]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(whole))
    assert printed("--config", file) == whole
    changed = printed("a blue cone", "--config", file, "--steps", "9", "--fov", "30", "35", "--opacity", "2")
    assert (changed["prompt"], changed["steps"], changed["cameras"]["fov"]) == ("a blue cone", 9, [30.0, 35.0])
    assert changed["regularisers"] == {**whole["regularisers"], "opacity": [2.0, 2.0, 0.0, 0.0]}
    # A part is enough; the method's and the model's defaults are the rest.
    file.write_text("prompt: a red torus\nmethod: jacobian-nerf\nfield: {resolution: 20}\n")
    assert printed("--config", file)["field"] == {
        **printed("a", "--method", "jacobian-nerf")["field"],
        "resolution": 20,
    }
    file.write_text("prompt: a red torus\noptimizer: {learning_rate: fast}\n")
    assert runs.command("--config", file) == 2
    assert f"{file}: optimizer.learning_rate: expected a number, got 'fast'" in said_in_a_line(capsys)
    assert runs.command("--config", file, "--learning-rate", "0") == 2
    assert "--learning-rate: expected a positive number, got 0" in said_in_a_line(capsys)
    file.write_text("application: synthesize\n")
    assert runs.command("--config", file) == 2
    assert "these are settings of ldp-fast synthesize, not of ldp-fast text-to-3d" in said_in_a_line(capsys)
    assert runs.command("--config", tmp_path / "absent.yaml") == 2
    assert "absent.yaml: there is no such file" in said_in_a_line(capsys)
    assert list(tmp_path.iterdir()) == [file]


def test_folders_without_a_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    assert runs.command("--resume", tmp_path / "nowhere") == 2
    assert "nowhere does not hold a run of text-to-3d: there is no such folder" in said_in_a_line(capsys)
    (tmp_path / "empty").mkdir()
    assert runs.command("--resume", tmp_path / "empty") == 2
    assert "empty does not hold a run of text-to-3d: config.yaml is missing" in said_in_a_line(capsys)
    (tmp_path / "file").write_text("")
    assert runs.command("--resume", tmp_path / "file") == 2
    assert f"{tmp_path / 'file'} is not a folder" in said_in_a_line(capsys)
