"""What the terms do: the cells, the branches of feature matching, a command that continues, and its page."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.terms import __main__ as command
from benchmarks.terms import objects, page, plan, references, runs, summary
from benchmarks.terms.branches import BRANCHES, BranchedPrior, weighed
from benchmarks.terms.measures import Perception
from benchmarks.terms.plan import Cell, Plan
from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior
from ldp_fast.guidance.step import evaluate
from ldp_fast.metrics import ClipScorer
from ldp_fast.zoo import captions, world

from ..apps.solid_scene import SolidField, SolidScene
from ..apps.sweep_stand_ins import leave_run
from ..apps.test_r_precision import configuration
from .few_views import few_views

SMALL = ["--prompts", "2", "--steps", "2"]


@pytest.fixture(scope="module")
def prior() -> LatentDiffusionPrior:
    return LatentDiffusionPrior.from_pretrained("primitives", device="cpu", batch_reduction="sum")


@pytest.fixture(scope="module")
def given(prior: LatentDiffusionPrior) -> tuple[Tensor, object, dict[str, Tensor]]:
    """Latents, prompts, and t and ε of a step."""
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(2, *prior.latent_shape, generator=generator) for _ in range(2))
    text = prior.encode_prompt(["a red cube", "a blue torus"])
    return latents, text, {"timesteps": torch.tensor([150, 800]), "noise": noise}


def test_each_cell_is_made_once_and_the_deciding_ones_first() -> None:
    found = plan.cells()
    names = [cell.name for _, cell in found]
    assert len(set(names)) == len(names) > 120
    assert list(dict.fromkeys(group for group, _ in found)) == list(plan.GROUPS)
    assert all(cell == cell.simplest() for _, cell in found)
    assert {cell.lambda_fm for group, cell in found if group == "fm"} == set(plan.LAMBDAS)
    branched = {cell.branches for group, cell in found if group == "branches"}
    assert branched == set(BRANCHES)
    twice = plan.cells([0, 1])
    assert twice[: len(found)] == found and len(twice) == 2 * len(found)


@pytest.mark.parametrize("scale", ["latent", "literal", "balanced"])
def test_cells_that_are_called_otherwise_have_the_same_gradient(
    prior: LatentDiffusionPrior, given: tuple[Tensor, object, dict[str, Tensor]], scale: str
) -> None:
    latents, text, drawn = given
    for fm, kl in ((0.0, 0.0), (0.0, 0.1)):
        cell = Cell(fm, kl, scale=scale)
        as_it_is, simplest = (
            runs.prior_of(prior, one).gradient(latents, text, **drawn)[0]  # type: ignore[arg-type]
            for one in (cell, cell.simplest())
        )
        assert torch.equal(as_it_is, simplest)


@pytest.mark.parametrize("scale", ["latent", "literal", "balanced"])
def test_the_papers_branches_are_the_priors_gradient(
    prior: LatentDiffusionPrior, given: tuple[Tensor, object, dict[str, Tensor]], scale: str
) -> None:
    latents, text, drawn = given
    changed = prior.with_settings(scale=scale, lambda_fm=0.3)
    found, statistics = BranchedPrior(changed, "paper").gradient(latents, text, **drawn)  # type: ignore[arg-type]
    expected, wanted = changed.gradient(latents, text, **drawn)  # type: ignore[arg-type]
    assert torch.equal(found, expected)
    assert torch.equal(statistics.terms["norm_fm"], wanted.terms["norm_fm"])


def test_the_other_branches_are_what_autograd_makes_of_them(
    prior: LatentDiffusionPrior, given: tuple[Tensor, object, dict[str, Tensor]]
) -> None:
    latents, text, drawn = given
    changed = prior.with_settings(scale="latent", lambda_fm=1.0, lambda_kl=0.0, lambda_lsd=0.0)
    step = evaluate(changed, latents, text, drawn["timesteps"], drawn["noise"], None, 0.0)  # type: ignore[arg-type]

    def gradient(of_v: float, of_v_prime: Tensor) -> Tensor:
        leaf = latents.clone().requires_grad_()
        v = of_v * leaf + (1 - of_v) * latents
        factor = of_v_prime[:, None, None, None]
        v_prime = factor * leaf + (1 - factor) * latents + step.residual
        both = zip(changed.decoder.features(v), changed.decoder.features(v_prime), strict=True)
        loss = torch.stack([(x - y).abs().flatten(1).mean(1).sum() for x, y in both]).sum()
        (found,) = torch.autograd.grad(latents[0].numel() * loss, leaf)
        return found

    one = torch.ones(2)
    for branches, expected in {
        "paper": gradient(1, 1 + step.alpha),
        "ones": gradient(1, one),
        "v-prime": gradient(0, 1 + step.alpha),
    }.items():
        found, _ = BranchedPrior(changed, branches).gradient(latents, text, **drawn)  # type: ignore[arg-type]
        assert float((found - expected).norm() / expected.norm()) < 1e-3, branches
    with pytest.raises(ValueError, match="weighed: branches: expected one of paper, ones, v-prime; got 'none'"):
        weighed("none", step, None)  # type: ignore[arg-type]


def test_what_cancels_is_of_first_order(prior: LatentDiffusionPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "STUDIED", 1)
    monkeypatch.setattr(references, "TIMES", (700,))
    small = Plan.of(1, 7, 2)
    for row in references.branches(prior, prior.encode_prompt(list(small.prompts)), small):
        assert row["left at 0.01"] / row["left at 0.1"] == pytest.approx(0.1, rel=0.35)  # type: ignore[operator]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that the command makes, of less."""
    for name, value in {"SAMPLING_STEPS": 1, "TIMES": (500,), "STUDIED": 1, "ROUNDS": 1}.items():
        monkeypatch.setattr(references, name, value)
    with few_views(AZIMUTHS=4, ELEVATIONS=(20,), DISTANCES=(1.0,), EVALUATIONS=0):
        yield


