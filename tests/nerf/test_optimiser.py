"""FusedAdam as a torch.optim.Optimizer: the same steps as Adam, schedulers, scaling, checkpoints, shadows."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.nerf.optimiser import FusedAdam, source_of

BETAS = (0.9, 0.99)


def parameters(sizes: tuple[int, ...] = (1001, 8)) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]


def set_gradients(params: list[nn.Parameter], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        spread = torch.logspace(-6, 3, param.numel())
        grad = scale * spread * torch.randn(param.shape, generator=generator)
        param.grad = grad if param.grad is None else param.grad.copy_(grad)


def run(optimiser: Any, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(params, step)
        optimiser.step()


@pytest.mark.parametrize("decoupled, weight_decay", [(False, 0.0), (False, 0.05), (True, 0.05)])
def test_fifty_steps_are_adams(decoupled: bool, weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    make = torch.optim.AdamW if decoupled else torch.optim.Adam
    options: dict[str, Any] = {"lr": 1e-2, "betas": BETAS, "eps": 1e-15, "weight_decay": weight_decay}
    a, b = FusedAdam(ours, decoupled=decoupled, **options), make(theirs, **options)
    run(a, ours, range(50))
    run(b, theirs, range(50))
    for mine, other in zip(ours, theirs, strict=True):
        # Parameters are near 1: four units in the last place of that after fifty roundings.
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=5e-7)
        # Moments in units of their own gradients, so that the small ones count.
        unit = torch.logspace(-6, 3, len(mine), dtype=torch.float64) + (0.0 if decoupled else weight_decay)
        for name, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
            x, y = (optimiser.state[p][name] / unit**power for optimiser, p in ((a, mine), (b, other)))
            torch.testing.assert_close(x, y, rtol=3e-6, atol=3e-6)
        assert a.state[mine]["step"] == 50 and not mine.grad.any()
    assert not torch.allclose(ours[0], parameters()[0], atol=1e-2)


def test_float64_parameters() -> None:
    ours, theirs = ([nn.Parameter(p.detach().double()) for p in parameters()] for _ in range(2))
    a, b = FusedAdam(ours), torch.optim.Adam(theirs, lr=1e-2, betas=BETAS, eps=1e-15)
    for step in range(5):
        for params, optimiser in ((ours, a), (theirs, b)):
            for p in params:
                p.grad = torch.full_like(p, 1.0 + step)
            optimiser.step()
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-8, atol=1e-9)


def test_the_gradient_stays_and_is_added_into() -> None:
    (param,) = parameters((5,))
    optimiser = FusedAdam([param])
    (param * 2).sum().backward()
    grad = param.grad
    optimiser.step()
    assert param.grad is grad and not grad.any()
    (param * 3).sum().backward()
    assert param.grad is grad and torch.equal(grad, torch.full((5,), 3.0))


def test_without_zeroing_the_gradient_is_left() -> None:
    (param,) = parameters((5,))
    optimiser = FusedAdam([param], zero_grad=False)
    param.grad = torch.ones(5)
    optimiser.step()
    assert torch.equal(param.grad, torch.ones(5))


def test_a_closure_and_parameters_without_gradient() -> None:
    with_gradient, without = parameters((5, 5))
    optimiser = FusedAdam([with_gradient, without])
    before = without.clone()

    def closure() -> Tensor:
        loss = with_gradient.square().sum()
        loss.backward()
        return loss

    assert optimiser.step(closure) > 0
    assert torch.equal(without, before) and without not in optimiser.state


def test_groups_have_settings_of_their_own() -> None:
    ours, theirs = parameters((9, 9)), parameters((9, 9))
    settings = [{"lr": 1e-1}, {"betas": (0.5, 0.9), "weight_decay": 0.1, "lr": 1e-3}]
    a = FusedAdam([{"params": [p], **s} for p, s in zip(ours, settings, strict=True)])
    b = torch.optim.Adam([{"params": [p], **s} for p, s in zip(theirs, settings, strict=True)], betas=BETAS, eps=1e-15)
    run(a, ours, range(5))
    run(b, theirs, range(5))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_schedulers(as_tensor: bool) -> None:
    ours, theirs = parameters(), parameters()
    a = FusedAdam(ours, lr=torch.tensor(1e-2) if as_tensor else 1e-2)
    b = torch.optim.Adam(theirs, lr=1e-2, betas=BETAS, eps=1e-15)
    for params, optimiser in ((ours, a), (theirs, b)):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.7)
        for step in range(10):
            set_gradients(params, step)
            optimiser.step()
            scheduler.step()
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=5e-7)
    assert float(a.param_groups[0]["lr"]) == pytest.approx(1e-2 * 0.7**10)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_checkpoint_goes_on_with_the_same_bits(pickled: bool) -> None:
    through, first = parameters(), parameters()
    optimiser = FusedAdam(through, weight_decay=0.1)
    run(optimiser, through, range(10))
    before = FusedAdam(first, weight_decay=0.1)
    run(before, first, range(5))
    saved = before.state_dict()
    if pickled:
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        buffer.seek(0)
        saved = torch.load(buffer, weights_only=True)
    second = [nn.Parameter(p.detach().clone()) for p in first]
    after = FusedAdam(second, lr=99.0)
    after.load_state_dict(saved)
    assert after.param_groups[0]["lr"] == 1e-2 and after.param_groups[0]["weight_decay"] == 0.1
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(before.state[a][k], after.state[b][k]) for k in ("step", "exp_avg", "exp_avg_sq"))
        assert after.state[b]["step"].dtype == torch.float32
    run(after, second, range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(through, second, strict=True))


def test_a_copy_works() -> None:
    params = parameters((5,))
    optimiser = FusedAdam(params)
    run(optimiser, params, range(2))
    twin = copy.deepcopy(optimiser)
    other = twin.param_groups[0]["params"]
    run(optimiser, params, range(2, 4))
    run(twin, other, range(2, 4))
    assert other[0] is not params[0] and torch.equal(other[0], params[0])


@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler_skips_what_overflowed(unscale: bool) -> None:
    ours, theirs = parameters(), parameters()
    results = []
    optimisers = (FusedAdam(ours), torch.optim.Adam(theirs, lr=1e-2, betas=BETAS, eps=1e-15))
    for params, optimiser in zip((ours, theirs), optimisers, strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3)
        scaler.scale(torch.ones(()))  # makes the scale's tensor
        for step in range(8):
            set_gradients(params, step, scale=scaler.get_scale())
            if step in (2, 5):
                params[0].grad[0] = float("inf")
            if unscale:
                scaler.unscale_(optimiser)
            scaler.step(optimiser)
            scaler.update()
        results.append(scaler.get_scale())
    assert results[0] == results[1]
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=5e-7)
    assert optimisers[0].state[ours[0]]["step"] == 6 and optimisers[1].state[theirs[0]]["step"] == 6


def test_a_shadow_is_kept_equal_and_known_to_be_fresh() -> None:
    params = parameters()
    shadow = torch.full((1001,), float("nan"), dtype=torch.float16)
    optimiser = FusedAdam(params, shadows={params[0]: shadow})
    for step in range(3):
        run(optimiser, params, range(step, step + 1))
        assert torch.equal(shadow, params[0].half()) and shadow._source == source_of(params[0])
    with torch.no_grad():
        params[0].mul_(2)
    assert shadow._source != source_of(params[0])


def test_a_stale_shadow_is_mended_even_when_the_step_is_skipped() -> None:
    (param,) = parameters((9,))
    shadow = torch.zeros(9, dtype=torch.float16)
    optimiser = FusedAdam([param], shadows={param: lambda: shadow})
    optimiser.found_inf = torch.ones(())
    param.grad = torch.ones(9)
    optimiser.step()
    assert torch.equal(param, parameters((9,))[0]) and torch.equal(shadow, param.half())
    assert shadow._source == source_of(param) and shadow._maintained


def test_the_grids_shadow() -> None:
    """HashGrid.shadow() after a step: the same tensor, nothing to cast."""
    from ldp_fast.nerf.hash_grid import HashGrid

    grid = HashGrid(n_levels=2, log2_table_size=5, base_resolution=2, finest_resolution=4)
    optimiser = FusedAdam([grid.table], shadows={grid.table: grid.shadow})
    grid.table.grad = torch.ones_like(grid.table)
    optimiser.step()
    shadow = grid._shadow
    version = shadow._version
    assert grid.shadow() is shadow and shadow._version == version, "cast again"
    assert torch.equal(shadow, grid.table.half())


def grid_with_shadow() -> tuple[Any, FusedAdam]:
    """After a step: the shadow is the optimiser's to keep."""
    from ldp_fast.nerf.hash_grid import HashGrid

    grid = HashGrid(n_levels=2, log2_table_size=5, base_resolution=2, finest_resolution=4)
    optimiser = FusedAdam([grid.table], shadows={grid.table: grid.shadow})
    grid.table.grad = torch.ones_like(grid.table)
    optimiser.step()
    return grid, optimiser


