"""`ldp-fast synthesize`: an image from a prompt, by optimising a latent under the prior (paper §5.4)."""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import sys
import time
from typing import Any

import torch
from tqdm import tqdm

from ..errors import UsageError
from ..guidance import TextEmbeddings
from ..guidance.presets import find_preset
from . import files, folders
from .interruption import Interruption
from .latents import HISTORY, LatentOptimiser
from .names import as_typed, name_of
from .options import NEGATIVE, add_prior_arguments, load_prior, number, prior_configuration

EXAMPLES = """\
examples:
  ldp-fast synthesize "a red cube"
  ldp-fast synthesize "a red cube" "a cyan torus with white stripes" --seeds 0 1 2 --out out/grid
  ldp-fast synthesize "a blue cone" --lambda-fm 0 --lambda-kl 0          latent score distillation alone
  ldp-fast synthesize "a photo of an owl" --model stable-diffusion-v1-5/stable-diffusion-v1-5 --device cuda
  ldp-fast synthesize --resume out/grid                                   after an interruption
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="one or several; each is made with each seed")
    folders.add_arguments(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--steps", type=int, help="iterations (default: the preset's, 1000)")
    run.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="default: 0")
    run.add_argument("--learning-rate", type=number, metavar="LR", help="of AdamW (default: the preset's, 0.1)")
    run.add_argument(
        "--final-rate", type=number, default=0.1, metavar="F", help="fraction of it left at the end (default: 0.1)"
    )
    run.add_argument("--negative-prompt", default="", metavar="TEXT", help=NEGATIVE)
    run.add_argument("--checkpoint-every", type=int, default=100, metavar="N", help="steps (default: 100)")
    run.add_argument("--preview", type=int, metavar="N", help="write DIR/preview.png every N steps")
    add_prior_arguments(parser, preset="image")


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption that can be resumed."""
    if args.resume:
        if args.prompts or args.out:
            raise UsageError("--resume takes prompts and everything else from its folder; give it alone")
        folders.refuse_changes(args, ("resume", "preview"))
        folder = args.resume
        record = files.read_json(folder / "run.json")
        if record.get("status") == "finished":
            print(f"{folder} is finished already: {folder / 'image.png'}")
            return 0
        try:
            configuration = record["configuration"]
            return synthesize(folder, configuration, preview=args.preview)
        except KeyError as error:
            raise UsageError(f"{folder / 'run.json'} is damaged: it has no {error}") from None
    configuration = configure(args)
    folder = args.out or pathlib.Path("out") / name_of(configuration["prompts"][0])
    folders.check_free(folder, "run.json", args.overwrite)
    return synthesize(folder, configuration, preview=args.preview, overwrite=args.overwrite)


def configure(args: argparse.Namespace) -> dict[str, Any]:
    """Checks the flags and resolves them to what `run.json` records."""
    if not args.prompts:
        raise UsageError('prompt: expected at least one, such as ldp-fast synthesize "a red cube"')
    preset = find_preset(args.preset)
    steps = preset.iterations if args.steps is None else args.steps
    rate = preset.learning_rate if args.learning_rate is None else args.learning_rate
    for name, value, low in (
        ("--steps", steps, 1),
        ("--checkpoint-every", args.checkpoint_every, 1),
        ("--preview", args.preview, 1),
        ("--seeds", min(args.seeds), 0),
    ):
        if value is not None and value < low:
            raise UsageError(f"{name}: expected at least {low}, got {value}")
    if not rate > 0:
        raise UsageError(f"--learning-rate: expected a positive number, got {rate}")
    if not 0 <= args.final_rate <= 1:
        raise UsageError(f"--final-rate: expected a fraction between 0 and 1, got {args.final_rate}")
    return {
        "prompts": [as_typed(prompt, "prompt") for prompt in args.prompts],
        "negative_prompt": as_typed(args.negative_prompt, "--negative-prompt"),
        "seeds": args.seeds,
        "steps": steps,
        "learning_rate": rate,
        "final_rate": args.final_rate,
        "checkpoint_every": args.checkpoint_every,
        **prior_configuration(args),
    }


