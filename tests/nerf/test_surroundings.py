"""The renderer in its surroundings: torch.compile, DDP, checkpointing, an extension that is missing or lacks CUDA."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldp_fast.nerf import (
    Cameras,
    DirectionalBackground,
    FusedAdam,
    HashGrid,
    LatentField,
    LatentRenderer,
    OccupancyGrid,
)
from ldp_fast.ops import _library, _native

from ..support.ranks import needs_gloo, run_on_ranks


def make_renderer(steps_per_ray: int = 24) -> LatentRenderer:
    torch.manual_seed(0)
    grid = HashGrid(n_levels=4, log2_table_size=10, base_resolution=4, finest_resolution=32)
    nn.init.normal_(grid.table, std=0.3)
    field = LatentField(grid, hidden=16)
    occupancy = OccupancyGrid(resolution=16)
    occupancy.update(field)
    return LatentRenderer(field, occupancy, DirectionalBackground(4), steps_per_ray=steps_per_ray)


def loss_of(renderer: nn.Module, cameras: Cameras, seed: Tensor) -> Tensor:
    out = renderer(cameras, 6, 6, seed=seed)
    return out.latents.square().mean() + out.opacity.mean() + out.distortion.mean()


def gradients(renderer: LatentRenderer, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(renderer.parameters())))


def test_compiles_as_one_graph() -> None:
    renderer, seed = make_renderer(), torch.tensor([3])
    views = [Cameras.orbit([0.0, 90.0]), Cameras.orbit([45.0, 200.0], 40.0)]

    def run(poses: Tensor, focal: Tensor, centre: Tensor) -> Tensor:
        cameras = object.__new__(Cameras)  # its checks look at values, which a graph cannot
        for name, value in (("poses", poses), ("focal", focal), ("centre", centre)):
            object.__setattr__(cameras, name, value)
        return loss_of(renderer, cameras, seed)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    for cameras in views:
        parts = (cameras.poses, cameras.focal, cameras.centre)
        ours, theirs = run(*parts), compiled(*parts)
        torch.testing.assert_close(theirs, ours)
        for a, b in zip(gradients(renderer, theirs), gradients(renderer, run(*parts)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_compiling_the_module_works_as_users_do_it() -> None:
    renderer, cameras = make_renderer().eval(), Cameras.orbit([0.0, 90.0])
    compiled = torch.compile(renderer, backend="aot_eager")
    torch.testing.assert_close(compiled(cameras, 6, 6).latents, renderer(cameras, 6, 6).latents)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_the_field_gives_the_same_gradients(reentrant: bool) -> None:
    field = make_renderer().field
    x = (torch.rand(200, 3) * 2 - 1).requires_grad_()

    def total(result: tuple[Tensor, Tensor]) -> Tensor:
        return result[0].sum() + result[1].square().sum()

    wanted = torch.autograd.grad(total(field(x)), [x, *field.parameters()])
    # A reentrant checkpoint knows backward() only.
    total(checkpoint(field, x, use_reentrant=reentrant)).backward()
    for p, expected in zip([x, *field.parameters()], wanted, strict=True):
        assert p.grad is not None and torch.equal(p.grad, expected)


def test_two_backwards_through_one_graph() -> None:
    renderer = make_renderer()
    loss = loss_of(renderer, Cameras.orbit(10.0), torch.tensor([1]))
    first = torch.autograd.grad(loss, list(renderer.parameters()), retain_graph=True)
    for a, b in zip(first, gradients(renderer, loss), strict=True):
        assert torch.equal(a, b)


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            renderer = make_renderer(64)
            found.append(gradients(renderer, loss_of(renderer, Cameras.orbit([0.0, 120.0]), torch.tensor([1]))))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0][:2], other[:2], strict=True)), "table and weights"


def _train_on_one_rank(rank: int) -> tuple[list[Tensor | None], list[Tensor]]:
    renderer = make_renderer()
    model = nn.parallel.DistributedDataParallel(renderer)
    loss_of(model, Cameras.orbit(100.0 * rank), torch.tensor([rank])).backward()
    grads = [None if p.grad is None else p.grad.clone() for p in renderer.parameters()]
    FusedAdam(renderer.parameters()).step()
    return grads, [p.detach() for p in renderer.parameters()]


@needs_gloo
def test_ddp_averages_the_views() -> None:
    grads, stepped = zip(*run_on_ranks(_train_on_one_rank), strict=True)
    alone = []
    for rank in range(2):
        renderer = make_renderer()
        alone.append(gradients(renderer, loss_of(renderer, Cameras.orbit(100.0 * rank), torch.tensor([rank]))))
    for ours in grads:
        for got, a, b in zip(ours, *alone, strict=True):
            torch.testing.assert_close(got, (a + b) / 2, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(*stepped, strict=True)), "both ranks take the same step"


def test_without_the_extension_the_reference_serves_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, cameras = make_renderer().eval(), Cameras.orbit(30.0)
    wanted = renderer(cameras, 6, 6).latents
    monkeypatch.setattr(_native, "extension", lambda: None)
    torch.testing.assert_close(renderer(cameras, 6, 6).latents, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        RuntimeError, match=r"HashGrid: expected the compiled extension ldp_fast\._C, found none; install"
    ):
        HashGrid()


def test_an_extension_that_is_too_old_says_so() -> None:
    with pytest.raises(
        RuntimeError, match="nonsense: expected an extension that has this operator, got an older build"
    ):
        _native.function("nonsense")


class Build:
    """An extension, as far as it is asked what it was built with."""

    def __init__(self, cuda: str | None):
        self.cuda = cuda

    def build_info(self) -> dict[str, str | None]:
        return {"cuda": self.cuda}


def test_cuda_tensors_and_an_extension_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "extension", lambda: Build(None))
    with pytest.raises(RuntimeError, match=r"expected an extension built with CUDA .* got one built without; install"):
        _library.use_native("cuda", {torch.float32})
    monkeypatch.setattr(_native, "extension", lambda: None)
    with pytest.raises(RuntimeError, match=r"expected the compiled extension ldp_fast\._C, found none; install again"):
        _library.use_native("cuda", {torch.float32})


def test_what_serves_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "extension", lambda: Build("13.0"))
    f32, f16, f64 = torch.float32, torch.float16, torch.float64
    assert _library.use_native("cuda", {f32}) and _library.use_native("cuda", {f32, f16})
    assert not _library.use_native("cuda", {f64}) and not _library.use_native("cpu", {f32, f64})
    assert not _library.use_native("cpu", {f32, f16}), "a shadow is read on a GPU only"


def test_the_reference_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, cameras = make_renderer().eval(), Cameras.orbit(30.0)
    native = copy.deepcopy(renderer)(cameras, 6, 6)
    monkeypatch.setenv("LDP_FAST_BACKEND", "reference")
    monkeypatch.setattr(_native, "function", lambda name: pytest.fail(f"{name} ran natively"))
    out = renderer(cameras, 6, 6)
    torch.testing.assert_close(out.latents, native.latents, rtol=1e-4, atol=1e-4)
    assert torch.equal(out.samples.positions, native.samples.positions), "the samples are the same to the bit"