@pytest.mark.parametrize("how", ["invalidated", "loaded", "in place"])
def test_a_shadow_that_a_graph_reads_is_cast_anew_where_it_is(how: str) -> None:
    """A captured step reads its memory, which was freed when another took its place, or kept the values of before."""
    grid, optimiser = grid_with_shadow()
    shadow = grid.shadow()
    address = shadow.data_ptr()
    if how == "invalidated":
        grid.table.data.fill_(0.125)
        grid.invalidate_shadow()
    elif how == "loaded":
        grid.load_state_dict({"table": torch.full_like(grid.table, 0.125)})
    else:
        with torch.no_grad():
            grid.table.fill_(0.125)
    assert grid.shadow() is shadow and (shadow == 0.125).all()
    # Nobody keeps it equal until the optimiser's next step.
    grid.table.data.fill_(0.25)
    assert (grid.shadow() == 0.25).all()
    grid.table.grad = torch.ones_like(grid.table)
    optimiser.step()
    assert grid.shadow() is shadow and shadow.data_ptr() == address and torch.equal(shadow, grid.table.half())
    assert shadow._source == source_of(grid.table)


@pytest.mark.parametrize("kind", ["zero gradient", "found_inf", "no gradient"])
def test_what_a_step_makes_of_a_write_without_a_trace(kind: str) -> None:
    """A step that is taken makes the shadow equal, also where it moves nothing; one that is skipped leaves it."""
    grid, optimiser = grid_with_shadow()
    optimiser.param_groups[0]["lr"] = 0.0
    before = grid.shadow().clone()
    grid.table.data.fill_(0.125)
    grid.table.grad = None if kind == "no gradient" else torch.zeros_like(grid.table)
    if kind == "found_inf":
        optimiser.found_inf = torch.ones(())
    optimiser.step()
    taken = kind == "zero gradient"
    assert torch.equal(grid.shadow(), grid.table.half() if taken else before) and (grid.table == 0.125).all()
    grid.invalidate_shadow()
    assert torch.equal(grid.shadow(), grid.table.half())


