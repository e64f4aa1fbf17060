"""`ldp-fast ablate`: the paper's ablation (Fig. 7) as one figure: LSD, LSD+FM, LSD+KL and all three, same seed."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import numpy as np
import torch

from ..errors import UsageError
from ..metrics import ClipScorer, clipped_fraction, r_precision, saturation
from ..zoo import world
from . import files
from .image_synthesis import configure, synthesize
from .latents import HISTORY
from .names import as_typed, former_slug, name_of
from .options import NEGATIVE, add_prior_arguments, load_prior, number

VARIANTS = {"lsd": "LSD", "lsd-fm": "LSD + FM", "lsd-kl": "LSD + KL", "full": "LSD + FM + KL"}
EXAMPLES = """\
examples:
  ldp-fast ablate "a red cube"
  ldp-fast ablate "a red cube" "a blue torus with white stripes" --metric-prompts 24 --out out/ablation

The same command again continues where it was interrupted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="one or several; each is a row of the figure")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where to (default: out/ablation-PROMPT)")
    parser.add_argument(
        "--metric-prompts",
        type=int,
        default=12,
        metavar="N",
        help="random prompts of the embedded model's world that are measured beside the given ones (default: 12)",
    )
    parser.add_argument("--clip", metavar="MODEL", help="CLIP that judges (default: the embedded model's)")
    run = parser.add_argument_group("run")
    run.add_argument("--steps", type=int, help="iterations of each variant (default: the preset's, 1000)")
    run.add_argument("--seed", type=int, default=0, help="the same for every variant (default: 0)")
    run.add_argument("--learning-rate", type=number, metavar="LR", help="of AdamW (default: the preset's, 0.1)")
    run.add_argument("--final-rate", type=number, default=0.1, metavar="F", help="rate left at the end (default: 0.1)")
    run.add_argument("--negative-prompt", default="", metavar="TEXT", help=NEGATIVE)
    run.add_argument("--checkpoint-every", type=int, default=50, metavar="N", help="steps (default: 50)")
    add_prior_arguments(parser, preset="image")


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption."""
    folder = args.out or default_folder(as_typed(args.prompts[0], "prompt"))
    embedded = args.model == "primitives"
    if args.metric_prompts < 0:
        raise UsageError(f"--metric-prompts: expected at least 0, got {args.metric_prompts}")
    rng = np.random.default_rng(args.seed)
    extra = [world.sample_scene(rng).caption() for _ in range(args.metric_prompts)] if embedded else []
    args.prompts, shown = [*args.prompts, *extra], len(args.prompts)
    args.seeds, args.preview = [args.seed], None
    base = configure(args)
    plan = {"configuration": base, "shown": shown}
    if (folder / "ablation.json").exists():
        if files.read_json(folder / "ablation.json")["plan"] != files.plain(plan):
            raise UsageError(f"{folder} holds an ablation with other settings: choose another --out")
    elif folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no ablation: choose another --out")
    # A wrong model or prompt is told before the folder is claimed.
    load_prior(base).encode_prompt(base["prompts"], base["negative_prompt"])
    files.write_json(folder / "ablation.json", {"plan": plan})
    for name in VARIANTS:
        if _finished(folder / name):
            continue
        settings = dict(base["settings"])
        settings["lambda_fm"] = settings["lambda_fm"] if name in ("lsd-fm", "full") else 0.0
        settings["lambda_kl"] = settings["lambda_kl"] if name in ("lsd-kl", "full") else 0.0
        code = synthesize(folder / name, {**base, "settings": settings}, resume="the same command")
        if code:
            return code
    images = {name: _images(folder / name) for name in VARIANTS}
    scorer = ClipScorer.from_pretrained(args.clip or (args.model if embedded else "openai/clip-vit-base-patch32"))
    table = {name: _measure(scorer, images[name], base["prompts"], folder / name) for name in VARIANTS}
    if embedded:
        truth = _renders(base["prompts"], args.seed)
        table["renders"] = _measure(scorer, truth, base["prompts"], None) if truth is not None else {}
    files.write_json(folder / "ablation.json", {"plan": plan, "results": table, "versions": files.versions()})
    files.save_figure(folder / "ablation.png", ablation_figure(images, base["prompts"][:shown], table))
    print(_as_text(table, len(base["prompts"])))
    print(f"{folder / 'ablation.png'} (the figure), {folder / 'ablation.json'} (the numbers)")
    return 0


def default_folder(prompt: str) -> pathlib.Path:
    """`out/ablation-PROMPT`; the one of an earlier version where it holds an ablation of this very prompt."""
    former = pathlib.Path("out") / f"ablation-{former_slug(prompt)}"
    if (former / "ablation.json").exists():
        shown = files.read_json(former / "ablation.json").get("plan", {}).get("configuration", {}).get("prompts")
        if shown and shown[0] == prompt:
            return former
    return pathlib.Path("out") / f"ablation-{name_of(prompt)}"


def _finished(folder: pathlib.Path) -> bool:
    return (folder / "run.json").exists() and files.read_json(folder / "run.json").get("status") == "finished"


def _images(folder: pathlib.Path) -> torch.Tensor:
    """The images of a finished run, `[B, 3, H, W]` in [0, 1], in the order of its prompts."""
    from PIL import Image

    paths = sorted((folder / "images").glob("*.png")) or [folder / "image.png"]
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def _renders(captions: list[str], seed: int) -> torch.Tensor | None:
    """Renders of the truth, one a caption; None where a prompt is no canonical caption of the world."""
    scenes = {scene.caption(): scene for scene in world.all_scenes()}
    if any(caption not in scenes for caption in captions):
        return None
    rng = np.random.default_rng(seed)
    images = np.stack([world.render(scenes[caption], world.sample_view(rng)) for caption in captions])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _measure(
    scorer: ClipScorer, images: torch.Tensor, prompts: list[str], folder: pathlib.Path | None
) -> dict[str, float]:
    pool = [scene.caption() for scene in world.all_scenes()]
    found = {
        "r_precision": float(r_precision(scorer, images, prompts, pool).float().mean()),
        "saturation": float(saturation(images).mean()),
        "clipped": float(clipped_fraction(images).mean()),
    }
    if folder is not None:
        from safetensors.torch import load_file

        history = load_file(folder / "checkpoint.safetensors")["history"]
        found["latent_deviation"] = float(history[-1, HISTORY.index("deviation")])
    return found


def _as_text(table: dict[str, dict[str, float]], count: int) -> str:
    labels = {**VARIANTS, "renders": "renders of the truth"}
    columns = ("r_precision", "saturation", "clipped", "latent_deviation")
    lines = [f"{count} prompts, one image each", f"{'':22}" + "".join(f"{c.replace('_', ' '):>18}" for c in columns)]
    for name, row in table.items():
        cells = "".join(f"{row[c]:>18.3f}" if c in row else f"{'':>18}" for c in columns)
        lines.append(f"{labels[name]:22}{cells}")
    return "\n".join(lines)


def ablation_figure(images: dict[str, torch.Tensor], prompts: list[str], table: dict[str, dict[str, float]]) -> Any:
    """One row a prompt, one column a variant, its measurements under the title."""
    rows, columns = len(prompts), len(VARIANTS)
    figure, axes = files.new_figure(rows, columns, (2.5 * columns, 2.55 * rows + 0.75))
    for column, (name, label) in enumerate(VARIANTS.items()):
        for row, prompt in enumerate(prompts):
            axis = axes[row][column]
            axis.imshow(files.to_pixels(images[name][row : row + 1])[0], interpolation="bicubic")
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(prompt, fontsize=9, wrap=True)
        found = table[name]
        colours = f"saturation {found['saturation']:.2f}, clipped {found['clipped']:.1%}"
        axes[0][column].set_title(f"{label}\nR-Precision {found['r_precision']:.0%}\n{colours}", fontsize=9)
    return figure
