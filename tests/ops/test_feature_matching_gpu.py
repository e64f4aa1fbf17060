"""Feature matching where only a GPU can tell: sizes past 2³¹, graphs, synchronisation, bandwidth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.captured import times
from ldp_fast.losses.feature_matching import feature_matching_loss
from tests.support import samples
from tests.support.gpu import MANY, needs_memory, size

pytestmark = pytest.mark.gpu


@pytest.mark.real_size
@pytest.mark.parametrize("shape", [(1, 512, 2048, 2112), (3, 256, 2048, 2112)], ids=["one sample", "batch"])
def test_more_elements_than_a_32_bit_index(shape: tuple[int, ...]) -> None:
    needs_memory(48)
    shape = size(shape, (*shape[:2], 4, 9))
    x = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
    assert x.numel() > MANY
    y = torch.zeros_like(x)
    # Marks near both ends, where an index that wrapped would miss or hit something else.
    marks = [(0, 1.0), (MANY - 1, -2.0), (MANY, 3.0), (x.numel() - 1, -4.0)]
    for index, value in marks:
        x.view(-1)[index] = value
    x.requires_grad_()
    y.requires_grad_()
    loss, statistics = feature_matching_loss([x], [y], norm="sum", batch_reduction="sum", return_statistics=True)
    loss.backward()
    assert loss == 10 and statistics.nonfinite.sum() == 0
    assert x.grad is not None and y.grad is not None
    for index, value in marks:
        assert x.grad.view(-1)[index] == (1 if value > 0 else -1) == -y.grad.view(-1)[index]
    assert x.grad.count_nonzero() == y.grad.count_nonzero() == len(marks)


@pytest.mark.parametrize("halves", [False, True])
def test_replays_from_a_graph(halves: bool) -> None:
    def inputs() -> tuple[list[Tensor], list[Tensor] | None, list[Tensor]]:
        lists = tuple(
            samples.feature_matching.inputs(
                samples.feature_matching.SMALL * 4, dtype=torch.bfloat16, device="cuda", layout="channels_last"
            ).values()
        )
        if halves:
            both = samples.feature_matching.halves(*lists)
            return both, None, both
        return *lists, lists[0] + lists[1]

    features, features_prime, leaves = inputs()

    def step() -> tuple[Tensor, ...]:
        loss = feature_matching_loss(features, features_prime, nonfinite="zero")
        assert isinstance(loss, Tensor)
        return loss, *torch.autograd.grad(loss, leaves)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(2):
        for leaf, fresh in zip(leaves, inputs()[2], strict=True):
            leaf.data.copy_(fresh.data)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


def test_never_waits_for_the_device() -> None:
    lists = tuple(samples.feature_matching.inputs(device="cuda").values())
    feature_matching_loss(*lists).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        feature_matching_loss(*lists, nonfinite="zero", return_statistics=True)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.real_size  # alone on the GPU, as everything of that mark
def test_runs_at_half_of_a_copy_s_bandwidth_or_more() -> None:
    """At Stable Diffusion's sizes, the device alone: of captured graphs. The benchmark says how much more."""
    halves = samples.feature_matching.halves(
        *samples.feature_matching.inputs(
            samples.feature_matching.decoder_levels(), batch=1, dtype=torch.bfloat16, device="cuda"
        ).values()
    )
    elements = sum(x.numel() for x in halves) // 2
    source = torch.empty(4 * elements, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / times([lambda: target.copy_(source)] * 4).device

    def step() -> None:
        torch.autograd.grad(feature_matching_loss(halves, None), halves)

    assert 8.5 * elements / times([step] * 4).device > 0.5 * copy
