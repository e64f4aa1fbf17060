"""The figures of the documentation, from the repository's root.

`python docs/figures.py` makes those of docs/renderer.md (minutes on two cores); `python docs/figures.py DIR` the one of
text-to-3D, from the folder of the sweep that docs/text_to_3d_sweep.md names; `python docs/figures.py DIR dream_fields`
and `… clip_mesh` those of the objects that CLIP guided, from the sweeps that these pages name.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
IMAGES = ROOT / "docs" / "images"
INK, FAINT, WRONG = "#222222", "#8a8a8a", "#d02010"


def box(axes: Axes, x: float, y: float, width: float, title: str, text: str, colour: str) -> None:
    """A labelled box of the pipeline."""
    patch = FancyBboxPatch((x, y), width, 1.0, boxstyle="round,pad=0.02,rounding_size=0.08", fc=colour, ec=INK, lw=1.0)
    axes.add_patch(patch)
    axes.text(x + width / 2, y + 0.68, title, ha="center", va="center", fontsize=10, weight="bold", color=INK)
    axes.text(x + width / 2, y + 0.30, text, ha="center", va="center", fontsize=7.5, color=INK, linespacing=1.3)


def pipeline() -> None:
    """The way from cameras to latents, and back."""
    figure, axes = plt.subplots(figsize=(11.5, 3.4))
    stages = [
        ("Cameras", "poses, intrinsics\nrays [R, 3]", "#f3efe6"),
        ("March", "box, steps, jitter\nskips empty cells", "#e3edf7"),
        ("Hash grid", "L levels, 8 corners\n[S, L·F]", "#e6f3e8"),
        ("MLP", "density [S]\nlatents [S, C]", "#e6f3e8"),
        ("Composite", "w = T·(1 − exp(−σδ))\nstop at T < 1e-4", "#f7e8e3"),
        ("Latents", "[V, C, H, W]\nopacity, depth", "#f3efe6"),
    ]
    width, gap = 1.62, 0.32
    for i, (title, text, colour) in enumerate(stages):
        x = i * (width + gap)
        box(axes, x, 1.0, width, title, text, colour)
        if i:
            axes.annotate("", (x - 0.03, 1.62), (x - gap + 0.03, 1.62), arrowprops={"arrowstyle": "->", "color": INK})
        if i > 2:
            axes.annotate(
                "",
                (x - gap + 0.03, 1.3),
                (x - 0.03, 1.3),
                arrowprops={"arrowstyle": "->", "color": "#b5482f", "ls": "--"},
            )
    march, grid = width + gap, 2 * (width + gap)
    box(axes, march, -0.75, width, "Occupancy", "128³ bits, EMA of\nsampled densities", "#e3edf7")
    axes.annotate(
        "", (march + width / 2, 0.97), (march + width / 2, 0.29), arrowprops={"arrowstyle": "->", "color": INK}
    )
    box(axes, grid, -0.75, width, "FusedAdam", "moments, half shadow,\nzeroed gradient", "#f1e6f5")
    dashed = {"arrowstyle": "->", "color": "#b5482f", "ls": "--"}
    axes.annotate("", (grid + width / 2, 0.29), (grid + width / 2, 0.97), arrowprops=dashed)
    box(axes, 4 * (width + gap), -0.75, width, "Background", "constant, learned,\nor of the direction", "#f7e8e3")
    x = 4 * (width + gap) + width / 2
    axes.annotate("", (x, 0.97), (x, 0.29), arrowprops={"arrowstyle": "->", "color": INK})
    axes.text(
        3 * (width + gap) + width / 2,
        -0.25,
        "solid: forward\ndashed: gradients",
        ha="center",
        va="center",
        fontsize=8,
        color=FAINT,
    )
    axes.set_xlim(-0.1, 6 * (width + gap) - gap + 0.1)
    axes.set_ylim(-0.9, 2.15)
    axes.axis("off")
    figure.savefig(IMAGES / "renderer.png", dpi=130, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def picture(latents: Tensor, low: float, high: float) -> Tensor:
    """Three channels of [C, H, W] as RGB."""
    return ((latents[:3] - low) / (high - low)).clamp(0, 1).permute(1, 2, 0)


def torus() -> None:
    """The trained scene, on views held out."""
    from tests.nerf.scenes import decibels, train_torus

    result = train_torus(steps=200, at_once=4, steps_per_ray=96, rate=4e-3)
    # From the lowest to the highest of the eight, so that the pictures differ.
    views = result.held_out[result.held_out.elevation.argsort()[torch.tensor([0, 2, 4, 6, 7])]]
    with torch.no_grad():
        seen = result.renderer.eval()(views, 64, 64, normals=True)
        truth = result.truth(views, 64, 64)
    low, high = float(truth.latents.min()), float(truth.latents.max())
    figure, rows = plt.subplots(5, 5, figsize=(8, 8.2))
    depth = seen.depth / seen.opacity.clamp(min=1e-3)
    labels = ("truth", "rendered", "|difference| × 5", "depth", "normals")
    for view in range(5):
        opaque = seen.opacity[view, 0] > 0.5
        shown = [
            picture(truth.latents[view], low, high),
            picture(seen.latents[view], low, high),
            picture((truth.latents[view] - seen.latents[view]).abs() * 5, 0, high - low),
            torch.where(opaque, depth[view, 0], torch.nan),
            (seen.normals[view].permute(1, 2, 0) + 1) / 2 * opaque[..., None] + (~opaque[..., None]).float(),  # type: ignore[index]
        ]
        for row, image, label in zip(rows, shown, labels, strict=True):
            row[view].imshow(image.clamp(0, 1) if image.dim() == 3 else image, cmap="viridis_r")
            row[view].set_xticks([])
            row[view].set_yticks([])
            if view == 0:
                row[view].set_ylabel(label)
    figure.suptitle(f"Held out: {decibels(seen.latents, truth.latents):.1f} dB at 64×64, learned at 32×32", fontsize=10)
    figure.tight_layout()
    figure.savefig(IMAGES / "torus.png", dpi=90, facecolor="white")
    plt.close(figure)
    print(f"held out: {decibels(seen.latents, truth.latents):.1f} dB")


def objects(sweep: Path) -> None:
    """Every prompt of a sweep with the full loss: each method from two sides and from above, a frame around wrong ones.

    What is wrong says the sweep's truth.json (`ldp-fast evaluate truth`).

    Raises:
        SystemExit: an object is not finished or not measured, or there are several of a prompt and method.
    """
    from ldp_fast.apps.text_to_3d.pictures.frames import resize
    from ldp_fast.apps.text_to_3d.scene import load_scene
    from ldp_fast.nerf import Cameras
    from ldp_fast.runs.files import read_json

    jobs = [job for job in read_json(sweep / "jobs.json")["jobs"] if job["losses"] == "full"]
    failing = {each["folder"]: each["failing"] for each in read_json(sweep / "truth.json")["objects"]}
    if unknown := [job["folder"] for job in jobs if job["folder"] not in failing]:
        sys.exit(f"{sweep}: not finished, or not measured by `ldp-fast evaluate truth`: {', '.join(unknown)}")
    if len({(job["prompt"], job["method"]) for job in jobs}) < len(jobs):
        sys.exit(f"{sweep}: expected one object of each prompt and method, with one seed")
    prompts = sorted({job["prompt"] for job in jobs})
    methods = ("latent-nerf", "jacobian-nerf")
    columns = 5
    tiles = -(-len(prompts) // columns)
    figure, axes = plt.subplots(tiles * len(methods), columns, figsize=(3.1 * columns, 1.32 * tiles * len(methods)))
    for axis in axes.flat:
        axis.axis("off")
    for job in jobs:
        place = prompts.index(job["prompt"])
        method = methods.index(job["method"])
        scene = load_scene(sweep / job["folder"])
        radius, fov = scene.orbit["radius"], scene.orbit["fov"]
        cameras = Cameras.orbit([20.0, 160.0, 0.0], [20.0, 20.0, 75.0], radius, fov)
        images = resize(scene.decode(scene.render(cameras).latents).cpu(), 192)
        axis = axes[place // columns * len(methods) + method, place % columns]
        axis.imshow(torch.cat(list(images), dim=2).permute(1, 2, 0).clamp(0, 1))
        if wrong := failing[job["folder"]]:
            axis.add_patch(Rectangle((1, 1), 3 * 192 - 3, 189, fill=False, ec=WRONG, lw=2.5))
            axis.text(8, 22, ", ".join(wrong), fontsize=8, color="white")
        if method == 0:
            axis.set_title(job["prompt"], fontsize=9, color=INK, pad=3)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.96, wspace=0.03, hspace=0.12)
    figure.savefig(IMAGES / "text_to_3d.png", dpi=90, facecolor="white")
    plt.close(figure)


def guided(sweep: Path, name: str) -> None:
    """Every object of a sweep in the order of its prompts, from the side and, below that, from above."""
    from PIL import Image

    from ldp_fast.runs.files import read_json

    side, gap = 184, 6
    jobs = read_json(sweep / "jobs.json")["jobs"]
    sheet = Image.new("RGB", (len(jobs) * (side + gap) - gap, 2 * side + gap), "white")
    for column, job in enumerate(jobs):
        with Image.open(sweep / job["folder"] / "views.png") as views:  # three by three, the last from above
            third = views.width // 3
            for row, place in enumerate((0, 2)):
                tile = views.convert("RGB").crop(
                    (place * third, place * third, (place + 1) * third, (place + 1) * third)
                )
                sheet.paste(tile.resize((side, side)), (column * (side + gap), row * (side + gap)))
    sheet.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        guided(Path(sys.argv[1]), sys.argv[2])
    elif len(sys.argv) > 1:
        objects(Path(sys.argv[1]))
    else:
        pipeline()
        torus()
