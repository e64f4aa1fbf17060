"""What a run leaves: pictures before and after, samples, a film, the generator, and its losses as a figure."""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...generators import StyleGAN2, sampling, save
from ...runs import files, image_files
from ...runs.experiment import Products
from ...runs.films import require_mp4, write_gif, write_mp4
from ...runs.seeds import mixed_generator
from .. import samples
from ..adapted import root_of
from .configuration import Adaptation, ClipGuided

if TYPE_CHECKING:
    from .experiment import AdaptExperiment

RESULT = "before_after.png"
SAMPLES = "samples"
COLUMNS = 8
# Pixels per side that a picture has in a sheet or a film: smaller ones are enlarged by whole numbers, larger ones
# shrunk. Samples keep their size.
SMALLEST, LARGEST = 128, 256
# Loops that a film shows side by side, and how often the fastest part of each goes round.
LOOPS, WAVES, FPS = 4, 2, 24


def of(experiment: AdaptExperiment, folder: pathlib.Path) -> Products:
    """What is made of a finished run, see `Experiment.products`."""
    c, source = experiment.configuration, experiment.pair.source
    result = functools.cache(experiment.pair.result)
    found: dict[str, Any] = {
        "generator": lambda: write_generator(result(), c, experiment.step, folder),
        "pictures": lambda: write_before_after(source, result(), c, folder),
        "samples": lambda: write_samples(result(), c, folder),
        "losses": lambda: write_losses(experiment, folder),
        "film": lambda: write_film(source, result(), c, folder),
    }
    if not c.samples:
        del found["samples"]
    return found


def sized(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, R, R] as large as sheets and films show them."""
    side = pictures.shape[-1]
    if side > LARGEST:
        return F.interpolate(pictures, (LARGEST, LARGEST), mode="bilinear", antialias=True).clamp(0, 1)
    times = max(1, SMALLEST // side)
    return pictures.repeat_interleave(times, 2).repeat_interleave(times, 3)


def before_after(source: Any, adapted: Any, configuration: Adaptation, columns: int = COLUMNS) -> Tensor:
    """The same z above one another: the source's row, and the adapted generator's, [3, 2·H, columns·W] in [0, 1].

    Args:
        source, adapted: the generators.
        configuration: of the run, whose seed says which z: the first of the samples.
        columns: how many.
    """
    z = sampling.latents(configuration.seed, 0, columns, source.z_dim)
    return image_files.contact_sheet(torch.cat([_shown(g, z, configuration) for g in (source, adapted)]), columns)


def _shown(generator: Any, z: Tensor, configuration: Adaptation) -> Tensor:
    return sized(sampling.pictures(generator, z, configuration.sample_truncation))


def write_before_after(source: Any, adapted: Any, c: Adaptation, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `before_after.png`."""
    image_files.save_png(folder / RESULT, before_after(source, adapted, c))
    return [folder / RESULT]


def write_samples(adapted: Any, c: Adaptation, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `samples/000000.png` and so on, the pictures of `ldp-fast generate` with the run's seed."""
    wanted = samples.Wanted(c.samples, c.sample_truncation, c.seed)
    return samples.fill(adapted, wanted, folder / SAMPLES, str(folder), label=SAMPLES)


def write_generator(adapted: Any, c: Adaptation, steps: int, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `generator/`, which `ldp-fast generate` and `--generator` take; another generator's tensors alone."""
    if isinstance(adapted, StyleGAN2):
        return save(folder / "generator", adapted, about=about(adapted, c, steps))
    from safetensors.torch import save as as_bytes

    path = folder / "generator" / "state_dict.safetensors"
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in adapted.state_dict().items()}
    files.write_atomically(path, as_bytes(tensors))
    return [path]


def about(adapted: StyleGAN2, c: Adaptation, steps: int) -> dict[str, Any]:
    """What the adapted generator's file says of itself."""
    before = {name: x for name, x in adapted.about.items() if name != "adapted"}
    said = {"prompt": c.prompt, "guidance": c.guidance, "model": c.model, "steps": steps, "seed": c.seed}
    if isinstance(c, ClipGuided):
        del said["model"]
        said |= {"clips": [name for name, _ in c.clips], "source_prompt": c.source_prompt}
    # As it is known now: what lies between them may be moved or removed.
    former: Any = adapted.about.get("adapted")
    known = former.get("root") if isinstance(former, dict) else None  # or whatever somebody has written there
    root = known if isinstance(known, str) and known else root_of(c.generator)
    return {**before, "adapted": {**said, "from": c.generator, **({"root": root} if root else {})}}


def loop(seed: int, number: int, frames: int, z_dim: int) -> Tensor:
    """z's [frames, z_dim] on a closed curve that is smooth, each of them N(0, 1) like any other z.

    Args:
        seed: of the run.
        number: of the loop.
        frames: how many.
        z_dim: numbers of a z.
    """
    # Of three numbers; a sample's z is of four, whose third is 0.
    generator = mixed_generator(seed, number, 1)
    waves = torch.randn(2, WAVES, z_dim, generator=generator) / math.sqrt(WAVES)
    angles = 2 * math.pi * torch.arange(frames)[:, None] / frames * torch.arange(1, WAVES + 1)
    return angles.cos() @ waves[0] + angles.sin() @ waves[1]


def frames_of(source: Any, adapted: Any, c: Adaptation) -> list[Any]:
    """The film's frames, uint8 [H, W, 3]: loops side by side, the source above and the adapted generator below."""
    from tqdm import tqdm

    z = torch.stack([loop(c.seed, number, c.frames, source.z_dim) for number in range(LOOPS)], 1)
    return [
        image_files.to_pixels(
            image_files.contact_sheet(torch.cat([_shown(g, z[frame], c) for g in (source, adapted)]), LOOPS)[None]
        )[0]
        for frame in tqdm(range(c.frames), desc="interpolation", unit="frame")
    ]


def write_film(source: Any, adapted: Any, c: Adaptation, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `interpolation.mp4`, a closed loop through z, and every second frame of it as `interpolation.gif`.

    Raises:
        ModuleNotFoundError, UsageError: see `require_mp4`.
    """
    require_mp4()
    frames = frames_of(source, adapted, c)
    write_mp4(folder / "interpolation.mp4", frames, FPS)
    write_gif(folder / "interpolation.gif", frames[::2], FPS // 2)
    return [folder / "interpolation.mp4", folder / "interpolation.gif"]


def write_losses(experiment: AdaptExperiment, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `losses.png`."""
    found = loss_figure(experiment.history, experiment.columns, experiment.losses)
    image_files.save_figure(folder / "losses.png", found)
    return [folder / "losses.png"]


def loss_figure(history: Tensor, columns: Sequence[str], losses: Sequence[str]) -> Any:
    """The losses, and the norms of gradients, over the steps.

    Args:
        history: [steps, len(columns)].
        columns: what is in it.
        losses: which of them are losses; those that are 0 throughout are left out.
    """
    norms = [name for name in columns if name.startswith("norm_") or name == "gradient_norm"]
    figure, (axes,) = image_files.new_figure(1, 2, (11, 3.8))
    steps = range(1, len(history) + 1)
    for axis, names, title in (
        (axes[0], losses, "losses"),
        (axes[1], norms, "norms of gradients (of the terms before their weights)"),
    ):
        shown = [name for name in names if bool((history[:, columns.index(name)] != 0).any())]
        for name in shown:
            axis.plot(steps, history[:, columns.index(name)], label=name, linewidth=0.9)
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
        if shown:
            axis.legend()
    return figure
