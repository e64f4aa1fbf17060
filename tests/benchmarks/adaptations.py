"""Made-up records of benchmarks.adaptation, and the page that they give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.adaptation import page, runs
from benchmarks.adaptation.plan import Cell, Plan, Variant
from ldp_fast.runs import files

KEY: dict[str, Any] = {"judge": "one", "lpips": "two"}
MINE, OTHER = "code of now", "code of then"
PLAN = Plan(4, 20, 1, 0, "primitives", "weights", "primitives", "networks")
SPHERE, CONE = "a red sphere", "a green cone"
LDP, LSD = (Variant(name, ("--guidance", name)) for name in ("ldp", "lsd"))
WEAK = Variant.of("ldp@gs2.5=--guidance ldp --guidance-scale 2.5", [CONE])


def found(fid: float, cosine: float = 0.5, hits: int = 2) -> dict[str, Any]:
    """Of four pictures, each with numbers of its own."""
    each = {name: [cosine + apart for apart in (-0.03, 0.01, 0.04, -0.02)] for name in ("cosine", "view", "grey")}
    kept = {"hit": [i < hits for i in range(4)], "kept": [False, True, False, False], "failing": [[]]}
    return {**each, **kept, "size": 0.5, "fid": fid, "pairs": 1.0, "solids": 0.05}


def write(out: Path, cell: Cell, made: dict[str, Any], code: str = MINE, key: dict[str, Any] = KEY) -> None:
    record = {"form": runs.FORM, "key": key, "seconds": 60.0, "code": code, "found": made}
    files.write_json(page.file_of(out, cell), record)


def document(out: Path, cells: Sequence[Cell]) -> str:
    return page.document(out, PLAN, cells, KEY, "the command", MINE)


def lines_of(text: str, title: str) -> list[list[str]]:
    """The rows of the tables below a heading."""
    part = text.partition(f"### {title}\n")[2].partition("\n### ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]
