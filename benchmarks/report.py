"""Makes docs/performance.md and its figures from benchmarks/results/*.json.

    python -m benchmarks.report

The same results give the same page. Whatever it says is in a results file; what nobody has measured is open.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.support import instruction_sets

from . import contention_report, goals, plots, renderer_report, results
from .results import Results, measured
from .table import digits, group_table, groups, pivot, why_not

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
OPERATORS_FIRST = ("bench_feature_matching.py",)
SECTIONS = ("bench_decoder.py", "bench_step.py", "bench_renderer.py", "bench_checks.py", contention_report.FILE)
SECTIONS += ("bench_lpips.py", "microbenchmarks.py")

INTRODUCTION = """\
# Performance

What was measured, where, and with which command. A number that is not here has not been measured. This page is made by
`python -m benchmarks.report` from `benchmarks/results/*.json`, which `make bench` writes; nothing in it is written by
hand, and nothing is extrapolated from one machine or size to another. Times are minima over the rounds of one run, from
a call to its end; of a GPU `device` is the device's part, of replays of a captured graph, and `host` what it takes to
start everything (`benchmarks/captured.py`); what no graph can hold is marked `eager`, and has waits for the host in the
device's part. Peak memory is what a pass adds, at its highest point, to its inputs and
parameters (`benchmarks/memory.py`).
"""

DECODER = """\
## The frozen decoder

Loss and latent gradients of feature matching for one sample, levels `up0`, `up1`, `up2`
(`benchmarks/bench_decoder.py`). SD 1.5 is its real architecture with random weights; `embedded` is the model that comes
with this package.

* `naive`: diffusers' whole decoder over [v; v′], forward hooks, L1, autograd; and the same under autocast and
  torch.compile.
* `truncated, folded`: cut off after `up2`, channels-last, nearest ×2 and its convolution folded into one transposed
  convolution; gradients still by autograd.
* `ours`: `FrozenDecoder` with memory `save` and `recompute`, and in bfloat16.
* `bare convolutions`: the limit. Every convolution up to `up2`, forward and input gradient, channels-last, for two
  samples, with the upsampling folded, and nothing else. It is the limit of torch's direct convolutions: a share above
  100 % is an algorithm with fewer multiplications.
"""

STEP = """\
## The whole step

UNet with guidance, feature matching, KL and distillation, from latents to their gradient, one sample
(`benchmarks/bench_step.py`). `naive` is what a reader of the paper would write with diffusers; Latent-NeRF's and
threestudio's ways are their conventions with the paper's regularisers bolted on (threestudio's also decodes a picture
that it does not use); `ours` is `LatentDiffusionPrior.gradient`.
"""

CHECKS = """\
## What the checks cost

`looking` is what every pass of the frozen decoder does first: is the VAE, weights apart, what it was. `comparing` is
done when a decoder is made and when something has changed: features and gradient against the VAE's own `decode`.
`looking at the scheduler` is done in every step; `asking how noise is added` where somebody has put another method in
the place of diffusers', when it is first seen. `making a prior` has the comparison and the check of the networks
(`benchmarks/bench_checks.py`).
"""

LPIPS = """\
## LPIPS of all pairs

Distances of all pairs of pictures of 128 px by the embedded CLIP and VAE (`benchmarks/bench_lpips.py`). `loop, pictures
anew` puts both pictures of every pair through the network, as lpips' own script does, and `ours` begins with the same
pictures. `loop, features kept` and `ours, features kept` begin with features that are there.
"""

OPERATORS = """\
## The operators

Each against plain PyTorch and, where there is a compiler, torch.compile of it. Minima in milliseconds; of a GPU the
device's, and in brackets what the call costs the host (`benchmarks/captured.py`). A dash is a row of the last table on
this page.
"""

ABSENT = """\
## What could not be measured

