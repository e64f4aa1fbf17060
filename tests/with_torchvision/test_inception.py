"""Inception of 2015 with random weights, against torch-fidelity and torchmetrics' FID and KID."""

from __future__ import annotations

import pathlib
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch_fidelity import feature_extractor_inceptionv3 as theirs
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from ldp_fast.errors import UsageError
from ldp_fast.metrics import features, fid, kid
from ldp_fast.metrics.features import InceptionFeatures


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A file like torch-fidelity's."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.manual_seed(0)
    network = theirs.FeatureExtractorInceptionV3
    with mock.patch.object(network, "load_state_dict"), mock.patch.object(theirs.torch, "load"):
        made = network("random", ["2048"], "any")
    for module in made.modules():
        # As wide as what comes in, so that features of different pictures differ.
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(made.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    torch.manual_seed(1)
    small = torch.randint(0, 256, (6, 3, 5, 7), dtype=torch.uint8)
    return torch.nn.functional.interpolate(small.float(), (50, 70), mode="bilinear").round().byte()


def test_features_are_torch_fidelity_s(weights: pathlib.Path, pictures: torch.Tensor) -> None:
    ours = InceptionFeatures.load(weights)
    assert ours.name == "inception-2015, tf1-bilinear 299, uint8"
    original = theirs.FeatureExtractorInceptionV3("original", ["2048"], str(weights))
    (expected,) = original(pictures[:2])
    found = ours([pictures[0], pictures[2, :, :20], pictures[1] / 255])
    assert found.shape == (3, 2048) and expected.std() > 0.01
    torch.testing.assert_close(found[[0, 2]], expected, rtol=1e-4, atol=1e-5)
    (cut,) = original(pictures[2:3, :, :20])
    torch.testing.assert_close(found[1:2], cut, rtol=1e-4, atol=1e-5)


class First(torch.nn.Module):
    """The first of Inception's features: eigenvalues of 2048×2048 numbers, as torchmetrics has them, take long."""

    num_features = 40

    def __init__(self, inception: torch.nn.Module):
        super().__init__()
        self.unseen = [inception]  # `set_dtype` is for the sums, and not for the network
        self.seen: dict[bytes, torch.Tensor] = {}

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        # Both metrics look at the same pictures.
        key = pictures.numpy().tobytes()
        if key not in self.seen:
            self.seen[key] = self.unseen[0](pictures)[:, : self.num_features]
        return self.seen[key]


def test_fid_and_kid_are_torchmetrics(weights: pathlib.Path, pictures: torch.Tensor) -> None:
    ours = InceptionFeatures.load(weights, resizer="antialiased-bilinear")
    assert ours.name == "inception-2015, antialiased-bilinear 299, uint8"
    one, two = (ours(x)[:, : First.num_features] for x in (pictures[:3], pictures[3:]))
    first = First(FrechetInceptionDistance(feature_extractor_weights_path=str(weights)).inception)
    their_fid, their_kid = FrechetInceptionDistance(first), KernelInceptionDistance(first, subsets=1, subset_size=3)
    their_fid.set_dtype(torch.float64)
    for metric in (their_fid, their_kid):
        metric.update(pictures[:3], real=True)
        metric.update(pictures[3:], real=False)
    assert kid(one, two).value == pytest.approx(float(their_kid.compute()[0]), rel=1e-3)
    assert fid(one, two) == pytest.approx(float(their_fid.compute()), rel=1e-3)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_of_another_network_are_refused(ending: str, tmp_path: pathlib.Path) -> None:
    path, state = tmp_path / f"other.{ending}", {"features.0.weight": torch.zeros(2)}
    (torch.save if ending == "pth" else save_file)(state, path)
    with pytest.raises(UsageError, match=r"weights: expected those of Inception of 2015 in .*other\.\w+: ") as raised:
        InceptionFeatures.load(path)
    assert "\n" not in str(raised.value)
    assert features.INCEPTION_ADDRESS == theirs.URL_INCEPTION_V3
