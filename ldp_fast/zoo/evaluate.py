"""Measures an embedded model as its card states it: `python -m ldp_fast.zoo.evaluate`.

VAE: PSNR and the error of the object's average colour on images that training never saw, and how far what lies between
the latents of two flat colours is from the mixture of both. CLIP: retrieval among 99 distractors on renders of the
truth, by the CLIP that conditions the model and by the judge that does not. UNet: the same on 25-step guided samples,
for combinations of attributes that training saw and for those it did not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .._terminal import make_printable
from ..guidance.loading import locate
from ..metrics import ClipScorer, judge_of, r_precision
from . import world

# Far from the seeds of the data set, whose shards use (seed, index).
EVALUATION_SEED = 777_000


def truth(count: int, seed: int, *, held_out: bool | None) -> tuple[torch.Tensor, torch.Tensor, list[world.Scene]]:
    """Renders: images `[N, 3, 128, 128]` in [0, 1], coverage `[N, 1, 128, 128]`, and their scenes."""
    rng = np.random.default_rng(seed)
    images, masks, scenes = [], [], []
    for _ in range(count):
        scene = world.sample_scene(rng, held_out=held_out)
        image, mask = world.render(scene, world.sample_view(rng), mask=True)
        images.append(image)
        masks.append(mask)
        scenes.append(scene)
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return stacked, torch.from_numpy(np.stack(masks))[:, None].float(), scenes


@torch.no_grad()
def evaluate_vae(vae: Any, images: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    """PSNR (of the mean squared error over all images, and the mean over images), and the object's colour error."""
    made = torch.cat([vae.decode(vae.encode(x * 2 - 1).latent_dist.mode()).sample for x in images.split(20)])
    made = (made / 2 + 0.5).clamp(0, 1)
    mse = (made - images).square().mean((1, 2, 3))
    area = masks.sum((2, 3)).clamp(min=1)
    colour = ((made * masks).sum((2, 3)) / area - (images * masks).sum((2, 3)) / area).abs().mean(1)
    return {
        "vae_psnr": float(-10 * mse.mean().log10()),
        "vae_psnr_mean_over_images": float((-10 * mse.log10()).mean()),
        "vae_colour_error": float(colour.mean()),
    }


@torch.no_grad()
def mixture_error(vae: Any, size: int = 128) -> float:
    """How far latents between two flat colours are from the colours' mixture when they are decoded, of full scale.

    The mean absolute error over every pair of the world's colours and a middle grey, a quarter, a half and three
    quarters of the way. A rendered outline, fog and the border of a stripe are such mixtures.
    """
    colours = torch.tensor([*world.COLOURS.values(), (0.5, 0.5, 0.5)])
    flat = colours[:, :, None, None].expand(-1, -1, size, size)
    latents = vae.encode(flat * 2 - 1).latent_dist.mode()
    errors = []
    for first, second in itertools.combinations(range(len(colours)), 2):
        share = torch.tensor([0.25, 0.5, 0.75])[:, None]
        between = share[..., None, None] * latents[first] + (1 - share[..., None, None]) * latents[second]
        shown = (vae.decode(between).sample / 2 + 0.5).mean((2, 3))
        errors.append((shown - (share * colours[first] + (1 - share) * colours[second])).abs().mean())
    return float(torch.stack(errors).mean())


def pipeline_of(folder: str) -> Any:
    """diffusers' own pipeline of a model's folder, in float32."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def sample_batch(
    pipe: Any,
    prompts: list[str],
    *,
    steps: int,
    guidance_scale: float,
    generator: torch.Generator | list[torch.Generator],
) -> torch.Tensor:
    """Guided DDIM samples of a pipeline: `[B, 3, H, W]` in [0, 1]; one generator of the batch, or one a prompt."""
    made = pipe(
        prompts, num_inference_steps=steps, guidance_scale=guidance_scale, generator=generator, output_type="pt"
    )
    return made.images.float()


def sample(folder: str, prompts: list[str], *, steps: int, guidance_scale: float, seed: int) -> torch.Tensor:
    """Guided DDIM samples of diffusers' own pipeline: `[N, 3, H, W]` in [0, 1]."""
    pipe = pipeline_of(folder)
    images = []
    for start in tqdm(range(0, len(prompts), 20), desc="samples", unit="batch"):
        generator = torch.Generator().manual_seed(seed + start)
        chunk = prompts[start : start + 20]
        images.append(sample_batch(pipe, chunk, steps=steps, guidance_scale=guidance_scale, generator=generator))
    return torch.cat(images)


def evaluate(name: str, *, samples: int, steps: int, guidance_scale: float, seed: int = EVALUATION_SEED):
    """Every number of the model card, and the samples they were measured on."""
    from diffusers import AutoencoderKL

    folder = locate(name)
    scorers = {"r_precision": ClipScorer.from_pretrained(name)}
    if judge_of(name) != name:
        scorers["judged"] = ClipScorer.from_pretrained(judge_of(name))
    pool = [scene.caption() for scene in world.all_scenes()]
    images, masks, scenes = truth(samples, seed, held_out=None)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32).eval()
    results = evaluate_vae(vae, images, masks)
    captions = [scene.caption() for scene in scenes]
    results["vae_mixture_error"] = mixture_error(vae)

    def retrieve(what: str, made: torch.Tensor, prompts: list[str]) -> None:
        for kind, scorer in scorers.items():
            results[f"{kind}_{what}"] = float(r_precision(scorer, made, prompts, pool).float().mean())

    retrieve("truth", images, captions)
    grids = {}
    for label, held_out, offset in (("seen", False, 1), ("held_out", True, 2)):
        rng = np.random.default_rng(seed + offset)
        prompts = [world.sample_scene(rng, held_out=held_out).caption() for _ in range(samples)]
        made = sample(folder, prompts, steps=steps, guidance_scale=guidance_scale, seed=seed)
        retrieve(f"samples_{label}", made, prompts)
        grids[label] = (made, prompts)
    return results, grids


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module's text."""
    if arguments is None:
        make_printable()
    parser = argparse.ArgumentParser(prog="python -m ldp_fast.zoo.evaluate", description=__doc__)
    parser.add_argument(
        "--model",
        default="primitives",
        help="an embedded model's name, or a folder with a clip/ inside (default: primitives)",
    )
    parser.add_argument("--samples", type=int, default=200, help="images or prompts of each measurement (default: 200)")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps of a sample (default: 25)")
    parser.add_argument(
        "--guidance-scale",
        type=float,
        default=5.0,
        help="how much more the prompt counts than an empty one (default: 5)",
    )
    parser.add_argument("--out", type=pathlib.Path, help="folder for results.json and pictures of the samples")
    args = parser.parse_args(arguments)
    results, grids = evaluate(args.model, samples=args.samples, steps=args.steps, guidance_scale=args.guidance_scale)
    print(json.dumps(results, indent=2))
    if args.out:
        from PIL import Image

        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        for label, (made, prompts) in grids.items():
            rows = [torch.cat(list(row), 2) for row in made[:48].split(12) if len(row) == 12 or len(made) < 12]
            picture = (torch.cat(rows, 1).permute(1, 2, 0) * 255 + 0.5).clamp(0, 255).byte().numpy()
            Image.fromarray(picture).save(args.out / f"samples_{label}.png")
            (args.out / f"samples_{label}.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