def synthesize(
    folder: pathlib.Path,
    configuration: dict[str, Any],
    *,
    preview: int | None = None,
    resume: str | None = None,
    overwrite: bool = False,
) -> int:
    """Runs a configuration in a folder, from its checkpoint if there is one.

    Args:
        folder: where to.
        configuration: as `run.json` records it.
        preview: steps between previews, or None.
        resume: the command that continues, for the message after an interruption.
        overwrite: drop what an earlier run left in the folder, once this one is known to be able to start.

    Returns:
        The exit code: 0, or 130 after an interruption.
    """
    resume = resume or f"ldp-fast synthesize --resume {folder}"
    prior = load_prior(configuration)
    configuration = files.plain(configuration)
    fingerprint = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()
    prompts, seeds, steps = configuration["prompts"], configuration["seeds"], configuration["steps"]
    items = [(prompt, seed) for prompt in prompts for seed in seeds]
    encoded = prior.encode_prompt(prompts, configuration["negative_prompt"] or None)
    rows = torch.arange(len(prompts), device=encoded.text.device).repeat_interleave(len(seeds))
    text: TextEmbeddings = encoded.select(rows)
    optimiser = LatentOptimiser(
        prior,
        text,
        [seed for _, seed in items],
        steps=steps,
        learning_rate=configuration["learning_rate"],
        final_rate=configuration["final_rate"],
    )
    checkpoint = folder / "checkpoint.safetensors"
    if overwrite:
        names = ("checkpoint.safetensors", "run.json", "image.png", "losses.png", "preview.png")
        for path in [*(folder / name for name in names), *(folder / "images").glob("*-seed*.png")]:
            path.unlink(missing_ok=True)
    if checkpoint.exists():
        optimiser.load(checkpoint, fingerprint)
        print(f"continuing {folder} at step {optimiser.step} of {steps}", file=sys.stderr)
    record = {"configuration": configuration, "versions": files.versions(), "guidance_scale": prior.guidance_scale}
    files.write_json(folder / "run.json", {**record, "status": "running", "step": optimiser.step})
    started, first, saved = time.perf_counter(), optimiser.step, -1

    def save(status: str) -> None:
        nonlocal saved
        if optimiser.step > 0 and saved != optimiser.step:
            if not bool(optimiser.latents.isfinite().all()):
                raise folders.diverged(folder, optimiser.step, "the latents are")
            optimiser.save(checkpoint, fingerprint)
            saved = optimiser.step
        seconds = (time.perf_counter() - started) / max(1, optimiser.step - first)
        files.write_json(
            folder / "run.json", {**record, "status": status, "step": optimiser.step, "seconds_per_step": seconds}
        )

    # A job scheduler's SIGTERM is an interruption like Ctrl-C: save, and say how to go on.
    progress = tqdm(total=steps, initial=optimiser.step, desc=folder.name, unit="step")
    with Interruption() as interruption, progress:
        while optimiser.step < steps and not interruption.requested:
            optimiser.advance()
            progress.update()
            if optimiser.step % 10 == 0:
                last = dict(zip(HISTORY, optimiser.latest(), strict=True))
                progress.set_postfix({name: f"{last[name]:.3g}" for name in ("lsd", "fm", "kl")}, refresh=False)
            if optimiser.step % configuration["checkpoint_every"] == 0:
                save("running")
            if preview and optimiser.step % preview == 0:
                files.save_png(folder / "preview.png", files.contact_sheet(optimiser.images(), len(seeds)))
    if interruption.requested and optimiser.step < steps:
        save("interrupted")
        print(f"interrupted at step {optimiser.step}; continue with: {resume}", file=sys.stderr)
        return 130
    # Kept before the decoder runs: it needs the most memory of all.
    save("running")
    images = optimiser.images()
    if len(items) > 1:
        for index, ((prompt, seed), image) in enumerate(zip(items, images, strict=True)):
            files.save_png(folder / "images" / f"{index:03d}-{name_of(prompt)}-seed{seed}.png", image)
    files.save_png(folder / "image.png", files.contact_sheet(images, len(seeds)))
    files.save_figure(folder / "losses.png", loss_figure(optimiser.history))
    save("finished")
    print(f"{folder / 'image.png'} (the picture), {folder / 'losses.png'}, {folder / 'run.json'}")
    return 0


def loss_figure(history: torch.Tensor) -> Any:
    """The three losses, and each term's gradient norm before its λ, over the steps.

    Args:
        history: `[steps, len(HISTORY)]` of a `LatentOptimiser`.
    """
    figure, (axes,) = files.new_figure(1, 2, (11, 3.8))
    steps = range(1, len(history) + 1)
    for name, label in (("lsd", "L_LSD"), ("fm", "L_FM"), ("kl", "L_KL")):
        axes[0].plot(steps, history[:, HISTORY.index(name)], label=label, linewidth=0.9)
        axes[1].plot(steps, history[:, HISTORY.index(f"norm_{name}")], label=label, linewidth=0.9)
    axes[0].set(title="losses (mean-type values)", xlabel="step", yscale="log")
    axes[1].set(title="gradient norms on the latent, before the λ's", xlabel="step", yscale="log")
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    return figure