def test_a_shadow_of_another_tensor_with_the_same_version_is_stale() -> None:
    first, second = (nn.Parameter(torch.full((9,), value)) for value in (1.0, 2.0))
    shadow = torch.zeros(9, dtype=torch.float16)
    for param in (first, second):
        optimiser = FusedAdam([param], shadows={param: shadow})
        optimiser.found_inf = torch.ones(())
        param.grad = torch.ones(9)
        optimiser.step()
        assert torch.equal(shadow, param.half())


@pytest.mark.parametrize("zero_grad", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_gradient_that_is_not_contiguous(zero_grad: bool, scaled: bool) -> None:
    ours, theirs = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    values = torch.arange(12.0).reshape(3, 4).t() - 5
    a, b = FusedAdam([ours], zero_grad=zero_grad), FusedAdam([theirs], zero_grad=zero_grad)
    for step in range(3):
        ours.grad, theirs.grad = (values + step).clone(), (values + step).contiguous()
        assert not ours.grad.is_contiguous()
        held = ours.grad
        for optimiser in (a, b):
            if scaled:
                optimiser.grad_scale = torch.tensor(4.0)
            optimiser.step()
        assert torch.equal(ours, theirs) and ours.grad is held and torch.equal(held, theirs.grad)


@pytest.mark.parametrize("zero_grad", [True, False])
def test_a_gradient_that_is_expanded(zero_grad: bool) -> None:
    ours, theirs = parameters((5,)), parameters((5,))
    ours[0].grad, theirs[0].grad = torch.tensor(3.0).expand(5), torch.full((5,), 3.0)
    for params in (ours, theirs):
        FusedAdam(params, zero_grad=zero_grad).step()
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[0].grad, theirs[0].grad)
    (ours[0] * 2).sum().backward()
    assert torch.equal(ours[0].grad, torch.full((5,), 2.0 if zero_grad else 5.0))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_state_dict_of_adam_goes_on(kind: Any) -> None:
    """A run begun with torch.optim.Adam, or AdamW, is continued with the same numbers."""
    first = parameters()
    settings = {"lr": 1e-2, "betas": BETAS, "eps": 1e-15, "weight_decay": 0.05}
    before = kind(first, **settings)
    run(before, first, range(5))
    second = [nn.Parameter(p.detach().clone()) for p in first]
    after = FusedAdam(second, lr=99.0, zero_grad=False)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    group = after.param_groups[0]
    assert group["decoupled"] == (kind is torch.optim.AdamW) and group["capturable"] and not group["zero_grad"]
    run(before, first, range(5, 10))
    run(after, second, range(5, 10))
    for theirs, ours in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=5e-7)
        assert after.state[ours]["step"] == 10 and after.state[ours]["step"].dtype == torch.float32


