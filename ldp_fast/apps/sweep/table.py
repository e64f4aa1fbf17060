"""What a sweep ends with: a table of its jobs, the R-Precision of its rows, and a sheet of all views."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from ...errors import UsageError
from ...runs import files, image_files
from ...runs.folder import status
from ...runs.jobs import Job, JobStore
from ...runs.tables import markdown_table
from ..evaluate.report import as_markdown
from ..evaluate.retrieval import evaluate_r_precision
from ..variants import TITLES
from . import domain_tables, domains

# Of one sheet: more would be a picture that nobody can open.
ROWS_PER_SHEET = 24


def write_table(
    jobs: Sequence[Job], store: JobStore, *, clip: str | None = None, asked: domains.Asked | None = None
) -> None:
    """Writes `table.md`, `table.json` and `views.png` for every job that the folder holds, and prints the table.

    Without R-Precision, and with the reason, where it cannot be measured: no CLIP at hand, too few other prompts. Of
    runs that leave samples also what `domains` measures of them, and `table.csv`.

    Args:
        jobs: of this command, which come first.
        store: their records.
        clip: judges; None chooses.
        asked: how samples are measured; None: the runs do not leave any.
    """
    found, reason = None, ""
    try:
        found = evaluate_r_precision(store.folder, clip=clip)
    except UsageError as error:
        reason = str(error)
    records = store.records()
    names = [job.name for job in jobs]
    names += [name for name in records if name not in set(names)]
    views = {o["folder"]: o["views"] for o in found["objects"]} if found else {}
    rows = [_row(store.folder, name, records[name], views.get(name)) for name in names]
    sheets = write_sheets(store, rows)
    text = _as_markdown(rows, found, reason, sheets)
    table: dict[str, Any] = {
        "jobs": rows,
        "r_precision": found and {k: found[k] for k in ("protocol", "rows", "truth")},
    }
    more = [*sheets]
    if asked is not None:
        measured, said = _of_samples(store, names, records, asked, clip)
        text, table["samples"] = f"{said}\n\n{text}", measured
        if measured is not None:
            lines = domain_tables.as_csv(measured).encode()
            store.replace(store.folder / "table.csv", lambda path: files.write_atomically(path, lines))
            more.insert(0, "table.csv")
    store.replace(store.folder / "table.json", lambda path: files.write_json(path, table))
    store.replace(store.folder / "table.md", lambda path: files.write_atomically(path, text.encode()))
    print(text)
    print(f"{store.folder / 'table.md'} (this table), table.json, {', '.join(more) or 'no views'}")


def _of_samples(
    store: JobStore, names: Sequence[str], records: dict[str, dict[str, Any]], asked: domains.Asked, clip: str | None
) -> tuple[dict[str, Any] | None, str]:
    """What the runs' samples are worth, and as text; None where it cannot be said, with the reason as text."""
    try:
        found = domains.measure(store.folder, {name: records[name] for name in names}, asked, clip=clip)
    except UsageError as error:
        return None, f"The samples could not be measured: {error}"
    return found, domain_tables.as_markdown(found)


def _row(
    folder: pathlib.Path, name: str, record: dict[str, Any], views: Sequence[dict[str, Any]] | None
) -> dict[str, Any]:
    # A run with fewer samples than seeds has each of them looked at with each seed.
    samples = {view["sample"] for view in views or () if "sample" in view}
    return {
        "folder": name,
        **{key: record[key] for key in ("prompt", "method", "losses", "seed", "status")},
        "steps": status(folder / name).get("step"),
        "seconds": record.get("seconds"),
        "hits": None if views is None else [view["hit"] for view in views],
        **({"samples": len(samples)} if samples else {}),
        "error": record.get("error"),
    }


def _as_markdown(rows: list[dict[str, Any]], found: dict[str, Any] | None, reason: str, sheets: list[str]) -> str:
    parts = [as_markdown(found) if found else f"R-Precision could not be measured: {reason}"]
    lines = []
    for row in rows:
        hits = "–" if row["hits"] is None else f"{sum(row['hits'])} of {len(row['hits'])}"
        if row["hits"] is not None and row.get("samples", math.inf) < len(row["hits"]):
            hits += f" looks at {row['samples']} picture{'s' * (row['samples'] != 1)}"
        status = row["status"] + (f": {row['error']}" if row["error"] else "")
        seconds = "–" if row["seconds"] is None else f"{row['seconds']:.0f}"
        steps = "–" if row["steps"] is None else str(row["steps"])
        cells = [row["prompt"], row["method"], TITLES[row["losses"]], str(row["seed"]), status, steps, seconds, hits]
        lines.append([cell.replace("|", "\\|") for cell in cells])
    head = ["prompt", "method", "losses", "seed", "status", "steps", "seconds", "hits"]
    parts.append(markdown_table(head, lines))
    parts += [f"![Views of the finished objects]({name})" for name in sheets]
    return "\n\n".join(parts) + "\n"


def write_sheets(store: JobStore, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Contact sheets of the jobs' pictures: a row a prompt and seed, a column a method and choice of losses.

    Returns:
        Names of the files, `views.png`, `views-2.png`, …; none where no job has views.
    """
    cells = {
        (r["prompt"], r["seed"], r["method"], r["losses"]): store.folder / r["folder"] / store.application.result
        for r in rows
    }
    cells = {key: path for key, path in cells.items() if path.exists()}
    lines = list(dict.fromkeys(key[:2] for key in cells))
    columns = list(dict.fromkeys(key[2:] for key in cells))
    names = []
    for page in range(math.ceil(len(lines) / ROWS_PER_SHEET)):
        names.append("views.png" if page == 0 else f"views-{page + 1}.png")
        figure = sheet_figure(cells, lines[page * ROWS_PER_SHEET : (page + 1) * ROWS_PER_SHEET], columns)

        def write(path: pathlib.Path, figure: Any = figure) -> None:
            image_files.save_figure(path, figure)

        store.replace(store.folder / names[-1], write)
    return names


def sheet_figure(
    cells: dict[tuple[str, int, str, str], pathlib.Path],
    lines: Sequence[tuple[str, int]],
    columns: Sequence[tuple[str, str]],
) -> Any:
    """One sheet; a cell without a picture stays empty."""
    import numpy as np
    from PIL import Image

    with Image.open(next(iter(cells.values()))) as first:
        width, height = first.size
    side = 3.2 * min(2.0, max(0.5, width / height))
    size = (side * len(columns) + 0.6, (side * height / width + 0.1) * len(lines) + 0.5)
    figure, axes = image_files.new_figure(len(lines), len(columns), size)
    several = len({seed for _, seed in lines}) > 1
    for row, (prompt, seed) in enumerate(lines):
        for column, (method, losses) in enumerate(columns):
            axis = axes[row][column]
            axis.set(xticks=[], yticks=[])
            path = cells.get((prompt, seed, method, losses))
            if path is None:
                axis.set_axis_off()
            else:
                with Image.open(path) as picture:
                    axis.imshow(np.asarray(picture.convert("RGB")))
            if row == 0:
                axis.set_title(f"{method}\n{TITLES[losses]}", fontsize=9)
            if column == 0:
                axis.set_axis_on()
                axis.set_ylabel(prompt + (f"\nseed {seed}" if several else ""), fontsize=8, wrap=True)
    return figure
