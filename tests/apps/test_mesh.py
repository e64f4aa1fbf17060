"""`ldp-fast export`: the surface is where it should be, clean and closed, with the colours of the decoded views."""

from __future__ import annotations

import json
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldp_fast import cli
from ldp_fast.errors import UsageError
from ldp_fast.nerf import Cameras, LatentRenderer, OccupancyGrid

from ..nerf.scenes import MAJOR, MINOR, Ball, Torus, train_torus

trimesh = pytest.importorskip("trimesh", reason="the extra `apps` is not installed")
pytest.importorskip("skimage", reason="the extra `apps` is not installed")
pytest.importorskip("fast_simplification", reason="the extra `apps` is not installed")
pytest.importorskip("xatlas", reason="the extra `apps` is not installed")

from ldp_fast.apps.text_to_3d.mesh import outlines  # noqa: E402
from ldp_fast.apps.text_to_3d.mesh import surface as surfaces  # noqa: E402
from ldp_fast.apps.text_to_3d.mesh import texture as textures  # noqa: E402
from ldp_fast.apps.text_to_3d.mesh.mesh import export_mesh  # noqa: E402

NAMES = ("mesh.glb", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.json")
QUICK = {"resolution": 64, "texture": 128, "faces": 3000}


@pytest.fixture(autouse=True)
def few_outlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silhouettes are compared in few small views; test_mesh_outlines.py looks at them closely."""
    monkeypatch.setattr(outlines, "RINGS", ((15.0, 3),))
    monkeypatch.setattr(outlines, "RAYS", 48)


@pytest.fixture
def few_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours come from every sixth view, where they are not looked at."""
    cameras = textures.baking_cameras
    monkeypatch.setattr(textures, "baking_cameras", lambda orbit: cameras(orbit)[::6])


class Field(nn.Module):
    """Functions of the place as a field; without a method `density`, as a field of one's own may be."""

    bound = 1.0

    def __init__(self, density: Callable[[Tensor], Tensor], colour: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.inside, self.colour = density, colour or (lambda x: torch.zeros_like(x))

    def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.inside(positions), self.colour(positions)


class Scene:
    """A scene whose decoder doubles the size and takes the first three channels for RGB."""

    step = 12

    def __init__(self, field: nn.Module, occupancy: OccupancyGrid | None = None, size: int = 48):
        self.field, self.occupancy, self.size, self.display_size = field, occupancy, size, size
        self.refined, self.supersample = True, 1
        self.orbit = {"elevation": 15.0, "radius": 3.6, "fov": 40.0}
        # Magenta is behind the object, so that what shows through is told from every other colour.
        self.background = torch.tensor([1.0, 0.0, 1.0])
        self.renderer = LatentRenderer(field, occupancy, steps_per_ray=96).eval()

    @torch.no_grad()
    def render(self, cameras: Cameras, size: int | None = None, **_: Any) -> Any:
        channels = self.field(torch.zeros(1, 3))[1].shape[1]
        background = torch.cat([self.background, torch.zeros(channels)])[:channels]
        return self.renderer(cameras, size or self.size, size or self.size, background=background)

    def decode(self, latents: Tensor) -> Tensor:
        return nn.functional.interpolate(latents[:, :3], scale_factor=2, mode="bilinear").clamp(0, 1)


def ball(radius: float, density: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Any:
    return lambda x: density * ((x - x.new_tensor(centre)).norm(dim=-1) < radius).float()


def read(path: pathlib.Path) -> Any:
    """A mesh as a user gets it back: one trimesh.Trimesh."""
    loaded = trimesh.load(path)
    return loaded if isinstance(loaded, trimesh.Trimesh) else loaded.to_geometry()


def welded(mesh: Any) -> Any:
    """Without the seams of the texture."""
    mesh = mesh.copy()
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    return mesh


def outline_ratio(scene: Any, mesh: Any) -> float:
    """The area that the mesh covers, over the area that is opaque in the rendered views."""
    vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces).long()
    cameras = Cameras.orbit([0.0, 70.0, 200.0], [10.0, 50.0, -20.0], 3.6, 40.0)
    covered = sum(float((textures.nearness(camera, vertices, faces, 96) > 0).sum()) for camera in cameras)
    return covered / float((scene.render(cameras, 96).opacity > 0.5).sum())


@pytest.mark.usefixtures("few_views")
@pytest.mark.parametrize("density", [1.0, 5.0, 400.0])
def test_a_ball_of_even_density_has_its_volume_and_surface(density: float, tmp_path: pathlib.Path) -> None:
    report = export_mesh(Scene(Ball(0.6, density, (1.0, 0.0, 0.0))), tmp_path, **QUICK)
    assert report.watertight and report.euler_number == 2 and report.components == 1
    # A translucent ball's outline is where rays are long enough, so that the best density is a little above one half.
    assert 0.49 * density < report.threshold < 0.75 * density or (density > 100 and report.threshold < density / 2)
    assert report.agreement > 0.95 and not report.carved and report.notes == ()
    assert report.solidity == pytest.approx({1.0: 0.6, 5.0: 0.98, 400.0: 1.0}[density], abs=0.05)
    # The translucent one's outline has a radius of 0.58.
    error = 0.07 if density == 1 else 0.03
    assert report.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=error)
    assert report.area == pytest.approx(4 * math.pi * 0.6**2, rel=error)
    assert report.extents == pytest.approx((1.2, 1.2, 1.2), rel=error)
    assert report.step == 12 and 2000 < report.faces <= 3000


@pytest.mark.usefixtures("few_views")
def test_a_soft_torus_is_a_ring_with_the_outlines_of_its_pictures(tmp_path: pathlib.Path) -> None:
    scene = Scene(Torus())
    report = export_mesh(scene, tmp_path, **QUICK)
    assert report.watertight and report.euler_number == 0 and report.dropped_components == 0

    def volume(margin: float) -> float:
        return 2 * math.pi**2 * MAJOR * (MINOR + margin) ** 2

    # Straight on, half the light is lost at +0.01; at the outline, where rays graze, at +0.09.
    assert volume(0.05) < report.volume < volume(0.1)
    assert outline_ratio(scene, read(tmp_path / "mesh.glb")) == pytest.approx(1, abs=0.03)
    assert report.agreement > 0.96 and not report.carved and report.notes == ()


@pytest.mark.usefixtures("few_views")
@pytest.mark.slow
def test_a_trained_field_gives_one_clean_ring(tmp_path: pathlib.Path) -> None:
    trained = train_torus()
    scene = Scene(trained.renderer.field, trained.occupancy, size=32)
    report = export_mesh(scene, tmp_path, texture=256, faces=5000)
    assert report.watertight and report.euler_number == 0 and report.components == 1, report
    assert report.faces <= 5000
    assert outline_ratio(scene, read(tmp_path / "mesh.glb")) == pytest.approx(1, abs=0.05)


@pytest.mark.usefixtures("few_views")
def test_fog_neither_moves_the_level_nor_fills_the_box(tmp_path: pathlib.Path) -> None:
    # Opaque by itself, from one side of the box to the other: 1 − e^−1.6 = 0.8.
    fog = Field(lambda x: 20 * torch.sigmoid((0.5 - x.norm(dim=-1)) / 0.02) + 0.8)
    clear = Field(lambda x: 20 * torch.sigmoid((0.5 - x.norm(dim=-1)) / 0.02))
    foggy, alone = (export_mesh(Scene(x), tmp_path / str(i), **QUICK) for i, x in enumerate((fog, clear)))
    assert foggy.volume == pytest.approx(alone.volume, rel=0.1)
    # Where rays graze the ball they lose half their light at a radius of 0.55.
    assert all(4 / 3 * math.pi * 0.5**3 < x.volume < 4 / 3 * math.pi * 0.55**3 for x in (foggy, alone))
    assert foggy.agreement > 0.95 and alone.agreement > 0.95


@pytest.mark.usefixtures("few_views")
def test_a_noisy_field_gives_one_clean_ring_too(tmp_path: pathlib.Path) -> None:
    def noisy(x: Tensor) -> Tensor:
        cell = (x * 40).floor()
        noise = (cell @ torch.tensor([12.9898, 78.233, 37.719])).sin() * 43758.5453
        return Torus()(x)[0] * (4 * (noise - noise.floor()) - 2).exp()

    report = export_mesh(Scene(Field(noisy), size=32), tmp_path, **QUICK)
    assert report.watertight and report.euler_number == 0 and report.components == 1
    assert report.faces <= 6000
    # Without the smoothing it would be riddled with tunnels.
    axis = torch.linspace(-1, 1, 64)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    rough = surfaces.cut_surface(noisy(points).double().view(64, 64, 64).numpy(), 1.0, report.threshold, 1e-3)
    assert trimesh.Trimesh(rough.vertices, rough.faces, process=False).euler_number < -20


@pytest.mark.usefixtures("few_views")
def test_floaters_are_dropped_and_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    large, small = ball(0.5, 30.0, (-0.2, 0.0, 0.0)), ball(0.15, 30.0, (0.7, 0.3, 0.0))
    report = export_mesh(Scene(Field(lambda x: large(x) + small(x))), tmp_path, **QUICK)
    assert (report.components, report.dropped_components) == (1, 1)
    assert report.dropped_volume_share == pytest.approx(0.15**3 / (0.5**3 + 0.15**3), rel=0.15)
    assert "1 floater dropped (2." in str(report)
    assert report.extents == pytest.approx((1.0, 1.0, 1.0), rel=0.03)


@pytest.mark.usefixtures("few_views")
def test_what_nobody_can_see_is_filled(tmp_path: pathlib.Path) -> None:
    shell = Field(lambda x: ball(0.6, 30.0)(x) - ball(0.4, 30.0)(x))
    report = export_mesh(Scene(shell), tmp_path, **QUICK)
    assert report.euler_number == 2 and report.dropped_components == 0
    assert report.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.03)


