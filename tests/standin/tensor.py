"""Tensors that say they are on a CUDA device, in memory of the CPU, and what CUDA would refuse to do with them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from . import launches
from .state import PINNED, STATE, Generator, HostGenerator, indexed
from .trees import leaves, mapped

CPU = torch.device("cpu")
ATEN = torch.ops.aten
WAITING = {
    "_local_scalar_dense", "item", "equal", "nonzero", "is_nonzero", "masked_select", "_unique", "_unique2",
    "unique_dim", "unique_consecutive", "bincount", "histc",
}  # fmt: skip
COPYING = {"_to_copy", "copy_", "copy"}
# May mix devices: the CPU's indices are moved.
INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}

# With torch.use_deterministic_algorithms(True), CUDA raises in these (of floating point) where a CPU does not.
NONDETERMINISTIC = {
    "cumsum", "cumsum_", "kthvalue", "histc", "put_", "grid_sampler_2d_backward", "grid_sampler_3d_backward",
    "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward", "reflection_pad2d_backward", "replication_pad2d_backward",
    "adaptive_max_pool2d_backward", "_adaptive_avg_pool2d_backward", "avg_pool3d_backward", "nll_loss2d_forward",
}  # fmt: skip


class CudaTensor(Tensor):
    """A tensor on the stand-in's device, over memory of the CPU."""

    claimed: torch.device

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> CudaTensor:
        made = Tensor._make_subclass(cls, inner, False, dispatch_device=True, device_for_backend_keys=device)
        made.claimed = device
        return made

    # Attributes and methods go to C++ as they do for a plain tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return MODE.run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.claimed

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.claimed} device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        with _disable_current_modes():
            return f"{inner(self)!r} on {self.claimed}"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def record_stream(self, stream: Any) -> None:
        """The memory is not used again before a stream is done with it: it is done at once."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol")
        with torch.no_grad():
            made: Tensor = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        else:
            made.requires_grad_(self.requires_grad)
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = self.detach().cpu()
        return _restored, (plain, str(self.claimed), self.requires_grad)


def _restored(plain: Tensor, device: str, requires_grad: bool) -> Tensor:
    return plain.to(device).requires_grad_(requires_grad)


def inner(x: Tensor) -> Tensor:
    """The plain tensor over the same memory."""
    plain = torch.empty(0, dtype=x.dtype, device=CPU)
    return plain.set_(x.untyped_storage(), x.storage_offset(), x.size(), x.stride())


def plain(x: Any) -> Any:
    """An operation's argument as the CPU takes it."""
    if isinstance(x, CudaTensor):
        return inner(x)
    # What comes back from C++ is another Python object, of the same generator.
    return Generator.known.get(x._cdata, x) if isinstance(x, HostGenerator) else x


