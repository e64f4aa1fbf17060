"""LPIPS against torchmetrics' own class, with torchvision's networks and the same random weights."""

from __future__ import annotations

import itertools
import pathlib

import pytest
import torch
import torchvision
from torchmetrics.functional.image.lpips import _NoTrainLpips

from ldp_fast.metrics.lpips import Lpips, all_pairs, pairwise
from ldp_fast.metrics.lpips_networks import FILES, TAPS, feature_stack


@pytest.mark.parametrize("kind", ["alex", "vgg"])
@torch.no_grad()
def test_distances_are_torchmetrics(kind: str, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    network = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[kind]().features
    path = tmp_path / "weights.pth"
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, path)
    theirs = _NoTrainLpips(net=kind, pnet_rand=True)
    slices = [getattr(theirs.net, f"slice{i}") for i in range(1, 6)]
    for name, layer in itertools.chain.from_iterable(x.named_children() for x in slices):
        layer.load_state_dict(network[int(name)].state_dict())
    side = 40
    ours, pictures = Lpips.load(kind, weights=path, side=side), torch.rand(4, 3, side, side)
    i, j = torch.triu_indices(4, 4, 1)
    expected = theirs(pictures[i], pictures[j], normalize=True).flatten()
    features = ours(pictures)
    assert torch.all(expected > 1e-3)
    torch.testing.assert_close(pairwise(features[i], features[j]).float(), expected, rtol=1e-4, atol=1e-6)
    assert all_pairs(features).mean == pytest.approx(float(expected.mean()), rel=1e-4)


@pytest.mark.parametrize(("kind", "name"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_layers_are_torchvision_s(kind: str, name: str) -> None:
    with torch.device("meta"):
        theirs, ours = getattr(torchvision.models, name)().features, feature_stack(kind)
    assert [repr(x) for x in ours] == [repr(x) for x in theirs][: TAPS[kind][-1] + 1]
    assert all(type(ours[tap]) is torch.nn.ReLU for tap in TAPS[kind])
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    assert weights.url.endswith(FILES[kind])