@pytest.mark.usefixtures("few_views")
def test_a_surface_that_leaves_the_box_is_closed_there(tmp_path: pathlib.Path) -> None:
    report = export_mesh(Scene(Field(lambda x: 30.0 * (x[:, 0] > 0.2).float())), tmp_path, **QUICK)
    assert report.watertight and report.euler_number == 2
    # Taubin's filter and the smoothing of the density round the edges.
    assert report.volume == pytest.approx(0.8 * 2 * 2, rel=0.04)
    assert report.extents == pytest.approx((0.8, 2.0, 2.0), rel=0.05)


@pytest.mark.usefixtures("few_views")
def test_what_the_occupancy_grid_skips_is_no_part_of_the_object(tmp_path: pathlib.Path) -> None:
    two = Field(lambda x: ball(0.4, 30.0, (-0.45, 0, 0))(x) + ball(0.4, 30.0, (0.45, 0, 0))(x))
    occupancy = OccupancyGrid(resolution=32)
    occupancy.update(lambda x: torch.where(x[:, 0] > 0, two(x)[0], 0))
    report = export_mesh(Scene(two, occupancy), tmp_path, **QUICK)
    assert report.components == 1 and report.dropped_components == 0
    # A cell of the grid is a third of a latent wide.
    assert report.volume == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.1)


