"""CLIP-Mesh's parts: subdivision against trimesh's, the mesh and its texture, cameras, both rasterisers."""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldp_fast.apps.clip_mesh import mesh as mesh_module
from ldp_fast.apps.clip_mesh import rasterisers, views
from ldp_fast.apps.clip_mesh.configuration import ClipMesh, resolve
from ldp_fast.apps.clip_mesh.mesh import TexturedMesh, baked, opened, places_on_map
from ldp_fast.apps.clip_mesh.subdivision import edges_of, limit, mean_of_neighbours, subdivide
from ldp_fast.errors import UsageError
from ldp_fast.nerf import Cameras
from ldp_fast.runs.seeds import mixed_generator
from ldp_fast.zoo import world

trimesh = pytest.importorskip("trimesh")
CPU = torch.device("cpu")


def ball(level: int) -> tuple[np.ndarray, np.ndarray]:
    """A dented ball's faces and vertices."""
    made = trimesh.creation.icosphere(level)
    noise = np.random.default_rng(0).standard_normal(made.vertices.shape)
    return np.asarray(made.faces, dtype=np.int64), np.asarray(made.vertices) + 0.05 * noise


def configuration(**said: Any) -> ClipMesh:
    small = {"prompt": "a red cube", "level": 1, "refinement": 1, "texture": 8, "views": 2, "size": 32, "device": "cpu"}
    return ClipMesh.from_plain(resolve({**small, **said}))


# --- subdivision ---


@pytest.mark.parametrize("level", [0, 1])
def test_a_subdivision_is_trimeshs(level: int) -> None:
    faces, points = ball(level)
    new_faces, matrix = subdivide(faces, len(points))
    theirs, their_faces = trimesh.remesh.subdivide_loop(points, faces, iterations=1)
    ours = matrix @ points
    assert {tuple(x) for x in np.round(ours, 9)} == {tuple(x) for x in np.round(theirs, 9)}
    ours_mesh = trimesh.Trimesh(ours, new_faces, process=False)
    assert ours_mesh.is_watertight and len(new_faces) == len(their_faces)
    assert ours_mesh.volume == pytest.approx(trimesh.Trimesh(theirs, their_faces).volume, abs=1e-12)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)


def test_the_limit_is_where_endless_subdivision_leads() -> None:
    faces, points = ball(1)
    count, wanted = len(points), limit(faces, len(points)) @ points
    finer, matrix = subdivide(faces, count)
    np.testing.assert_allclose((limit(finer, matrix.shape[0]) @ (matrix @ points))[:count], wanted, atol=1e-12)
    for _ in range(4):
        faces, matrix = subdivide(faces, len(points))
        points = matrix @ points
    assert np.abs(points[:count] - wanted).max() < 1e-3 < np.abs(ball(1)[1] - wanted).max()


def test_edges_know_what_is_across() -> None:
    faces, _ = ball(0)
    edges = edges_of(faces)
    for face in range(len(faces)):
        for k in range(3):
            pair = {faces[face, k], faces[face, (k + 1) % 3]}
            assert pair == set(edges.ends[edges.of_face[face, k]]) and pair < set(faces[edges.across[face, k]])
    means = mean_of_neighbours(faces, 12) @ np.arange(12.0)
    around = {int(x) for face in faces if 0 in face for x in face} - {0}
    assert means[0] == pytest.approx(np.mean(sorted(around)))
    with pytest.raises(ValueError, match="expected a closed mesh, got one with an edge of 1 faces"):
        edges_of(faces[1:])


# --- the mesh ---


def test_it_starts_as_a_ball() -> None:
    mesh = TexturedMesh(2, 1, 16, 0.7)
    points = mesh.positions().detach()
    assert len(points) == 642 and float(points.norm(dim=1).mean()) == pytest.approx(0.7, abs=1e-3)
    assert torch.nn.functional.cosine_similarity(mesh.normals(points), points).min() > 0.999
    assert mesh.roughness().detach() < 2e-3
    np.testing.assert_allclose(
        places_on_map(np.array([[0, 0, 2.0], [1.0, 0, 0], [0, 3.0, 0]])),
        [[0.5, 0.5], [0.75, 0.5], [0.5, 1]],
        atol=1e-12,
    )


