"""docs/stylegan_adaptation.md: its Python runs as it stands, and its numbers are those that a run has."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import torch

from ldp_fast.apps.adapt.configuration import GUIDANCES
from ldp_fast.apps.adapt.defaults import EMBEDDED, FULL, FULL_CLIP
from ldp_fast.guidance.presets import find_preset

from . import adapt_stub as stub

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "stylegan_adaptation.md").read_text(encoding="utf-8")
ROWS = {cells[0]: cells[1:] for line in PAGE.splitlines() if (cells := [x.strip() for x in line.split("|")[1:-1]])}


def test_the_snippet_adapts_a_generator_of_the_readers_own() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(snippet, "docs/stylegan_adaptation.md", "exec"), names)
    assert names["pictures"].shape == (4, 3, 32, 32)
    fresh = names["Blobs"]()
    assert not torch.equal(names["adapted"].layer.weight, fresh.layer.weight)


def test_the_settings_are_those_of_a_run() -> None:
    paper = find_preset("stylegan").settings

    def told(of: dict[str, Any], clip: dict[str, Any], name: str) -> str:
        both = f"{of[name]:g}", f"{clip[name]:g}"
        return both[0] if both[0] == both[1] else f"{both[0]}; `clip-directional` {both[1]}"

    full, small = FULL["settings"], EMBEDDED["settings"]
    views = ROWS["view in the prompt (`--view-prompts`)"]
    assert views[:2] == [
        stub.configuration("-", model="stabilityai/sd-turbo").plain().get("view_prompts", "none"),
        stub.configuration("primitives").plain()["view_prompts"],
    ]
    assert ROWS["steps"][:2] == [told(FULL, FULL_CLIP, "steps"), told(EMBEDDED, EMBEDDED, "steps")]
    assert ROWS["pictures in a step"][:2] == [told(FULL, FULL_CLIP, "batch"), told(EMBEDDED, EMBEDDED, "batch")]
    rates = [told(FULL, FULL_CLIP, "learning_rate"), told(EMBEDDED, EMBEDDED, "learning_rate")]
    assert ROWS["Adam's rate"][:2] == rates
    assert ROWS["Adam's betas"][0] == ", ".join(f"{beta:.3g}" for beta in FULL["betas"])
    assert FULL["betas"] == EMBEDDED["betas"]
    assert (
        ROWS["moving average of the weights after each step"][:2] == ["none", f"{EMBEDDED['ema']:g}"]
        and "ema" not in FULL
    )

    def losses(of: dict[str, Any]) -> str:
        values = [f"{of.get(name, getattr(paper, name)):g}" for name in ("lambda_fm", "lambda_kl", "lambda_lsd")]
        return f"{', '.join(values)}; `{of.get('scale', paper.scale)}`"

    assert ROWS["λ1, λ2, λ3; scale"][:2] == [losses(full), losses(small)]
    assert ROWS["t, % of the schedule"][:2] == [_range(full), _range(small)]
    assert ROWS["guidance scale"][:2] == [f"{full.get('guidance_scale', 100):g}", f"{small['guidance_scale']:g}"]
    assert ROWS["samples at the end"][:2] == [f"{FULL['samples']}", f"{EMBEDDED['samples']}"]


def _range(of: dict[str, Any]) -> str:
    low, high = (100 * x for x in of["timestep_range"])
    falls = f", the higher end falling to {100 * of['anneal_to']:g}" if "anneal_to" in of else ""
    return f"{low:g} to {high:g}{falls}"


def test_every_guidance_is_told() -> None:
    assert all(any(cell.startswith(f"`{name}`") for cell in ROWS) for name in GUIDANCES)
