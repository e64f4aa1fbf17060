"""Results that nobody measured, for the tests of what is made of results."""

from __future__ import annotations

from typing import Any

from benchmarks.results import Results, Row, empty, merge

RUN = "2026-01-02T03:04:05Z"
ABOUT = {
    "command": "make bench",
    "date": RUN,
    "threads": 2,
    "seconds": 600,
    "versions": {"torch": "2.13.0", "cuda": None},
    "commit": "0123456789",
    "changed": False,
}
CPU = {"slug": "made-up-2-cores", "cpu": "Made Up", "cores": 2, "memory_gib": 8, "bfloat16": True, "gpu": None}
CPU |= {"cpu_capability": "AVX512"}
H200 = CPU | {"slug": "nvidia-h200-16-cores", "gpu": "NVIDIA H200"}


def row(file: str, group: str | None, backend: str, seconds: float | None = None, **extra: Any) -> Row:
    """A measured row, or a skipped one where there are no seconds."""
    made: Row = {"file": f"bench_{file}.py", "test": f"test[{group}-{backend}-{extra}]", "group": group}
    made |= {"backend": backend, "extra": extra}
    if seconds is None:
        return made | {"skipped": extra.get("why", "this machine lacks it")}
    return made | {"min_s": seconds, "median_s": 1.1 * seconds, "rounds": 3}


def decoder_rows(side: int, scale: float, device: str = "cpu") -> list[Row]:
    """Rows of bench_decoder: naive takes `scale` × 10 s."""
    times = {"naive": (10.0, 1000), "truncated, folded": (6.0, 700), "ours, save": (4.0, 400)}
    times |= {"ours, recompute": (5.0, 250), "bare convolutions": (3.0, None)}
    rows = []
    for backend, (seconds, peak) in times.items():
        extra: dict[str, Any] = {"model": "SD 1.5", "side": side, "device": device, "dtype": "float32"}
        extra |= {} if peak is None else {"peak_bytes": peak * 2**20}
        rows.append(row("decoder", f"decoder, SD 1.5 {side}x{side}, {device}", backend, scale * seconds, **extra))
    return rows


def step_rows(device: str) -> list[Row]:
    """Rows of bench_step at 64×64."""
    group = f"step, SD 1.5 64x64, {device}"
    extra = {"model": "SD 1.5", "side": 64, "device": device, "dtype": "bfloat16"}
    rows = [row("step", group, "naive", 0.3, peak_bytes=10 * 2**30, **extra)]
    rows += [row("step", group, "naive, torch.compile", 0.15, peak_bytes=9 * 2**30, **extra)]
    rows += [row("step", group, "ours", 0.12, peak_bytes=3 * 2**30, **extra)]
    rows += [row("step", group, "ours, captured", 0.1, peak_bytes=3 * 2**30, **extra)]
    parts = {"whole": 0.12, "UNet": 0.04, "decoder": 0.06, "losses": 0.01}
    parted = group.replace("step,", "step by parts,")
    return rows + [row("step", parted, part, seconds, **extra) for part, seconds in parts.items()]


def renderer_rows(device: str) -> list[Row]:
    """Rows of bench_renderer."""
    field, step = f"field, forward and backward, 262144 samples, {device}", f"renderer step, 64×64 rays, {device}"
    rows = [row("renderer", field, "eager", 1.6, peak_bytes=1000 * 2**20)]
    rows += [row("renderer", field, "reference", 2.8, peak_bytes=400 * 2**20)]
    rows += [row("renderer", field, "ours", 0.16, peak_bytes=100 * 2**20)]
    rows += [row("renderer", step, "reference", 2.0), row("renderer", step, "ours", 0.1)]
    rows += [row("renderer", step, "ours, captured", 0.001 if device == "cuda" else None)]
    sweep = f"sweep: renderer step over rays, {device}"
    rows += [row("renderer", sweep, "ours", 1e-5 * rays, rays=rays) for rays in (32**2, 64**2)]
    table = f"sweep: field over T, {device}"
    return rows + [row("renderer", table, "ours", 0.01 * log, log2_table_size=log) for log in (14, 15)]


def on_cpu() -> Results:
    """A machine without a GPU."""
    rows = decoder_rows(16, 0.25) + decoder_rows(32, 1.0) + renderer_rows("cpu")
    rows += [row("step", "step, SD 1.5 64x64, cpu", "naive", why="a GPU's size")]
    rows += [row("latent_kl", "latent_kl sd cpu", "eager", 3e-4), row("latent_kl", "latent_kl sd cpu", "ours", 1e-4)]
    rows += [row("latent_kl", "latent_kl sd cpu", "compile", why="no compiler")]
    return merge(empty(CPU), rows, RUN, ABOUT, CPU)


def on_h200() -> Results:
    """A machine with the GPU that the goals are about."""
    rows = step_rows("cuda") + renderer_rows("cuda") + decoder_rows(64, 0.01, "cuda")
    group = "feature_matching SD 1.5, 64x64, batch 1 torch.bfloat16"
    rows += [row("feature_matching", group, "ldp_fast", 1e-3, least_bytes=850)]
    rows += [row("feature_matching", group, "copy", 1e-3, least_bytes=1000)]
    return merge(empty(H200), rows, RUN, ABOUT | {"command": "make gpu"}, H200)
