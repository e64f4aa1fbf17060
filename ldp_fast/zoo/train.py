"""Remakes the embedded model `primitives` from a seed: `python -m ldp_fast.zoo.train --work DIR`.

Stages: data (renders the images), vae, clip, unet, judge (a second CLIP), generator (a StyleGAN2), export (float16
weights, in diffusers' format and for the generator in ours). Each resumes where it was interrupted; a stage that is
finished is skipped unless its output is deleted.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import shutil
from typing import Any

import torch

from ..generators import load, save
from . import world

STAGES = ("data", "vae", "clip", "unet", "judge", "generator", "export")
STEPS = {"vae": 4800, "clip": 1600, "unet": 9000, "judge": 3200, "generator": 6000}
PROMPT_WORDS = "a an photo picture render of with and stripes checkered view"
GUIDANCE_SCALE = 5.0
EDITION = 3  # one more with other weights: runs of another edition are refused
WHENCE = ("_name_or_path", "is_local", "local_files_only")


def portable_keys(path: pathlib.Path) -> None:
    """Puts `text_model.` before the keys of a CLIPTextModel: the names that every transformers reads.

    Transformers dropped the prefix in 5.6. Later versions still take it off; earlier ones find nothing without it.
    """
    from safetensors.torch import load, save_file

    tensors = {f"text_model.{key.removeprefix('text_model.')}": t for key, t in load(path.read_bytes()).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


def export(source: pathlib.Path, target: pathlib.Path) -> None:
    """Writes the model as float16 safetensors in diffusers' format, with the notes the prior reads."""
    from diffusers import AutoencoderKL, UNet2DConditionModel, __version__
    from transformers import CLIPModel, CLIPTextModel

    networks: dict[str, Any] = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}
    for name, cls in networks.items():
        cls.from_pretrained(source / name).half().save_pretrained(target / name)
    towers: dict[str, Any] = {"text_encoder": CLIPTextModel, "clip": CLIPModel, "judge": CLIPModel}
    if not (source / "judge").is_dir():
        del towers["judge"]  # its stage was not asked for
    for name, cls in towers.items():
        cls.from_pretrained(source / name, dtype=torch.float16).save_pretrained(target / name)
    portable_keys(target / "text_encoder" / "model.safetensors")
    if (source / "generator").is_dir():
        save(target / "generator", load(source / "generator"), dtype=torch.float16)
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(source / name, target / name, dirs_exist_ok=True)
    for path in (*target.glob("*/config.json"), target / "tokenizer" / "tokenizer_config.json"):
        # The folder it came from is nobody's business, nor how it was read from there.
        config = {key: value for key, value in json.loads(path.read_text()).items() if key not in WHENCE}
        path.write_text(json.dumps(config, indent=2) + "\n")
    normalisation = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 128}
    for name in towers.keys() - {"text_encoder"}:
        (target / name / "preprocessor_config.json").write_text(json.dumps(normalisation, indent=2) + "\n")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": __version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    words = sorted({*PROMPT_WORDS.split(), *world.SHAPES, *world.COLOURS, *world.VIEWS, *world.HEIGHTS})
    notes = {
        "edition": EDITION,
        "guidance_scale": GUIDANCE_SCALE,
        "prompt_help": (
            f"shapes {', '.join(world.SHAPES)}; colours {', '.join(world.COLOURS)}; 'with blue stripes'; "
            f"'red and blue checkered'; views {', '.join(world.VIEWS)} ('a red cube, side view'), "
            f"and how high the camera stands: {', '.join(world.HEIGHTS)} ('a red cube, low side view')"
        ),
        "heights": world.HEIGHTS,
        "words": words,
    }
    (target / "ldp_fast.json").write_text(json.dumps(notes, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m ldp_fast.zoo.train", description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for data, checkpoints and the result")
    parser.add_argument("--export", type=pathlib.Path, help="folder for the float16 model (default: WORK/primitives)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="which to run (default: all)")
    parser.add_argument(
        "--start",
        type=pathlib.Path,
        metavar="DIR",
        help="a model of this kind, such as an earlier one, whose UNet to start from",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers (default: 0)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    for stage, steps in STEPS.items():
        parser.add_argument(f"--{stage}-steps", type=int, default=steps, help=f"training steps (default: {steps})")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    from . import clip, data, generator, unet, vae

    made = args.work / "full_precision"
    if "data" in args.stages:
        data.make(args.work / "data", args.seed)
    judge = functools.partial(clip.train, name="judge")
    train_unet = functools.partial(unet.train, start=args.start)
    stages: dict[str, Any] = {"vae": vae.train, "clip": clip.train, "unet": train_unet, "judge": judge}
    stages["generator"] = generator.train
    for name, train in stages.items():
        if name in args.stages and not (made / name / "config.json").exists():
            train(args.work, made, seed=args.seed, steps=getattr(args, f"{name}_steps"))
    if "export" in args.stages:
        export(made, args.export or args.work / "primitives")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