SIDES = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 1, 1]])


def six_colours(x: Tensor) -> Tensor:
    """One colour for each side of a cube around the origin: +x, +y, +z, −x, −y, −z."""
    axis = x.abs().argmax(1)
    return SIDES.to(x)[axis + 3 * (x.gather(1, axis[:, None])[:, 0] < 0)]


def test_each_side_has_its_decoded_colour_and_nothing_of_the_background(tmp_path: pathlib.Path) -> None:
    scene = Scene(Field(ball(0.6, 80.0), six_colours))
    report = export_mesh(scene, tmp_path, resolution=64, texture=256, faces=6000)
    assert report.colours == "texture" and report.texture == 256 and report.seen_share > 0.999
    for name in ("mesh.glb", "mesh.obj"):
        mesh = read(tmp_path / name)
        assert mesh.visual.kind == "texture"
        points = torch.tensor(mesh.vertices).float()
        colours = torch.tensor(mesh.visual.to_color().vertex_colors[:, :3] / 255.0).float()
        # Away from the borders between two sides, where a picture's pixels have both.
        sorted_sizes = points.abs().sort(dim=1).values
        clear = sorted_sizes[:, 2] - sorted_sizes[:, 1] > 0.12
        assert int(clear.sum()) > 1000
        error = (colours - six_colours(points)).abs().amax(1)[clear]
        assert float(error.max()) < 0.12, name
        magenta = (colours - scene.background).abs().amax(1)
        assert float(magenta.min()) > 0.3


