"""The embedded generator, adapted by the embedded prior: what it shows is another thing, seen as it was before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.adaptation import identity
from benchmarks.adaptation.plan import views_of
from benchmarks.adaptation.renders import Renders, layers
from ldp_fast.apps.adapt import run
from ldp_fast.generators import sampling
from ldp_fast.zoo import world

from . import adapt_stub as stub

COUNT, OTHERS, STEPS = 24, 96, 100


def to_purple(pictures: Tensor) -> Tensor:
    """How near the colours in the middle are to the hue of the world's purple: 1 is that, however bright."""
    return cosine_similarity(pictures[:, :, 24:40, 24:40].mean((2, 3)), torch.tensor([world.COLOURS["purple"]]))


def test_the_domain_changes_and_poses_stay() -> None:
    said = {"prompt": "a purple cube", "steps": STEPS, "learning_rate": 0.005, "train": ["convs.*.weight"]}
    experiment = run.begin(stub.configuration("primitives", **said))
    z, more = (sampling.latents(seed, 0, count, 8) for seed, count in ((7, COUNT), (8, OTHERS)))
    before = to_purple(sampling.pictures(experiment.pair.source, z))
    while experiment.step < experiment.total:
        experiment.advance()
    pictures = sampling.pictures(experiment.pair.result(), z)
    after = to_purple(pictures)
    assert before.median() < 0.85 and after.median() > 0.98 and after.min() > 0.9

    views = views_of(z)
    solid = Renders(*(layers(world.Scene("cube", "purple"), seen) for seen in (views, views_of(more))))
    found = identity.kept(pictures, solid, np.array([view.background for view in views]))
    # By chance a half.
    assert found.view.mean() > 0.85
    assert found.grey.mean() < 0.03
    assert identity.correlation(found.side, found.true_side) > 0.7
