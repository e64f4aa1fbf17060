"""Text2LIVE's views: sizes, probabilities, gradients; `tests/with_torchvision` compares them with torchvision's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ldp_fast import UsageError
from ldp_fast.clip import views


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((512, 512), (224, 224)), ((512, 600), (224, 262)), ((1000, 512), (320, 164)), ((100, 90), (248, 224))],
)
def test_the_shorter_side_is_clips_unless_the_longer_would_be_too_long(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert views.view_size(*size, 224, 320) == wanted


def test_the_first_view_is_of_the_whole_and_the_others_of_crops() -> None:
    draws = views.draw((30, 50), (12, 20), 100, 2, (1, 2), torch.device("cpu"))
    for start, length, side in ((draws.top, draws.height, 30), (draws.left, draws.width, 50)):
        assert start[:2].tolist() == [0, 0] and length[:2].tolist() == [side, side]
        assert ((start >= 0) & (start + length <= side)).all() and torch.equal(start, start.floor())
        share = length[2:] / side
        assert (share > 0.6 - 1 / side).all() and share.max() > 0.95 and share.min() < 0.65
    assert torch.equal((draws.height / 30 - draws.width / 50).abs() < 1 / 30, torch.ones(200, dtype=torch.bool))


def test_each_step_is_as_likely_as_in_the_source() -> None:
    draws = views.draw((30, 50), (12, 20), 4000, 1, (1,), torch.device("cpu"))
    shares = [float(getattr(draws, name).float().mean()) for name in ("flip", "warp", "tilt", "jitter", "grey")]
    assert shares == pytest.approx([0.5, 0.8, 0.5, 0.7, 0.15], abs=0.03)
    assert 14.5 < float(draws.angle.rad2deg().abs().max()) <= 15
    assert draws.shift.abs().amax(0).tolist() == [2, 1] and draws.corners.amax((0, 1)).tolist() == [4, 2]
    assert draws.factors[:3].min() >= 0.9 and draws.factors[:3].max() <= 1.1 and draws.factors[3].abs().max() <= 0.1
    orders = {views.draw((9, 9), (9, 9), 1, 1, (i,), torch.device("cpu")).order for i in range(200)}
    assert len(orders) == 24


def test_a_view_without_a_step_has_its_pixels_to_the_bit() -> None:
    images = torch.rand(1, 3, 10, 12)
    draws = views.draw((10, 12), (10, 12), 1, 1, (1,), torch.device("cpu"))
    still = {name: torch.zeros(1, dtype=torch.bool) for name in ("flip", "warp", "tilt", "jitter", "grey")}
    plain = views.Draws(**{**draws.__dict__, **still})
    assert torch.equal(views.apply_draws(images, plain, (10, 12)), images)
    flipped = views.Draws(**{**plain.__dict__, "flip": torch.ones(1, dtype=torch.bool)})
    assert torch.equal(views.apply_draws(images, flipped, (10, 12)), images.flip(-1))


def test_gradients_are_those_of_finite_differences() -> None:
    images = torch.rand(1, 3, 6, 7, dtype=torch.float64)
    images = 0.25 + 0.5 * images  # jitter clamps, and is not smooth where it does
    found = torch.autograd.gradcheck(
        lambda x: views.text2live_views(x, short_side=5, longest=9, count=4, numbers=(3,)),
        images.requires_grad_(),
        fast_mode=True,
    )
    assert found


def test_the_hue_of_grey_has_a_finite_gradient() -> None:
    grey = torch.full((1, 3, 1, 1), 0.5, requires_grad=True)
    views.hue(grey, torch.tensor(0.1)).sum().backward()
    assert grey.grad is not None and grey.grad.isfinite().all()


def test_views_come_from_their_numbers_alone() -> None:
    images = torch.rand(2, 3, 10, 12)
    first, again, other = (
        views.text2live_views(images, short_side=8, longest=12, count=3, numbers=(1, n)) for n in (1, 1, 2)
    )
    assert first.shape == (6, 3, 8, 9) and torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])  # two pictures are not drawn alike either
    rough = views.text2live_views(images, short_side=4, longest=12, count=1, numbers=(1,), antialias=False)
    assert not torch.equal(rough, views.text2live_views(images, short_side=4, longest=12, count=1, numbers=(1,)))
    whole = F.interpolate(images[:1], (8, 9), mode="bilinear", antialias=True)
    assert float((first[0].mean() - whole.mean()).abs()) < 0.5


@pytest.mark.parametrize("change", [{"images": torch.rand(1, 4, 8, 8)}, {"count": 0}, {"short_side": 0}])
def test_what_does_not_fit_is_named(change: dict[str, object]) -> None:
    call: dict[str, object] = {"images": torch.rand(1, 3, 8, 8), "short_side": 8, "longest": 8, "count": 1}
    with pytest.raises(UsageError, match=f"^{next(iter(change))}: "):
        views.text2live_views(**{**call, **change}, numbers=(0,))  # type: ignore[arg-type]
