"""docs/performance.md: tables and figures from results, what is open, and nothing that is not in them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import goals, plots, report, results, table

from . import made_up
from .made_up import CPU, H200, decoder_rows, on_cpu, on_h200, row

ROOT = Path(__file__).resolve().parents[2]


def line_of(text: str, start: str) -> str:
    found = [line for line in text.splitlines() if line.startswith(start)]
    assert len(found) == 1, (start, found)
    return found[0]


def test_a_group_becomes_a_table_with_ratios_and_the_share_of_the_limit() -> None:
    lines = table.group_table(decoder_rows(32, 1.0))
    assert lines[0] == "| | min s | median s | times as fast as naive | peak MB | of naive's | share of the limit |"
    assert "| naive | 10.00 | 11.00 | 1.00 | 1000 | 1.00 | 30 % |" in lines
    assert "| ours, save | 4.000 | 4.400 | 2.50 | 400 | 0.40 | 75 % |" in lines
    assert "| bare convolutions | 3.000 | 3.300 | 3.33 |  |  |  |" in lines


def test_a_gpus_time_and_its_hosts_stand_side_by_side() -> None:
    """Ratios are of the device's time: a call that waits for its host says nothing of the kernel."""
    rows = [row("perturb", "perturb sd cuda", "eager", 90e-6, device_s=8e-6, host_s=85e-6)]
    rows += [row("perturb", "perturb sd cuda", "ours", 30e-6, device_s=2e-6, host_s=25e-6)]
    rows += [row("perturb", "perturb sd cuda", "compile", 40e-6, not_captured="it waits")]
    lines = table.group_table(rows)
    assert lines[0] == "| | min µs | median µs | device µs | host µs | × ours |"
    assert "| eager | 90.00 | 99.00 | 8.000 | 85.00 | 4.0 |" in lines
    assert "| compile | 40.00 | 44.00 |  |  |  |" in lines
    assert "| perturb sd cuda | 0.00800 (0.0850) | 0.00200 (0.0250) | 0.0400 in all |" in table.pivot(rows)
    rows[0]["extra"]["eager"] = True
    assert "| perturb sd cuda | 0.00800 eager (0.0850) | 0.00200 (0.0250) | 0.0400 in all |" in table.pivot(rows)
    assert "| eager | 90.00 | 99.00 | 8.000 (eager) | 85.00 | 4.0 |" in table.group_table(rows)


def test_the_limit_is_that_of_the_same_precision() -> None:
    rows = [row("decoder", "g", "naive", 4.0, dtype="float32"), row("decoder", "g", "ours", 2.0, dtype="bfloat16")]
    rows += [row("decoder", "g", "bare convolutions, bfloat16", 1.0, dtype="bfloat16")]
    shares = table.columns_of(rows)["share of the limit"]
    assert shares == {1: "50 %"}


def test_what_is_absent_is_a_row_that_says_why() -> None:
    text = report.document([on_cpu()], [{}])
    assert "| a GPU's size | step, SD 1.5 64x64, cpu: naive |" in text
    assert "| no compiler | latent_kl sd cpu: compile |" in text
    assert "| latent_kl sd cpu | 0.300 | 0.100 | – |" in text
    assert "| ours, captured | this machine lacks it |" in text


def test_goals_are_reached_missed_or_open() -> None:
    text = goals.table([on_cpu()])
    naive = line_of(text, "| feature matching, SD 1.5's decoder, 32×32 latents, float32: naive time over ours")
    assert naive.endswith("| ≥ 2.00 × | 2.50 × on `made-up-2-cores`: reached |")
    assert "0.400 × on `made-up-2-cores`: reached" in text  # ≤ 0.45 of the memory
    assert "0.250 × on `made-up-2-cores`: reached" in text
    assert text.count("open: no GPU yet") == sum(goal.where == "gpu" for goal in goals.GOALS)


def test_goals_of_a_gpu() -> None:
    text = goals.table([on_cpu(), on_h200()], "gpu")
    assert "| ≥ 2.50 × | 3.00 × on `nvidia-h200-16-cores`: reached |" in text
    assert "| ≥ 1.30 × | 1.50 × on `nvidia-h200-16-cores`: reached |" in text
    assert "| ≤ 0.400 × | 0.300 × on `nvidia-h200-16-cores`: reached |" in text
    assert "| ≥ 85 % | 85 % on `nvidia-h200-16-cores`: reached |" in text
    assert "| ≤ 1.20 ms | 1.00 ms on `nvidia-h200-16-cores`: reached |" in text
    assert "tiny-cuda-nn and nerfacc over ours | ≥ 5.00 × | open: not in the results |" in text


def test_another_gpu_leaves_the_goals_open() -> None:
    other = on_h200()
    other["machine"] = H200 | {"gpu": "NVIDIA H100", "slug": "nvidia-h100"}
    assert "| 3.00 × on `nvidia-h100`; open: no H200 yet |" in goals.table([other], "gpu")


def test_a_goal_that_is_missed_says_so() -> None:
    slow = on_cpu()
    for found in slow["rows"]:
        if found["backend"] == "ours, save":
            found["min_s"] = 8.0
    assert "1.25 × on `made-up-2-cores`: **not reached**" in goals.table([slow], "cpu")


