"""LPIPS against torchmetrics' class, with torchvision's networks and the same random weights; a CLIP of open_clip."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, Literal
from unittest import mock

import open_clip
import pytest
import torch
import torchvision
from torchmetrics.functional.image.lpips import _NoTrainLpips

from ldp_fast.errors import UsageError
from ldp_fast.metrics.lpips import Lpips, all_pairs, pairwise
from ldp_fast.metrics.lpips_networks import FILES, TAPS, feature_stack


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Within it layers are made without drawing their weights: most are of classifiers, which nothing looks at."""
    drawn = ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "constant_")
    nothing: dict[str, Any] = dict.fromkeys(drawn, lambda x, *more, **named: x)
    with mock.patch.multiple(torch.nn.init, **nothing):
        yield


@pytest.mark.parametrize("kind", ["alex", "vgg"])
@torch.no_grad()
def test_distances_are_torchmetrics(kind: Literal["alex", "vgg"], tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    with without_values():
        network = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[kind]().features
        theirs = _NoTrainLpips(net=kind, pnet_rand=True)
    for layer in network:
        if isinstance(layer, torch.nn.Conv2d):
            layer.reset_parameters()
    path = tmp_path / "weights.pth"
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, path)
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


def test_levels_of_open_clip(tmp_path: pathlib.Path) -> None:
    """The blocks of its vision transformer, and one line where there is none."""
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    patches = {"image_size": 32, "layers": 3, "width": 24, "head_width": 12, "patch_size": 8}
    for name, vision in (
        ("levels-vit", patches),
        ("levels-residual", {"image_size": 32, "layers": [1] * 4, "width": 8}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({"embed_dim": 10, "vision_cfg": vision, "text_cfg": text}))
        open_clip.add_model_config(tmp_path)
        torch.save(open_clip.create_model(name).state_dict(), tmp_path / f"{name}.pt")
    lpips = Lpips.load(f"clip:open_clip:levels-vit:{tmp_path / 'levels-vit.pt'}")
    assert (lpips.side, lpips.dimension) == (32, 3 * 24 * (1 + 16))
    pictures = torch.rand(3, 3, 32, 32)
    found = all_pairs(lpips(torch.cat([pictures, pictures[:1]])))
    assert found.alike[0] == (0, 3, 0.0) and found.alike[1][2] > 0
    with pytest.raises(UsageError, match=r"backbone: clip:open_clip:levels-residual.*: expected a vision transformer"):
        Lpips.load(f"clip:open_clip:levels-residual:{tmp_path / 'levels-residual.pt'}")
