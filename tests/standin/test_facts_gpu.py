"""What the stand-in has in common with a device: these tests pass on both."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.gpu


def test_devices_do_not_mix() -> None:
    x, y = torch.ones(3, device="cuda"), torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        x * y
    with pytest.raises(RuntimeError, match="same device"):
        torch.cat([x, y])
    assert (x * torch.tensor(2.0)).sum() == 6  # a number may come from the CPU
    assert torch.equal(x.cpu(), y) and y.to(x).device == x.device
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()


def test_generators_belong_to_a_device() -> None:
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())
    torch.manual_seed(1)
    there, here = torch.randn(8, device="cuda"), torch.randn(8)
    assert not torch.allclose(there.cpu(), here)
    torch.manual_seed(1)
    assert torch.equal(there, torch.randn(8, device="cuda"))


def test_waiting_is_noticed() -> None:
    x = torch.ones(3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for wait in (x.sum().item, x.cpu, x.nonzero, lambda: torch.ones(2).cuda(), lambda: x[x > 0]):
            with pytest.raises(RuntimeError, match="synchroniz"):
                wait()
        x.add_(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.tolist() == [2, 2, 2]


def test_a_capture_computes_nothing_and_a_replay_everything() -> None:
    x, total = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda")
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        y = x * 2
        total += y[1:].sum()
    assert total.tolist() == [0, 0, 0]
    for factor in (1, 3):
        x.fill_(factor)
        graph.replay()
        assert y.tolist() == [2 * factor] * 3
    assert total.tolist() == [16, 16, 16]


def test_gradients_are_on_the_device() -> None:
    layer = torch.nn.Linear(3, 2).cuda()
    x = torch.ones(4, 3, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    (y.float().sum() + x.sum()).backward()
    assert x.grad is not None and x.grad.device == x.device and layer.weight.grad.device == x.device