def test_what_stands_in_front_does_not_colour_what_is_behind(tmp_path: pathlib.Path) -> None:
    near, far = ball(0.4, 80.0, (0, 0, 0.5)), ball(0.4, 80.0, (0, 0, -0.5))
    colour = lambda x: torch.where(x[:, 2:] > 0, SIDES[0], SIDES[2])  # noqa: E731
    scene = Scene(Field(lambda x: near(x) + far(x), colour))
    report = export_mesh(scene, tmp_path, resolution=64, texture=256, faces=6000)
    assert report.components == 2 and report.watertight
    mesh = read(tmp_path / "mesh.glb")
    colours = torch.tensor(mesh.visual.to_color().vertex_colors[:, :3] / 255.0).float()
    error = (colours - colour(torch.tensor(mesh.vertices).float())).abs().amax(1)
    assert float(error.max()) < 0.2 and float(error.mean()) < 0.02


def test_texels_that_no_view_sees_are_like_their_neighbours(tmp_path: pathlib.Path) -> None:
    # A slit too narrow for any camera of the rings, which never look straight along it from the front.
    field = Field(lambda x: ball(0.7, 80.0)(x) * ((x[:, 0].abs() > 0.06) | (x[:, 1] < -0.45)).float())
    field.colour = lambda x: SIDES[1].expand(len(x), -1)
    report = export_mesh(Scene(field), tmp_path, resolution=96, texture=256, faces=6000)
    assert report.seen_share < 0.999
    mesh = read(tmp_path / "mesh.glb")
    colours = torch.tensor(mesh.visual.to_color().vertex_colors[:, :3] / 255.0).float()
    assert float((colours - SIDES[1]).abs().max()) < 0.35


