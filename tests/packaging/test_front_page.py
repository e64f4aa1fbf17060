"""README's first screen says what was measured, what a host really has to change, and what a GPU has run."""

from __future__ import annotations

import re

import pytest

from .installation import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
SPEED = README.split("\n## Speed\n")[1].split("\n## ")[0]
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in SPEED.splitlines() if line.startswith("| ")][1:]


def test_there_is_a_table_with_its_machine_and_its_command() -> None:
    assert len(ROWS) >= 3 and "AMD EPYC" in SPEED and re.search(r"`make bench BENCH=\"[a-z ]+\"`", SPEED)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_table_holds_what_was_measured(row: list[str]) -> None:
    what, plain, ours, times, memory = row
    model = {"whole": "step", "feature": "decoder"}[what.split()[0]]
    tables = [part for part in MEASURED.split("\n**")[1:] if part.startswith(f"{model}, SD 1.5 32x32, cpu**")]
    cells = [set(re.findall(r"\| *([^|]+?) *(?=\|)", table.split("\n\n")[1])) for table in tables]
    wanted = {plain.removesuffix(" s"), ours.removesuffix(" s"), *re.findall(r"\d+", memory)}
    assert any(wanted <= found for found in cells), f"docs/performance.md has no table with all of {wanted}"
    seconds = [float(time.removesuffix(" s")) for time in (plain, ours)]
    assert float(times) == round(seconds[0] / seconds[1], 2)


def test_the_first_sentence_is_of_the_table() -> None:
    said = re.search(r"([\d.]+) times as fast as plain diffusers and with ([\d.]+) of the peak memory", README)
    assert said is not None
    _, _, _, times, memory = ROWS[0]
    before, after = map(int, re.findall(r"\d+", memory))
    assert said.groups() == (times, f"{after / before:.2f}")


def test_what_it_tells_a_host_to_change_is_tested() -> None:
    """tests/integrations/test_adopting.py holds the diffs of docs/adopting.md to the hosts."""
    diffs = re.findall(r"```diff\n.*?```", README, flags=re.DOTALL)
    assert diffs and all(diff in (ROOT / "docs" / "adopting.md").read_text(encoding="utf-8") for diff in diffs)


def test_it_says_whether_a_gpu_has_run() -> None:
    machines = MEASURED.split("\n## Machines\n")[1].split("\n## ")[0]
    gpus = re.findall(r"^\| `[^|]+\|[^|]+\| ([^|]+) \|", machines, flags=re.MULTILINE)
    assert gpus and ("**No GPU has run the CUDA side yet**" in SPEED) == (set(gpus) == {"none"})


def test_the_pictures_come_after_the_first_screen() -> None:
    places = [README.index(f"\n## {title}\n") for title in ("Install", "One line in the code that you have", "Speed")]
    assert places == sorted(places) and places[-1] < README.index("](docs/images/")


def test_anchors_of_the_page_exist() -> None:
    titles = re.findall(r"^#+ (.+)$", README, flags=re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    anchors = re.findall(r"\]\(#([^)]+)\)", README)
    assert anchors and set(anchors) <= slugs
