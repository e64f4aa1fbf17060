"""Regularisers against their definitions in float64, how they are weighted, and that their gradients stay finite."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ldp_fast.apps.text_to_3d import regularisers as module
from ldp_fast.apps.text_to_3d.cameras import as_cameras
from ldp_fast.nerf import Cameras, LatentRenderer, RenderOutput, RenderStatistics
from ldp_fast.nerf.fields import truncated_exp
from ldp_fast.runs.schedule import Ramp, constant

from ..nerf.scenes import Torus
from . import text_to_3d_runs as runs

RADIUS = 3.4


@pytest.fixture(scope="module")
def rendering() -> RenderOutput:
    """Two views of a torus that is not quite opaque, in float32."""
    renderer = LatentRenderer(Torus(density=4.0), steps_per_ray=24).eval()
    with torch.no_grad():
        return renderer(Cameras.orbit([20.0, 200.0], [10.0, 50.0], RADIUS, 40.0), 16, 16)


def rays_of(out: RenderOutput) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Weights, middles and lengths of the samples of each ray, float64."""
    borders = out.samples.ray_offsets.tolist()
    numbers = [x.double().numpy() for x in (out.weights, out.samples.distances, out.samples.steps)]
    return [tuple(x[a:b] for x in numbers) for a, b in itertools.pairwise(borders)]  # type: ignore[misc]