@pytest.mark.parametrize("name", ["amsgrad", "maximize"])
def test_what_a_state_dict_cannot_have(name: str) -> None:
    before, after = torch.optim.Adam(parameters(), lr=1e-3, **{name: True}), FusedAdam(parameters(), lr=0.5)
    with pytest.raises(ValueError, match=f"FusedAdam: state_dict's {name}: expected False, got True"):
        after.load_state_dict(before.state_dict())
    assert after.param_groups[0]["lr"] == 0.5


def test_shadows_belong_to_parameters() -> None:
    shadow = torch.zeros(5, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"shadows: expected parameters of this optimiser as keys, got a tensor of"):
        FusedAdam(parameters((5,)), shadows={torch.zeros(5): shadow})
    with pytest.raises(ValueError, match="shadows: expected parameters of this optimiser as keys, got 'table'"):
        FusedAdam(parameters((5,)), shadows={"table": shadow})  # type: ignore[dict-item]
    (param,) = parameters((5,))
    param.grad = torch.ones(5)
    for wrong in ("x", lambda: 3):
        with pytest.raises(TypeError, match="shadows: expected tensors or functions that return one, got"):
            FusedAdam([param], shadows={param: wrong}).step()  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "lr: expected a finite number of at least 0, got -1.0"),
        ({"lr": torch.zeros(2)}, ValueError, r"lr: expected a tensor of one element, got shape \[2\]"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas: expected two numbers in \[0, 1\)"),
        ({"eps": float("nan")}, ValueError, "eps: expected a finite number of at least 0"),
        ({"lr": "x"}, ValueError, "lr: expected a finite number of at least 0, got 'x'"),
        ({"betas": 0.9}, ValueError, r"betas: expected two numbers in \[0, 1\), got 0.9"),
        ({"betas": "ab"}, ValueError, r"betas: expected two numbers in \[0, 1\), got 'ab'"),
        ({"eps": None}, ValueError, "eps: expected a finite number of at least 0, got None"),
        ({"decoupled": "x"}, TypeError, "decoupled: expected True or False, got 'x'"),
        ({"zero_grad": 1}, TypeError, "zero_grad: expected True or False, got 1"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay: expected a finite number of at least 0"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"FusedAdam: {message}"):
        FusedAdam(parameters(), **options)


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(TypeError, match=r"FusedAdam: params: expected float32 or float64, got torch\.float16"):
        FusedAdam([torch.zeros(3, dtype=torch.float16)])
    with pytest.raises(ValueError, match="FusedAdam: params: expected contiguous tensors, got strides"):
        FusedAdam([torch.zeros(3, 2).t()])
    (param,) = parameters((5,))
    param.grad = torch.ones(5)
    with pytest.raises(TypeError, match=r"FusedAdam: shadows: expected float16, got torch\.float32"):
        FusedAdam([param], shadows={param: torch.zeros(5)}).step()
    with pytest.raises(ValueError, match="FusedAdam: shadows: expected the parameter's shape and device"):
        FusedAdam([param], shadows={param: torch.zeros(4).half()}).step()
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="FusedAdam: grad: expected a dense gradient, got a sparse one"):
        FusedAdam(table.parameters()).step()
