"""The fields: what they compute, their gradients and normals, and how they live as modules."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.nerf import Blob, FusedAdam, HashGrid, LatentField, VoxelField
from tests.support.tolerances import GRADIENT, OUTPUT, assert_close


def small_grid(**options: object) -> HashGrid:
    settings = {"n_levels": 4, "log2_table_size": 10, "base_resolution": 4, "finest_resolution": 64} | options
    grid = HashGrid(**settings)  # type: ignore[arg-type]
    torch.nn.init.normal_(grid.table, std=0.5)
    return grid


def small_field(**options: object) -> LatentField:
    torch.manual_seed(0)
    return LatentField(small_grid(), hidden=32, **options)  # type: ignore[arg-type]


def places(count: int, dtype: torch.dtype = torch.float32, bound: float = 1.0) -> Tensor:
    return (torch.rand(count, 3, dtype=dtype, generator=torch.Generator().manual_seed(3)) * 2 - 1) * bound


def by_torch(field: LatentField, x: Tensor) -> tuple[Tensor, Tensor]:
    """The field's definition, from the encoding on."""
    h = field.grid((x + field.bound) / (2 * field.bound))
    layers = field.linear_layers()
    for matrix, bias in layers[:-1]:
        h = F.relu(F.linear(h, matrix, bias))
    h = F.linear(h, *layers[-1])
    blob = field.blob.strength * torch.exp(-(x**2).sum(-1) / (2 * field.blob.std**2))
    values = h[:, 1:]
    return torch.exp(h[:, 0] + blob), values.sigmoid() if field.activation == "sigmoid" else values


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": True, "layers": 1}, {"activation": "sigmoid", "channels": 3}, {"bound": 2.0, "density_bias": "none"}],
    ids=str,
)
def test_is_its_definition(options: dict[str, object]) -> None:
    field = small_field(**options)
    if field.bias:
        torch.nn.init.normal_(field.weights, std=0.2)
    x = places(500, bound=field.bound)
    truth = by_torch(copy.deepcopy(field).double(), x.double())
    for ours, eager, exact, what in zip(field(x), by_torch(field, x), truth, ("density", "latents"), strict=True):
        assert_close(ours, eager, exact, factor=OUTPUT, what=what)


