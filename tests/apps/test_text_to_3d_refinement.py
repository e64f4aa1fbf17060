"""The refinement in RGB: its layer, when it begins, and what reaches the field through the encoder."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.apps.text_to_3d.cameras import as_cameras
from ldp_fast.apps.text_to_3d.refinement import LatentToRgb
from ldp_fast.errors import UsageError

from . import text_to_3d_runs as runs

# Latents are M rgb + M0, and back: the pseudo-inverse, so that P M is the identity.
M = torch.tensor([[1.5, -0.5, 0.2], [0.1, 0.9, -0.7], [-0.4, 0.3, 1.1], [0.6, 0.6, -0.2]])
M0 = torch.tensor([0.3, -0.2, 0.1, 0.5])
P = torch.linalg.pinv(M.double()).float()


class LinearVae:
    """A prior whose VAE is linear, four pixels per latent and axis."""

    device, vae = torch.device("cpu"), object()
    latent_shape, pixels_per_latent = (4, 6, 6), 4

    def encode(self, images: Tensor, *, sample: bool) -> Tensor:
        return torch.einsum("oc,bchw->bohw", M, F.avg_pool2d(images, 4)) + M0[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(torch.einsum("oc,bchw->bohw", P, latents - M0[:, None, None]), scale_factor=4)


@pytest.mark.parametrize("own", [False, True])
def test_a_linear_vae_is_found_exactly(own: bool) -> None:
    layer = LatentToRgb(4)
    # The object's latents need not be those of a picture: all four directions are seen.
    error = layer.fit(LinearVae(), torch.randn(6, 4, 6, 6) if own else None)
    assert error < 1e-6
    picture = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        found = layer(LinearVae().encode(picture, sample=False))
    torch.testing.assert_close(found, F.avg_pool2d(picture, 4), rtol=1e-4, atol=1e-5)
    if own:
        torch.testing.assert_close(layer.weight.detach(), P, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.offset.detach(), -P @ M0, rtol=1e-4, atol=1e-5)


def test_the_objects_own_latents_count_more() -> None:
    """Where no layer is right, it is right for the object."""

    class Bent(LinearVae):
        def decode(self, latents: Tensor) -> Tensor:
            return super().decode(latents) + 0.3

    latents = Bent().encode(torch.rand(8, 3, 24, 24), sample=False)
    layer = LatentToRgb(4)
    assert layer.fit(Bent(), latents) > 1e-3
    wanted = F.avg_pool2d(Bent().decode(latents), 4)
    with torch.no_grad():
        error = float((layer(latents) - wanted).abs().mean())
    assert error < 0.1  # of the 0.3 between the two


def test_a_prior_without_a_vae() -> None:
    with pytest.raises(UsageError, match="vae: the refinement to RGB needs one"):
        LatentToRgb(4).fit(SimpleNamespace(vae=None))


def by_hand(weights: Tensor, colours: Tensor, offsets: Tensor) -> Tensor:
    rays = [(weights[a:b, None] * colours[a:b]).sum(0) for a, b in itertools.pairwise(offsets)]
    return torch.stack(rays)


@pytest.mark.parametrize("kind", ["none", "network", "greys"])
def test_the_layer_does_what_it_would_at_every_sample(small_model: str, kind: str) -> None:
    background = {"kind": kind, **({"low": 0.4, "high": 0.6} if kind == "greys" else {})}
    trainer = runs.trainer(runs.configuration(small_model, background=background))
    scene, drawn = trainer.scene.eval(), trainer._draw(0)
    cameras = as_cameras([drawn.camera], torch.device("cpu"))
    scene.begin_refinement()
    layer = scene.to_rgb
    assert scene.refined and layer is not None and scene.size == 16
    with torch.no_grad():
        picture, out = scene.training_view(cameras, 0, drawn.shade)
        _, latents = scene.field(out.samples.positions, out.samples.counts[:1])
        colours = latents @ layer.weight.T + layer.offset
        expected = by_hand(out.weights, colours, out.samples.ray_offsets)
        rest = 1 - by_hand(out.weights, torch.ones(len(out.weights), 1), out.samples.ray_offsets)
        if kind == "greys":
            expected = expected + rest * (0.4 + 0.2 * drawn.shade)
        elif scene.background is not None:
            behind = scene.background(cameras.rays(16, 16)[1].float(), 16, 16)
            expected = expected + rest * (behind @ layer.weight.T + layer.offset)
        else:
            # Nothing is behind: there the layer shows its offset, the colour of latents of zero.
            expected = expected + rest * layer.offset
    assert 0.05 < float(out.opacity.max()) and float(out.opacity.min()) < 0.9
    torch.testing.assert_close(picture[0].flatten(1).T, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        scene.render(cameras, 16, shade=float(drawn.shade)).latents, picture, rtol=1e-4, atol=1e-5
    )


def test_it_begins_after_the_last_step_of_latents(small_model: str) -> None:
    refinement = {"steps": 2, "size": 16, "views": 2, "learning_rate": 7e-4}
    trainer = runs.trainer(runs.configuration(small_model, steps=2, refinement=refinement))
    seen = []
    for _ in range(trainer.total):
        before = trainer.optimizer
        trainer.advance()
        seen.append((trainer.scene.refined, trainer.optimizer is before, trainer.latest()["learning_rate"]))
    assert trainer.total == 4 and [s[0] for s in seen] == [False, False, True, True]
    assert [s[1] for s in seen] == [True, True, False, True]
    assert seen[2][2] / seen[0][2] == pytest.approx(7e-4 / 1e-3)
    assert trainer.scene.to_rgb is not None
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in trainer.scene.parameters()} == trained
    # Regularisers belong to both stages.
    assert trainer.history[:, trainer.columns.index("sparsity")].min() > 0


def test_regularisers_weigh_in_the_refinement_what_they_weighed_at_the_end(small_model: str) -> None:
    ramps = {"opacity": [0.0, 1e-3, 0.0, 1.0], "hollowness": [0.002, 0.002, 0.0, 1.0]}
    refinement = {"steps": 4, "size": 16, "views": 1, "learning_rate": 7e-4}
    given = runs.changed(
        runs.configuration(small_model, steps=2, refinement=refinement),
        regularisers={**ramps, "sparsity": [0, 0, 0, 1]},
    )
    trainer = runs.trainer(given)
    weights = []
    for _ in range(trainer.total):
        weights.append(trainer.weights()["weight_opacity"])
        trainer.advance()
    assert weights == [0.0, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3]
    hollow = trainer.history[:, trainer.columns.index("hollowness")]
    assert bool((hollow >= 0).all()) and bool(torch.isfinite(hollow).all())


def test_no_refinement(small_model: str) -> None:
    trainer = runs.trainer(runs.configuration(small_model, steps=2, refinement=None))
    for _ in range(2):
        trainer.advance()
    assert trainer.total == 2 and not trainer.scene.refined and trainer.scene.to_rgb is None


def test_colours_that_cannot_be_shown_are_clamped_and_get_their_gradient(small_model: str) -> None:
    trainer = runs.trainer(runs.configuration(small_model))
    picture = torch.rand(1, 3, 16, 16)
    picture[:, 0, :8], picture[:, 1, 8:] = 3.0, -2.0
    picture.requires_grad_()
    latents = trainer._encode(picture)
    expected = trainer.prior.encode(
        F.interpolate(picture.detach().clamp(0, 1), (64, 64), mode="bilinear"), sample=False
    )
    torch.testing.assert_close(latents.detach(), expected, rtol=1e-5, atol=1e-6)
    latents.square().sum().backward()
    assert picture.grad is not None
    outside = (picture.detach() < 0) | (picture.detach() > 1)
    assert float((picture.grad[outside] != 0).float().mean()) > 0.99
