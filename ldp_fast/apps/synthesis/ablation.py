"""`ldp-fast ablate`: the paper's ablation (Fig. 7) as one figure: LSD, LSD+FM, LSD+KL and all three, same seed."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

import numpy as np
import torch

from ...errors import UsageError
from ...metrics import ClipScorer, clipped_fraction, judge_of, r_precision, saturation
from ...runs import checkpoints, files, flags, image_files
from ...runs.folder import finished
from ...runs.loop import Options
from ...runs.names import as_typed, former_slug, name_of
from ...zoo import world
from ..config_flag import add_config_flag
from ..hub import reachable
from ..options import GROUPS, RUN, load_prior
from ..targets import check_writable
from ..unquoted import add_each_word, check_quotes
from ..variants import VARIANTS, switched_off
from .command import configure
from .configuration import PRESET, Synthesis
from .expected import check_fits
from .latents import HISTORY
from .run import FORMER_CHECKPOINT, synthesize

OPENAI = "openai/clip-vit-base-patch32"
# Steps, of a run whose variants are short.
CHECKPOINT_EVERY = 50
EXAMPLES = """\
examples:
  ldp-fast ablate "a red cube"
  ldp-fast ablate "a red cube" "a blue torus with white stripes" --metric-prompts 24 --out out/ablation
  ldp-fast ablate cube torus --each-word                                   two prompts of one word each

The same command again continues where it was interrupted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "prompts", nargs="+", metavar="PROMPT", help="one or several, each in quotes; each is a row of the figure"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="DIR", help="folder to write to (default: out/ablation-PROMPT)"
    )
    parser.add_argument(
        "--metric-prompts",
        type=int,
        default=12,
        metavar="N",
        help="random prompts that are measured as well, but not shown; embedded model only (default: 12)",
    )
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        help=f"CLIP model that compares pictures with prompts (default: the embedded model's judge, else {OPENAI})",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed, the same for every variant (default: 0)"
    )
    add_each_word(parser)
    add_config_flag(parser)
    unless = {"checkpoint_every": CHECKPOINT_EVERY, "preset": PRESET}
    flags.add_flags(parser, Synthesis, {RUN: None, **GROUPS}, without=("seeds", "keep"), defaults=unless)


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption."""
    check_quotes("ablate", args.prompts, args.each_word)
    folder = args.out or default_folder(as_typed(args.prompts[0], "prompt"))
    model = getattr(args, "model", "primitives")
    embedded = model == "primitives"
    if args.seed < 0:
        raise UsageError(f"--seed: expected a whole number of at least 0, got {args.seed}")
    if args.print_config:
        raise UsageError("--print-config: an ablation has four configurations: see ldp-fast synthesize --print-config")
    if args.metric_prompts < 0:
        raise UsageError(f"--metric-prompts: expected at least 0, got {args.metric_prompts}")
    rng = np.random.default_rng(args.seed)
    extra = [world.sample_scene(rng).caption() for _ in range(args.metric_prompts)] if embedded else []
    shown = len(args.prompts)
    every = getattr(args, "checkpoint_every", CHECKPOINT_EVERY)
    base = configure(args, prompts=[*args.prompts, *extra], seeds=[args.seed], checkpoint_every=every)
    prompts, plan = base.prompts, {"configuration": base.plain(), "shown": shown}
    if (folder / "ablation.json").exists():
        held = files.read_json(folder / "ablation.json").get("plan")
        if _relevant(held) == _relevant(plan):
            base = flags.from_file(Synthesis, held["configuration"], folder / "ablation.json")
        else:
            raise UsageError(f"{folder} holds an ablation with other settings: choose another --out")
    elif folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and does not hold an ablation: choose another --out")
    check_writable(folder)
    # A wrong model, prompt or judge is told before the folder is claimed.
    prior = load_prior(base)
    prior.encode_prompt(prompts, base.negative_prompt)
    check_fits(base, prior)
    clip = args.clip or (judge_of(model) if embedded else OPENAI)
    scorer = ClipScorer.from_pretrained(reachable("--clip", clip, "config.json"))
    scorer.clip.require_fits(prompts)
    files.write_json(folder / "ablation.json", {"plan": plan})
    for name in VARIANTS:
        if finished(folder / name):
            continue
        settings = dataclasses.replace(base.settings, **switched_off(name))
        configuration = dataclasses.replace(base, settings=settings)
        code = synthesize(folder / name, configuration, Options(resume="the same command"))
        if code:
            return code
    images = {name: _images(folder / name) for name in VARIANTS}
    table = {name: _measure(scorer, images[name], prompts, folder / name) for name in VARIANTS}
    if embedded:
        truth = _renders(prompts, args.seed)
        table["renders"] = _measure(scorer, truth, prompts, None) if truth is not None else {}
    files.write_json(folder / "ablation.json", {"plan": plan, "results": table, "versions": files.versions()})
    image_files.save_figure(folder / "ablation.png", ablation_figure(images, prompts[:shown], table))
    print(_as_text(table, len(prompts)))
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


def _relevant(plan: Any) -> Any:
    """A plan without what the result does not depend on; plans of earlier versions named no device and no dtype."""
    if not isinstance(plan, dict) or not isinstance(plan.get("configuration"), dict):
        return None
    ignored = ("checkpoint_every", "keep", "device", "dtype")
    kept = {name: value for name, value in plan["configuration"].items() if name not in ignored}
    return {**plan, "configuration": kept}


def _images(folder: pathlib.Path) -> torch.Tensor:
    """The images of a finished run, `[B, 3, H, W]` in [0, 1], in the order of its prompts."""
    paths = sorted((folder / "images").glob("*.png")) or [folder / "image.png"]
    return image_files.read_images(paths)


def _renders(captions: list[str], seed: int) -> torch.Tensor | None:
    """Renders of the truth, one a caption; None where a prompt is not a canonical caption of the world."""
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

        found_steps = checkpoints.steps(folder)
        path = checkpoints.path_of(folder, found_steps[-1]) if found_steps else folder / FORMER_CHECKPOINT
        history = load_file(path)["history"]
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
    figure, axes = image_files.new_figure(rows, columns, (2.5 * columns, 2.55 * rows + 0.75))
    for column, (name, label) in enumerate(VARIANTS.items()):
        for row, prompt in enumerate(prompts):
            axis = axes[row][column]
            axis.imshow(image_files.to_pixels(images[name][row : row + 1])[0], interpolation="bicubic")
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(prompt, fontsize=9, wrap=True)
        found = table[name]
        colours = f"saturation {found['saturation']:.2f}, clipped {found['clipped']:.1%}"
        axes[0][column].set_title(f"{label}\nR-Precision {found['r_precision']:.0%}\n{colours}", fontsize=9)
    return figure
