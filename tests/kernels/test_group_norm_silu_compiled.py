"""The machine code of the group norm kernels for GPUs that need not be there: wide accesses, no spills.

The launchers run as they would on a GPU; each launch ends where the binary is ready.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.kernels.machine_code import ARCHITECTURES, MachineCode, codes, needs_compiler
from tests.kernels.test_feature_matching_compiled import Binaries, Compiled, Driver

pytestmark = needs_compiler()

Launch = Callable[..., Binaries]
SUMS, REDUCTIONS = ("moments", "silu_bwd_sums"), ("moments_reduce", "silu_bwd_reduce")
STREAMS = ("silu", "silu_bwd")


@pytest.fixture(params=ARCHITECTURES, ids=lambda number: f"sm_{number}")
def launch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Runs the three launchers and returns the binaries by kernel name."""
    from triton.runtime import driver

    from ldp_fast.kernels import group_norm_moments, group_norm_silu

    binaries: Binaries = {}
    for module in (group_norm_moments, group_norm_silu):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            kernel = getattr(module, name)
            kernel.device_caches.clear()
            monkeypatch.setattr(module, name, Compiled(kernel, binaries))

    def run(
        channels: int, dtype: torch.dtype, *, groups: int = 32, everything: bool = False, pixels: int = 4096
    ) -> Binaries:
        x = torch.zeros(2, channels, pixels, 1, dtype=dtype).contiguous(memory_format=torch.channels_last)
        moments, weight = torch.zeros(2, 2, groups), torch.zeros(channels, dtype=dtype)
        words = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
        signs = torch.zeros(-(-channels * pixels // 8192), 2048 // dtype.itemsize, dtype=words)
        group_norm_moments.moments(*moments, x, groups, 1e-6)
        group_norm_silu.forward(x, x, *moments, weight, weight, True)
        more = (x, signs, 0.5) if everything else ()
        group_norm_silu.backward(x, x, x, *moments, weight, weight, True, *more)
        assert len(binaries) == 6
        return dict(binaries)

    # Not `set_active`: undoing that would look for a GPU.
    monkeypatch.setattr(driver, "_active", Driver(request.param))
    return run


def parts(binaries: Binaries) -> dict[str, MachineCode]:
    """The machine code of each kernel, by what is its own in the name."""
    return codes({name.removeprefix("group_norm_").removesuffix("_kernel"): one for name, one in binaries.items()})


# Each takes seconds to compile: every number of channels, the narrowest and the widest in both sizes of elements.
@pytest.mark.parametrize(
    ("channels", "dtype"),
    [
        (128, torch.float16),
        (128, torch.float32),
        (256, torch.bfloat16),
        (512, torch.float16),
        (512, torch.float32),
    ],
    ids=str,
)
def test_images_move_in_128_bits_and_nothing_spills(launch: Launch, channels: int, dtype: torch.dtype) -> None:
    code = parts(launch(channels, dtype))
    # 64 elements of an image a thread: of weight and bias as many as fit, 8 or 4 each.
    accesses, of_constants = 4 * dtype.itemsize, 2
    for name in (*SUMS, *STREAMS, *REDUCTIONS):
        assert code[name].local_accesses() == 0, name
    assert code["moments"].global_loads(128) == code["moments"].global_loads() == accesses
    # Two images, half as much of each.
    assert code["silu_bwd_sums"].global_loads(128) == accesses + of_constants
    assert code["silu"].global_loads(128) == accesses + of_constants
    assert code["silu_bwd"].global_loads(128) == 2 * accesses + of_constants
    for name in STREAMS:
        stream = code[name]
        assert stream.global_stores(128) == stream.global_stores() == accesses, name
        # The rest are the moments of the thread's groups, once a program.
        assert stream.global_loads() - stream.global_loads(128) <= 8, name
        assert stream.shared == 0, name


# Of the channels above: the other kernels are then in Triton's cache.
@pytest.mark.parametrize(
    ("channels", "dtype"), [(128, torch.float16), (256, torch.bfloat16), (128, torch.float32)], ids=str
)
def test_addend_and_signs_come_along_in_128_bits(launch: Launch, channels: int, dtype: torch.dtype) -> None:
    stream = parts(launch(channels, dtype, everything=True))["silu_bwd"]
    # Three images, weight and bias, and one access to the words of all rows.
    assert stream.global_loads(128) == 3 * 4 * dtype.itemsize + 2 + 1
    assert stream.global_stores(128) == stream.global_stores() == 4 * dtype.itemsize
    assert stream.local_accesses() == 0 and stream.shared == 0


@pytest.mark.parametrize(
    ("channels", "groups", "dtype"),
    [
        (320, 32, torch.float32),
        (1024, 32, torch.float32),
        (1024, 32, torch.float16),
        (127, 1, torch.float16),
        (4, 4, torch.float32),
    ],
    ids=str,
)
def test_nothing_spills_for_other_channels(launch: Launch, channels: int, groups: int, dtype: torch.dtype) -> None:
    binaries = launch(channels, dtype, groups=groups, everything=True, pixels=257)
    for name, code in parts(binaries).items():
        assert code.local_accesses() == 0, name


def test_one_kernel_serves_all_sizes(launch: Launch) -> None:
    first = launch(256, torch.bfloat16, everything=True)
    again = launch(256, torch.bfloat16, everything=True, pixels=1024)
    # The width of the reductions follows from the number of chunks.
    assert all(again[name] is binary for name, binary in first.items() if "reduce" not in name)