What a machine lacks, and what was left out there.
"""


def named(text: str, about: Results, file: str | None = None) -> str:
    """A machine, the command and the date of the rows of a file."""
    machine = about["machine"]
    runs = {row["run"] for row in about["rows"] if measured(row) and (file is None or row["file"] == file)}
    commands = sorted({(about["runs"][run]["command"], about["runs"][run]["date"][:10]) for run in runs})
    how = "; ".join(f"`{command}`, {date}" for command, date in commands)
    return f"{text} `{machine['slug']}`: {how}." if how else f"{text} `{machine['slug']}`."


def machines_table(machines: Sequence[Results]) -> str:
    """Every machine and every run."""
    lines = ["## Machines", "", "| machine | processor | GPU | run | command | versions | commit |"]
    lines.append("|---|---|---|---|---|---|---|")
    for found in machines:
        machine = found["machine"]
        half = "bfloat16" if machine.get("bfloat16") else "no bfloat16"
        processor = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {half}"
        if limit := machine.get("limited_to"):
            processor += f", held to {limit.upper()} (`{instruction_sets.VARIABLE}={limit}`), torch as well"
        for run in found["runs"].values():
            versions = ", ".join(f"{name} {version}" for name, version in sorted(run["versions"].items()) if version)
            commit = f"{run['commit']}{', changed' if run['changed'] else ''}" if run["commit"] else "unknown"
            cells = [f"`{machine['slug']}`", processor, machine["gpu"] or "none", f"{run['date']}, {run['seconds']} s"]
            cells += [f"`{run['command']}`", versions, commit]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(made: dict[str, str], name: str, text: str) -> list[str]:
    """A line with a picture, if it was made."""
    return [f"![{text}](images/{made[name]})", ""] if name in made else []


def group_section(
    machines: Sequence[Results],
    figures: Sequence[dict[str, str]],
    file: str,
    kinds: Sequence[str],
    shown: Sequence[Any],
) -> str:
    """The figures and the tables of a benchmark file, machine by machine."""
    lines: list[str] = []
    for found, made in zip(machines, figures, strict=True):
        rows = [row for row in found["rows"] if row["file"] == file]
        if not any(map(measured, rows)):
            continue
        lines += [named("Measured on", found, file), ""]
        for name, text in shown:
            lines += figure(made, name, f"{text}, {found['machine']['slug']}")
        for group, members in groups(rows).items():
            if any(map(measured, members)) and group.startswith(tuple(kinds)):
                lines += [f"**{group}**", "", *group_table(members), ""]
    return "\n".join(lines) if lines else "Open: not in the results of any machine.\n"


def parts_section(machines: Sequence[Results], figures: Sequence[dict[str, str]]) -> str:
    """Where our step's time goes."""
    lines = ["### Where our step's time goes", ""]
    lines += ["The step as a whole, and its parts timed alone. `losses` is all arithmetic around the networks.", ""]
    for found, made in zip(machines, figures, strict=True):
        members = {g: rows for g, rows in groups(found["rows"]).items() if g.startswith("step by parts")}
        rows = {g.split(", ")[1]: plots.shares(rows) for g, rows in members.items() if plots.shares(rows)}
        if not rows:
            continue
        lines += [named("Measured on", found, "bench_step.py"), ""]
        lines += figure(made, "parts", f"Shares of our step's time, {found['machine']['slug']}")
        lines += ["| | whole ms | UNet | decoder | losses | rest |", "|---|---:|---:|---:|---:|---:|"]
        for label, share in rows.items():
            whole = next(g for g in members if g.split(", ")[1] == label)
            seconds = next(row["min_s"] for row in members[whole] if row["backend"] == "whole")
            cells = " | ".join(f"{100 * part:.1f} %" for part in share.values())
            lines.append(f"| {label} | {digits(1e3 * seconds, 4)} | {cells} |")
        lines.append("")
    return "\n".join(lines) if len(lines) > 4 else "\n".join([*lines, "Open: not in the results of any machine.", ""])


def checks_section(machines: Sequence[Results]) -> str:
    """What each check takes, and its share of a step."""
    lines: list[str] = []
    for found in machines:
        rows = [row for row in found["rows"] if row["file"] == "bench_checks.py" and measured(row)]
        for group, members in groups(rows).items():
            step = next((row["min_s"] for row in members if row["backend"] == "a step"), None)
            lines += [named("Measured on", found, "bench_checks.py"), "", f"**{group}**", ""]
            lines += ["| | ms | share of a step |", "|---|---:|---:|"]
            for row in members:
                share = "" if step is None else f"{digits(100 * row['min_s'] / step)} %"
                lines.append(f"| {row['backend']} | {digits(1e3 * row['min_s'])} | {share} |")
            lines.append("")
    return "\n".join(lines) if lines else "Open: not in the results of any machine.\n"


