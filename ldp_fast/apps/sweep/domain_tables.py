"""The measures of a sweep of adapted generators as tables: a row a target domain, a column a guidance."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any

from ...runs.tables import markdown_table
from ..variants import TITLES
from .domains import COSINE, FID, PAIRS, REAL, SCORE

COLUMNS = ("prompt", "losses", "seed", "folder", "count", FID, COSINE, SCORE, PAIRS, "lpips_std")
HEAD = {
    FID: "FID (lower is nearer to the domain)",
    COSINE: "CLIP score, as a cosine (higher is nearer to the prompt)",
    PAIRS: "LPIPS over all pairs (higher is more diverse)",
}
FORMS = {FID: ".4g", COSINE: ".4f", PAIRS: ".4f"}
# What is best. More diverse is not better in itself: what has left the domain in all directions is diverse.
BEST = {FID: min, COSINE: max}


def as_csv(found: dict[str, Any]) -> str:
    """Every run, and the real pictures of every prompt, a line each; empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in found["rows"]:
        writer.writerow(["" if row[name] is None else row[name] for name in COLUMNS])
    return text.getvalue()


def as_markdown(found: dict[str, Any]) -> str:
    """A table for each measure, and what the numbers are."""
    parts = []
    for metric, head in HEAD.items():
        if metric in found["reasons"]:
            parts.append(f"**{head}** could not be measured: {found['reasons'][metric]}")
            continue
        said = found["numbers"][metric]
        if metric == FID:
            said += f"; against {found['real']}"
        if metric == PAIRS and "like" in said:
            said += "; this is not LPIPS, whose weights were fitted to people's judgements: compare it with itself only"
        parts += [f"**{head}**: {said}.", _table(found["rows"], metric)]
    counts = sorted({row["count"] for row in found["rows"] if row["folder"] is not None})
    samples = " or ".join(map(str, counts))
    parts.append(
        f"Of {samples} samples of each run; mean over the seeds of the runs, ± standard deviation where there are "
        f"several. Compare numbers of one name and count only. Every run's are in table.csv."
    )
    parts += [f"Note: {note}." for note in found["notes"]]
    return "\n\n".join(parts)


def _table(rows: Sequence[dict[str, Any]], metric: str) -> str:
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    columns = list(dict.fromkeys(row["losses"] for row in rows))
    reals = {row["losses"] for row in rows if row["folder"] is None}
    empty = {name for name in reals if all(row[metric] is None for row in rows if row["losses"] == name)}
    columns = [name for name in columns if name not in empty]
    values = {
        (prompt, losses): [
            row[metric]
            for row in rows
            if (row["prompt"], row["losses"]) == (prompt, losses) and row[metric] is not None
        ]
        for prompt in prompts
        for losses in columns
    }
    means = {key: statistics.fmean(found) for key, found in values.items() if found}
    ours = [name for name in columns if name not in reals]
    # Where a guidance lacks a domain, its mean would be one over others.
    whole = [prompt for prompt in prompts if all((prompt, name) in means for name in ours)]
    best: dict[str, int] = dict.fromkeys(ours, 0)
    lines = []
    for prompt in prompts:
        winners = _winners({name: means[prompt, name] for name in ours if (prompt, name) in means}, metric)
        for name in winners if prompt in whole else ():
            best[name] += 1
        cells = [_cell(values[prompt, name], metric, name in winners) for name in columns]
        lines.append([prompt, *cells])
    if len(whole) > 1:
        average = {
            name: statistics.fmean([means[prompt, name] for prompt in whole if (prompt, name) in means])
            for name in columns
            if any((prompt, name) in means for prompt in whole)
        }
        winners = _winners({name: average[name] for name in ours}, metric)
        cells = [_cell([average[name]] if name in average else [], metric, name in winners) for name in columns]
        lines.append([f"mean over {len(whole)} domains", *cells])
        if metric in BEST and len(ours) > 1:
            lines.append(["best in", *(str(best[name]) if name in best else "" for name in columns)])
    titles = [f"real pictures{name[len(REAL) :]}" if name in reals else TITLES.get(name, name) for name in columns]
    return markdown_table(["domain", *titles], lines)


def _winners(found: dict[str, float], metric: str) -> set[str]:
    """The best of several; a tie is of all that have it."""
    if metric not in BEST or len(found) < 2:
        return set()
    return {name for name, value in found.items() if value == BEST[metric](found.values())}


def _cell(values: Sequence[float], metric: str, best: bool) -> str:
    if not values:
        return "–"
    text = format(statistics.fmean(values), FORMS[metric])
    if len(values) > 1:
        text += f" ± {format(statistics.stdev(values), FORMS[metric])}"
    return f"**{text}**" if best else text
