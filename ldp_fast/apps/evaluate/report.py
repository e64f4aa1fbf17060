"""An evaluation as text."""

from __future__ import annotations

from typing import Any

from ...runs.tables import markdown_table


def percent(row: dict[str, Any]) -> str:
    """`83.3 ± 5.8 %`."""
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    return f"{100 * row['mean']:.1f}{spread} %"


def as_markdown(found: dict[str, Any]) -> str:
    """The table of an evaluation, and one paragraph on how it was measured."""
    protocol = found["protocol"]
    lines = []
    for row in found["rows"]:
        settings = "".join(f", {name} {value}" for name, value in row["settings"].items())
        lambdas = ", ".join(f"{row[f'lambda_{name}']:g}" for name in ("fm", "kl", "lsd"))
        lines.append([row["method"], row["losses"] + settings, lambdas, str(row["objects"]), percent(row)])
    if found["truth"]:
        lines.append(["renders of the truth", "", "", str(found["truth"]["objects"]), percent(found["truth"])])
    table = markdown_table(["method", "losses", "λ1, λ2, λ3", "objects", "R-Precision"], lines)
    low, high = protocol["elevation"] or (None, None)
    heights = "elevation as in training" if low is None else f"elevation {low:g}° to {high:g}°"
    repetitions = max(len(row["repetitions"]) for row in found["rows"])
    text = (
        f"One view of each object from a random camera (any azimuth, {heights}); CLIP "
        f"`{protocol['clip']}` has to prefer the object's prompt to {protocol['distractors']} others, drawn for each "
        f"view from {protocol['pool']}. Mean ± standard deviation over {repetitions} repetitions (seeds of the runs × "
        f"{len(protocol['seeds'])} seeds of cameras and distractors)."
    )
    prompts = {made["folder"]: made["prompt"] for made in found["objects"]}
    if len({frozenset(prompts[folder] for folder in row["folders"]) for row in found["rows"]}) > 1:
        text += " The rows were not measured on the same prompts, for some runs are missing."
    if found["unfinished"]:
        text += f" {len(found['unfinished'])} unfinished runs are not in it."
    return f"{table}\n\n{text}"