def test_the_command_continues_and_refuses_another_plan(
    quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, target = tmp_path / "out", tmp_path / "page.md"
    target.write_text(f"before\n{page.MARKS[0]}\nold\n{page.MARKS[1]}\nafter\n")
    assert command.main(["--out", str(out), *SMALL, "--limit-cells", "1"]) == 0
    first = plan.cells()[0][1].name
    kept = (out / "cells" / f"{first}.safetensors").read_bytes()
    assert "1 of 137 cells, fm: " in capsys.readouterr().out.replace(f"{len(plan.cells())} cells", "137 cells")
    # The same command goes on; what is there stays, also where its record is made anew.
    (out / "cells" / f"{first}.json").unlink()
    words = ["--out", str(out), *SMALL, "--limit-cells", "2", "--page", str(target)]
    assert command.main(words) == 0
    assert (out / "cells" / f"{first}.safetensors").read_bytes() == kept
    assert len(list((out / "cells").glob("*.json"))) == 2
    text = target.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert (
        f"2 of {len(plan.cells())} cells" in text
        and "--out DIR --prompts 2 --steps 2 --page`" in text
        and str(tmp_path) not in text
    )
    assert all((target.parent / name).is_file() for name in ("images/terms_fm.png", "images/terms_cancelling.png"))
    capsys.readouterr()
    assert command.main(["--out", str(out), "--prompts", "3", "--steps", "2"]) == 2
    assert capsys.readouterr().err == f"benchmarks.terms: {out} has a plan with other prompts: choose another --out\n"
    assert command.main(["--out", str(tmp_path), *SMALL]) == 2
    assert "is not empty and does not hold this experiment" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--prompts", "0"], "--prompts: expected 1 to "),
        (["--prompt-seed", "-1"], "--prompt-seed: expected at least 0, got -1"),
        (["--limit-cells", "-1"], "--limit-cells: expected at least 0, got -1"),
        (["--out", __file__], "test_terms.py is not a folder"),
        (["--out", f"{__file__}/below"], "cannot be written to"),
    ],
)
def test_what_is_refused(words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(tmp_path / "out"), *SMALL, *words]) == 2
    assert expected in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_stopped_cell_goes_on_to_the_same_latents(prior: LatentDiffusionPrior, tmp_path: Path) -> None:
    small, cell, begun = dataclasses.replace(Plan.of(2, 7, 4), checkpoints=(1, 4)), Cell(3.0, 0.1), tmp_path / "begun"
    text = prior.encode_prompt(list(small.prompts))

    def made(*arguments: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        found = runs.make(prior, text, small, cell, *arguments)
        assert found is not None
        return found

    whole, facts = made()
    for after in (0, 2, 1):
        asked = iter([*[False] * after, True])
        assert runs.make(prior, text, small, cell, begun, lambda asked=asked: next(asked)) is None  # type: ignore[misc]
    again, others = made(begun)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert whole["latents"].shape == (2, 2, *prior.latent_shape) and len(whole["history"]) == 4
    assert facts["diverged"] == others["diverged"] == "" and facts.keys() == others.keys()


def test_a_picture_does_not_depend_on_those_that_it_is_made_with(prior: LatentDiffusionPrior) -> None:
    both, cell = Plan.of(2, 7, 3), Cell(3.0, 0.1)
    text = prior.encode_prompt(list(both.prompts))
    alone = dataclasses.replace(both, prompts=both.prompts[:1])
    (one, _), (two, _) = (  # type: ignore[misc]
        runs.make(prior, words, small, cell) for words, small in ((text.select(torch.tensor([0])), alone), (text, both))
    )
    assert torch.allclose(one["latents"][:, 0], two["latents"][:, 0], atol=2e-3)


def test_records_by_another_judge_are_made_anew(tmp_path: Path) -> None:
    record = {"form": runs.FORM, "judge": "primitives", "thresholds": runs.thresholds()}
    runs.keep(tmp_path, "cell", record, torch.zeros(2, 3, 8, 8))
    (tmp_path / "references.json").write_text('{"judge": "primitives", "found": {}}')
    assert page._held(tmp_path, "references", "primitives") == {}
    assert page._held(tmp_path, "references", "primitives/judge") is None
    assert runs.fits(tmp_path / "cell.json", "primitives")
    assert not runs.fits(tmp_path / "cell.json", "primitives/judge")
    assert not runs.fits(tmp_path / "other.json", "primitives")


def image(right: bool, **more: float) -> dict[str, object]:
    values = {"perceptual": 0.1, "laplacian": 1.0, "laplacian_half": 1.0, "iou": 0.9, "colour_error": 3.0, "stray": 0.0}
    values |= {"ground": 1.0, "agreement": 0.9, "saturation": 0.3, "saturation_true": 0.2, "clipped": 0.0}
    return {**values, "deviation": 1.0, **more, "right": right, "failing": [] if right else ["shape"]}


def test_cells_are_compared_picture_by_picture() -> None:
    def result(*images: dict[str, object]) -> summary.Result:
        return summary.Result(Cell(0, 0), (1,), (images,), 0.1, 0, ("x",))

    base = result(image(True, perceptual=0.1), image(False, perceptual=0.9), image(True, perceptual=0.5))
    other = result(image(True, perceptual=0.2), image(True, perceptual=1.0), image(False, perceptual=0.6))
    found = summary.against(other, base)
    assert (found["gained"], found["lost"]) == (1, 1)
    assert found["perceptual"].value == pytest.approx(0.1) and found["perceptual"].half < 1e-9
    # Of a cell that has one seed more, the pictures of the other seed are not those to compare with.
    both = dataclasses.replace(other, images=(other.images[0] + base.images[0],), seeds=(1, 0))
    assert summary.against(both, base)["perceptual"].value == pytest.approx(0)
    assert summary.against(dataclasses.replace(other, seeds=(1,)), base)["perceptual"] is None
    assert base.last["failing"]["shape"] == 1 and base.last["share"] == pytest.approx(2 / 3)
    assert summary.mean_of([1.0, 4.0], ratio=True).value == pytest.approx(2)  # type: ignore[union-attr]
    assert summary.mean_of([]) is None


def test_a_crossing_lies_between_its_checkpoints() -> None:
    assert summary.crossing((0, 10, 20), [0.0, 0.4, 0.8], 0.6) == pytest.approx(15)
    assert summary.crossing((0, 10, 20), [1.0, 0.2, 0.1], 0.6) == pytest.approx(5)
    assert summary.crossing((0, 10), [0.0, 0.4], 0.6) is None


def test_the_page_has_its_marks_and_another_is_refused(tmp_path: Path) -> None:
    page.check(page.PAGE)
    (tmp_path / "x.md").write_text("no marks")
    with pytest.raises(UsageError, match="--page: expected <!-- made by"):
        page.check(tmp_path / "x.md")
    with pytest.raises(UsageError, match=r"--page: .* cannot be read"):
        page.check(tmp_path / "y.md")


def test_the_prompts_have_every_pattern() -> None:
    scenes = [captions.scene_of(prompt) for prompt in Plan.of(24, 7, 300).prompts]
    assert {scene.pattern for scene in scenes if scene} == set(world.PATTERNS)


def test_objects_are_measured_once_and_make_a_row_each(tmp_path: Path) -> None:
    """With stand-ins for scenes: a red cube as it is asked for, and a sphere in place of a torus."""
    leave_run(tmp_path / "cube", configuration("a red cube"))
    leave_run(tmp_path / "torus", configuration("a red torus", "lsd"))
    leave_run(tmp_path / "cone", configuration("a red cone"), "running")
    made: list[str] = []

    def scene(folder: Path) -> SolidScene:
        made.append(folder.name)
        shown = captions.scene_of("a red cube" if folder.name == "cube" else "a red sphere")
        assert shown is not None
        return SolidScene(SolidField(shown), 16)

    perception = Perception(ClipScorer.from_pretrained("primitives"))
    for judge in ("one", "one", "another"):
        objects.measure(tmp_path, perception, judge, load=scene, told=lambda line: None)
    assert made == ["cube", "torus", "cube", "torus"]
    rows = {row["losses"]: row for row in objects.rows(tmp_path, "another")}
    assert [(name, row["right"], row["objects"]) for name, row in rows.items()] == [
        ("LSD", 0, 1),
        ("LSD + FM + KL", 1, 1),
    ]
    assert objects.rows(tmp_path, "one") == []
    assert 0 < rows["LSD + FM + KL"]["perceptual"] < rows["LSD"]["perceptual"]
    assert "| 1/1 = 100 % (21 to 100) |" in page.objects_table(list(rows.values()))


def test_objects_are_made_by_a_sweep_that_ends_in_time(tmp_path: Path) -> None:
    words = objects.command(tmp_path, 4, 7)
    assert words[2:6] == ["ldp_fast", "sweep", "--random-prompts", "4"] and "jacobian-nerf" in words
    ready = tmp_path / "ready"
    # A job in the background inherits that SIGINT is ignored.
    lines = ["import pathlib, signal, sys, time", "signal.signal(signal.SIGINT, lambda *_: sys.exit(130))"]
    lines += [f"pathlib.Path({str(ready)!r}).touch()", "time.sleep(60)"]
    assert objects.make([sys.executable, "-c", "\n".join(lines)], 60, ready.exists) == 130
    assert objects.rows(tmp_path, "one") == []
    # Ctrl-C in a terminal does not reach it: it is told once.
    assert objects.make([sys.executable, "-c", "import os; assert os.getpgid(0) == os.getpid()"], 60) == 0
