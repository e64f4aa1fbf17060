"""The functions of `torch.cuda`, as the stand-in has them."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from . import graphs, tensor
from .state import DEVICES, STATE, Event, Generator, Stream, indexed

MEMORY = 80 << 30


class DeviceContext:
    """`torch.cuda.device`."""

    def __init__(self, device: Any):
        if isinstance(device, str):
            device = torch.device(device)
        self.index = device if isinstance(device, int) else -1 if device is None else indexed(device).index

    def __enter__(self) -> None:
        self.before = STATE.device
        STATE.device = self.before if self.index < 0 else self.index

    def __exit__(self, *_: Any) -> None:
        STATE.device = self.before


@contextlib.contextmanager
def stream_context(stream: Stream | None) -> Iterator[None]:
    """`torch.cuda.stream`."""
    if stream is None:
        yield
        return
    with DeviceContext(stream.device):
        STATE.enter(stream)
        try:
            yield
        finally:
            STATE.leave()


def set_sync_debug_mode(mode: int | str) -> None:
    STATE.debug = {"default": 0, "warn": 1, "error": 2}[mode] if isinstance(mode, str) else mode


def properties(device: Any = None) -> types.SimpleNamespace:
    """Of an H100, as far as anybody asks."""
    return types.SimpleNamespace(
        name="stand-in", major=9, minor=0, total_memory=MEMORY, multi_processor_count=132, warp_size=32,
        max_threads_per_multi_processor=2048, shared_memory_per_block_optin=232448, L2_cache_size=50 << 20,
    )  # fmt: skip


def _index(device: Any) -> int:
    return (
        STATE.device
        if device is None
        else indexed(torch.device("cuda", device) if isinstance(device, int) else torch.device(device)).index
    )


def manual_seed_all(seed: int) -> None:
    for generator in STATE.generators:
        generator.manual_seed(seed)


def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
    STATE.generators[_index(device)].set_state(state)


def _set_device(device: Any) -> None:
    STATE.device = _index(device)


def _current_stream(device: Any = None) -> Stream:
    with DeviceContext(_index(device)):
        return STATE.current()


def _ends_as_device(*_: Any) -> None:
    """The allocator of a capture that broke off; there is none."""


def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, **options: Any) -> Any:
    """By products and a softmax: which fused kernel serves is asked of a device that is not there."""
    if not isinstance(query, tensor.CudaTensor):
        return ATTENTION(query, key, value, attn_mask, dropout_p, **options)
    return torch.ops.aten._scaled_dot_product_attention_math(query, key, value, attn_mask, dropout_p, **options)[0]


ATTENTION: Callable[..., Any] = torch.nn.functional.scaled_dot_product_attention
MANUAL_SEED = torch.manual_seed


def manual_seed(seed: int) -> Any:
    manual_seed_all(seed)
    return MANUAL_SEED(seed)


def install() -> None:
    """Replaces what torch has, for the rest of the process."""
    STATE.start()
    replaced: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: DEVICES,
        "current_device": lambda: STATE.device,
        "set_device": _set_device,
        "device": DeviceContext,
        "get_device_name": lambda device=None: "stand-in",
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": properties,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "synchronize": lambda device=None: STATE.wait("the device is synchronised"),
        "Stream": Stream,
        "Event": Event,
        "stream": stream_context,
        "current_stream": _current_stream,
        "default_stream": lambda device=None: STATE.defaults[_index(device)],
        "set_sync_debug_mode": set_sync_debug_mode,
        "get_sync_debug_mode": lambda: STATE.debug,
        "_sleep": STATE.sleep,
        "CUDAGraph": graphs.CUDAGraph,
        "graph": graphs.graph,
        "graph_pool_handle": lambda: (0, 1),
        "is_current_stream_capturing": lambda: STATE.graph is not None,
        "default_generators": STATE.generators,
        "manual_seed": lambda seed: STATE.generators[STATE.device].manual_seed(seed),
        "manual_seed_all": manual_seed_all,
        "get_rng_state": lambda device=None: STATE.generators[_index(device)].get_state(),
        "set_rng_state": set_rng_state,
    }
    replaced |= dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_allocated"), lambda device=None: 0)
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)
    torch.Generator = Generator  # type: ignore[misc]
    torch.manual_seed = torch.random.manual_seed = manual_seed
    torch.nn.functional.scaled_dot_product_attention = attention
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        setattr(torch._C, name, _ends_as_device)
    # Parameters become tensors of the stand-in's class, which assigning to `.data` cannot give them.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    torch.autograd.set_multithreading_enabled(False)
