"""Measures of adaptations against renders (a perfect one, a shuffled one, none at all), and the command.

Runs of `ldp-fast adapt` are stand-ins here: what is started writes a generator without training it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import experiment
from benchmarks.adaptation import __main__ as command
from benchmarks.adaptation import figures, identity, made_by, measures, page, plan, renders, runs, summary
from benchmarks.adaptation.plan import GUIDANCES, TARGETS, Cell, Plan, Shown, Variant, scene_of
from ldp_fast import generators
from ldp_fast.errors import UsageError
from ldp_fast.zoo import captions, world

from .few_views import few_views

SAMPLES, VIEWS = 24, 40
SETTINGS = generators.Settings(resolution=64, z_dim=8, w_dim=8, mapping_layers=1, channels=(4,) * 5)
SMALL = ["--samples", "3", "--views", "20", "--judged", "1", "--targets", "a red sphere"]


@pytest.fixture(scope="module")
def shown() -> Shown:
    rng = np.random.default_rng(3)
    own, others = (tuple(world.sample_view(rng) for _ in range(count)) for count in (SAMPLES, VIEWS))
    return Shown(torch.zeros(SAMPLES, 8), own, others)


@pytest.fixture(scope="module")
def small() -> Plan:
    return Plan(SAMPLES, VIEWS, 1, 0, "primitives", "weights", "primitives", "networks")


@pytest.fixture(scope="module")
def judges() -> measures.Judges:
    return measures.Judges("primitives/judge")


def of(scene: world.Scene, shown: Shown) -> tuple[renders.Renders, Tensor]:
    """The renders of a solid, and what a perfect adaptation to it shows."""
    made = renders.Renders(renders.layers(scene, shown.views), renders.layers(scene, shown.others))
    return made, measures.truth_of(scene, made, shown)


@pytest.mark.parametrize("target", ["a green cone", "a red and white checkered cube"])
def test_layers_with_colours_are_the_worlds_renders(target: str, shown: Shown) -> None:
    scene = scene_of(target)
    made = renders.pictures(renders.layers(scene, shown.views[:4]), scene, shown.greys[:4])
    expected = np.stack([world.render(scene, view, renders.SIDE) for view in shown.views[:4]])
    assert float((made.permute(0, 2, 3, 1) * 255 - torch.from_numpy(expected)).abs().max()) <= 1.01


@pytest.mark.parametrize("target", ["a red sphere", "a red and white checkered cube"])
def test_a_perfect_adaptation_keeps_all_and_a_shuffled_one_what_chance_keeps(target: str, shown: Shown) -> None:
    solid, perfect = of(scene_of(target), shown)
    found = identity.kept(perfect, solid, shown.greys)
    assert found.all.all() and float(found.view.min()) == 1 and float(found.grey.max()) < 1 / 255
    assert identity.correlation(found.side, found.true_side) > 0.98
    chance = []
    for shift in range(1, SAMPLES):
        chance.append(identity.kept(perfect.roll(shift, 0), solid, shown.greys))
    assert np.mean([x.view.mean() for x in chance]) == pytest.approx(0.5, abs=0.08)
    assert np.mean([x.all.mean() for x in chance]) < 0.05
    assert abs(np.mean([identity.correlation(x.side, x.true_side) for x in chance])) < 0.1


def test_a_wrong_colour_or_grey_does_not_hide_the_view_and_an_empty_picture_keeps_nothing(shown: Shown) -> None:
    solid, perfect = of(scene_of("a yellow cylinder"), shown)
    blue = renders.pictures(solid.own, world.Scene("cylinder", "blue"), shown.greys)
    assert identity.kept(blue, solid, shown.greys).all.all()
    brighter = renders.pictures(solid.own, scene_of("a yellow cylinder"), shown.greys + 0.1)
    found = identity.kept(brighter, solid, shown.greys)
    assert float(found.view.min()) == 1 and not found.all.any()
    assert found.grey == pytest.approx(np.full(SAMPLES, 0.1), abs=0.01)
    empty = identity.kept(torch.full_like(perfect, 0.4), solid, shown.greys)
    assert empty.all.mean() < 0.2 and identity.correlation(empty.side, empty.true_side) == 0


def test_a_hidden_second_colour_is_not_a_direction() -> None:
    layers = np.zeros((1, 3, 16), dtype=np.float32)
    layers[0, 0, :4], layers[0, 2] = 1, 1 - layers[0, 0]
    basis = identity.directions(layers)
    products = basis[0] @ basis[0].T
    assert np.allclose(np.sort(np.diag(products)), [0, 1, 1]) and np.allclose(products, np.diag(np.diag(products)))


def test_before_one_grey_greys_are_not_seen(shown: Shown, judges: measures.Judges) -> None:
    scene = scene_of("a blue torus")
    solid, perfect = of(scene, shown)
    other = renders.pictures(solid.own, scene, shown.greys[::-1].copy())
    one, two = measures.before_one_grey(perfect), measures.before_one_grey(other)
    # A pixel at the edge, which has some of the grey, may still tell.
    assert float((one - two).abs().mean()) < 0.02 * float((perfect - other).abs().mean())
    assert torch.equal(one[:, :, 0, 0], torch.full((len(one), 3), 0.425))
    assert (
        0
        < measures.look(perfect, solid, shown, judges).solids
        < 0.5 * measures.look(perfect, solid, shown, judges).pairs
    )


def test_the_measures_tell_the_truth_from_the_source(
    shown: Shown, small: Plan, judges: measures.Judges, tmp_path: Path
) -> None:
    target = "a blue torus"
    scene = scene_of(target)
    solid, perfect = of(scene, shown)
    plain, _ = of(plan.SOURCE, shown)
    colours = [world.COLOURS[name] for name in world.COLOURS] * 3
    rows = [renders.pictures(plain.own[i : i + 1], plan.SOURCE, shown.greys[i : i + 1]) for i in range(SAMPLES)]
    source = torch.cat([x.clamp(0, 1) * torch.tensor(c)[:, None, None] for x, c in zip(rows, colours, strict=True)])
    domain = judges.features(measures.domain_of(scene, solid, shown))
    seen, before = measures.look(perfect, solid, shown, judges), measures.look(source, plain, shown, judges)
    with few_views(AZIMUTHS=4, ELEVATIONS=(20,), DISTANCES=(1.0,), EVALUATIONS=0):
        best = measures.measure(perfect, target, domain, seen, small, judges)
        worst = measures.measure(source, target, domain, before, small, judges)
    assert best is not None and worst is not None
    one, other = summary.Row([best]), summary.Row([worst])
    assert one.number("hit") == one.number("kept") == 1 and (other.number("hit") or 0) < 0.2
    for name in ("cosine", "fid", "hit"):
        assert summary.better(best, worst, name), name
    assert summary.better(best, best, "fid") is None
    assert best["fid"] < 0.2 * worst["fid"] and 0 < best["pairs"] < worst["pairs"]
    pair = summary.against([(best, worst)])
    assert pair["hit"][1] == 0 and pair["hit"][0] > 0.8 * SAMPLES and pair["cosine"].value > 0
    # The same again from a file; what other measures made is not taken.
    runs.keep(tmp_path / "x", best, judges, perfect, seconds=3.0)
    held = runs.record_of(tmp_path / "x.json", judges)
    assert held is not None and held["found"] == json.loads(json.dumps(best))
    assert runs.record_of(tmp_path / "x.json", {**judges.key(), "judge": "another"}) is None
    assert figures.strip(tmp_path / "x.png", 2).shape == (64, 128, 3)  # type: ignore[union-attr]
    assert measures.measure(perfect, target, domain, seen, small, judges, lambda: True) is None


def test_renders_are_made_once(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Shown(shown.z[:2], shown.views[:2], shown.others[:3])
    scene = scene_of("a red sphere")
    assert renders.kept(tmp_path, scene, few, lambda: True) is None and not list(tmp_path.iterdir())
    first = renders.kept(tmp_path, scene, few)
    again = Shown(shown.z[:2], shown.views[1:3], shown.others[:3])
    other = renders.kept(tmp_path, scene, again)
    assert first is not None and other is not None and not np.array_equal(first.own, other.own)
    monkeypatch.setattr(renders, "layers", lambda *arguments: pytest.fail("rendered again"))
    held = renders.kept(tmp_path, world.Scene("sphere", "blue"), again)
    assert held is not None and np.array_equal(held.own, other.own) and np.array_equal(held.others, other.others)


def test_a_plan_has_every_target_with_every_guidance() -> None:
    found = plan.cells(TARGETS, plan.variants(GUIDANCES, [["mild=--guidance ldp --lambda-fm 0.1"]]), [0, 1])
    assert len({cell.name for cell in found}) == len(found) == 2 * len(TARGETS) * 4
    assert len(TARGETS) >= 5 and not any(scene_of(target).held_out() for target in TARGETS)
    assert all(captions.scene_of(target) != plan.SOURCE for target in TARGETS)
    assert {cell.variant.words for cell in found if cell.variant.name == "mild"} == {
        ("--guidance", "ldp", "--lambda-fm", "0.1")
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--targets", "a red house"], "--targets: expected a caption of the embedded world, got 'a red house'"),
        (["--variants", "sds"], "--variants: expected some of ldp, lsd, clip-directional, got 'sds'"),
        (["--variants"], "--variants: expected at least one way, here or as --variant"),
        (["--variant", "Mild"], "--variant: expected NAME=WORDS with a name of a-z, 0-9, ., @ and -, got 'Mild'"),
        (["--variant", "lsd=--guidance ldp"], "--variant: 'lsd' is there twice"),
        (
            ["--variant", "x=--steps 2", "a red house"],
            "--variant: expected a caption of the embedded world, got 'a red house'",
        ),
        (["--repeat", "sds"], "--repeat: expected some of ldp, lsd, clip-directional, got 'sds'"),
        (["--samples", "1"], "--samples: expected at least 2, got 1"),
        (["--limit-minutes", "nan"], "--limit-minutes: expected a number of at least 0, got nan"),
        (["--seeds", "-1"], "--seeds: expected numbers of at least 0, got -1"),
    ],
)
def test_what_is_refused(words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err == f"benchmarks.adaptation: {expected}\n" and not list(tmp_path.iterdir())


def test_a_cell_is_continued_where_it_was_stopped(tmp_path: Path) -> None:
    folder, cell = tmp_path / "runs" / "cell", Cell("a red sphere", Variant("lsd", ("--guidance", "lsd")))
    words = runs.command(cell, folder, ["--steps", "3"])
    assert words[2:6] == ["ldp_fast", "adapt", "a red sphere", "--guidance"] and words[-2:] == ["--out", str(folder)]
    assert "--steps" in words and "--seed" in words
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    assert runs.command(cell, folder)[2:] == ["ldp_fast", "adapt", "--resume", str(folder)]


Made = list[list[str]]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A generator in place of the embedded one, and runs that write one; what was started."""
    torch.manual_seed(0)
    generators.save(tmp_path / "source", generators.StyleGAN2(SETTINGS), {})
    monkeypatch.setattr(plan, "GENERATOR", str(tmp_path / "source"))
    monkeypatch.setattr(made_by, "adaptation", lambda: "code")
    started: Made = []

    def carry_out(words: Sequence[str], seconds: float, stop: Callable[[], bool]) -> int:
        started.append(list(words))
        folder = Path(words[-1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text("")
        if "--resume" not in words:
            return 1 if "lsd" in words else experiment.INTERRUPTED
        generators.save(folder / "generator", generators.StyleGAN2(SETTINGS), {})
        record = {"status": "finished", "application": "adapt", "versions": {"ldp-fast": "0"}}
        (folder / "run.json").write_text(json.dumps(record))
        return 0

    monkeypatch.setattr(runs, "carry_out", carry_out)
    return started


def test_the_command_continues_and_writes_the_page(
    stand_in: Made,
    judges: measures.Judges,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "Judges", lambda name: judges)
    out, target = tmp_path / "out", tmp_path / "page.md"
    target.write_text(f"before\n{page.MARKS[0]}\nold\n{page.MARKS[1]}\nafter\n")
    words = ["--out", str(out), *SMALL, "--variants", "ldp", "lsd", "--words", "--steps 2"]
    with few_views(AZIMUTHS=2, ELEVATIONS=(20,), DISTANCES=(1.0,), EVALUATIONS=0):
        # The first run is stopped, the next call continues it; the second fails, and is no reason to stop.
        assert command.main(words) == 0 and len(stand_in) == 1
        capsys.readouterr()
        assert command.main(words) == 0 and len(stand_in) == 3
        told = capsys.readouterr().out
        assert "1 of 2 cells: a-red-sphere--ldp--seed0, " in told and "ldp-fast adapt ended with exit code 1" in told
        assert command.main([*words, "--page", str(target)]) == 0 and len(stand_in) == 4
    assert shlex.join(stand_in[0][3:11]) == "adapt 'a red sphere' --guidance ldp --steps 2 --seed 0"
    assert stand_in[1][4] == "--resume" and stand_in[3][4] == "--resume"
    text = target.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text and str(tmp_path) not in text
    assert "2 of 2 adaptations" in text and "--words '--steps 2'" in text and "### `ldp` against `lsd`" in text
    assert all((tmp_path / "images" / f"adaptation{end}.png").is_file() for end in ("", "_pictures", "_plane"))
    assert all(f"| {name} " in text for name in ("source", "ldp", "lsd", "true renders", "better – worse"))
    # What is there stays; other words under the same names are refused.
    assert command.main(words) == 0 and len(stand_in) == 4
    # With the record there too, which a page would show under these words.
    assert command.main([*words[:-1], "--steps 3"]) == 2
    assert "was made with '--guidance ldp --steps 2', and is asked for with" in capsys.readouterr().err
    (out / "cells" / "a-red-sphere--ldp--seed0.json").unlink()
    assert command.main([*words[:-1], "--steps 3"]) == 2
    assert "was made with '--guidance ldp --steps 2', and is asked for with" in capsys.readouterr().err
    # What was edited while a run went on is of neither code.
    codes = iter(["code", "another"])
    monkeypatch.setattr(made_by, "adaptation", lambda: next(codes))
    assert command.main(words) == 2 and "the code that adapts has changed meanwhile" in capsys.readouterr().err


def test_the_page_has_its_marks() -> None:
    experiment.check_page(page.PAGE, page.MARKS)
    assert page.table([]) == page.beside({}, "ldp", "lsd") == page.NOTHING


def test_other_words_for_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_by, "adaptation", lambda: "code")
    cell = Cell("a red sphere", Variant("lsd", ("--guidance", "lsd")))
    (tmp_path / "cell.asked.json").write_text('{"words": ["--guidance", "ldp"], "seconds": 1.0, "code": "code"}')
    with pytest.raises(UsageError, match="cell was made with '--guidance ldp', and is asked for with '--guidance lsd'"):
        runs.adapt(cell, tmp_path / "cell", [], 1.0, lambda: False, "code")