def per_view(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(2, -1).sum(1)


def close(found: Tensor, expected: Tensor, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=1e-7)


def test_sparsity_is_the_entropy(rendering: RenderOutput) -> None:
    def entropy(o: float) -> float:
        o = min(max(o, 1e-5), 1 - 1e-5)
        return -o * math.log(o) - (1 - o) * math.log(1 - o)

    opacities = [float(w.sum()) for w, _, _ in rays_of(rendering)]
    assert min(opacities) == 0 and max(opacities) > 0.7
    close(module.sparsity(rendering), per_view([entropy(o) for o in opacities]))


def test_emptiness(rendering: RenderOutput) -> None:
    close(module.emptiness(rendering), per_view([float(np.log(1 + 10 * w).sum()) for w, _, _ in rays_of(rendering)]))


def test_opacity(rendering: RenderOutput) -> None:
    close(module.opacity(rendering), per_view([float(w.sum()) for w, _, _ in rays_of(rendering)]))


def test_distortion(rendering: RenderOutput) -> None:
    def distortion(w: np.ndarray, middle: np.ndarray, length: np.ndarray) -> float:
        pairs = np.abs(middle[:, None] - middle[None]) * w[:, None] * w[None]
        return float(pairs.sum() + (w * w * length).sum() / 3)

    values = [distortion(*ray) for ray in rays_of(rendering)]
    assert max(values) > 0.01
    close(module.distortion(rendering), per_view(values), rtol=1e-3)


class Ball(torch.nn.Module):
    """A shell of radius 0.5 from 0.4 on, opaque, around what is not: e^−4 of `SOLID`, or as much as is said."""

    bound = 1.0

    def __init__(self, inside: float) -> None:
        super().__init__()
        self.inside = torch.nn.Parameter(torch.tensor(float(inside)))
        self.shell = torch.nn.Parameter(torch.tensor(1000.0))

    def forward(self, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r = x.norm(dim=1)
        shell = self.shell * ((r < 0.5) & (r >= 0.4))
        return shell + self.inside * (r < 0.4), x.new_zeros(len(x), 4)


def test_hollowness_looks_behind_the_surface() -> None:
    field, side = Ball(module.SOLID * math.exp(-4)), 24
    cameras = Cameras.orbit([20.0, 200.0], [10.0, 50.0], RADIUS, 18.0)
    out = LatentRenderer(field, steps_per_ray=1000).eval()(cameras, side, side)
    share = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    found = module.hollowness(out, field, [-1.0] * 3 + [1.0] * 3, cameras, share)
    # Where the ray enters the ball, to a step, and so much farther: in shell or hollow, or out of the ball again.
    origins, directions = (x.double() for x in cameras.rays(side, side))
    directions = directions / directions.norm(dim=1, keepdim=True)
    middle = -(origins * directions).sum(1)
    nearest = (origins + middle[:, None] * directions).norm(dim=1)
    enters = middle - (0.25 - nearest**2).clamp(min=0).sqrt()
    radius = (origins + (enters + share.flatten() * 0.4)[:, None] * directions).norm(dim=1)
    lacking = torch.where(radius < 0.4, 4.0, 0.0).where(radius < 0.5, math.log(10 / 1e-6))
    expected = lacking.where(nearest < 0.5, 0.0).view(2, -1).sum(1)
    assert float(expected.min()) > 200
    close(found, expected.double(), rtol=0.05)
    (grad,) = torch.autograd.grad(found.sum(), [field.inside])
    # d log(SOLID / density) = −1 / density, for each ray that looks into the hollow.
    hollow = int(((radius < 0.4) & (nearest < 0.5)).sum())
    assert float(grad) == pytest.approx(-hollow / float(field.inside.detach()), rel=0.05)


def test_a_solid_object_is_not_hollow_and_nothing_is_not_either() -> None:
    cameras = Cameras.orbit([20.0], [10.0], RADIUS, 40.0)
    middle = torch.full((1, 1, 12, 12), 0.5)
    for inside, shell in ((200.0, 200.0), (0.0, 0.0), (1.0, 1.0)):
        field = Ball(inside)
        field.shell.data.fill_(shell)
        out = LatentRenderer(field, steps_per_ray=64).eval()(cameras, 12, 12)
        rays = out.opacity.flatten() >= module.SURFACE
        assert bool(rays.any()) == (inside == 200.0)
        lacking = module.hollowness(out, field, [-1.0] * 3 + [1.0] * 3, cameras, middle)
        # A solid ball lacks nothing but where a ray grazes it.
        grazing = module.hollowness(out, field, [-0.3] * 3 + [0.3] * 3, cameras, middle)
        assert float(grazing.detach()) == 0 and float(lacking.detach()) <= 40 * float(rays.sum()) / 4
        lacking.sum().backward()
        assert all(p.grad is None or bool(torch.isfinite(p.grad)) for p in field.parameters())


@pytest.mark.parametrize(("side", "border"), [(64, 7), (32, 4), (16, 2), (8, 1), (4, 1)])
def test_depth_is_sjcs(side: int, border: int) -> None:
    near, far = RADIUS - 1, RADIUS + 1
    g = torch.Generator().manual_seed(side)
    # Something in the middle of a little fog, at some distances.
    opacity = 0.2 * torch.rand(2, 1, side, side, generator=g)
    opacity[:, :, border:-border, border:-border] += 0.5
    distance = near + (far - near) * torch.rand(2, 1, side, side, generator=g)
    out = picture(opacity, opacity * distance)
    expected = []
    for view in range(2):
        # A sum over what a ray meets; the rest of it, of weight 1 − opacity, is at `far`.
        nearness = (opacity[view, 0].double() * (far - distance[view, 0].double())) / (far - near)
        inside = torch.zeros(side, side, dtype=torch.bool)
        inside[border : side - border, border : side - border] = True
        expected.append(-math.log(nearness[inside].mean() - nearness[~inside].mean()))
    close(module.depth(out, near, far), torch.tensor(expected, dtype=torch.float64))


def test_depth_of_pictures_without_a_middle() -> None:
    out = picture(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert module.depth(out, 2.0, 4.0).tolist() == [0.0]


def picture(opacity: Tensor, depth: Tensor | None = None) -> RenderOutput:
    """A rendering that has an opacity and a depth only."""
    nothing = torch.zeros_like(opacity)
    statistics = RenderStatistics(torch.zeros(2, dtype=torch.int64), 1, opacity.numel())
    depth = nothing if depth is None else depth
    samples = None
    return RenderOutput(
        nothing,
        opacity,
        depth,
        statistics,
        nothing,
        nothing,
        nothing.flatten(),
        samples,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_are_finite_at_the_ends(value: float) -> None:
    opacity = torch.full((2, 1, 8, 8), value, requires_grad=True)
    out = picture(opacity, opacity * 3.0)
    ramps = {"sparsity": constant(1.0), "opacity": constant(1.0), "depth": constant(1.0)}
    total, values = module.regularisers(out, ramps, 0.5, 2.0, 4.0)
    total.sum().backward()
    assert torch.isfinite(total).all() and all(torch.isfinite(x).all() for x in values.values())
    assert opacity.grad is not None and torch.isfinite(opacity.grad).all()


@pytest.mark.parametrize("density", [0.0, 1e4])
def test_gradients_of_a_rendering_are_finite_at_the_ends(density: float) -> None:
    field = Torus(density=1.0)
    field.inside = torch.tensor(density, requires_grad=True)  # type: ignore[assignment]
    renderer = LatentRenderer(field, steps_per_ray=24).eval()
    out = renderer(Cameras.orbit(20.0, 10.0, RADIUS, 40.0), 12, 12)
    ramps = {name: constant(1.0) for name in ("sparsity", "emptiness", "opacity", "distortion", "depth")}
    total, _ = module.regularisers(out, ramps, 0.5, RADIUS - 1, RADIUS + 1)
    total.sum().backward()
    assert torch.isfinite(total).all() and bool(torch.isfinite(field.inside.grad))  # type: ignore[attr-defined]


def test_the_weighted_sum(rendering: RenderOutput) -> None:
    ramps = {"emptiness": Ramp(0.0, 0.2, 0.5, 1.0), "opacity": constant(3.0), "sparsity": constant(0.0)}
    total, values = module.regularisers(rendering, ramps, 0.75, RADIUS - 1, RADIUS + 1)
    expected = 0.1 * module.emptiness(rendering) + 3 * module.opacity(rendering)
    torch.testing.assert_close(total, expected)
    assert list(values) == list(ramps)
    assert float(values["opacity"]) == pytest.approx(float(rendering.opacity.mean()), rel=1e-5)
    with pytest.raises(KeyError):
        module.regularisers(rendering, {"fog": constant(1.0)}, 0.5, 1.0, 2.0)


@pytest.mark.parametrize("name", ["sparsity", "emptiness", "opacity", "distortion", "hollowness", "depth"])
def test_a_run_with_a_weight_of_zero_is_one_without(small_model: str, name: str) -> None:
    states = []
    for ramps in ({name: constant(0.0)}, {}):
        trainer = runs.trainer(runs.configuration(small_model, steps=2, regularisers=ramps, refinement=None))
        for _ in range(trainer.total):
            trainer.advance()
        states.append(trainer.scene.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


@pytest.mark.parametrize("exponent", [-5.0, -14.0, -20.0, -27.0, -40.0])
def test_hollowness_has_a_bounded_gradient_wherever_the_field_is(exponent: float) -> None:
    """The field's exponential has the gradient of −15 below it: divided by the density it would grow without bound."""
    offset = torch.full((1,), exponent, requires_grad=True)

    class Faint(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return truncated_exp(offset.expand(len(x))), x.new_zeros(len(x), 4)

    ones = torch.ones(1, 1, 8, 8)
    out = picture(ones, ones * RADIUS)
    box = [-2.0] * 3 + [2.0] * 3
    found = module.hollowness(out, Faint(), box, Cameras.orbit([0.0], [0.0], RADIUS, 40.0), ones / 2)
    found.sum().backward()
    rays = 64
    assert 0 < float(found.detach()) <= rays * math.log(10 / 1e-6)
    assert offset.grad is not None and -rays <= float(offset.grad) <= (-0.9 * rays if exponent > -10 else 0)


def test_a_weight_of_zero_switches_off_what_is_not_finite(rendering: RenderOutput) -> None:
    broken = dataclasses.replace(rendering, distortion=rendering.distortion * math.nan)
    ramps = {"distortion": constant(0.0), "opacity": constant(1.0)}
    total, _ = module.regularisers(broken, ramps, 0.5, 1.0, 2.0)
    assert torch.equal(total, module.opacity(rendering))


def test_weight_at() -> None:
    ramp = Ramp(1.0, 3.0, 0.25, 0.75)
    places = (0.0, 0.25, 0.375, 0.5, 0.75, 1.0)
    assert [ramp.at(p) for p in places] == [1.0, 1.0, 1.5, 2.0, 3.0, 3.0]
    assert [constant(0.3).at(p) for p in (0.0, 0.5, 1.0)] == [0.3] * 3
    # SJC's: twenty times as much from the middle on.
    assert [Ramp(0.02, 0.4, 0.5, 0.5).at(p) for p in (0.0, 0.499, 0.5, 1.0)] == [0.02, 0.02, 0.4, 0.4]


@pytest.mark.parametrize("name", ["sparsity", "emptiness", "opacity", "distortion", "hollowness", "depth"])
def test_their_count_does_not_depend_on_the_rays_per_latent(small_model: str, name: str) -> None:
    """Twice as many rays per latent and axis: the same sum per latent, up to where the rays are."""
    found = {}
    for factor in (1, 4):
        # Rays end in this ball, and it is not solid.
        field = {**runs.SMALL["jacobian-nerf"]["field"], "blob": [6.0, 0.5]}
        ramps = {name: constant(1.0)}
        given = runs.configuration(
            small_model, "jacobian-nerf", regularisers=ramps, field=field, supersample=factor, size=16
        )
        trainer = runs.trainer(given)
        drawn = trainer._draw(0)
        drawn = dataclasses.replace(drawn, camera=(drawn.camera[0], 10.0, RADIUS, 40.0))
        cameras = as_cameras([drawn.camera], torch.device("cpu"))
        _, out = trainer.scene.eval().training_view(cameras, 0, drawn.shade)
        extra, _ = trainer._regularise(out, drawn, cameras)
        found[factor] = float(extra.detach())
    assert found[1] != 0 and found[4] == pytest.approx(found[1], rel=0.06)
