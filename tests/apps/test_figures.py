"""Figures are drawn without pyplot: the backend and the settings of whoever calls a command stay theirs."""

from __future__ import annotations

import ast
import pathlib
import sys

import pytest
import torch
from PIL import Image

from ..support import processes

ROOT = pathlib.Path(__file__).parents[2]


def drawing(folder: pathlib.Path) -> int:
    """Every figure; for a process of its own, as pyplot may be loaded here already."""
    assert "matplotlib.pyplot" not in sys.modules
    import matplotlib

    matplotlib.use("svg")  # which this package would not choose
    before = dict(matplotlib.rcParams)
    from benchmarks import plots
    from ldp_fast.apps.sweep import table as sweep_table
    from ldp_fast.apps.synthesis import ablation
    from ldp_fast.apps.synthesis import run as image_synthesis
    from ldp_fast.runs import image_files

    losses = image_synthesis.loss_figure(torch.rand(5, len(image_synthesis.HISTORY)))
    image_files.save_figure(folder / "losses.png", losses)
    images = {name: torch.rand(2, 3, 8, 8) for name in ablation.VARIANTS}
    table = {name: {"r_precision": 0.5, "saturation": 0.1, "clipped": 0.2} for name in ablation.VARIANTS}
    image_files.save_figure(folder / "ablation.png", ablation.ablation_figure(images, ["a", "b"], table))
    image_files.save_png(folder / "view.png", images["full"][0])
    cells = {("a", 0, "latent-nerf", "full"): folder / "view.png"}
    sheet = sweep_table.sheet_figure(cells, [("a", 0)], [("latent-nerf", "full")])
    image_files.save_figure(folder / "sheet.png", sheet)
    row = {"backend": "ours", "min_s": 0.1, "mean_s": 0.1, "std_s": 0.0, "rounds": 3, "memory_mb": None, "extra": {}}
    parts = (("whole", 1.0), ("UNet", 0.4))
    times = [{**row, "group": "step by parts", "backend": name, "min_s": seconds} for name, seconds in parts]
    assert plots.parts([("64x64", times)], folder / "parts.png")
    for name in ("losses", "ablation", "sheet", "parts"):
        assert Image.open(folder / f"{name}.png").size[0] > 100, name
    assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
    changed = {name for name, value in matplotlib.rcParams.items() if value != before[name]}
    assert not changed, changed
    assert "matplotlib.pyplot" not in sys.modules
    return 0


def test_drawing_leaves_backend_and_settings_alone(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    done = processes.Started(drawing, tmp_path).wait()
    assert done.code == 0, done.err


def choices(source: str) -> list[str]:
    """What in a program chooses a backend for the whole process, or may."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in ("matplotlib.pyplot", "pylab")]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.append(f"{node.value.id}.{node.attr}")
    return [
        name for name in found if name.startswith(("matplotlib.pyplot", "matplotlib.use", "matplotlib.switch", "pylab"))
    ]


@pytest.mark.parametrize("folder", ["ldp_fast", "benchmarks"])
def test_no_file_chooses_a_backend(folder: str) -> None:
    found = {path.name: choices(path.read_text(encoding="utf-8")) for path in (ROOT / folder).rglob("*.py")}
    assert len(found) > 10 and not {name: said for name, said in found.items() if said}


def test_what_chooses_a_backend() -> None:
    for line in (
        "matplotlib.use('Agg')",
        "from matplotlib import pyplot",
        "import matplotlib.pyplot as plt",
        "import pylab",
    ):
        assert choices(f"import matplotlib\ndef f():\n    {line}"), line
    assert not choices("from matplotlib.figure import Figure\nimport matplotlib\nmatplotlib.colormaps['x']")
