"""Interprets a pickle without running anything: a stack machine that imports nothing of what a pickle names.

A pickle is a program. This interpreter looks a name that it asks for up in a table, whose entries build inert values
(`pickled.py`); any other is refused by its name. So there is nothing to get hold of that could be called or changed.
What it builds is bounded by its size, for six bytes ask for one more copy of a list of any length.
"""

from __future__ import annotations

import dataclasses
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

from ..errors import UsageError, reason, shortened

# Bytes that any pickle may take, and how many times its own size in addition; of an operation, whose object takes 28 to
# 216, and of an item of a container.
_LEAST, _TIMES, _STEP, _ITEM = 2**25, 4, 128, 64


class Refused(UsageError):
    """A pickle asks for what is not data.

    Attributes:
        asked: the name.
    """

    def __init__(self, asked: str):
        self.asked = shortened(asked, 100)
        super().__init__(f"asks for {self.asked}: expected tensors, numbers, text and containers of these alone")


class Damaged(UsageError):
    """A pickle that does not hold together."""


@dataclasses.dataclass(frozen=True)
class Name:
    """What a pickle calls by a name, and this reader knows."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(eq=False)
class Inert:
    """Something that is known to be harmless, and of which nothing is kept but its name."""

    name: str


@dataclasses.dataclass(eq=False)
class Number:
    """A kind of number of numpy's, by its code (`f8`), and the order of its bytes."""

    code: str
    order: str = "<"


class Budget:
    """The memory that pickles may take, by their size.

    Args:
        size: bytes of them.
    """

    def __init__(self, size: int):
        self.size, self.left = size, _LEAST + _TIMES * size

    def take(self, count: int) -> None:
        """Counts some bytes, about as many as Python needs.

        Raises:
            Damaged: there are no more.
        """
        self.left -= count
        if self.left < 0:
            raise Damaged(f"is damaged: {self.size} bytes would take more than {_LEAST + _TIMES * self.size} of memory")


def _refuse_persistent(key: Any) -> NoReturn:
    raise Refused("a persistent object")


class Machine:
    """The stack machine of pickles, for their data.

    Args:
        calls: what may be called, or be named as an argument of a call, by the name.
        budget: what it may build.
        persistent: makes an object of a key that stands for it.
    """

    def __init__(
        self,
        calls: Mapping[str, Callable[..., Any] | None],
        budget: Budget,
        persistent: Callable[[Any], Any] = _refuse_persistent,
    ):
        self.calls, self.budget, self.persistent = calls, budget, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under marks
        self.memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        """The object of the pickle that begins where a file stands; leaves the file behind it.

        Raises:
            Refused: it asks for what the tables do not have.
            Damaged: it is cut off, or does not hold together.
        """
        try:
            return self._run(file)
        except UsageError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error, MemoryError) as error:
            raise Damaged(f"is damaged ({reason(error)})") from None

    def _run(self, file: IO[bytes]) -> Any:
        # Checks that opcodes exist, and that their arguments are there; never calls anything.
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            self.budget.take(_STEP)
            if name == "STOP":
                return self.stack.pop()
            if name in _ARGUMENTS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif (step := getattr(self, f"_{name.lower()}", None)) is not None:
                step(argument)
            else:
                raise Refused(f"{argument}".replace(" ", ".") if name == "INST" else f"the operation {name}")
        raise Damaged("is damaged: it ends too early")

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _count(self, arguments: Any) -> None:
        """Counts what is built of arguments, which may be a copy of each."""
        for x in arguments:
            if isinstance(x, (str, bytes, bytearray)):
                self.budget.take(len(x))
            elif isinstance(x, (list, tuple, dict, set, frozenset)):
                self.budget.take(_ITEM * len(x))

    def _known(self, module: Any, name: Any) -> None:
        asked = f"{module}.{name}"
        if not (isinstance(module, str) and isinstance(name, str)) or asked not in self.calls:
            raise Refused(asked if isinstance(module, str) and isinstance(name, str) else "a name that is not text")
        self.stack.append(Name(module, name))

    # Steps, by the names of their opcodes in pickletools.

    def _proto(self, argument: Any) -> None: ...

    _frame = _proto

    def _mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _pop(self, _: Any) -> None:
        self.stack.pop() if self.stack else self._marked()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _tuple(self, _: Any) -> None:
        self._push(tuple(self._marked()))

    def _tuple1(self, _: Any) -> None:
        self._tuple_of(1)

    def _tuple2(self, _: Any) -> None:
        self._tuple_of(2)

    def _tuple3(self, _: Any) -> None:
        self._tuple_of(3)

    def _tuple_of(self, count: int) -> None:
        items = tuple(self.stack.pop() for _ in range(count))
        self.stack.append(items[::-1])

    def _list(self, _: Any) -> None:
        self._push(self._marked())

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        only(self.stack[-1], list).append(item)

    def _appends(self, _: Any) -> None:
        items = self._marked()
        only(self.stack[-1], list).extend(items)

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        self._set(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._marked())

    def _set(self, items: list[Any]) -> None:
        target = only(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def _additems(self, _: Any) -> None:
        items = self._marked()
        only(self.stack[-1], set).update(map(checked_key, items))

    def _frozenset(self, _: Any) -> None:
        self._push(frozenset(map(checked_key, self._marked())))

    def _global(self, argument: str) -> None:
        self._known(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._known(module, name)

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        call = self.calls[str(function)] if isinstance(function, Name) else None
        if call is None or not isinstance(arguments, tuple):
            raise Refused(f"a call of {function}" if isinstance(function, Name) else "a call of what is not a function")
        self._count(arguments)
        self.stack.append(call(*arguments))

    _newobj = _reduce  # cls.__new__(cls, *arguments): the same of what is known here

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Number) and isinstance(state, tuple):
            target.order = ">" if state[1] == ">" else "<"
        elif not isinstance(target, Inert):
            raise Refused(f"a state of {kind_of(target)}")

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))


_ARGUMENTS = frozenset(
    "INT LONG LONG1 LONG4 BININT BININT1 BININT2 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip


def only(target: Any, kind: type) -> Any:
    """What is to be changed, which has to be of one kind."""
    if type(target) is not kind:
        raise Refused(f"changes of {kind_of(target)}")
    return target


def checked_key(key: Any) -> Any:
    """A key of a dict, as it came; containers are none, for a deep one takes Python's own stack when it is hashed."""
    if not isinstance(key, (str, int, float, bytes, type(None))):
        raise Damaged(f"is damaged: {kind_of(key)} as a key")
    return key


def kind_of(value: Any) -> str:
    """What a value is, for a sentence."""
    return "nothing" if value is None else f"a {type(value).__name__.lower()}"