def operators_section(machines: Sequence[Results]) -> str:
    """One table a file, for everything that has no section of its own."""
    lines: list[str] = []
    for found in machines:
        rows = [row for row in found["rows"] if row["file"] not in SECTIONS]
        rows.sort(key=lambda row: (row["file"] not in OPERATORS_FIRST, row["file"]))
        if not any(map(measured, rows)):
            continue
        for file in dict.fromkeys(row["file"] for row in rows):
            lines_of = pivot([row for row in rows if row["file"] == file])
            if lines_of:
                lines += [named(f"`benchmarks/{file}` on", found, file), "", *lines_of, ""]
    return "\n".join(lines) if lines else "Open: not in the results of any machine.\n"


def absent_section(machines: Sequence[Results]) -> str:
    """What was skipped or failed, by its reason."""
    lines: list[str] = []
    for found in machines:
        reasons: dict[str, dict[str, None]] = {}
        for row in found["rows"]:
            if not measured(row):
                where = row["group"] or row["file"].removeprefix("bench_").removesuffix(".py")
                reasons.setdefault(why_not(row), {})[f"{where}: {row['backend']}"] = None
        if not reasons:
            continue
        lines += [f"On `{found['machine']['slug']}`:", "", "| why | what |", "|---|---|"]
        lines += [f"| {reason} | {_listed(list(what))} |" for reason, what in sorted(reasons.items())] + [""]
    return "\n".join(lines) if lines else "Nothing.\n"


def _listed(names: Iterable[str], most: int = 6) -> str:
    names = [name.replace("|", "/") for name in names]
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def document(machines: Sequence[Results], figures: Sequence[dict[str, str]]) -> str:
    """The page.

    Args:
        machines: all results.
        figures: for each machine the pictures that exist, as `plots.make_all` returns them.
    """
    cpus = [(m, f) for m, f in zip(machines, figures, strict=True) if m["machine"]["gpu"] is None]
    gpus = [(m, f) for m, f in zip(machines, figures, strict=True) if m["machine"]["gpu"] is not None]
    decoder = [("decoder", "Time and peak memory of feature matching"), ("size", "Cost over the latents' size")]
    sections = [
        INTRODUCTION,
        "## What was to be reached",
        goals.table(list(machines)),
        machines_table(machines) if machines else "",
        DECODER,
        group_section(machines, figures, "bench_decoder.py", ["decoder, "], decoder),
        STEP,
        group_section(machines, figures, "bench_step.py", ["step, "], [("step", "Time of the whole step")]),
        parts_section(machines, figures),
        CHECKS,
        checks_section(machines),
        contention_report.INTRODUCTION,
        contention_report.section([(m, named("Measured on", m, contention_report.FILE)) for m in machines]),
        renderer_report.cpu_section(cpus),
        renderer_report.gpu_section(gpus),
        LPIPS,
        group_section(machines, figures, "bench_lpips.py", ["lpips of all pairs, "], []),
        OPERATORS,
        operators_section(machines),
        ABSENT,
        absent_section(machines),
    ]
    return "\n\n".join(section.strip("\n") for section in sections if section) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder to read the results from")
    parser.add_argument("--page", type=Path, default=PAGE, help="file to write the page to")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder to write the figures to")
    options = parser.parse_args(arguments)
    try:
        machines = results.read_all(options.results)
    except ValueError as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 1
    if not machines:
        print(f"benchmarks.report: no results in {options.results}; `make bench` makes them", file=sys.stderr)
        return 1
    options.page.parent.mkdir(parents=True, exist_ok=True)
    figures = [plots.make_all(found, options.images) for found in machines]
    options.page.write_text(document(machines, figures))
    print(f"{options.page} from {len(machines)} results, with {sum(map(len, figures))} figures")
    return 0


def figures_there(found: Results, images: Path = IMAGES) -> dict[str, str]:
    """The pictures of a machine that lie in a folder: `plots.make_all` without drawing."""
    start = f"performance-{found['machine']['slug']}-"
    order = ("decoder", "step", "size", "parts", "renderer")
    return {name: f"{start}{name}.png" for name in order if (images / f"{start}{name}.png").exists()}


if __name__ == "__main__":
    sys.exit(main())
