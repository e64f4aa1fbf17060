"""Counts the memory that torch would need for the pickle of a checkpoint, before torch reads it.

`torch.load` with `weights_only` runs nothing, but its pickle may ask for one more copy of a list or a text of any
length in five bytes. Here the same pickle is gone through with nothing in it but the lengths of what it builds.
"""

from __future__ import annotations

import io
import mmap
import pathlib
import zipfile
from typing import IO, Any, cast

from .unpickler import Budget, Inert, Machine, Name, only

_PICKLE = "data.pkl"  # of an archive
_FORMER = 5  # pickles of a file that is not an archive: magic number, protocol, system, object, keys
_DICTS = ("collections.OrderedDict", "collections.Counter", "collections.defaultdict")


def check(path: pathlib.Path, archive: bool) -> None:
    """Checks that a checkpoint takes no more memory than a `Budget` of its size.

    Args:
        path: file of `torch.save`.
        archive: whether it is a zip.

    Raises:
        Damaged: it takes more, or does not hold together.
        Refused: operations that no pickle of tensors has.
    """
    budget = Budget(path.stat().st_size)
    if archive:
        with zipfile.ZipFile(path) as records:
            for record in records.infolist():
                if record.filename.lower().endswith(_PICKLE):
                    _Counting(budget).run(io.BytesIO(records.read(record)))
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for _ in range(_FORMER):
            _Counting(budget).run(cast(IO[bytes], data))


class _Counting(Machine):
    """Goes through a pickle, whatever it names: containers of as many items, and nothing else."""

    def __init__(self, budget: Budget):
        super().__init__({}, budget, lambda _: Inert("a storage"))

    def _known(self, module: Any, name: Any) -> None:
        self.stack.append(Name(str(module), str(name)))

    def _set(self, items: list[Any]) -> None:
        target = only(self.stack[-1], dict)
        for _ in items[::2]:
            target[len(target)] = None

    def _additems(self, _: Any) -> None:
        items = self._marked()
        target = only(self.stack[-1], set)
        for _ in items:
            target.add(len(target))

    def _frozenset(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self._count(arguments)
        first = arguments[0] if isinstance(arguments, tuple) and arguments else ()
        length = len(first) if isinstance(first, (list, tuple, dict, set)) else 0
        if str(function) in _DICTS:
            self.stack.append(dict.fromkeys(range(length)))
        elif str(function) in ("builtins.set", "__builtin__.set"):
            self.stack.append(set(range(length)))
        else:
            of_text = isinstance(first, (str, bytes, bytearray))
            self.stack.append(first if of_text else (None,) * length if length else Inert(str(function)))

    _newobj = _reduce

    def _build(self, _: Any) -> None:
        self._count((self.stack.pop(),))
        _ = self.stack[-1]
