"""Reads the pickles that networks are published in, as data: numbers, text, containers, tensors, networks as records.

NVIDIA's networks (torch_utils/persistence.py of stylegan2-ada-pytorch and stylegan3) carry their source code: it stays
a text that nobody reads. Sizes are those of the bytes that are there: what a pickle claims is compared with them before
memory is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import shortened
from .unpickler import Budget, Damaged, Inert, Machine, Name, Number, checked_key, kind_of

# numpy's codes of numbers, as struct knows them.
_NUMBERS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b"} | {
    "u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?",
}  # fmt: skip
# torch's storages, by the beginning of their name.
_STORAGES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16} | {
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
# What torch.save wrote in front of an object before its files were archives.
MAGIC = 0x1950A86A20F9469CFC6C


@dataclasses.dataclass(eq=False, repr=False)
class Network:
    """A module that NVIDIA's persistence has written: its class by name, and its attributes. It cannot be called.

    Attributes:
        kind: name of its class.
        state: its attributes, `_parameters`, `_buffers` and `_modules` among them.
    """

    kind: str
    state: dict[Any, Any]

    def part(self, group: str) -> dict[str, Any]:
        """`_parameters`, `_buffers` or `_modules`, without those that are None."""
        found = self.state.get(group)
        if not isinstance(found, dict):
            raise Damaged(f"is damaged: a {shortened(self.kind)} without {group}")
        if not all(isinstance(name, str) for name in found):
            raise Damaged(f"is damaged: {group} of a {shortened(self.kind)} with a name that is not text")
        return {name: value for name, value in found.items() if value is not None}


@dataclasses.dataclass(eq=False, repr=False)
class Storage:
    """The numbers of a tensor, as bytes."""

    dtype: torch.dtype
    data: memoryview

    def __len__(self) -> int:
        return len(self.data) // self.dtype.itemsize


@dataclasses.dataclass(eq=False, repr=False)
class Record:
    """A tensor that was not made yet.

    Attributes:
        storage: its numbers.
        offset, shape, stride: which of them, as torch counts.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or len(self.shape) > 8 or not all(_is_size(size) for size in sizes):
            raise Damaged("is damaged: a tensor whose shape does not hold together")
        last = self.offset
        for size, step in zip(self.shape, self.stride, strict=True):
            last += max(size - 1, 0) * step
        if 0 not in self.shape and last >= len(self.storage):
            raise Damaged(f"is damaged: a tensor {self} of {len(self.storage)} numbers")

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.shape))}]"

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        count = self.storage.dtype.itemsize
        for size in self.shape:
            count *= size
        return count

    def tensor(self) -> Tensor:
        """Makes it, contiguous, of its own numbers alone."""
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        item = self.storage.dtype.itemsize
        numbers = np.frombuffer(self.storage.data, f"<i{item}")[self.offset :]  # without a copy of what others use
        steps = [step * item if size > 1 else 0 for size, step in zip(self.shape, self.stride, strict=True)]
        own = np.lib.stride_tricks.as_strided(numbers, self.shape, steps, writeable=False).copy()
        return torch.from_numpy(own).view(self.storage.dtype)


def read(data: bytes) -> Any:
    """The object of a pickle.

    Args:
        data: the pickle.

    Returns:
        None, truth values, numbers, text, bytes; lists, tuples, sets and dicts of these; and the classes above.

    Raises:
        Refused: it asks for anything else.
        Damaged: it is cut off, or does not hold together.
    """
    budget = Budget(len(data))
    own = {name: functools.partial(call, budget) for name, call in _SIZED.items()}
    return Machine({**_CALLS, **own}, budget).run(io.BytesIO(data))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _items(found: Any) -> list[Any] | tuple[Any, ...]:
    """What a container is built of."""
    if not isinstance(found, (list, tuple)):
        raise Damaged(f"is damaged: items in {kind_of(found)}")
    return found


def _dict_of(pairs: Any = ()) -> dict[Any, Any]:
    return {checked_key(key): value for key, value in _items(pairs)}


def _network(meta: Any) -> Network:
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise Damaged("is damaged: a network whose record is not known")
    kind = meta.get("class_name")
    return Network(kind if isinstance(kind, str) else "?", meta["state"])


