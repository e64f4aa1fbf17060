"""The renderer's sections of docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

from . import goals
from .results import Results, Row, measured
from .table import digits, find, group_table, groups

FILE = "bench_renderer.py"
FIELD = "field, forward and backward, 262144 samples"
STEP = "renderer step, 64×64 rays"
SWEEPS = (
    ("renderer step over rays", "rays", "rays, whole step"),
    ("renderer step over samples", "samples", "most samples of a ray, whole step"),
    ("field over T", "log2_table_size", "T, field forward and backward"),
)
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

TERMS = """\
`eager` is what one would write in PyTorch (eight gathers a level, `F.linear`, autograd;
`benchmarks/bench_renderer.py`), `reference` is `ldp_fast.reference`, the definition, written for accuracy, `ours` the
extension. float32. The field's pass is 64×64 rays × 64 samples, L = 16, F = 2, T = 2¹⁹, MLP 32 → 64 → 64 → 5; a step is
marching with jitter, the field, compositing, backward and `FusedAdam` at 64×64 rays and at most 64 samples each. The
reference needs less memory than the eager code because its gradients are written out and keep nothing."""


def _named(found: Results) -> str:
    runs = sorted({row["run"] for row in found["rows"] if row["file"] == FILE and measured(row)})
    about = [found["runs"][run] for run in runs]
    how = "; ".join(f"`{run['command']}`, {run['date'][:10]}, threads: {run['threads']}" for run in about)
    machine = found["machine"]
    place = machine["gpu"] or f"{machine['cpu']} ({machine['cpu_capability']}), {machine['cores']} cores"
    versions = ", ".join(sorted({f"torch {run['versions']['torch']}" for run in about}))
    return f"Measured on `{machine['slug']}`: {place}, {versions}; {how}."


def _tables(found: Results, device: str) -> list[str]:
    lines: list[str] = []
    members = groups(row for row in found["rows"] if row["file"] == FILE)
    for group in (f"{FIELD}, {device}", f"{STEP}, {device}"):
        if any(map(measured, members.get(group, ()))):
            lines += [f"**{group}**", "", *group_table(members[group]), ""]
    return lines


def in_words(rows: Sequence[Row]) -> str:
    """How much faster the field's pass is, and with how much of the memory, in a sentence."""
    ours, others = find(rows, "ours"), [find(rows, name) for name in ("reference", "eager")]
    said = []
    for other in others:
        if ours is None or other is None:
            continue
        text = f"{other['min_s'] / ours['min_s']:.1f} times as fast as `{other['backend']}`"
        peaks = [row["extra"].get("peak_bytes") for row in (ours, other)]
        if peaks[0] and peaks[1]:
            text += f" with {peaks[0] / peaks[1]:.2f} of its memory"
        said.append(text)
    return f"In one run the field's pass is {', and '.join(said)}." if said else ""


def _sweep_value(key: str, value: int) -> str:
    if key == "rays":
        return f"{round(value**0.5)}²"
    return f"2{str(value).translate(SUPERSCRIPT)}" if key == "log2_table_size" else str(value)


def sweep_tables(rows: Sequence[Row], device: str) -> list[str]:
    """Cost over rays, samples and table size, a table each; what was not measured is a dash."""
    lines: list[str] = []
    found = groups(rows)
    for group, key, label in SWEEPS:
        members = [row for row in found.get(f"sweep: {group}, {device}", ()) if key in row["extra"]]
        if not any(map(measured, members)):
            continue
        values = [_sweep_value(key, row["extra"][key]) for row in members]
        times = [digits(1e3 * row["min_s"]) if measured(row) else "–" for row in members]
        lines += [f"| {label} | {' | '.join(values)} |", "|---" + "|---:" * len(values) + "|"]
        lines += [f"| ms | {' | '.join(times)} |", ""]
    return lines


def _spread(rows: Sequence[Row], device: str) -> str:
    """The same step stands in two groups: how much the machine's times vary."""
    found = groups(rows)
    one = find(found.get(f"{STEP}, {device}", ()), "ours")
    swept = found.get(f"sweep: renderer step over rays, {device}", ())
    other = next((row for row in swept if measured(row) and row["extra"]["rays"] == 64 * 64), None)
    if one is None or other is None:
        return ""
    pair = " and ".join(f"{digits(1e3 * row['min_s'])} ms" for row in (one, other))
    return f"The same step of 64² rays reads {pair} in the two tables: this machine's times vary by that much."


def _machine(found: Results, made: dict[str, str], device: str) -> list[str]:
    rows = [row for row in found["rows"] if row["file"] == FILE]
    if not any(map(measured, rows)):
        return []
    lines = [_named(found), "", *_tables(found, device)]
    words = in_words(groups(rows).get(f"{FIELD}, {device}", ()))
    lines += [words, ""] if words else []
    swept = sweep_tables(rows, device)
    if swept:
        lines += ["Cost over size; what is not varied is 64×64 rays, 64 samples, T = 2¹⁹:", ""]
        if "renderer" in made:
            lines += [f"![Cost of the renderer over its sizes](images/{made['renderer']})", ""]
        lines += swept
        spread = _spread(rows, device)
        lines += [spread, ""] if spread else []
    return lines


def cpu_section(machines: Sequence[tuple[Results, dict[str, str]]]) -> str:
    """Machines without a GPU."""
    lines = ["## The renderer on a CPU", "", TERMS, ""]
    bodies = [line for found, made in machines for line in _machine(found, made, "cpu")]
    return "\n".join([*lines, *(bodies or ["Open: not in the results of any machine.", ""])])


def gpu_section(machines: Sequence[tuple[Results, dict[str, str]]]) -> str:
    """Machines with one: the goals are in the table at the top, so only what was measured stands here."""
    lines = ["## The renderer on a GPU", ""]
    lines += [
        "`make gpu` measures it; `python -m benchmarks.microbenchmarks` says what the GPU's memory allows: the rate of"
    ]
    lines += ["scattered pair reductions, gathers and copies for tables of 1 to 64 MB.", ""]
    bodies = [line for found, made in machines for line in _machine(found, made, "cuda") + _rates(found)]
    if not bodies:
        bodies = ["| what | measured |", "|---|---|"]
        rows = [goal.what for goal in goals.GOALS if goal.what.startswith("renderer: ")]
        rows.append("renderer: cost over rays 32²…512², samples, T 2¹⁴…2²¹")
        bodies += [f"| {what.removeprefix('renderer: ')} | open: no GPU yet |" for what in rows]
    return "\n".join([*lines, *bodies])


def _rates(found: Results) -> list[str]:
    rows = [row for row in found["rows"] if row["file"] == "microbenchmarks.py" and measured(row)]
    if not rows:
        return []
    sizes = sorted({row["extra"]["megabytes"] for row in rows})
    rate = {(row["extra"]["kind"], row["extra"]["megabytes"]): row["extra"]["per_second"] for row in rows}
    lines = [
        f"| 10⁹ accesses a second, MB of table | {' | '.join(map(str, sizes))} |",
        "|---" + "|---:" * len(sizes) + "|",
    ]
    for kind in dict.fromkeys(row["extra"]["kind"] for row in rows):
        lines.append(f"| {kind} | {' | '.join(digits(rate[kind, size]) for size in sizes)} |")
    return [*lines, ""]