@pytest.mark.usefixtures("few_views")
def test_both_files_read_back_closed_and_alike(tmp_path: pathlib.Path) -> None:
    report = export_mesh(Scene(Torus()), tmp_path, **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    for name in ("mesh.glb", "mesh.obj"):
        mesh = welded(read(tmp_path / name))
        assert mesh.is_watertight and mesh.is_winding_consistent, name
        assert (len(mesh.vertices), len(mesh.faces)) == (report.vertices, report.faces), name
        assert mesh.volume == pytest.approx(report.volume, rel=1e-5) and mesh.volume > 0
        assert mesh.area_faces.min() > 0
    record = json.loads((tmp_path / "mesh.json").read_text())
    assert record["watertight"] is True and record["faces"] == report.faces
    assert record["extents"] == pytest.approx(report.extents) and record["threshold"] == report.threshold
    before = (tmp_path / "mesh.glb").read_bytes()
    export_mesh(Scene(Torus()), tmp_path, **QUICK)
    assert (tmp_path / "mesh.glb").read_bytes() == before, "the same scene gives the same bytes"


def test_optional_libraries_are_missed_aloud(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xatlas", None)
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    report = export_mesh(Scene(Field(ball(0.6, 80.0), six_colours)), tmp_path, **QUICK)
    assert report.colours == "vertices" and report.texture == 0 and report.faces > 3000
    assert "xatlas is not installed" in str(report) and "pip install fast-simplification" in str(report)
    assert not (tmp_path / "mesh.mtl").exists()
    for name in ("mesh.glb", "mesh.obj"):
        mesh = read(tmp_path / name)
        assert mesh.is_watertight, name
        front = mesh.vertices[:, 2].argmax()
        assert mesh.visual.vertex_colors[front][:3] / 255 == pytest.approx(SIDES[2].numpy(), abs=0.1), name


def nan_inside(x: Tensor) -> Tensor:
    return torch.where(x.norm(dim=-1) < 0.3, torch.nan, 1.0)


@pytest.mark.parametrize(
    ("density", "options", "message"),
    [
        (lambda x: 0 * x[:, 0], {}, "the field is empty"),
        (lambda x: 0 * x[:, 0] + 0.01, {}, "the field is empty: the most opaque ray through it absorbs 2 %"),
        (nan_inside, {}, "not finite"),
        (ball(0.5, 8.0), {"threshold": 9.0}, "--threshold: expected less than the highest density, 8; got 9"),
        (ball(0.5, 8.0), {"threshold": -1.0}, "--threshold: expected auto or a positive density"),
        (ball(0.5, 8.0), {"threshold": math.nan}, "--threshold: expected auto or a positive density"),
        (ball(0.5, 8.0), {"resolution": 4}, "--resolution: expected 16 to 512; got 4"),
        (ball(0.5, 8.0), {"texture": 8}, "--texture: expected 64 to 8192; got 8"),
        (ball(0.5, 8.0), {"faces": 7}, "--faces: expected 0 (all) or at least 100; got 7"),
    ],
)
def test_errors_name_the_argument_and_replace_nothing(
    density: Any, options: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    for name in NAMES:
        (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError) as error:
        export_mesh(Scene(Field(density)), tmp_path, **{**QUICK, **options})
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1
    assert all((tmp_path / name).read_text() == "precious" for name in NAMES)
    assert len(list(tmp_path.iterdir())) == len(NAMES)


def test_the_command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    asked = []

    def load_scene(folder: pathlib.Path, step: int | None = None, device: str | None = None) -> Scene:
        asked.append((folder, step, device))
        return Scene(Ball(0.6, 5.0, (1.0, 0.0, 0.0)))

    monkeypatch.setattr("ldp_fast.apps.text_to_3d.scene.load_scene", load_scene)
    words = ["export", str(tmp_path / "run"), "--resolution", "48", "--texture", "64", "--faces", "500"]
    assert cli.main([*words, "--checkpoint", "400", "--threshold", "1.5", "--out", str(tmp_path / "out")]) == 0
    assert asked == [(tmp_path / "run", 400, None)]
    printed = capsys.readouterr().out.strip()
    assert len(printed.splitlines()) == 1 and "mesh.glb" in printed and "watertight" in printed
    assert json.loads((tmp_path / "out" / "mesh.json").read_text())["threshold"] == 1.5
    assert cli.main([*words, "--threshold", "some"]) == 2
    assert "--threshold: expected auto or a positive density; got 'some'" in capsys.readouterr().err
    (tmp_path / "file").write_text("precious")
    assert cli.main([*words, "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err and (tmp_path / "file").read_text() == "precious"


def test_rasterise_covers_a_square_once() -> None:
    square = torch.tensor([[[1.0, 1.0], [7.0, 1.0], [7.0, 5.0]], [[1.0, 1.0], [7.0, 5.0], [1.0, 5.0]]])
    flat = torch.tensor([[[0.0, 0.0], [8.0, 8.0], [4.0, 4.0]], [[torch.nan, 0.0], [8.0, 0.0], [8.0, 8.0]]])
    parts = list(textures.rasterise(torch.cat([square, flat]), 8, 8))
    triangle, pixel, weights = (torch.cat(column) for column in zip(*parts, strict=True))
    assert set(triangle.tolist()) == {0, 1}
    assert sorted(set(pixel.tolist())) == [8 * y + x for y in range(1, 5) for x in range(1, 7)]
    places = (square[triangle] * weights[..., None]).sum(1)
    torch.testing.assert_close(places, torch.stack([pixel % 8, pixel // 8], dim=1) + 0.5)


def test_the_level_of_an_exponential_edge_does_not_depend_on_the_lattice() -> None:
    def density(x: Tensor) -> Tensor:
        return (8 * (0.5 - x.norm(dim=-1))).exp().clamp(max=50) * 10

    levels = [
        surfaces.solid_level(surfaces.density_lattice(density, 1.0, size, torch.device("cpu")), 2 / (size - 1))
        for size in (40, 80, 120)
    ]
    assert max(levels) / min(levels) < 1.1