@functools.cache
def written(func: Any) -> list[tuple[int, str]]:
    """Place and name of the arguments that an operation writes into."""
    arguments = enumerate(func._schema.arguments)
    return [(i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write]


@functools.cache
def returns_what_it_writes(func: Any) -> bool:
    """Whether the only result of an operation is an argument that it has written into."""
    returns = func._schema.returns
    alias = returns[0].alias_info if len(returns) == 1 else None
    return bool(written(func)) and alias is not None and bool(alias.is_write)


def alert(name: str) -> None:
    """Raises where only algorithms that always give the same bits are allowed."""
    if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(f"{name} on CUDA does not have a deterministic implementation")


def pinned(x: Tensor) -> bool:
    """Whether memory of the host claims to be pinned."""
    at = x.data_ptr()
    return any(start <= at < start + size for start, size in PINNED.items())


@contextlib.contextmanager
def drawing(generator: Generator) -> Iterator[None]:
    """The CPU's generator draws what another one would."""
    default = torch.default_generator
    before = default.get_state()
    default.set_state(generator.source.get_state())
    try:
        yield
    finally:
        generator.source.set_state(default.get_state())
        default.set_state(before)


class CudaMode(TorchDispatchMode):
    """Runs every operation on the CPU, with the devices that its tensors claim."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].device
        name = func.overloadpacket.__name__
        given = leaves((args, kwargs))
        tensors = [x for x in given if isinstance(x, Tensor)]
        claims = {x.claimed for x in tensors if isinstance(x, CudaTensor)}
        target = kwargs.get("device")
        target = None if target is None else indexed(torch.device(target))
        if name in ("is_pinned", "_pin_memory", "pin_memory") and not claims:
            if name == "is_pinned" or pinned(args[0]):
                return pinned(args[0]) if name == "is_pinned" else args[0]
            made = args[0].clone(memory_format=torch.contiguous_format)
            PINNED[made.data_ptr()] = made.untyped_storage().nbytes()
            return made
        if not claims and (target is None or target.type != "cuda"):
            if name == "copy_" or not kwargs.get("pin_memory"):
                return func(*args, **kwargs)
            made = func(*args, **{**kwargs, "pin_memory": False})
            PINNED[made.data_ptr()] = made.untyped_storage().nbytes()
            return made
        if name == "record_stream":
            return None
        non_blocking = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        result = self.checked(func, name, tensors, claims, target, bool(non_blocking), kwargs)
        plain_args, plain_kwargs = mapped(plain, args), mapped(plain, kwargs)
        if target is not None:
            plain_kwargs["device"] = CPU
        if plain_kwargs.get("pin_memory"):
            plain_kwargs["pin_memory"] = False
        if name in NONDETERMINISTIC and tensors[0].is_floating_point() and result.type == "cuda":
            alert(name)
        generators = [plain(x) for x in given if isinstance(x, HostGenerator)]
        generator = self.generator(func, generators, result)
        if any(isinstance(x, Generator) for x in generators):
            plain_kwargs["generator"] = None
        if STATE.graph is not None:
            for i, argument in written(func):
                for x in leaves(plain_args[i] if i < len(plain_args) else plain_kwargs.get(argument)):
                    if isinstance(x, Tensor):
                        STATE.graph.about_to_write(x)
        out = compute(func, plain_args, plain_kwargs, generator)
        if name == "_to_copy" and target is not None and target.type != next(iter(tensors)).device.type:
            out = out if not any(out is x for x in leaves((plain_args, plain_kwargs))) else out.clone()
        if func.namespace == "ldp_fast":
            launches.count(func, out, plain_args, plain_kwargs)
        if STATE.graph is not None:
            STATE.graph.record(func, plain_args, plain_kwargs, out, generator)
        if result.type == "cpu":
            return out
        return self.claim(func, args, kwargs, out, result)

    @staticmethod
    def claim(func: Any, args: Any, kwargs: Any, out: Any, device: torch.device) -> Any:
        """The results as tensors of a device; what was written in place is the very tensor that was given."""
        if isinstance(out, Tensor) and returns_what_it_writes(func):
            i, argument = written(func)[0]
            return args[i] if i < len(args) else kwargs.get(argument)
        return mapped(lambda x: CudaTensor(x, device) if isinstance(x, Tensor) else x, out)

    @staticmethod
    def generator(func: Any, given: list[Any], result: torch.device) -> Generator | None:
        """Which generator an operation draws from, or None."""
        if given:
            if given[0].device.type != result.type:
                raise RuntimeError(
                    f"Expected a '{result.type}' device type for generator but found '{given[0].device}'"
                )
            return given[0]
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        return STATE.generators[result.index] if drawn and result.type == "cuda" else None

    @staticmethod
    def checked(
        func: Any,
        name: str,
        tensors: list[Tensor],
        claims: set[torch.device],
        target: Any,
        non_blocking: bool,
        kwargs: Any,
    ) -> torch.device:
        """The device of the result, or what CUDA would say."""
        hosts = [x for x in tensors if not isinstance(x, CudaTensor)]
        if name in COPYING:
            source = tensors[-1].device
            result = target or tensors[0].device
            if result.type != source.type:
                host = hosts[0] if hosts else None
                ready = host is not None and pinned(host)
                if not non_blocking:
                    STATE.synchronises(f"{name} from {source} to {result}")
                elif STATE.graph is not None and not ready:
                    STATE.wait(f"{name} from {source} to {result} by memory that is not pinned")
            return result
        if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            STATE.synchronises(name)
        if name in INDEXING:
            masks = [x for x in tensors[1:] if x.dtype in (torch.bool, torch.uint8)]
            if masks or any(x.dim() for x in hosts):
                STATE.synchronises(f"{name} by {'a mask' if masks else 'indices on the CPU'}")
        if len(claims) > 1:
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, found {sorted(map(str, claims))}"
            )
        if target is not None and not tensors:
            return target
        scalars = func.namespace == "aten"
        mixed = [x for x in hosts if x.dim() > 0 or not scalars]
        if hosts and not claims and target is not None:
            return target  # a factory that follows another tensor's shape
        if (mixed and name not in INDEXING) or (hosts and hosts[0] is tensors[0] and name.endswith("_")):
            shapes = [list(x.shape) for x in mixed or hosts]
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, found {next(iter(claims))} and cpu, {shapes}"
            )
        return target or next(iter(claims))


def compute(func: Any, args: Any, kwargs: Any, generator: Generator | None) -> Any:
    """Runs an operation on plain tensors."""
    if func is ATEN.bmm.dtype:  # half precision summed in float32, which a CPU does not have
        return ATEN.bmm(args[0].to(args[2]), args[1].to(args[2]))
    if generator is None or generator.device.type == "cpu":
        return func(*args, **kwargs)
    with drawing(generator):
        return func(*args, **kwargs)


MODE = CudaMode()
