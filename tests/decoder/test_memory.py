"""What is kept between forward and backward, and that nothing past the deepest level is touched."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldp_fast.decoder import FrozenDecoder, free, passes
from ldp_fast.decoder.derive import one_pass
from ldp_fast.decoder.passes import Tape, kept_bytes, recomputes

from .common import all_levels, architecture, kl, own_features, scaling

LEVELS = ("up0", "up1", "up2")


def eighth() -> Any:
    """Stable Diffusion's decoder with an eighth of its channels."""
    return kl((16, 32, 64, 64), latent_channels=4, scaling_factor=0.18215)


class LiveBytes(TorchDispatchMode):
    """The most bytes that results of operators held at once, parameters apart."""

    def __init__(self, *known: Tensor):
        super().__init__()
        self.known = {StorageWeakRef(x.untyped_storage()) for x in known}
        self.live: dict[StorageWeakRef, int] = {}
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        for x in tree_leaves(results):
            if isinstance(x, Tensor):
                reference = StorageWeakRef(x.untyped_storage())
                if reference not in self.known:
                    self.live[reference] = x.untyped_storage().nbytes()
        self.live = {reference: size for reference, size in self.live.items() if not reference.expired()}
        self.most = max(self.most, sum(self.live.values()))
        return results


def peak(vae: Any, run: Callable[[], Any]) -> int:
    with LiveBytes(*vae.parameters()) as tracker:
        run()
    return tracker.most


def naive_step(vae: Any, v: Tensor, v_prime: Tensor) -> None:
    """What a reader of the paper would write with diffusers."""
    leaf = torch.cat([v, v_prime]).requires_grad_()
    found = own_features(vae, leaf, LEVELS)
    loss = torch.stack([(x[: len(v)] - x[len(v) :]).abs().mean() for x in found]).sum()
    loss.backward()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_pass_takes_a_fraction_of_the_naive_memory(backend: str, monkeypatch: Any) -> None:
    """The shares that are promised for the whole decoder, here of what results hold."""
    monkeypatch.setenv("LDP_FAST_BACKEND", backend)
    vae = eighth()
    v, v_prime = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    peaks = {"naive": peak(vae, lambda: naive_step(vae, v, v_prime))}
    for memory in ("save", "recompute"):
        decoder = FrozenDecoder(vae, LEVELS, memory=memory)
        decoder.feature_matching(v, v_prime)  # what is derived from the weights is there
        peaks[memory] = peak(vae, lambda decoder=decoder: decoder.feature_matching(v, v_prime))
    assert peaks["save"] <= 0.45 * peaks["naive"], peaks
    assert peaks["recompute"] <= 0.3 * peaks["naive"], peaks


def kept_by_graph(function: Callable[[Tensor], list[Tensor]], latents: Tensor) -> dict[StorageWeakRef, int]:
    """Bytes of every memory that the graph of some features keeps."""
    kept: dict[StorageWeakRef, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[StorageWeakRef(x.untyped_storage())] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        features = function(latents)
    assert all(x.requires_grad for x in features)
    return kept


@pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "compvis 2", "tiny"])
def test_recomputing_keeps_less_and_neither_keeps_weights(name: str) -> None:
    vae = architecture(name)
    levels, latents = all_levels(vae), torch.randn(1, 4, 4, 4, requires_grad=True)
    parameters = {StorageWeakRef(p.untyped_storage()) for p in vae.parameters()}
    kept = {
        memory: kept_by_graph(FrozenDecoder(vae, levels, memory=memory, **scaling(vae)).features, latents)
        for memory in ("save", "recompute")
    }
    naive = kept_by_graph(lambda x: own_features(vae, x, levels), latents)
    sizes = {memory: sum(found.values()) for memory, found in kept.items()}
    assert sizes["recompute"] <= 0.7 * sizes["save"] and sizes["save"] <= sum(naive.values()), sizes
    assert not parameters & kept["recompute"].keys()
    if name != "tiny":  # autograd keeps them, by reference
        assert not parameters & kept["save"].keys()


@pytest.mark.parametrize("name", ["sd1", "sd3", "no multiple of 16", "compvis"])
def test_what_save_would_keep_is_known_beforehand(name: str) -> None:
    """To a factor of two: `auto` decides by it."""
    vae = architecture(name)
    decoder = FrozenDecoder(vae, all_levels(vae), **scaling(vae))
    channels = 16 if name == "sd3" else 4
    tape, x = Tape(recompute=False), torch.randn(2, channels, 6, 6)
    built = decoder._built()
    estimate = kept_bytes(built.stages, x.shape, built.channels, 4)
    with torch.no_grad():
        for layers in built.stages:
            for layer in layers:
                x = tape.forward(layer, x)
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for _, saved in tape.entries for t in saved}
    assert 0.5 <= estimate / sum(kept.values()) <= 2.0