def test_its_texture_is_a_map_without_a_seam() -> None:
    mesh = TexturedMesh(2, 1, 32, 1.0)
    steps = (torch.arange(32) + 0.5) / 32
    # Around: the sine of the azimuth; from above downwards: from 1 to 0.
    mesh.texture.data[0] = torch.sin(2 * math.pi * (steps - 0.5)) / 2 + 0.5
    mesh.texture.data[1] = 1 - steps[:, None]
    found = mesh.colours().detach().numpy()
    damped = sum(math.exp(-0.5 * (k / 3) ** 2) * math.cos(2 * math.pi * k / 32) for k in range(-2, 3))
    damped /= sum(math.exp(-0.5 * (k / 3) ** 2) for k in range(-2, 3))
    u, v = mesh.uv.T
    np.testing.assert_allclose(found[:, 0], damped * np.sin(2 * np.pi * (u - 0.5)) / 2 + 0.5, atol=0.01)
    inner = np.abs(v - 0.5) < 0.4
    np.testing.assert_allclose(found[inner, 1], v[inner], atol=1e-5)
    mesh.texture.data.fill_(7.0)
    mesh.keep_in_range()
    assert torch.equal(mesh.texture, torch.ones(3, 32, 32))


def test_its_gradients_are_those_of_finite_differences() -> None:
    mesh = TexturedMesh(0, 1, 4, 1.0)
    mesh.texture.data.copy_(torch.rand(3, 4, 4, generator=mixed_generator(1)))
    weights = torch.randn(42, 3, generator=mixed_generator(2))

    def value() -> Tensor:
        points = mesh.positions()
        return ((mesh.normals(points) + points + mesh.colours()) * weights).sum() + mesh.roughness()

    value().backward()
    for parameter in mesh.parameters():
        direction = torch.randn(parameter.shape, generator=mixed_generator(3))
        held, ends = parameter.data.clone(), []
        for sign in (1, -1):
            parameter.data = held + sign * 3e-3 * direction
            ends.append(float(value().detach()))
        parameter.data = held
        assert parameter.grad is not None
        assert (ends[0] - ends[1]) / 6e-3 == pytest.approx(float((parameter.grad * direction).sum()), rel=5e-3)


def test_cut_open_each_face_lies_together_on_the_map() -> None:
    mesh = TexturedMesh(2, 0, 32, 1.0)
    original, faces, uv = opened(mesh.faces, mesh.uv, 32)
    assert np.array_equal(original[faces], mesh.faces)
    assert np.ptp(uv[faces][..., 0], axis=1).max() < 0.5
    away = np.abs(mesh.uv[original][:, 1] - 0.5) < 0.45
    np.testing.assert_allclose(np.mod(uv[away, 0] - mesh.uv[original[away], 0], 1).round(9) % 1, 0)
    np.testing.assert_allclose(uv[:, 1], mesh.uv[original, 1], atol=1e-9)


def test_its_products_are_those_of_sparse_matrices() -> None:
    mesh = TexturedMesh(2, 1, 4, 1.0)
    for linear, product in ((mesh._surface, mesh.positions()), (mesh._means, mesh._means(mesh.control))):
        assert linear.turned.is_coalesced()
        weights = torch.randn(product.shape, generator=mixed_generator(7))
        wanted = torch.sparse.mm(linear.matrix, mesh.control)
        assert torch.equal(product, wanted)
        found = (torch.autograd.grad(x, mesh.control, weights)[0] for x in (product, wanted))
        assert torch.equal(next(found), next(found))


