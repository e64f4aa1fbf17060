"""Native kernels at the sizes that people train with, against float64: 2¹⁹ entries × 16 levels × 262 144 samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ..support import samples
from ..support.gpu import needs_memory, size
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .test_hash_grid import by_positions, by_table, encode
from .test_hash_grid import off_faces as grid_off_faces
from .test_latent_field import check_against_float64

pytestmark = [pytest.mark.gpu, pytest.mark.real_size]

REAL = samples.hash_grid.Grid(
    n_levels=16, log2_table_size=size(19, 10), base_resolution=16, growth=2048 ** (1 / 15) / 16 ** (1 / 15)
)
SAMPLES = size(262_144, 2000)


def test_hash_grid() -> None:
    needs_memory(24)
    made = samples.hash_grid.inputs(REAL, SAMPLES, rays=True, device="cuda", count=SAMPLES - 7)
    assert_close(encode(made), encode(made, "reference"), encode(samples.widen(made)), factor=OUTPUT, what="encoding")
    truth, plain = by_table(samples.widen(made)), by_table(made, "reference")
    # An entry's sum has terms of either sign: what cancels counts.
    wide = samples.widen(made)
    terms = by_table(wide | {"grad": wide["grad"].abs()})
    condition = float(terms.abs().max() / truth.abs().max())
    assert_close(by_table(made), plain, truth, factor=GRADIENT, what="table", condition=condition)
    made = grid_off_faces(made | {"count": None})
    wanted = by_positions(made, "reference"), by_positions(samples.widen(made))
    assert_close(by_positions(made), *wanted, factor=GRADIENT, what="positions")


@pytest.mark.parametrize("half", [False, True])
def test_latent_field(half: bool) -> None:
    needs_memory(24)
    check_against_float64(
        samples.latent_field.off_faces(
            samples.latent_field.inputs(
                samples.latent_field.Field(grid=REAL), SAMPLES, device="cuda", count=SAMPLES - 7
            )
        ),
        half,
    )


@pytest.mark.parametrize("programs", [1, 7, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_group_norm_with_several_tiles_a_program(
    programs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large image has them by itself; here few programs make them of a small one."""
    from ldp_fast.kernels import group_norm_moments

    monkeypatch.setattr(group_norm_moments, "PROGRAMS", programs)
    made = samples.group_norm_silu.inputs((2, 256, 48, 40), dtype=dtype, device="cuda")
    moments = torch.ops.ldp_fast.group_norm_moments(made["x"], 32, samples.group_norm_silu.EPS)
    result = torch.ops.ldp_fast.group_norm_silu(made["x"], *moments, made["weight"], made["bias"], True)

    def textbook(dtype: torch.dtype) -> Tensor:
        x, weight, bias = (made[name].to(dtype) for name in ("x", "weight", "bias"))
        return torch.nn.functional.silu(
            torch.nn.functional.group_norm(x, 32, weight, bias, samples.group_norm_silu.EPS)
        )

    assert_close(result, textbook(dtype), textbook(torch.float64), factor=OUTPUT)