def test_auto_recomputes_where_memory_is_short(monkeypatch: Any) -> None:
    vae, latents = architecture("sd1"), torch.randn(1, 4, 6, 6)
    decoder = FrozenDecoder(vae, LEVELS)
    built = decoder._built()
    needed = kept_bytes(built.stages, latents.shape, built.channels, 4)
    for there, expected in ((3 * needed, False), (needed, True)):
        monkeypatch.setattr(passes, "free_bytes", lambda device, there=there: there)
        assert decoder._recomputes(built, latents) is expected
        for memory in ("save", "recompute"):
            assert recomputes(memory, lambda: 0, latents.device) is (memory == "recompute")


def test_what_is_free_on_a_cpu(monkeypatch: Any, tmp_path: pathlib.Path) -> None:
    """Containers and jobs have a limit of their own, which the system's number knows nothing of."""
    assert free.free_bytes(torch.device("cpu")) > 2**20
    for name in ("PROC", "CONTROL_GROUPS"):
        monkeypatch.setattr(free, name, tmp_path / name)
    files = {
        "PROC/meminfo": "MemTotal:  9000 kB\nMemFree:  1 kB\nMemAvailable:    5000 kB\n",
        "PROC/self/cgroup": "3:cpu:/a\n2:memory,hugetlb:/of/the/host\n0::/job/step\n",
        "CONTROL_GROUPS/job/step/memory.max": "max\n",
        "CONTROL_GROUPS/job/memory.max": "3000000\n",
        "CONTROL_GROUPS/job/memory.current": "2000000\n",
        "CONTROL_GROUPS/job/memory.stat": "anon 1\ninactive_anon 7\ninactive_file 500000\nactive_file 9\n",
        "CONTROL_GROUPS/memory/memory.limit_in_bytes": "4000000\n",
        "CONTROL_GROUPS/memory/memory.usage_in_bytes": "3000000\n",
        "CONTROL_GROUPS/memory/memory.stat": "inactive_file 3\ntotal_inactive_file 100000\n",
    }
    left = [1_100_000, 1_500_000, 5000 * 1024]  # the group that is mounted, that of the job, the system

    def found() -> int:
        free._groups.cache_clear()
        return free.free_bytes(torch.device("cpu"))

    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert found() == left[0]
    (tmp_path / "CONTROL_GROUPS/memory/memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert found() == left[1]
    (tmp_path / "CONTROL_GROUPS/job/memory.current").write_text("9000000\n")
    assert found() == 0
    (tmp_path / "PROC/self/cgroup").unlink()
    assert found() == left[2]
    (tmp_path / "PROC/meminfo").unlink()
    assert found() > 2**20
    monkeypatch.undo()
    free._groups.cache_clear()


def test_what_is_free_on_a_gpu(monkeypatch: Any) -> None:
    """Other processes' memory is not free, what torch keeps unused is; in a capture nobody is asked."""
    device, capturing = torch.device("cuda", 0), False
    reserved, allocated, driver = 30, 20, (40, 100)

    def asked(_: Any) -> tuple[int, int]:
        assert not capturing
        return driver

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=100))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(torch.cuda, "mem_get_info", asked)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: allocated)
    monkeypatch.setattr(free, "_others", {})
    assert free.free_bytes(device) == 50
    capturing, allocated = True, 25
    assert free.free_bytes(device) == 45
    free._others.clear()
    assert free.free_bytes(device) == 75


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("level", ["mid", "up0", "up1"])
@pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "compvis"])
def test_nothing_past_the_deepest_level_is_touched(name: str, level: str, memory: Any) -> None:
    """Its weights might as well not be there; nor the encoder's."""
    vae = architecture(name)
    latents, other = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    expected = FrozenDecoder(vae, (level,), **scaling(vae)).feature_matching(latents, other)
    after = all_levels(vae).index(level)
    if name == "compvis":
        past = list(reversed(list(vae.decoder.up)))[after:]
    else:
        past = [*list(vae.decoder.up_blocks)[after:], vae.decoder.conv_norm_out, vae.decoder.conv_out, vae.encoder]
    for module in past:
        module.to("meta")
    decoder = FrozenDecoder(vae, (level,), memory=memory, **scaling(vae))
    actual = decoder.feature_matching(latents, other)
    assert all(torch.equal(x, y) for x, y in zip(actual, expected, strict=True))
    (feature,) = decoder.features(latents.requires_grad_())
    feature.sum().backward()


def test_the_tape_is_empty_after_a_pass_and_lets_go_on_the_way() -> None:
    """Each block's memory is free when its gradient is there."""
    vae = eighth()
    decoder = FrozenDecoder(vae, LEVELS, memory="save")
    tape, x = Tape(recompute=False), torch.randn(1, 4, 4, 4)
    with torch.no_grad(), one_pass():
        for layers in decoder._built().stages:
            for layer in layers:
                x = tape.forward(layer, x)
        references = [[StorageWeakRef(t.untyped_storage()) for t in saved[1:]] for _, saved in tape.entries]
        grad = torch.ones_like(x)
        del x
        for count in reversed(range(len(references))):
            grad = tape.back(grad)
            assert len(tape.entries) == count and all(reference.expired() for reference in references[count])