@pytest.mark.parametrize("at_once", [1, 40, 500_000])
def test_a_baked_map_has_the_colours_between_corners(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_module, "AT_ONCE", at_once)
    mesh = TexturedMesh(2, 0, 32, 1.0)
    _, faces, uv = opened(mesh.faces, mesh.uv, 32)
    # Linear in v: so it is between corners too; and one that ends at the map's border, where it goes on.
    colours = np.stack([uv[:, 1], np.abs((uv[:, 0] % 1) - 0.5), np.ones(len(uv))], axis=1)
    found = baked(faces, uv, colours, 32)
    middles = (np.arange(32) + 0.5) / 32
    np.testing.assert_allclose(found[2:-2, :, 0], np.tile(1 - middles[2:-2, None], 32), atol=1e-6)
    away = np.abs(np.abs(middles - 0.5) - 0.25) < 0.12
    np.testing.assert_allclose(found[8:-8, away, 1], np.tile(np.abs(middles[away] - 0.5), (16, 1)), atol=0.02)
    np.testing.assert_allclose(found[..., 2], 1, atol=1e-6)


def test_a_written_texture_has_nothing_that_was_not_drawn() -> None:
    mesh = TexturedMesh(2, 1, 256, 1.0)
    assert (mesh._shares > 0).sum() < 256**2 / 4
    noise = torch.rand(mesh.texture.shape, generator=mixed_generator(8))
    mesh.texture.data.copy_(noise)
    mesh.colours().sum().backward()
    assert mesh.texture.grad is not None
    seen = mesh.texture.grad != 0
    assert seen.float().mean() < 0.8
    mesh.texture.data[seen] = 0.25
    written = mesh.written_texture()
    # Between the vertices too, where the texture itself is noise in part.
    drawn = mesh.colours().detach()
    assert written.shape == (256, 256, 3) and written.dtype == np.float32
    np.testing.assert_allclose(written, 0.25, atol=1e-5)
    assert (drawn - 0.25).abs().max() < 1e-5 < (mesh.smooth_texture() - 0.25).abs().max()


# --- cameras, lights, backgrounds ---


def test_what_a_step_draws_is_of_the_seed_and_the_step() -> None:
    c = configuration(views=64)
    first, again, other = (views.drawn(c, step, CPU) for step in (1, 1, 2))
    for name in ("lights", "behind"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))
    assert torch.equal(first.cameras.poses, again.cameras.poses)
    low, high = world.BACKGROUNDS
    assert low <= first.behind.min() and first.behind.max() <= high
    assert (first.behind == first.behind[:, :1, :1, :1]).all()
    assert -5 <= first.cameras.elevation.min() and first.cameras.elevation.max() <= 55
    radius = first.cameras.positions.norm(dim=1)
    torch.testing.assert_close(first.lights.norm(dim=1), radius)
    cosines = torch.nn.functional.cosine_similarity(first.lights, first.cameras.positions)
    # The mean of a cosine-distributed cosine is 2/3.
    assert cosines.min() > 0 and 0.58 < cosines.mean() < 0.75


def test_at_full_size_cameras_are_low_ones_and_backgrounds_of_all_kinds() -> None:
    full = resolve({"prompt": "an owl", "model": "somebody/a-clip", "device": "cpu"})
    c = dataclasses.replace(ClipMesh.from_plain(full), views=400, size=16)
    found = views.drawn(c, 1, CPU)
    assert torch.equal(found.behind, views.drawn(c, 1, CPU).behind)
    # Beta(1, 5) · 90°: mean 15°.
    assert 13 < found.cameras.elevation.mean() < 17 and found.cameras.elevation.max() > 45
    flat = (found.behind - found.behind.mean((2, 3), keepdim=True)).abs().amax((1, 2, 3)) < 1e-6
    assert 0.25 < flat.float().mean() < 0.42
    assert 0 <= found.behind.min() and found.behind.max() <= 1


def test_places_in_the_picture_are_those_of_the_cameras_rays() -> None:
    cameras = dataclasses.replace(
        Cameras.orbit([20.0, 200.0], [30.0, -10.0], 3.0, 50.0), centre=torch.tensor([[0.45, 0.6]] * 2)
    )
    origins, directions = cameras.rays(8, 8)
    for camera in range(2):
        some = slice(64 * camera, 64 * camera + 64)
        points = origins[some] + 2.5 * directions[some]
        x, y, z, w = views.in_picture(cameras, points)[camera].T
        expected = (torch.arange(8) + 0.5) / 8 * 2 - 1
        torch.testing.assert_close((x / w).view(8, 8), expected.expand(8, 8), atol=1e-5, rtol=0)
        torch.testing.assert_close((-y / w).view(8, 8), expected[:, None].expand(8, 8), atol=1e-5, rtol=0)
        assert ((z / w).abs() < 1).all()


