"""Text2LIVE's warps and colours against torchvision's own."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.transforms.functional as TF
from torchvision.transforms import InterpolationMode, RandomPerspective

from ldp_fast.clip import views

SIZE = (17, 24)


def near_where_covered(found: torch.Tensor, wanted: torch.Tensor, warp: object) -> None:
    """Equal, but where the fill is blended in, which torchvision does twice."""
    covered = warp(torch.zeros(1, 1, *SIZE), 1.0)[0, 0]  # type: ignore[operator]
    plain = (covered == 0) | (covered == 1)
    assert plain.float().mean() > 0.8 and (covered == 1).any()
    assert torch.allclose(found[..., plain], wanted[..., plain], atol=1e-4)


@pytest.mark.parametrize(("degrees", "shift"), [(11.0, (2, -1)), (-14.5, (0, 1)), (0.0, (-2, 0))])
def test_an_affine_warp(degrees: float, shift: tuple[int, int]) -> None:
    images = torch.rand(1, 3, *SIZE)

    def warp(x: torch.Tensor, fill: float) -> torch.Tensor:
        return TF.affine(x, degrees, list(shift), 1.0, [0.0, 0.0], InterpolationMode.BILINEAR, fill=[fill] * x.shape[1])

    found = views.affine(images, torch.tensor([math.radians(degrees)]), torch.tensor([shift]))
    near_where_covered(found, warp(images, 1.0), warp)


def test_a_perspective() -> None:
    images = torch.rand(1, 3, *SIZE)
    start, end = RandomPerspective.get_params(SIZE[1], SIZE[0], 0.4)
    moved = (torch.tensor(end) - torch.tensor(start)).abs()[None]
    assert moved.any()

    def warp(x: torch.Tensor, fill: float) -> torch.Tensor:
        return TF.perspective(x, start, end, InterpolationMode.BILINEAR, fill=[fill] * x.shape[1])

    near_where_covered(views.perspective(images, moved), warp(images, 1.0), warp)
    assert torch.allclose(views.perspective(images, torch.zeros(1, 4, 2)), warp_of_nothing(images), atol=1e-4)


def warp_of_nothing(images: torch.Tensor) -> torch.Tensor:
    corners = [[0, 0], [SIZE[1] - 1, 0], [SIZE[1] - 1, SIZE[0] - 1], [0, SIZE[0] - 1]]
    return TF.perspective(images, corners, corners, InterpolationMode.BILINEAR, fill=[1.0] * 3)


def test_every_move_of_a_corner_is_one_that_torchvision_draws() -> None:
    drawn = views.draw((40, 40), SIZE, 400, 1, (0,), torch.device("cpu"))
    found = {tuple(corner) for corner in drawn.corners[:, 0].tolist()}
    torch.manual_seed(0)
    wanted = {tuple(map(float, RandomPerspective.get_params(SIZE[1], SIZE[0], 0.4)[1][0])) for _ in range(400)}
    assert found == wanted
    assert {x for x, _ in found} == set(map(float, range(5)))


def test_colours() -> None:
    images = torch.rand(4, 3, 6, 7)
    images[0, :, 0] = 0.5  # grey, where the hue is not defined
    images[1, :, 0, 0] = torch.tensor([0.0, 1.0, 1.0])
    for name, factor in (("brightness", 1.08), ("contrast", 0.91), ("saturation", 1.1), ("hue", -0.07), ("hue", 0.1)):
        found = views._ADJUST[name](images, torch.tensor(factor))
        wanted = getattr(TF, f"adjust_{name}")(images, factor)
        assert torch.allclose(found, wanted, atol=1e-5), name
    assert torch.allclose(views.grey(images), TF.rgb_to_grayscale(images, 3), atol=1e-6)


def test_a_view_is_its_steps_one_after_the_other() -> None:
    images = torch.rand(2, 3, 40, 52)
    view = views.view_size(40, 52, 20, 28)
    draws = views.draw((40, 52), view, 6, 2, (3, 4), torch.device("cpu"))
    found = views.apply_draws(images, draws, view)
    assert torch.equal(found, views.text2live_views(images, short_side=20, longest=28, count=6, numbers=(3, 4)))
    for i in range(12):
        box = [int(x[i]) for x in (draws.top, draws.left, draws.height, draws.width)]
        x = TF.resized_crop(images[i % 2][None], *box, list(view), antialias=True)
        x = TF.hflip(x) if draws.flip[i] else x
        x = views.affine(x, draws.angle[i : i + 1], draws.shift[i : i + 1]) if draws.warp[i] else x
        x = views.perspective(x, draws.corners[i : i + 1]) if draws.tilt[i] else x
        if draws.jitter[i]:
            for name in draws.order:
                factor = float(draws.factors[views.JITTERS.index(name), i])
                x = getattr(TF, f"adjust_{name}")(x, factor)
        x = TF.rgb_to_grayscale(x, 3) if draws.grey[i] else x
        assert torch.allclose(found[i], x[0], atol=1e-4), i
