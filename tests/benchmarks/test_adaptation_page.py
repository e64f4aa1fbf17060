"""Which cells of benchmarks.adaptation there are, by which code, and what the page says of seeds and other settings.

Records are made up, and no run is started.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import experiment
from benchmarks.adaptation import __main__ as command
from benchmarks.adaptation import identity, made_by, measures, page, plan, runs
from benchmarks.adaptation.plan import Cell, Variant
from benchmarks.adaptation.summary import Row
from ldp_fast.errors import UsageError
from ldp_fast.runs import files

from .adaptations import CONE, KEY, LDP, LSD, MINE, OTHER, PLAN, SPHERE, WEAK, document, found, lines_of, write


@pytest.mark.parametrize("done", [True, False])
def test_a_run_by_other_code_is_made_anew(done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    code = OTHER

    def carry_out(words: Sequence[str], seconds: float, stop: Callable[[], bool]) -> int:
        # What begins it is known before it begins, for it may be killed.
        assert json.loads((tmp_path / "cell.asked.json").read_text())["code"] == code
        started.append("--resume" in words)
        folder = tmp_path / "cell"
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text("")
        status = "finished" if done else "interrupted"
        (folder / "run.json").write_text(json.dumps({"application": "adapt", "status": status}))
        return 0 if done else experiment.INTERRUPTED

    monkeypatch.setattr(runs, "carry_out", carry_out)
    monkeypatch.setattr(runs, "finished", lambda folder: done and (folder / "run.json").exists())
    said: list[str] = []

    def adapt() -> float | None:
        return runs.adapt(Cell(SPHERE, LDP), tmp_path / "cell", [], 60.0, lambda: False, code, said.append)

    monkeypatch.setattr(made_by, "adaptation", lambda: code)
    assert (adapt() is not None) == (adapt() is not None) == done
    assert started == ([False] if done else [False, True]) and not said
    code = MINE
    (tmp_path / "cell" / "left").write_text("")
    adapt()
    assert started[-1] is False and not (tmp_path / "cell" / "left").exists()
    assert said == ["cell was made by other code: it is made anew"]
    # So is one that nobody knows the beginning of.
    (tmp_path / "cell.asked.json").unlink()
    adapt()
    assert started[-1] is False and len(said) == 2


@pytest.mark.parametrize("edited", ["before", "meanwhile"])
def test_what_was_edited_about_a_run_is_of_no_code(
    edited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    now = OTHER if edited == "before" else MINE

    def carry_out(words: Sequence[str], seconds: float, stop: Callable[[], bool]) -> int:
        nonlocal now
        started.append(now)
        (tmp_path / "cell").mkdir(exist_ok=True)
        (tmp_path / "cell" / "config.yaml").write_text("")
        now = OTHER if edited == "meanwhile" and len(started) == 1 else now
        return 0

    monkeypatch.setattr(runs, "carry_out", carry_out)
    monkeypatch.setattr(runs, "finished", lambda folder: (folder / "config.yaml").exists())
    monkeypatch.setattr(made_by, "adaptation", lambda: now)
    said: list[str] = []

    def adapt() -> float | None:
        return runs.adapt(Cell(SPHERE, LDP), tmp_path / "cell", [], 60.0, lambda: False, MINE, said.append)

    with pytest.raises(UsageError, match=r"the code that adapts has changed meanwhile: .* makes a-red-sphere--ldp"):
        adapt()
    # The files are put back as they were: what the other code has begun is not taken for this one's.
    now = MINE
    assert adapt() is not None and started == ([MINE] if edited == "before" else [MINE, MINE])
    assert len(said) == (edited == "meanwhile")


def test_what_other_code_has_made_is_made_anew_with_any_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_by, "adaptation", lambda: MINE)
    files.write_json(tmp_path / "cell.asked.json", {"words": ["--guidance", "lsd"], "seconds": 1.0, "code": OTHER})
    monkeypatch.setattr(runs, "carry_out", lambda *arguments: experiment.INTERRUPTED)
    assert runs.adapt(Cell(SPHERE, LDP), tmp_path / "cell", [], 60.0, lambda: False, MINE) is None
    assert files.read_json(tmp_path / "cell.asked.json")["words"] == ["--guidance", "ldp"]


def test_the_page_leaves_out_what_other_code_has_made(tmp_path: Path) -> None:
    cells = plan.cells([SPHERE, CONE], [LDP, LSD])
    for cell in cells:
        write(tmp_path, cell, found(10.0), OTHER if cell.variant is LSD else MINE)
    text = document(tmp_path, cells)
    assert "2 of 4 adaptations" in text and "**Left out: 2 that other code has made**" in text and f"`{MINE}`" in text
    assert [line[0] for line in lines_of(text, "All targets together")[2:]] == ["ldp"]
    assert page.NOTHING in text.partition("### `ldp` against `lsd`")[2]
    assert "Left out: `lsd`, of which nothing is there." in text
    assert "Left out" not in document(tmp_path, [cell for cell in cells if cell.variant is LDP])
    # What other measures have measured is left out as well, and counted.
    write(tmp_path, cells[0], found(10.0), key={**KEY, "code": "of then"})
    text = document(tmp_path, cells)
    assert "1 of 4 adaptations" in text
    assert "**Left out: 2 that other code has made, 1 that other measures have measured**" in text


def test_some_ways_are_made_with_every_seed() -> None:
    third = Variant("clip-directional", ())
    made = plan.cells([SPHERE, CONE], [LDP, LSD, third, WEAK], [0, 1, 2], ["ldp", "lsd"])
    assert [cell.name for cell in made if cell.seed and cell.variant not in (LDP, LSD)] == []
    assert len(made) == 7 + 4 + 4 and [cell.seed for cell in made] == sorted(cell.seed for cell in made)
    # Other settings come last of their seed, with their own targets.
    assert [cell.name for cell in made if cell.variant is WEAK] == ["a-green-cone--ldp@gs2.5--seed0"] == [made[6].name]
    again = plan.cells([SPHERE, CONE], [LDP, LSD, third, WEAK], [0, 0])
    assert again == made[:7]


def test_seeds_are_told_apart(tmp_path: Path) -> None:
    cells = plan.cells([SPHERE, CONE], [LDP, LSD, Variant("clip-directional", ())], [0, 1, 2], ["ldp", "lsd"])
    # FID by way, target and seed: the means say that ldp is the better one in both, single seeds do not.
    numbers = {("ldp", SPHERE): (10, 20, 30), ("lsd", SPHERE): (40, 40, 25), ("ldp", CONE): (5, 5, 5)}
    numbers |= {("lsd", CONE): (6, 4, 8)}
    for cell in cells:
        fid = numbers.get((cell.variant.name, cell.target), (99,))[cell.seed]
        write(tmp_path, cell, found(fid, hits=1 + cell.seed))
    text = document(tmp_path, cells)
    rows = lines_of(text, "Between seeds")
    wins = {row[0]: row for row in rows[: 2 + 4]}
    column = rows[0].index("FID")
    assert [wins[f"seed {seed}"][column] for seed in range(3)] == ["2 – 0", "1 – 1", "1 – 1"]
    assert wins["means over seeds"][column] == "2 – 0" and wins["seed 0"][1] == "2"
    spread = {tuple(row[:2]): row for row in rows[6 + 2 :]}
    column = rows[6].index("FID")
    assert spread[SPHERE, "ldp"][2] == "0, 1, 2" and spread[SPHERE, "ldp"][column] == "20.0 ± 10.0"
    # Over all targets: of each seed the mean over them, and the spread of these.
    assert spread["all targets", "ldp"][column] == "12.5 ± 5.0"
    assert spread["all targets", "ldp"][rows[6].index("R-Precision")] == "50 ± 25 %"
    assert not any("clip-directional" in row for row in rows)
    (line,) = [row for row in lines_of(text, "`ldp` against `lsd`") if row[0] == SPHERE]
    assert line[4] == "−15.0"  # 20 against 35
    assert not any(row[0] == "seed 0" for row in lines_of(text, "`ldp` against `clip-directional`"))


def test_a_seed_is_held_against_itself(tmp_path: Path) -> None:
    cells = plan.cells([SPHERE, CONE], [LDP, LSD], [0, 1])
    for cell in cells:
        # Of ldp the first seed is there and of lsd the second; both of the cone.
        if cell.target == CONE or cell.seed == (cell.variant is LSD):
            write(tmp_path, cell, found(10.0 * (1 + cell.seed)))
    text = document(tmp_path, cells)
    assert [row[0] for row in lines_of(text, "`ldp` against `lsd`")[2:]] == [CONE, "better – worse"]
    # What all targets together say is of seeds that all targets of all ways have: of the first way's.
    together = {row[0]: row[4] for row in lines_of(text, "All targets together")}
    assert together["ldp"] == "10.0" and "lsd" not in together
    said = text.partition("### All targets together")[2].partition("|")[0]
    assert "Of seed 0. Left out: `lsd`, which shares no seed with `ldp`; seed 1 of `ldp`." in said
    said = text.partition("### `ldp` against `lsd`")[2].partition("|")[0]
    assert "each z's mean over seeds 0, 1 first" in said and f"Left out: `ldp` of {SPHERE}; `lsd` of {SPHERE}." in said


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    assert Row([found(1.0)]).over_seeds("fid") is None and Row([]).over_seeds("fid") is None
    cells = plan.cells([SPHERE], [LDP, LSD])
    for cell in cells:
        write(tmp_path, cell, found(1.0))
    assert "Between seeds" not in document(tmp_path, cells)


def test_other_settings_have_a_table_of_their_own(tmp_path: Path) -> None:
    cells = plan.cells([SPHERE, CONE], [LDP, LSD, WEAK])
    for cell in cells:
        write(tmp_path, cell, found(7.0 if cell.variant is WEAK else 10.0))
    text = document(tmp_path, cells)
    before, _, after = text.partition("### Other settings")
    assert "ldp@gs2.5" not in before and "`ldp@gs2.5`: `ldp-fast adapt --guidance ldp --guidance-scale 2.5`" in after
    rows = lines_of(text, "Other settings")[2:]
    assert [row[0] for row in rows] == [f"{CONE}: {way}" for way in ("ldp", "lsd", "ldp@gs2.5")]
    assert [row[4] for row in rows] == ["10.0", "10.0", "7.0"]
    assert "5 of 5 adaptations" in text
    # Alone they are a page too.
    alone = document(tmp_path, [cell for cell in cells if cell.variant is WEAK])
    assert "All targets together" not in alone and f"| {CONE}: ldp@gs2.5 " in alone


def test_the_command_is_told_with_seeds_and_settings() -> None:
    setting = ["ldp@gs2.5=--guidance ldp --guidance-scale 2.5", CONE]
    words = ["--out", "x", "--seeds", "0", "1", "--repeat", "ldp", "--variant", *setting, "--variant", "b=--steps 3"]
    args = command.parser().parse_args([*words, "--page"])
    told = experiment.told(command.parser(), args, command.TOLD)
    assert told == (
        "python -m benchmarks.adaptation --out DIR --variant 'ldp@gs2.5=--guidance ldp --guidance-scale 2.5' "
        f"'{CONE}' --variant 'b=--steps 3' --seeds 0 1 --repeat ldp --page"
    )


def test_the_source_is_looked_at_once(tmp_path: Path) -> None:
    file, looked = tmp_path / "source.safetensors", list[int]()

    def look() -> measures.Seen:
        looked.append(1)
        kept = identity.Kept(*(np.linspace(0, 1, 3) * k for k in range(1, 5)))
        return measures.Seen(torch.rand(3, 2), kept, 0.1, 0.2)

    judges: Any = SimpleNamespace(key=lambda: KEY)
    first, again = (measures.kept(file, PLAN, judges, look) for _ in range(2))
    assert (
        len(looked) == 1
        and torch.equal(first.features, again.features)
        and first.pairs == again.pairs
        and again.solids == 0.2
    )
    assert all(np.array_equal(x, y) for x, y in zip(vars(first.kept).values(), vars(again.kept).values(), strict=True))
    other: Any = SimpleNamespace(key=lambda: {**KEY, "judge": "another"})
    measures.kept(file, PLAN, other, look)
    assert len(looked) == 2