# --- rasterisers ---


def scene(size: int, level: int = 2) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
    """A ball that is round, as two cameras see it: faces, places, colours, what is behind."""
    mesh = TexturedMesh(level, 1, 4, 0.8)
    points = mesh.positions().detach().double()
    places = views.in_picture(Cameras.orbit([20.0, 110.0], [30.0, -20.0], 3.6, 40.0), points)
    colours = ((points + 1) / 2).expand(2, -1, -1).clone()
    behind = torch.rand(2, 3, size, size, generator=mixed_generator(4), dtype=torch.float64)
    return mesh.faces, places, colours, behind


def test_deodrs_gradients_are_those_of_finite_differences() -> None:
    pytest.importorskip("deodr")
    faces, places, colours, behind = scene(32, level=1)
    deodr = rasterisers.load("deodr", faces, CPU)
    weights = torch.randn(behind.shape, generator=mixed_generator(5), dtype=torch.float64)

    def value(places: Tensor, colours: Tensor) -> Tensor:
        return (deodr(places, colours, behind) * weights).sum()

    inputs = [places.requires_grad_(), colours.requires_grad_()]
    value(*inputs).backward()
    for k, x in enumerate(inputs):
        direction = torch.randn(x.shape, generator=mixed_generator(6), dtype=torch.float64)
        if k == 0:
            direction[..., 2] = 0
        with torch.no_grad():
            ends = [value(*(y + s * 1e-6 * direction if y is x else y for y in inputs)) for s in (1, -1)]
        assert x.grad is not None
        assert float(ends[0] - ends[1]) / 2e-6 == pytest.approx(float((x.grad * direction).sum()), rel=1e-4)


def test_deodr_leaves_out_what_is_behind_the_camera() -> None:
    pytest.importorskip("deodr")
    faces, places, colours, behind = scene(16, level=1)
    deodr = rasterisers.load("deodr", faces, CPU)
    places[0, :, 3] -= 100
    found = deodr(places.requires_grad_(), colours, behind)
    assert torch.equal(found[0], behind[0]) and not torch.equal(found[1], behind[1])
    found.sum().backward()
    assert places.grad is not None and places.grad.isfinite().all() and not places.grad[0].any()


