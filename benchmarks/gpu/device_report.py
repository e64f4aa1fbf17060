"""The first seconds on a GPU: what the machine is, and one call of every operator, forward and backward.

    python -m benchmarks.gpu.device_report [FILE]

Each call is tried by itself, at a small size, with what it says kept as a line; the exit code is 1 if one raised, gave
numbers that are not finite, or is far from the CPU's. What an operator computes exactly is for the tests.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import lines, machine, rehearsal
from ldp_fast import env_report, losses
from ldp_fast.nerf import Cameras, FusedAdam, HashGrid, LatentField, LatentRenderer, OccupancyGrid
from tests.support import samples

# Of the CPU's result in the same precision: a wrong kernel is far beyond it.
NEAR = 1e-2

Call = Callable[[str], list[Tensor]]


def loss_call(name: str) -> Call:
    """An operator of the losses, and its gradient where it has one."""

    def call(device: str) -> list[Tensor]:
        inputs = samples.inputs(name, device=device)
        if name in samples.DIFFERENTIABLE:
            inputs["latents"].requires_grad_()
        result = getattr(losses, name)(**inputs)
        results = [r for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, Tensor)]
        if name in samples.DIFFERENTIABLE:
            results.append(torch.autograd.grad(results[0].sum(), inputs["latents"])[0])
        return results

    return call


def features(device: str) -> list[Tensor]:
    """Feature matching and its gradients."""
    draw = torch.Generator().manual_seed(0)
    pair = [[torch.randn(1, 32, 8, 8, generator=draw).to(device).requires_grad_()] for _ in range(2)]
    loss = losses.feature_matching_loss(*pair)
    return [loss, *torch.autograd.grad(loss.sum(), [pair[0][0], pair[1][0]])]


def normalised(device: str) -> list[Tensor]:
    """Group norm and SiLU, and the gradient."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=draw).to(device) for s in ((2, 32, 8, 8), (32,), (32,)))
    x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    mean, rstd = torch.ops.ldp_fast.group_norm_moments(x.detach(), 8, 1e-6)
    out = torch.ops.ldp_fast.group_norm_silu(x, mean, rstd, weight, bias, True)
    return [mean, rstd, out, torch.autograd.grad(out.square().sum(), x)[0]]


def renderer(device: str) -> LatentRenderer:
    """A small renderer, the same numbers on every device."""
    torch.manual_seed(0)
    field = LatentField(HashGrid(n_levels=4, log2_table_size=12))
    nn.init.normal_(field.grid.table, std=0.3)
    return LatentRenderer(field, OccupancyGrid(resolution=16), steps_per_ray=16).to(device)


def encoding(device: str) -> list[Tensor]:
    """The hash grid and its gradients."""
    torch.manual_seed(0)
    grid = HashGrid(n_levels=4, log2_table_size=12)
    nn.init.normal_(grid.table)
    positions = torch.rand(256, 3).mul(2).sub(1).to(device)
    grid = grid.to(device)
    out = grid(positions)
    return [out, *torch.autograd.grad(out.square().sum(), list(grid.parameters()))]


def occupancy(device: str) -> list[Tensor]:
    """An update of the occupancy grid."""
    made = renderer(device)
    made.occupancy.update(made.field)
    return [made.occupancy.average]


def rendering(device: str) -> list[Tensor]:
    """March, field, compositing, and all their gradients."""
    made = renderer(device)
    seed = torch.tensor([7], device=device)
    out = made(Cameras.orbit([0.0], 25.0).to(device), 8, 8, seed=seed)
    gradients = torch.autograd.grad(out.latents.square().sum() + out.opacity.sum(), list(made.parameters()))
    return [out.latents, out.opacity, *gradients]


def optimiser(device: str) -> list[Tensor]:
    """A step of the fused Adam."""
    parameter = nn.Parameter(torch.linspace(-1, 1, 1000).to(device))
    adam = FusedAdam([parameter], lr=0.1)
    parameter.grad = parameter.detach().clone()
    adam.step()
    return [parameter.detach()]


CALLS: dict[str, Call] = {
    **{name: loss_call(name) for name in samples.OPERATORS},
    "feature_matching": features,
    "group_norm_silu": normalised,
    "hash_grid": encoding,
    "occupancy": occupancy,
    "march_rays, latent_field, composite": rendering,
    "fused_adam": optimiser,
}


def far(ours: list[Tensor], wanted: list[Tensor]) -> str:
    """What is wrong with results, compared with a CPU's; empty if nothing is."""
    for index, (a, b) in enumerate(zip(ours, wanted, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"result {index}: {list(a.shape)} {a.dtype}, expected {list(b.shape)} {b.dtype}"
        if a.is_meta:
            continue
        a, b = a.detach().double().cpu(), b.detach().double()
        if not a.isfinite().all():
            return f"result {index} is not finite"
        error = float((a - b).norm() / b.norm().clamp(min=1e-12))
        if error > NEAR:
            return f"result {index}: relative error {error:.2g} against the CPU"
    return ""


def lost() -> bool:
    """Whether the device is gone for this process: after an illegal access every call raises."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def report(device: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A line for each call: `call`, `ms` (of the first, compilation included), `wrong`, and `lost` with the device."""
    for name in names:
        line: dict[str, Any] = {"call": name, "wrong": ""}
        begun = time.perf_counter()
        try:
            ours = CALLS[name](device)
            if device == "cuda":
                torch.cuda.synchronize()
            line["ms"] = round((time.perf_counter() - begun) * 1e3, 1)
            line["wrong"] = far(ours, CALLS[name]("cpu"))
        except Exception as error:  # whatever it is, the next call is tried
            line["wrong"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        line["lost"] = bool(line["wrong"]) and lost()
        yield line


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="file to write the lines to (default: none)")
    parser.add_argument(
        "--calls", nargs="+", choices=CALLS, help="make only these calls, and add them to the end of the file"
    )
    options = parser.parse_args(arguments)
    file = options.file or Path("/dev/null")
    if options.calls is None:
        about = {"machine": machine.slug(), "environment": env_report.collect(), "versions": machine.versions()}
        print(env_report.as_text(about["environment"]), flush=True)
        file.write_text("")
        lines.add(file, about)
    names = list(options.calls or CALLS)
    with rehearsal():
        return try_all(names, file)


def try_all(names: Sequence[str], file: Path) -> int:
    """Adds a line for every call to a file; returns the exit code."""
    wrong = 0
    for index, line in enumerate(report(machine.default_device(), names), 1):
        lines.add(file, line)
        wrong += bool(line["wrong"])
        print(f"  {line['call']:<36} {line['wrong'] or 'good'}", flush=True)
        if line["lost"] and names[index:]:
            # The others in a new process, which has a device again.
            command = [sys.executable, "-m", "benchmarks.gpu.device_report", str(file), "--calls", *names[index:]]
            return 1 | subprocess.run(command).returncode
    print(f"{wrong} of {len(names)} calls are wrong" if wrong else f"{len(names)} calls, all good")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
