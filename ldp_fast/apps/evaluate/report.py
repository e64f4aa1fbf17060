"""An evaluation as text."""

from __future__ import annotations

from typing import Any

from ...runs.tables import markdown_table


def percent(row: dict[str, Any]) -> str:
    """`83.3 ± 5.8 %`."""
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    return f"{100 * row['mean']:.1f}{spread} %"


def interval(row: dict[str, Any]) -> str:
    """`61.1 to 97.2 %`; a dash where one object says nothing about others."""
    return "–" if row["interval"] is None else f"{100 * row['interval'][0]:.1f} to {100 * row['interval'][1]:.1f} %"


def name_of(protocol: dict[str, Any]) -> str:
    """The number's whole name: by the CLIP beside it, among so many captions of so many, by one of two protocols."""
    way = f"{protocol['distractors'] + 1}-way"
    if protocol["protocol"] == "dreamfields":
        return f"R-Precision (DreamFields), {way}"
    return f"R-Precision, {way} of {protocol['pool']}"


def as_markdown(found: dict[str, Any]) -> str:
    """The table of an evaluation, and one paragraph on how it was measured."""
    protocol = found["protocol"]
    lines = []
    for clip in protocol["clips"]:
        for row in found["rows"]:
            if row["clip"] == clip:
                settings = "".join(f", {key} {value}" for key, value in row["settings"].items())
                lambdas = ", ".join(f"{row[f'lambda_{key}']:g}" for key in ("fm", "kl", "lsd"))
                cells = [row["method"], row["losses"] + settings, lambdas, str(row["objects"])]
                lines.append([clip, *cells, percent(row), interval(row)])
        truth = found.get("truths", {}).get(clip, found["truth"])
        if truth:
            cells = ["renders of the truth", "", "", str(truth["objects"]), percent(truth), interval(truth)]
            lines.append([clip, *cells])
    head = ["CLIP", "method", "losses", "λ1, λ2, λ3", "objects", name_of(protocol), "95 % interval"]
    table = markdown_table(head, lines)
    text = _fixed(protocol) if protocol["protocol"] == "dreamfields" else _random(found)
    text += unknown_words(protocol)
    if protocol["truncated"]:
        text += " Prompts longer than the text tower were truncated."
    prompts = {made["folder"]: made["prompt"] for made in found["objects"]}
    if len({frozenset(prompts[folder] for folder in row["folders"]) for row in found["rows"]}) > 1:
        text += " The rows were not measured on the same prompts, for some runs are missing."
    if found["unfinished"]:
        text += f" {len(found['unfinished'])} unfinished runs are not in it."
    return f"{table}\n\n{text}"


def unknown_words(protocol: dict[str, Any]) -> str:
    """A sentence for each CLIP that was asked of words which it does not know; '' if there is none."""
    return "".join(
        f" {count} of the captions to choose from have words that {clip} does not know."
        for clip, count in protocol["unknown"].items()
    )


def _random(found: dict[str, Any]) -> str:
    protocol = found["protocol"]
    low, high = protocol["elevation"] or (None, None)
    heights = "elevation as in training" if low is None else f"elevation {low:g}° to {high:g}°"
    repetitions = max(len(row["repetitions"]) for row in found["rows"])
    if all("sample" in view for made in found["objects"] for view in made["views"]):
        # Where there are fewer pictures than parts, each part has all of them.
        parts = len(protocol["seeds"])
        again = any(len({v["sample"] for v in made["views"]}) < len(made["views"]) for made in found["objects"])
        few = f" (of a run with fewer than {parts}: each in every part)" if again else ""
        return (
            f"Each picture of a run once{few}; CLIP has to prefer the run's prompt to {protocol['distractors']} "
            f"others, drawn for each picture from {protocol['pool']}. Mean ± standard deviation over {repetitions} "
            f"repetitions (seeds of the runs × {parts} parts of their pictures); interval over runs (bootstrap). "
            f"The truth is seen from any side."
        )
    return (
        f"One view of each object from a random camera (any azimuth, {heights}); CLIP has to prefer the "
        f"object's prompt to {protocol['distractors']} others, drawn for each view from {protocol['pool']}. "
        f"Mean ± standard deviation over {repetitions} repetitions (seeds of the runs × {len(protocol['seeds'])} seeds "
        f"of cameras and distractors); interval over objects (bootstrap)."
    )


def _fixed(protocol: dict[str, Any]) -> str:
    return (
        f"DreamFields' protocol: one view of each object from azimuth -30°, elevation 45°; CLIP has to prefer "
        f"the object's prompt to all others of a list of {protocol['pool']}. Interval over objects (bootstrap)."
    )