def _record(budget: Budget, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Record:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise Damaged("is damaged: a tensor without numbers or a shape")
    found = Record(storage, offset, shape, stride)
    # A view may repeat its numbers. Of one without any the other sizes are as they are.
    if math.prod(max(size, 1) for size in shape) * storage.dtype.itemsize > max(budget.size, 8):
        raise Damaged(f"is damaged: a tensor {found} of {len(storage)} numbers")
    return found


def _parameter(data: Any, *_: Any) -> Record:
    if not isinstance(data, Record):
        raise Damaged(f"is damaged: a parameter of {kind_of(data)}")
    return data


def _number(kind: Any, data: Any) -> float | int | bool:
    if not isinstance(kind, Number) or kind.code not in _NUMBERS or not isinstance(data, bytes):
        raise Damaged("is damaged: a number of numpy's that is not one")
    value: float | int | bool = struct.unpack(kind.order + _NUMBERS[kind.code], data)[0]
    return value


def _bytes_of(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise Damaged("is damaged: bytes as text")
    return text.encode("latin1")


def _storage(budget: Budget, data: Any) -> Storage:
    """The storage in the bytes that torch.save has made of it: five pickles, and how many numbers, and they."""
    if not isinstance(data, (bytes, bytearray)):
        raise Damaged("is damaged: a storage that is not bytes")
    file = io.BytesIO(data)
    magic, _, system, claimed, keys = (Machine(_INSIDE, budget, _claim).run(file) for _ in range(5))
    if magic != MAGIC or not isinstance(claimed, _Claim) or not isinstance(keys, list) or len(keys) != 1:
        raise Damaged("is damaged: a storage of another kind")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Damaged("was written on a machine of another order of bytes")
    numbers = memoryview(data)[file.tell() :]
    count = int.from_bytes(numbers[:8], "little", signed=True)
    if count != claimed.count or len(numbers) != 8 + count * claimed.dtype.itemsize:
        raise Damaged(f"is damaged: a storage claims {claimed.count} numbers and has {max(len(numbers) - 8, 0)} bytes")
    return Storage(claimed.dtype, numbers[8:])


@dataclasses.dataclass(eq=False)
class _Claim:
    dtype: torch.dtype
    count: int


def _claim(key: Any) -> _Claim:
    """What `("storage", its class, key, device, how many, view)` stands for."""
    word, kind, _, _, count, *view = key
    if word != "storage" or not isinstance(kind, Name) or not _is_size(count) or any(x is not None for x in view):
        raise Damaged("is damaged: a storage of another kind")
    return _Claim(_STORAGES[kind.name.removesuffix("Storage")], count)


# What may be named in the pickles of a storage, and called nowhere.
_INSIDE: dict[str, Callable[..., Any] | None] = {
    f"{module}.{kind}Storage": None for module in ("torch", "torch.cuda") for kind in _STORAGES
}
# What may be named, and what a call of it builds; None: it is an argument only.
_CALLS: dict[str, Callable[..., Any] | None] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _network,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda sizes=(): tuple(_items(sizes)),
    "torch.device": lambda *_: Inert("torch.device"),
    "collections.OrderedDict": _dict_of,
    "dnnlib.util.EasyDict": _dict_of,
    "numpy.dtype": lambda code, *_: Number(code if isinstance(code, str) else ""),
    "numpy.ndarray": None,
    "_codecs.encode": _bytes_of,
}
# The same, of those that are given the budget as well.
_SIZED: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _record,
    "torch._utils._rebuild_tensor_v2": _record,
    "torch.storage._load_from_bytes": _storage,
}
for _builtins in ("builtins", "__builtin__"):
    _CALLS[f"{_builtins}.set"] = lambda items=(): set(map(checked_key, _items(items)))
    _CALLS[f"{_builtins}.frozenset"] = lambda items=(): frozenset(map(checked_key, _items(items)))
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray.scalar"] = _number
    for _array in ("multiarray._reconstruct", "numeric._frombuffer"):
        _CALLS[f"{_core}.{_array}"] = lambda *_: Inert("numpy.ndarray")