def test_the_unfused_way_agrees() -> None:
    field, x = small_field(), places(300)
    for a, b in zip(field(x), field.unfused(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_of_every_parameter() -> None:
    field, x = small_field(bias=True), places(400)
    exact = copy.deepcopy(field).double()

    def gradients(f: LatentField, x: Tensor, function: object) -> list[Tensor]:
        density, latents = function(x)  # type: ignore[operator]
        upstream = torch.linspace(-1, 1, latents.numel(), dtype=x.dtype).view_as(latents)
        return list(torch.autograd.grad(density.sum() + (latents * upstream).sum(), [f.grid.table, f.weights]))

    ours = gradients(field, x, field)
    eager = gradients(field, x, lambda x: by_torch(field, x))
    truth = gradients(exact, x.double(), lambda x: by_torch(exact, x))
    for a, b, c, what in zip(ours, eager, truth, ("table", "weights"), strict=True):
        assert_close(a, b, c, factor=GRADIENT, what=what)


@pytest.mark.parametrize("make", [small_field, lambda: VoxelField(6, density_shift=0.0)], ids=["latent", "voxel"])
def test_position_gradients_by_differences(make: object) -> None:
    field = make().double()  # type: ignore[operator]
    x = places(40, torch.float64) * 0.9
    density, gradient = field.density_gradient(x)
    epsilon = 1e-7
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = epsilon
        difference = (field(x + step)[0] - field(x - step)[0]) / (2 * epsilon)
        near = (gradient[:, axis] - difference).abs() < 1e-4 * (1 + gradient.abs().max())
        # A cell's border may lie between both: there is a corner in the function.
        assert near.float().mean() > 0.95
    torch.testing.assert_close(density, field(x)[0])
    normals = field.normals(x)
    torch.testing.assert_close(normals, -F.normalize(gradient, dim=-1))


@pytest.mark.parametrize("make", [small_field, lambda: VoxelField(6, density_shift=0.0)], ids=["latent", "voxel"])
def test_a_loss_on_normals_reaches_the_parameters(make: object) -> None:
    field, x = make().double(), places(20, torch.float64) * 0.9  # type: ignore[operator]
    table = field.grid.table if isinstance(field, LatentField) else field.table
    torch.nn.init.normal_(table, std=0.5)
    _, gradient = field.density_gradient(x, create_graph=True)
    direction = torch.randn(table.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def penalty() -> Tensor:
        return field.density_gradient(x, create_graph=True)[1].square().sum()

    (by_autograd,) = torch.autograd.grad(gradient.square().sum(), table)
    epsilon = 1e-6
    with torch.no_grad():
        table += epsilon * direction
        above = penalty()
        table -= 2 * epsilon * direction
        below = penalty()
    assert float((by_autograd * direction).sum()) == pytest.approx(float((above - below) / (2 * epsilon)), rel=1e-4)


def test_padding_is_zero_and_has_no_gradient() -> None:
    for field in (small_field(), VoxelField(8)):
        x = places(50)
        x[30:] = float("nan")
        density, latents = field(x, torch.tensor([30]))
        assert not density[30:].any() and not latents[30:].any() and density[:30].isfinite().all()
        (density.sum() + latents.sum()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in field.parameters())


def test_empty() -> None:
    for field in (small_field(), VoxelField(8)):
        density, latents = field(torch.empty(0, 3))
        assert density.shape == (0,) and latents.shape == (0, 4)
        assert field.density(torch.empty(0, 3)).shape == (0,)


def test_the_blob_puts_matter_in_the_middle() -> None:
    field = LatentField(HashGrid(n_levels=2, log2_table_size=8, finest_resolution=32))
    middle, rim = field.density(torch.zeros(1, 3)), field.density(torch.full((1, 3), 0.9))
    assert float(middle) > 100 > 2 > float(rim)
    flat = LatentField(field.grid, density_bias="none")
    assert float(flat.density(torch.zeros(1, 3))) == pytest.approx(1, rel=0.1)
    narrow = LatentField(field.grid, density_bias=Blob(3.0, 0.1))
    assert float(narrow.density(torch.full((1, 3), 0.4))) == pytest.approx(1, rel=0.1)


def test_voxels_are_trilinear_with_vertices_on_the_ends() -> None:
    field = VoxelField(5, bound=2.0).double()
    x = places(300, torch.float64, 2.0)
    x[0], x[1] = 2.0, -2.0
    volume = field.table[:125, 1:].view(5, 5, 5, 4).permute(3, 0, 1, 2)[None]  # [1, C, z, y, x]
    sampled = F.grid_sample(volume, (x / 2).view(1, -1, 1, 1, 3), align_corners=True)[0, :, :, 0, 0].T
    torch.testing.assert_close(field(x)[1], sampled)
    torch.testing.assert_close(field(x)[0], F.softplus(torch.full((300,), -10.0, dtype=torch.float64)))


def test_a_smoothed_gradient_is_the_convolution_with_a_gaussian() -> None:
    field = VoxelField(7, 3).double()
    assert len(field.table) > 343  # entries that are no vertices
    gradient = torch.randn(field.table.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field.smooth_gradient(1.0)
    assert field.table.grad is None
    for std in (0.2, 0.8, 2.5):
        field.table.grad = gradient.clone()
        field.smooth_gradient(std)
        if std == 0.2:  # narrower than a voxel
            assert torch.equal(field.table.grad, gradient)
            continue
        place = torch.arange(7, dtype=torch.float64)
        apart = place[:, None] - place
        reach = torch.arange(-math.ceil(3 * std), math.ceil(3 * std) + 1, dtype=torch.float64)
        mass = torch.exp(-0.5 * (reach / std) ** 2).sum()
        line = torch.exp(-0.5 * (apart / std) ** 2) * (apart.abs() <= reach[-1]) / mass
        volume = gradient[:343].view(7, 7, 7, 4)
        expected = torch.einsum("az,by,cx,zyxk->abck", line, line, line, volume)
        torch.testing.assert_close(field.table.grad[:343].view(7, 7, 7, 4), expected)
        assert torch.equal(field.table.grad[343:], gradient[343:])
    for std, expected in ((math.nan, "finite number"), (-1.0, "at least 0"), (1e12, "at most the resolution, 7")):
        with pytest.raises(ValueError, match=rf"VoxelField.smooth_gradient: std: expected .*{expected}"):
            field.smooth_gradient(std)


def test_copies_pickles_and_state_dicts() -> None:
    x = places(64)
    for field in (small_field(bias=True), VoxelField(8)):
        for other in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
            assert torch.equal(other(x)[0], field(x)[0])
        other = copy.deepcopy(field)
        for p in other.parameters():
            torch.nn.init.zeros_(p)
        other.load_state_dict(field.state_dict())
        assert torch.equal(other(x)[1], field(x)[1])


def changed_by_fused_adam(grid: HashGrid) -> None:
    """It counts up no version."""
    grid.table.grad = torch.ones_like(grid.table)
    torch.optim.Adam([grid.table], lr=0.1, fused=True).step()


def changed_through_data(grid: HashGrid) -> None:
    grid.table.data.add_(0.1)


def changed_in_place(grid: HashGrid) -> None:
    with torch.no_grad():
        grid.table.add_(0.1)


WRITERS = (changed_by_fused_adam, changed_through_data, changed_in_place)


@pytest.mark.parametrize("write", WRITERS)
def test_a_shadow_is_the_table_whoever_wrote_it(write: Any) -> None:
    grid = small_grid()
    before = grid.shadow()
    kept = before.clone()
    write(grid)
    after = grid.shadow()
    assert torch.equal(after, grid.table.half()) and float((after - before).abs().max()) > 0.05
    assert torch.equal(before, kept), "what a graph has saved is not written to"
    other = copy.deepcopy(grid)
    write(other)
    assert torch.equal(other.shadow(), other.table.half()), "a copy has its own"


@pytest.mark.parametrize("write", WRITERS)
def test_a_kept_shadow_is_the_table_in_an_evaluation(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """FusedAdam keeps it; averaged weights are copied in for an evaluation, and back."""
    grid = small_grid()
    optimiser = FusedAdam([grid.table], shadows={grid.table: grid.shadow})
    grid.table.grad = torch.ones_like(grid.table)
    optimiser.step()
    monkeypatch.setattr(HashGrid, "half_wanted", lambda self: True)
    kept, own = grid.half_table(), grid.table.detach().clone()
    assert kept is grid.half_table() and torch.equal(kept, own.half())
    write(grid)
    with torch.no_grad():
        assert torch.equal(grid.half_table(), grid.table.half())
    if write is not changed_through_data:
        assert torch.equal(grid.half_table(), grid.table.half()), "another optimiser, or a version, is seen at once"
    grid.table.data.copy_(own)
    grid.table.grad = torch.ones_like(grid.table)
    optimiser.step()
    assert torch.equal(grid.half_table(), grid.table.half())


def test_layers_are_views_of_the_flat_weights() -> None:
    field = small_field(bias=True, layers=3)
    assert [tuple(m.shape) for m, _ in field.linear_layers()] == [(32, 8), (32, 32), (32, 32), (5, 32)]
    assert sum(m.numel() + b.numel() for m, b in field.linear_layers() if b is not None) == field.weights.numel()
    assert field.linear_layers()[0][0].data_ptr() == field.weights.data_ptr()
    groups = field.parameter_groups(1e-3)
    assert [g["lr"] for g in groups] == [1e-2, 1e-3]
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in field.parameters()}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HashGrid(n_features=3), "n_features: expected 1, 2, 4 or 8, got 3"),
        (
            lambda: HashGrid(log2_table_size=math.log2(500_000)),
            "log2_table_size: expected a whole number of 3 to 30, got",
        ),
        (lambda: HashGrid(log2_table_size=2), "log2_table_size: expected a whole number of 3 to 30, got 2"),
        (lambda: HashGrid(finest_resolution=8), "finest_resolution: expected a whole number of 16 to 1000000, got 8"),
        (lambda: HashGrid(interpolation="cubic"), "interpolation: expected one of 'linear', 'smoothstep', got 'cubic'"),
        (lambda: HashGrid(initial=-0.1), "initial: expected a finite number of at least 0, got -0.1"),
        (lambda: HashGrid(initial=1e5), "initial: expected at most 60000, for the half-precision table, got 100000"),
        (lambda: HashGrid(initial=math.inf), "initial: expected a finite number of at least 0, got inf"),
        (lambda: HashGrid(kind="dense"), "kind: expected one of 'hash', 'tiled', 'wrapped', got 'dense'"),
        (lambda: LatentField(small_grid(), hidden=40), "hidden: expected a multiple of 16, got 40"),
        (lambda: LatentField(small_grid(), hidden=256), "hidden: expected a whole number of 16 to 128, got 256"),
        (lambda: LatentField(small_grid(), layers=0), "layers: expected a whole number of 1 to 4, got 0"),
        (lambda: LatentField(small_grid(), channels=16), "channels: expected a whole number of 1 to 15, got 16"),
        (lambda: LatentField(small_grid(), density_bias="ball"), "density_bias: expected 'blob', 'none' or a Blob"),
        (lambda: LatentField(small_grid(), bound=0.0), "bound: expected a finite number above 0, got 0.0"),
        (lambda: LatentField(small_grid(), backend="fast"), "backend: expected one of 'ldp', 'tcnn', got 'fast'"),
        (lambda: VoxelField(1), "resolution: expected a whole number of 2 to 512, got 1"),
        (lambda: small_field()(torch.zeros(3)), "positions: expected shape [S, 3], got [3]"),
        (lambda: small_grid()(torch.zeros(2, 2)), "positions: expected shape [S, 3], got [2, 2]"),
        (
            lambda: VoxelField(8)(torch.zeros(2, 3, device="meta")),
            "positions: expected a tensor on cpu, got one on meta",
        ),
    ],
)
def test_refused_values(make: object, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()  # type: ignore[operator]
    assert words in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LatentField(torch.nn.Linear(3, 32)), "grid: expected a HashGrid, got Linear"),  # type: ignore[arg-type]
        (lambda: small_field()(torch.zeros(2, 3).half()), "positions: expected float32 or float64, got torch.float16"),
        (lambda: small_field()(torch.zeros(2, 3).double()), "positions: expected the table's dtype, torch.float32"),
        (lambda: small_grid().half()(torch.zeros(2, 3)), "float16 is its shadow's"),
        (lambda: VoxelField(8)([[0.0, 0.0, 0.0]]), "positions: expected a tensor, got list"),  # type: ignore[arg-type]
    ],
)
def test_refused_types(make: object, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()  # type: ignore[operator]
    assert words in str(caught.value), caught.value


def test_a_shadow_notices_other_tables() -> None:
    grid = small_grid()
    grid.shadow()
    grid.load_state_dict({"table": torch.full_like(grid.table, 0.5)}, assign=True)
    assert (grid.shadow() == 0.5).all()
    torch.nn.utils.vector_to_parameters(torch.full((grid.table.numel(),), 0.25), grid.parameters())
    assert (grid.shadow() == 0.25).all()
    grid.table.data.fill_(0.125)
    grid.invalidate_shadow()
    assert (grid.shadow() == 0.125).all()


def test_the_unfused_way_is_not_rounded_by_autocast() -> None:
    field, x = small_field(), places(50)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(field.normals(x, create_graph=True), field.normals(x), rtol=1e-4, atol=1e-4)


def test_an_encoding_that_is_too_wide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grid: expected at most 128 outputs \(levels × features\), got 256"):
        LatentField(HashGrid(n_levels=32, n_features=8, log2_table_size=6, base_resolution=4, finest_resolution=64))
    with pytest.raises(ValueError, match="density_bias: expected 'blob', 'none' or a Blob"):
        LatentField(small_grid(), density_bias=[1])  # type: ignore[arg-type]