class Recorder:
    """`nvdiffrast.torch` in plain loops, without its antialiasing; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def antialias_construct_topology_hash(self, faces: Tensor) -> str:
        self.calls.append(f"edges of {len(faces)}")
        return "edges"

    def RasterizeCudaContext(self, device: Any) -> str:
        self.calls.append(f"context {device}")
        return "context"

    def rasterize(
        self, context: str, places: Tensor, faces: Tensor, resolution: list[int], grad_db: bool
    ) -> tuple[Tensor, None]:
        assert context == "context" and not grad_db and places.dtype == torch.float32 and faces.dtype == torch.int32
        assert places.is_contiguous()
        self.calls.append(f"rasterize {resolution}")
        height, width = resolution
        y, x = np.meshgrid(
            (np.arange(height) + 0.5) / height * 2 - 1, (np.arange(width) + 0.5) / width * 2 - 1, indexing="ij"
        )
        found = np.zeros((len(places), height, width, 4), dtype=np.float32)
        for view, corners in enumerate(places.double().numpy()):
            nearest = np.full((height, width), np.inf)
            for number, face in enumerate(faces.numpy()):
                # Homogeneous edge functions give barycentric coordinates in space, not in the picture.
                edge = np.linalg.inv(corners[face][:, [0, 1, 3]])
                weights = np.stack([x, y, np.ones_like(x)], axis=2) @ edge
                weights, total = weights / weights.sum(2, keepdims=True), weights.sum(2)
                depth = np.where((weights >= 0).all(2) & (total > 0), 1 / total, np.inf)
                closer = depth < nearest
                nearest[closer] = depth[closer]
                found[view][closer] = np.concatenate(
                    [weights[closer][:, :2], np.zeros((closer.sum(), 1)), np.full((closer.sum(), 1), number + 1)], 1
                )
        return torch.from_numpy(found), None

    def interpolate(self, values: Tensor, covered: Tensor, faces: Tensor) -> tuple[Tensor, None]:
        self.calls.append("interpolate")
        number = covered[..., 3].long() - 1
        u, v = covered[..., :1], covered[..., 1:2]
        corners = [
            torch.stack([x[n] for x, n in zip(values, faces.long()[number][..., k], strict=True)]) for k in range(3)
        ]
        return (u * corners[0] + v * corners[1] + (1 - u - v) * corners[2]) * (number >= 0)[..., None], None

    def antialias(self, pictures: Tensor, covered: Tensor, places: Tensor, faces: Tensor, topology_hash: str) -> Tensor:
        assert topology_hash == "edges" and pictures.is_contiguous() and pictures.shape[-1] == 3
        self.calls.append("antialias")
        return pictures


def test_nvdiffrast_and_deodr_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deodr")
    recorder = Recorder()
    package = types.ModuleType("nvdiffrast")
    package.torch = recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", recorder)  # type: ignore[arg-type]
    faces, places, colours, behind = scene(24)
    places[:, :, 1] += 0.3 * places[:, :, 3]  # not in the middle, so that a picture upside down is another one
    nvdiffrast = rasterisers.NvDiffRast(faces, CPU)
    found = nvdiffrast(places, colours, behind)
    assert recorder.calls == ["context cpu", f"edges of {len(faces)}", "rasterize [24, 24]", "interpolate", "antialias"]
    nvdiffrast(places, colours, behind)
    assert len(recorder.calls) == 8
    wanted = rasterisers.Deodr(faces)(places, colours, behind)
    different = (found - wanted).abs().amax(1) > 0.02
    # Outlines are blended by the one and not by the stand-in for the other.
    assert different.float().mean() < 0.1 and not different[:, 4:10, 8:16].any()
    with pytest.raises(UsageError, match="--rasteriser: nvdiffrast needs a GPU of NVIDIA, got cpu: choose deodr"):
        monkeypatch.setattr(rasterisers, "require", lambda name: None)
        rasterisers.load("nvdiffrast", faces, CPU)


def test_an_nvdiffrast_that_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("Error building extension 'nvdiffrast_plugin'\nmany lines")

    monkeypatch.setattr(rasterisers, "require", lambda name: None)
    monkeypatch.setattr(rasterisers, "NvDiffRast", fail)
    with pytest.raises(UsageError, match=r"^--rasteriser: nvdiffrast cannot draw on cuda: Error building ext[^\n]*$"):
        rasterisers.load("nvdiffrast", np.zeros((0, 3)), torch.device("cuda"))


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasterisers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^--rasteriser: deodr is not installed: pip install 'ldp-fast\[mesh\]'"):
        rasterisers.require("deodr")
    with pytest.raises(UsageError, match=r"nvdiffrast is not installed: .* or choose --rasteriser deodr"):
        rasterisers.require("nvdiffrast")
    assert (rasterisers.default_for("cuda"), rasterisers.default_for("cpu")) == ("deodr", "deodr")
    monkeypatch.setattr(rasterisers.importlib.util, "find_spec", lambda name: "there")
    assert (rasterisers.default_for("cuda"), rasterisers.default_for("cpu")) == ("nvdiffrast", "deodr")


@pytest.mark.parametrize(("version", "fine"), [("0.3.1", False), ("0.3.3", True), ("0.4.0", True), ("", False)])
def test_an_old_nvdiffrast_is_refused(version: str, fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasterisers.importlib.util, "find_spec", lambda name: "there")
    package = types.ModuleType("nvdiffrast")
    package.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    if fine:
        rasterisers.require("nvdiffrast")
        return
    with pytest.raises(UsageError, match=r"^--rasteriser: expected nvdiffrast 0\.3\.3 or later, got"):
        rasterisers.require("nvdiffrast")