def test_the_renderers_sections_keep_their_meaning() -> None:
    text = report.document([on_cpu()], [{}])
    assert "## The renderer on a CPU" in text and "## The renderer on a GPU" in text
    assert "17.5 times as fast as `reference` with 0.25 of its memory" in text
    assert "10.0 times as fast as `eager` with 0.10 of its memory" in text
    assert "| rays, whole step | 32² | 64² |\n|---|---:|---:|\n| ms | 10.2 | 41.0 |" in text
    assert "| T, field forward and backward | 2¹⁴ | 2¹⁵ |" in text
    assert "reads 100 ms and 41.0 ms in the two tables" in text
    assert "| cost over rays 32²…512², samples, T 2¹⁴…2²¹ | open: no GPU yet |" in text


def test_every_number_names_its_machine_and_command() -> None:
    text = report.document([on_cpu(), on_h200()], [{}, {}])
    assert "Measured on `made-up-2-cores`: `make bench`, 2026-01-02." in text
    assert "Measured on `nvidia-h200-16-cores`: `make gpu`, 2026-01-02." in text
    assert "| `made-up-2-cores` | Made Up, 2 cores, 8 GiB, bfloat16 | none |" in text


def test_where_the_time_goes_adds_up() -> None:
    shares = plots.shares([found for found in on_h200()["rows"] if "parts" in found["group"]])
    assert list(shares) == ["UNet", "decoder", "losses", "rest"] and sum(shares.values()) == pytest.approx(1)
    assert "| SD 1.5 64x64 | 120.0 | 33.3 % | 50.0 % | 8.3 % | 8.3 % |" in report.document([on_h200()], [{}])


def test_the_same_results_give_the_same_page_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for found in (on_cpu(), on_h200()):
        results.write(tmp_path / "results" / f"{found['machine']['slug']}.json", found)
    pages = []
    for name in ("one", "two"):
        images, page = tmp_path / name / "images", tmp_path / name / "performance.md"
        images.mkdir(parents=True)
        options = ["--results", str(tmp_path / "results"), "--page", str(page), "--images", str(images)]
        assert report.main(options) == 0
        pages.append({file.name: file.read_bytes() for file in sorted(page.parent.rglob("*.*"))})
    assert pages[0] == pages[1]
    pictures = [name for name in pages[0] if name.endswith(".png")]
    text = pages[0]["performance.md"].decode()
    assert len(pictures) == 7 and all(f"(images/{name})" in text for name in pictures)


def test_without_results_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "performance.md"
    assert report.main(["--results", str(tmp_path), "--page", str(page)]) == 1
    assert "`make bench` makes them" in capsys.readouterr().err and not page.exists()


def test_axes_end_at_round_numbers() -> None:
    assert plots.round_numbers(0.3, 4.0) == pytest.approx([0.2, 0.5, 1, 2, 5])
    assert plots.round_numbers(1.0, 1.0) == [1]


def test_digits_are_significant() -> None:
    shown = [table.digits(x) for x in (13421.0, 134.2, 1.342, 0.013421, 0.0)]
    assert shown == ["13421", "134", "1.34", "0.0134", "0"]


def test_the_page_is_made_from_the_results_in_the_repository() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout: which results belong to it cannot be told")
    listed = subprocess.run(["git", "ls-files", "benchmarks/results"], cwd=ROOT, capture_output=True, text=True)
    files = sorted(ROOT / name for name in listed.stdout.splitlines() if name.endswith(".json"))
    if not files:
        pytest.skip("no results in the repository yet: `make bench` makes them, `python -m benchmarks.report` the page")
    machines = [results.read(file) for file in files]
    expected = report.document(machines, [report.figures_there(found) for found in machines])
    actual = (ROOT / "docs" / "performance.md").read_text()
    assert actual == expected, "docs/performance.md is not what `python -m benchmarks.report` makes: run it"


def test_machines_have_what_the_page_reads() -> None:
    from benchmarks import machine

    facts = machine.describe()
    assert set(CPU) <= set(facts)
    assert facts["slug"] == machine.slug() and facts["slug"].endswith("cores") and " " not in facts["slug"]


def contention_rows() -> list[results.Row]:
    """Ours takes 0.1 s alone and 0.3 s beside two busy loops; medians are 1.1 times as long."""
    rows = []
    for where, times in (("alone", (0.1, 0.1)), ("beside two busy loops", (0.3, 0.9))):
        group = f"contention, step of the embedded model, {where}, cpu"
        for backend, seconds in zip(("ours", "ours, torch's defaults"), times, strict=True):
            more = {"over_defaults": [0.97, 1.01, 1.05]} if (where, backend) == ("alone", "ours") else {}
            rows.append(made_up.row("contention", group, backend, seconds, step="step", where=where, **more))
    return rows


def test_what_busy_neighbours_cost() -> None:
    found = on_cpu()
    found["rows"] += [row | {"run": made_up.RUN} for row in contention_rows()]
    text = report.document([found], [{}])
    assert "| ours | 110 | 330 (3.00×) | 1.010 (0.970 – 1.050) |" in text
    assert "| ours, torch's defaults | 110 | 990 (9.00×) |  |" in text
    assert "beside two busy loops over alone | ≤ 3.50 × | 3.00 × on `made-up-2-cores`: reached |" in text
    assert "time over that with torch's defaults | ≤ 1.03 × | 1.01 × on `made-up-2-cores`: reached |" in text
    assert "step of text-to-3D, embedded model: beside two busy loops over alone | ≤ 3.50 × | open" in text
    assert "contention, step" not in text.split("## The operators")[1]
