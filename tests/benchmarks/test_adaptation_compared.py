"""What benchmarks.adaptation says of several seeds and ways: intervals over z, like beside like, and what is left out.

Every picture has numbers of its own: an interval of the same number twice would show nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.adaptation import compared, page, plan, runs, summary
from benchmarks.adaptation.plan import Cell, Variant
from benchmarks.adaptation.summary import Row

from .adaptations import CONE, LDP, LSD, SPHERE, WEAK, document, found, lines_of, write

Z = 1.959964
CLIP = Variant("clip-directional", ("--guidance", "clip-directional"))
PICTURES = 200


def record(seed: int, shared: float = 1.0) -> dict[str, Any]:
    """Of pictures whose numbers depend on their z, as far as `shared` says, and on the run."""
    z, own = np.random.default_rng(1).normal(size=PICTURES), np.random.default_rng(100 + seed).normal(size=PICTURES)
    each = math.sqrt(shared) * z + math.sqrt(1 - shared) * own
    numbers = {name: each.tolist() for name in ("cosine", "view", "grey")}
    yes = (each > 0.5).tolist()
    failing = [[] if met else ["shape"] for met in yes[:50]]
    return {
        **numbers,
        "hit": yes,
        "kept": yes,
        "failing": failing,
        "size": 0.5,
        "fid": 1.0 + seed,
        "pairs": 1.0,
        "solids": 0.05,
    }


@pytest.mark.parametrize("name", ["cosine", "view", "grey"])
def test_the_same_zs_of_several_seeds_are_no_more_pictures(name: str) -> None:
    one, thrice = Row([record(0)]), Row([record(0)] * 3, (), (0, 1, 2))
    mean, more = one.mean(name), thrice.mean(name)
    assert mean is not None and more is not None and mean.half > 0
    assert (more.value, more.half) == pytest.approx((mean.value, mean.half))
    # Where runs differ, the mean of a z's pictures varies less, and as it does.
    rows = [record(seed, 0.5) for seed in range(3)]
    average = np.mean([row[name] for row in rows], axis=0)
    half = Row(rows, (), (0, 1, 2)).mean(name).half  # type: ignore[union-attr]
    assert half == pytest.approx(Z * average.std(ddof=1) / math.sqrt(PICTURES)) and half < 0.95 * mean.half


@pytest.mark.parametrize(("name", "pictures"), [("hit", PICTURES), ("kept", PICTURES), ("right", 50)])
def test_a_share_of_several_seeds_has_the_interval_of_its_zs(name: str, pictures: int) -> None:
    one, thrice = (Row([record(0)] * count).share(name) for count in (1, 3))
    assert one["images"] == thrice["images"] == pictures and 0 < one["share"] < 1
    assert thrice["interval"] == pytest.approx(one["interval"]) and thrice["share"] == pytest.approx(one["share"])

    def width(shared: float) -> float:
        low, high = Row([record(seed, shared) for seed in range(3)]).share(name)["interval"]
        return float(high - low)

    # Runs that have nothing in common are as many more; between the two it is between.
    assert width(0.0) < width(0.6) < width(1.0)
    assert width(0.0) == pytest.approx(width(1.0) / math.sqrt(3), rel=0.15)


def test_a_share_of_all_or_none_has_one_picture_a_z() -> None:
    single, several = summary.share_of([1.0] * 40, 1), summary.share_of([1.0] * 40, 3)
    assert single == several and single["interval"][0] == pytest.approx(0.912, abs=0.001)
    assert summary.share_of([], 0) == {"images": 0, "share": 0.0, "interval": (0.0, 1.0)}


def test_differences_of_several_seeds_are_of_zs_and_counts_of_one_seed() -> None:
    mine, others = [record(seed, 0.5) for seed in range(3)], [record(seed + 10, 0.5) for seed in range(3)]
    one, thrice = (summary.against([(mine[0], others[0])] * count) for count in (1, 3))
    assert thrice["cosine"].half == pytest.approx(one["cosine"].half) and thrice["hit"] == one["hit"]
    assert thrice["hit"][0] > 5 and thrice["hit"][1] > 5
    pair = summary.against(list(zip(mine, others, strict=True)))
    differences = np.mean([np.subtract(a["view"], b["view"]) for a, b in zip(mine, others, strict=True)], axis=0)
    assert pair["view"].value == pytest.approx(differences.mean())
    assert pair["view"].half == pytest.approx(Z * differences.std(ddof=1) / math.sqrt(PICTURES))
    gained = [
        sum(a and not b for a, b in zip(x["hit"], y["hit"], strict=True)) for x, y in zip(mine, others, strict=True)
    ]
    assert pair["hit"][0] == pytest.approx(np.mean(gained)) and len(set(gained)) > 1
    assert pair["fid"] == pytest.approx(-10)


def test_the_page_says_of_how_many_pictures_it_is(tmp_path: Path) -> None:
    cells = plan.cells([SPHERE, CONE], [LDP, LSD], [0, 1, 2])
    for cell in cells:
        # One more hit in two of three seeds.
        better = cell.variant is LDP
        write(tmp_path, cell, found(10.0, 0.6 if better else 0.5, 1 + 2 * better + (better and cell.seed > 0)))
    text = document(tmp_path, cells)
    assert "over N = 4 z's (`right`: N = 1); where a row is of several seeds or targets" in text
    part = text.partition("### `ldp` against `lsd`")[2].partition("|")[0]
    assert "over N = 4 z's, each z's mean over seeds 0, 1, 2 first" in part and "a pictures of one seed" in part
    row = next(row for row in lines_of(text, "`ldp` against `lsd`") if row[0] == SPHERE)
    assert row[2] == "+2.7 −0" and row[1] == "+10.00 ± 0.00" and row[7] == "+0 −0"
    assert "Means over seeds 0, 1, 2." in text.partition(f"### {SPHERE}")[2].partition("|")[0]
    # Four z's, of however many seeds and targets.
    half = Z * np.std([-3, 1, 4, -2], ddof=1) / 2
    for title in ("All targets together", SPHERE):
        assert next(row for row in lines_of(text, title) if row[0] == "ldp")[1] == f"60.0 ± {half:.1f}"


def row_of(*seeds: int) -> Row:
    return Row([found(10.0 + seed) for seed in seeds], [60.0 + seed for seed in seeds], seeds)


def test_like_stands_beside_like() -> None:
    references = {target: Row([found(1.0)]) for target in (SPHERE, CONE)}
    ways = {"ldp": {SPHERE: row_of(0, 1, 2), CONE: row_of(0, 2)}, "lsd": {SPHERE: row_of(1, 2), CONE: row_of(2, 0)}}
    found_ = {"source": references, **ways, "clip-directional": {SPHERE: row_of(0)}, "true renders": references}
    chosen, left = compared.alike(found_)
    assert list(chosen) == ["source", "ldp", "lsd", "true renders"]
    assert all(row.seeds == [2] and row.seconds == [62.0] for way in ("ldp", "lsd") for row in chosen[way].values())
    assert left == [f"`clip-directional`, which lacks {CONE}", "seeds 0, 1 of `ldp`", "seeds 0, 1 of `lsd`"]
    rows, said = compared.over_all(found_)
    assert dict(rows)["ldp"].number("fid") == 12.0 and said.startswith("Of seed 2. Left out: ")
    # The first way is that which was asked for first, not that which has the most.
    chosen, left = compared.alike({"ldp": {CONE: row_of(0)}, "lsd": {SPHERE: row_of(0), CONE: row_of(0)}})
    assert all(list(rows) == [CONE] for rows in chosen.values()) and left == [f"{SPHERE}, which `ldp` lacks"]
    assert compared.alike({"source": references, "ldp": {}, "true renders": references}) == (
        {},
        ["`ldp`, of which nothing is there"],
    )


def test_figures_show_the_first_way_and_one_seed(tmp_path: Path) -> None:
    cells = plan.cells([SPHERE, CONE], [LDP, LSD, CLIP], [0, 1], ["ldp", "lsd"])
    made = [
        cell for cell in cells if (cell.target, cell.variant, cell.seed) != (SPHERE, LDP, 0) and cell.variant != CLIP
    ]
    rows, left = page.strips(tmp_path, cells, made)
    sheets = [sheet.name for name, sheet in rows if name]
    # Of the second seed both are there; of the first one is missing, whatever stands first among what is there.
    shown = [name for name in sheets if "seed" in name]
    assert len(shown) == 4 and all(name.endswith("--seed1.png") for name in shown)
    assert left == [f"`clip-directional` of {target}" for target in (SPHERE, CONE)]
    rows, left = page.front(tmp_path, cells, made)
    assert [sheet.name for _, sheet in rows[1:]] == ["a-red-sphere--ldp--seed1.png", "a-green-cone--ldp--seed1.png"]
    assert rows[0][0] == "source" and not left
    # The first way alone, of one seed: another way or seed in a gap would be taken for it.
    few = [Cell(SPHERE, LSD), Cell(CONE, LSD), Cell(CONE, LDP), Cell(SPHERE, LDP, 1)]
    rows, left = page.front(tmp_path, cells, few)
    assert [sheet.name for _, sheet in rows[1:]] == ["a-green-cone--ldp--seed0.png"] and left == [SPHERE]
    rows, left = page.strips(tmp_path, cells, few)
    assert all("seed0" in sheet.name for name, sheet in rows if "--l" in sheet.name)
    assert f"`ldp` of {SPHERE}" in left
    assert page.front(tmp_path, cells, []) == page.strips(tmp_path, cells, []) == ([], [])


def test_a_figure_that_is_not_drawn_goes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "adaptation.png").write_bytes(b"of other code")
    document(tmp_path, plan.cells([SPHERE], [LDP]))
    assert not list((tmp_path / "images").iterdir())


def test_other_settings_stand_beside_the_same_seed(tmp_path: Path) -> None:
    cells = plan.cells([CONE], [LDP, WEAK], [0, 1], ["ldp"])
    for cell in cells:
        write(tmp_path, cell, found(10.0 * (1 + cell.seed)))
    text = document(tmp_path, cells)
    rows = {row[0]: row[4] for row in lines_of(text, "Other settings")[2:]}
    assert rows == {f"{CONE}: ldp": "10.0", f"{CONE}: ldp@gs2.5": "10.0"}
    assert f"{CONE}: Of seed 0. Left out: seed 1 of `ldp`." in text


def test_the_page_says_which_prompts_name_the_views(tmp_path: Path) -> None:
    cells = plan.cells([SPHERE, CONE], [LDP, LSD, CLIP])
    assert page.told_views(tmp_path, cells) == ""
    for cell in cells:
        write(tmp_path, cell, found(1.0))
        folder = runs.folder_of(tmp_path, cell)
        folder.mkdir(parents=True)
        more = "" if cell.variant is CLIP else "view_prompts: by-z\n"
        (folder / "config.yaml").write_text(f"format: 1\napplication: adapt\n{more}")
    said = "The prompt of `ldp`, `lsd` names the view that each z shows (`--view-prompts by-z`)"
    assert f"{said}; not that of `clip-directional`." in document(tmp_path, cells)
    last = runs.folder_of(tmp_path, cells[1]) / "config.yaml"
    last.write_text("format: 1\nview_prompts: none\n")
    assert "`ldp`, `lsd` (in 1 of 2 runs) names" in page.told_views(tmp_path, cells)
    assert page.told_views(tmp_path, cells[1:2]) == "No prompt names the view that a z shows: `lsd`."
