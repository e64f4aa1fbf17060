"""The machine code of the feature matching kernels for GPUs that need not be there.

The kernels are compiled as the launchers would launch them: a stand-in for the CUDA driver names the architecture,
and the launch ends where the binary is ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.kernels.machine_code import ARCHITECTURES, MachineCode, codes, needs_compiler

pytestmark = needs_compiler()

ALIGNED = (3 * 8192 + 64, 512, 8192)
Binaries = dict[str, Any]
Launch = Callable[..., Binaries]


class Driver:
    """What Triton asks of a driver before it launches."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """A kernel whose launch stops at the binary and keeps it."""

    def __init__(self, kernel: Any, binaries: Binaries) -> None:
        self.kernel, self.binaries = kernel, binaries

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*values: Any, **arguments: Any) -> None:
            self.binaries[self.kernel.__name__] = self.kernel.warmup(*values, grid=grid, **arguments)

        return launch


@pytest.fixture(params=ARCHITECTURES, ids=lambda number: f"sm_{number}")
def launch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Runs both launchers on rows of the given sizes and returns the binaries by kernel name."""
    from triton.runtime import driver

    from ldp_fast.kernels import feature_matching as kernels

    binaries: Binaries = {}
    names = [name for name in vars(kernels) if name.endswith("_kernel")]
    assert len(names) == 3
    for name in names:
        kernel = getattr(kernels, name)
        kernel.device_caches.clear()
        monkeypatch.setattr(kernels, name, Compiled(kernel, binaries))

    def run(
        sizes: tuple[int, ...] = ALIGNED,
        dtype: torch.dtype = torch.bfloat16,
        batch: int = 2,
        wanted: tuple[bool, bool] = (True, True),
        policy: str = "propagate",
        save_signs: bool = True,
    ) -> Binaries:
        rows = [[torch.zeros(batch, size, dtype=dtype) for size in sizes] for _ in range(2)]
        itemsize = rows[0][0].element_size()
        blocks = batch * sum(-(-size // 8192) for size in sizes)
        signs = torch.zeros(blocks, 2048 // itemsize, dtype={2: torch.int16, 4: torch.int32}[itemsize])
        values, counts = torch.zeros(len(sizes), batch), torch.zeros(len(sizes), batch, dtype=torch.int32)
        kernels.forward(torch.zeros(()), values, counts, signs, *rows, "mean", "mean", policy, save_signs)
        grads = [x for entries, want in zip(rows, wanted, strict=True) for x in entries if want]
        kernels.backward(grads, torch.ones(()), signs, sizes, batch, dtype, "mean", "mean", False, *wanted)
        return dict(binaries)

    # Not `set_active`: undoing that would look for a GPU.
    monkeypatch.setattr(driver, "_active", Driver(request.param))
    return run


def parts(binaries: Binaries) -> dict[str, MachineCode]:
    """The machine code of each kernel, by what is its own in the name."""
    return codes({name.removeprefix("feature_matching_").removesuffix("_kernel"): b for name, b in binaries.items()})


@pytest.mark.parametrize(
    ("dtype", "policy"),
    [(torch.float16, "propagate"), (torch.bfloat16, "propagate"), (torch.bfloat16, "zero"), (torch.float32, "zero")],
    ids=str,
)
def test_features_signs_and_gradients_move_in_128_bits(launch: Launch, dtype: torch.dtype, policy: str) -> None:
    code = parts(launch(dtype=dtype, policy=policy))
    forward, backward = code["fwd"], code["bwd"]
    rows = 4 * dtype.itemsize
    # Two inputs in; one store of signs. The partial sum and the count go out as one word each.
    assert forward.global_loads(128) == forward.global_loads() == 2 * rows
    assert forward.global_stores(128) == 1 and forward.global_stores() == 3
    # One load of signs and the scalar gradient; two outputs.
    assert backward.global_loads(128) == 1 and backward.global_loads() == 2
    assert backward.global_stores(128) == backward.global_stores() == 2 * rows
    assert forward.local_accesses() == backward.local_accesses() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_nothing_spills_without_alignment(launch: Launch, dtype: torch.dtype) -> None:
    code = parts(launch((105, 13441), dtype))
    for name in ("fwd", "reduce", "bwd"):
        assert code[name].local_accesses() == 0


def test_packing_needs_no_shared_memory(launch: Launch) -> None:
    binaries = launch()
    # A few words for the two block sums, and none at all without sums.
    assert binaries["feature_matching_fwd_kernel"].metadata.shared <= 64
    assert binaries["feature_matching_bwd_kernel"].metadata.shared == 0


def test_what_is_not_wanted_is_not_written(launch: Launch) -> None:
    without = {"fwd": launch(save_signs=False)["feature_matching_fwd_kernel"]}
    for wanted in ((True, False), (False, True)):
        without[f"bwd {wanted}"] = launch(wanted=wanted)["feature_matching_bwd_kernel"]
    stores = {name: code.global_stores(128) for name, code in codes(without).items()}
    assert stores == {"fwd": 0, "bwd (True, False)": 8, "bwd (False, True)": 8}


def test_one_kernel_serves_all_shapes(launch: Launch) -> None:
    first = launch((8192 * 3,) * 3)
    for sizes, batch in (((16, 8192, 3200), 1), ((32 * 49, 8192 * 16, 48), 8)):
        again = launch(sizes, batch=batch)
        assert all(again[name] is binary for name, binary in first.items())
