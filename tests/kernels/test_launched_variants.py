"""What the launchers choose by size, dtype and options compiles to clean machine code: no spills, no narrow accesses.

Triton's versions and its assembler's allocate registers differently, and spills begin where a thread holds most: the
blocks at which a launcher changes its way, and every mixture of precisions that a step has. The launchers run as they
would on a GPU; each launch ends where the binary is ready. How often each tensor is read is the other files' subject.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.machine_code import ARCHITECTURES, codes, needs_compiler
from tests.kernels.test_feature_matching_compiled import Binaries, Compiled, Driver

pytestmark = needs_compiler()

MODULES = (
    "combine_gradients",
    "feature_matching",
    "group_norm_moments",
    "group_norm_silu",
    "guided_residual",
    "latent_kl",
    "perp_neg_residual",
    "perturb",
    "residual_latents",
    "score_distillation",
)
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
DTYPES = (HALF, BRAIN, SINGLE)
# Of samples of four channels and width 64: 256 elements, which are few; 4096, as many as 8 a thread; two sizes that are
# held whole by more a thread; and one that is read in chunks.
HEIGHTS = (1, 16, 32, 64, 96)
# Of the latents, and of what the networks give: a step keeps latents in float32 beside networks of any precision.
PRECISIONS = ((HALF, HALF), (BRAIN, BRAIN), (SINGLE, SINGLE), (SINGLE, HALF), (SINGLE, BRAIN))

Launchers = dict[str, Any]


@pytest.fixture(params=ARCHITECTURES, ids=lambda number: f"sm_{number}")
def launchers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Launchers, Binaries]]:
    """The modules with launchers, by name, and where their binaries go."""
    from triton.runtime import driver

    modules = {name: importlib.import_module(f"ldp_fast.kernels.{name}") for name in MODULES}
    binaries: Binaries = {}
    for module in modules.values():
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            kernel = getattr(module, name)
            kernel.device_caches.clear()
            monkeypatch.setattr(module, name, Compiled(kernel, binaries))
    # Not `set_active`: undoing that would look for a GPU.
    monkeypatch.setattr(driver, "_active", Driver(request.param))
    yield modules, binaries
    assert binaries, "nothing was launched"


def check(binaries: Binaries, *, wide: bool = True) -> None:
    for code in codes(binaries).values():
        assert code.local_accesses() == 0, f"{code.name} spills: {code.local_accesses()} accesses of local memory"
        # What joins the sums of a group reads weights of as few channels as the group has.
        if wide and not code.name.endswith("reduce_kernel"):
            for bits in (8, 16):
                assert code.global_loads(bits) == code.global_stores(bits) == 0, (code.name, code.opcodes)


def streams_share_nothing(binaries: Binaries) -> None:
    for name in ("silu", "silu_bwd"):
        assert binaries[f"group_norm_{name}_kernel"].metadata.shared == 0, name


def latents(height: int, dtype: torch.dtype, rows: int = 2, width: int = 64) -> Tensor:
    return torch.zeros(rows, 4, height, width, dtype=dtype)


def numbers(*shape: int) -> Tensor:
    return torch.zeros(shape or (2,))


def reduce(modules: Launchers, height: int, dtype: torch.dtype, network: torch.dtype, width: int = 64) -> None:
    x, prediction = latents(height, dtype, width=width), latents(height, network, width=width)
    out, count = latents(height, SINGLE, width=width), torch.zeros(2, dtype=torch.int32)
    modules["latent_kl"].latent_kl(numbers(), numbers(), numbers(), count, x, True)
    modules["score_distillation"].score_distillation(numbers(), count, x, prediction, numbers(), True)
    modules["perp_neg_residual"].perp_neg_residual(
        out, numbers(2, 3), latents(height, network, rows=10, width=width), x, numbers(2, 3), numbers(), x,
        numbers(), numbers(), prediction="v_prediction",
    )  # fmt: skip
    modules["combine_gradients"].combine_gradients(
        out, numbers(8, 2), torch.zeros(3, 2, dtype=torch.int32), x, out, prediction, prediction, numbers(), numbers(),
        1.0, 1.0, 1.0, numbers(), numbers(), numbers(), zero_nonfinite=True,
    )  # fmt: skip


# Spills begin with the largest, whose uniform float16 and float32 are in test_compiled.py.
@pytest.mark.parametrize(
    "height, dtype, network",
    [
        *((height, HALF, HALF) for height in HEIGHTS[:3]),
        *((height, dtype, BRAIN) for height in HEIGHTS[3:] for dtype in (BRAIN, SINGLE)),
    ],
    ids=str,
)
def test_reductions_of_every_size(
    launchers: tuple[Launchers, Binaries], height: int, dtype: torch.dtype, network: torch.dtype
) -> None:
    modules, binaries = launchers
    reduce(modules, height, dtype, network)
    check(binaries)


def test_reductions_of_unaligned_samples(launchers: tuple[Launchers, Binaries]) -> None:
    modules, binaries = launchers
    reduce(modules, 63, SINGLE, BRAIN, width=63)
    check(binaries, wide=False)


def test_options_of_the_combination(launchers: tuple[Launchers, Binaries]) -> None:
    modules, binaries = launchers
    x = latents(64, BRAIN)
    count, every = torch.zeros(3, 2, dtype=torch.int32), Binaries()
    for grads in ((None, None), (x, None), (None, x)):
        for literal in (False, True):
            modules["combine_gradients"].combine_gradients(
                latents(64, SINGLE), numbers(8, 2), count, x, latents(64, SINGLE), *grads, numbers(), numbers(),
                1.0, 1.0, 1.0, literal=literal,
            )  # fmt: skip
            every |= {f"{len(every)} {name}": binary for name, binary in binaries.items()}
    assert len(every) == 6
    check(every)


@pytest.mark.parametrize("dtype, network", PRECISIONS, ids=str)
def test_streams_of_every_precision(
    launchers: tuple[Launchers, Binaries], dtype: torch.dtype, network: torch.dtype
) -> None:
    modules, binaries = launchers
    x, prediction, out = latents(64, dtype), latents(64, network), latents(64, SINGLE)
    modules["perturb"].perturb(latents(64, network, rows=6), x, x, numbers(), numbers(), 3)
    modules["guided_residual"].guided_residual(
        out, latents(64, network, rows=4), x, numbers(), prediction, numbers(), numbers(), prediction="v_prediction"
    )
    modules["residual_latents"].residual_latents(prediction, x, out, numbers())
    modules["residual_latents"].residual_latents_backward(x, prediction, numbers())
    modules["latent_kl"].latent_kl_backward(x, numbers(), x, numbers(), numbers(), True)
    modules["score_distillation"].score_distillation_backward(x, numbers(), out, numbers(), zero_nonfinite=True)
    assert len(binaries) == 6
    check(binaries)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_many_levels_as_a_launch_takes(launchers: tuple[Launchers, Binaries], dtype: torch.dtype) -> None:
    modules, binaries = launchers
    module, levels = modules["feature_matching"], modules["feature_matching"].MAX_LEVELS
    rows = [torch.zeros(2, 8192, dtype=dtype) for _ in range(levels)]
    words = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    signs = torch.zeros(2 * levels, 2048 // dtype.itemsize, dtype=words)
    counts = torch.zeros(levels, 2, dtype=torch.int32)
    module.forward(numbers(1), numbers(levels, 2), counts, signs, rows, rows, "mean", "mean", "zero", True)
    module.backward([*rows, *rows], numbers(1), signs, [8192] * levels, 2, dtype, "mean", "mean", False, True, True)
    assert len(binaries) == 3
    check(binaries)


# SD 1.5's widest, and what the other file has not: weights of another precision, a program's 64 channels and fewer,
# rows that begin within the period of the channels, and channels in no multiples.
@pytest.mark.parametrize(
    ("channels", "groups", "dtype", "of_constants"),
    [
        (512, 32, BRAIN, BRAIN),
        (512, 32, BRAIN, SINGLE),
        (64, 32, HALF, HALF),
        (8, 2, BRAIN, BRAIN),
        (640, 32, BRAIN, BRAIN),
        (24, 3, SINGLE, SINGLE),
        (33, 11, BRAIN, BRAIN),
    ],
    ids=str,
)
def test_group_norm_of_any_channels(
    launchers: tuple[Launchers, Binaries], channels: int, groups: int, dtype: torch.dtype, of_constants: torch.dtype
) -> None:
    modules, binaries = launchers
    x = torch.zeros(2, channels, 64, 64, dtype=dtype).contiguous(memory_format=torch.channels_last)
    moments, weight = torch.zeros(2, 2, groups), torch.zeros(channels, dtype=of_constants)
    words = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    signs = torch.zeros(-(-channels * 4096 // 8192), 2048 // dtype.itemsize, dtype=words)
    modules["group_norm_moments"].moments(*moments, x, groups, 1e-6)
    modules["group_norm_silu"].forward(x, x, *moments, weight, weight, True)
    modules["group_norm_silu"].backward(x, x, x, *moments, weight, weight, True, x, signs, 0.5)
    check(binaries, wide=channels % 8 == 0)
    streams_share_nothing(binaries)


@pytest.mark.parametrize("dtype", (BRAIN, SINGLE), ids=str)
def test_group_norm_without_its_parts(launchers: tuple[Launchers, Binaries], dtype: torch.dtype) -> None:
    modules, binaries = launchers
    x = torch.zeros(2, 128, 64, 64, dtype=dtype).contiguous(memory_format=torch.channels_last)
    modules["group_norm_silu"].forward(x, x, *torch.zeros(2, 2, 32), None, None, False)
    modules["group_norm_silu"].backward(x, x, x, *torch.zeros(2, 2, 32), None, None, False)
    check(binaries)
    streams_share_nothing(binaries)


def test_every_module_of_kernels_is_here() -> None:
    from importlib.resources import files

    written = {file.name.removesuffix(".py") for file in files("ldp_fast.kernels").iterdir() if file.name[0] != "_"}
    assert written - {"__pycache__"} == set(MODULES)
