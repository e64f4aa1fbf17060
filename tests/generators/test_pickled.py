"""Pickles are read as data: what else they ask for is refused by its name, and nothing of it runs."""

from __future__ import annotations

import builtins
import collections
import importlib
import os
import pathlib
import pickle
import struct
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ldp_fast.generators import pickled
from ldp_fast.generators.unpickler import Damaged, Refused

from . import writers

PROTOCOLS = (0, 1, 2, 3, 4, 5)


class Calls:
    """Pickles as a call of a function that can be imported."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None):
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module: str, of: str) -> bytes:
    """Asks for a name as protocol 4 does, which takes dots."""
    return text(module) + text(of) + b"\x93"


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
LOAD = name("torch.storage", "_load_from_bytes")


def stored(count: int, claimed: int | None = None, kind: str = "FloatStorage", **more: Any) -> bytes:
    """What torch.save writes of a storage, by hand."""
    key = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text("0") + text("cpu")
    key += pickle.dumps(count if claimed is None else claimed, 2)[2:-1] + b"Nt" + b"Q."
    system = {"protocol_version": 1001, "little_endian": True, **more}
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, system)]
    raw = struct.pack("<q", count if claimed is None else claimed) + bytes(4 * count)
    return b"".join([*head, b"\x80\x02" + key, pickle.dumps(["0"], 2), raw])


def loading(data: bytes) -> bytes:
    """A pickle of the storage in some bytes."""
    return b"\x80\x04" + LOAD + b"B" + struct.pack("<I", len(data)) + data + b"\x85R."


def tensor(*, offset: int = 0, shape: Any = (2,), stride: Any = (1,), data: bytes | None = None) -> bytes:
    """A pickle of a tensor, by hand."""
    storage = loading(stored(4) if data is None else data)[2:-1]
    rest = b"".join(pickle.dumps(x, 2)[2:-1] for x in (offset, shape, stride))
    return b"\x80\x04" + REBUILD + b"(" + storage + rest + b"\x89NtR."


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_is_what_pickle_makes_of_it(protocol: int) -> None:
    shared = [1, 2]
    data = {"a": [shared, shared, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "b": None, 3: {"c": {"x", "y"}, "é": 2.5}}
    more = [True, False, 0, 255, 65535, -1, 2**31, 2**70, -(2**2100), 1e300, "a\nb'\"\\", "x" * 300, [], {}]
    found = pickled.read(pickle.dumps([data, more], protocol))
    assert found == [data, more]
    assert found[0]["a"][0] is found[0]["a"][1]
    assert pickled.read(pickle.dumps(collections.OrderedDict(a=1), protocol)) == {"a": 1}
    if protocol >= 3:
        assert pickled.read(pickle.dumps([b"", b"x" * 300], protocol)) == [b"", b"x" * 300]
    if protocol >= 2:  # before, they are made by a function that makes objects of any class
        numbers = [np.float64(1.5), np.float32(0.25), np.int64(-7), np.bool_(True), np.uint8(9)]
        assert pickled.read(pickle.dumps(numbers, protocol)) == numbers
        assert pickled.read(pickle.dumps(frozenset("ab"), protocol)) == frozenset("ab")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_tensors_are_those_of_torch(dtype: torch.dtype) -> None:
    whole = torch.arange(24).reshape(2, 3, 4).to(dtype)
    for x in (whole, whole.transpose(0, 2), whole[1:, ::2], whole[:, 1], whole.new_zeros(()), whole.new_zeros(0, 3)):
        found = pickled.read(pickle.dumps(x))
        assert torch.equal(found.tensor(), x)
        assert found.tensor().is_contiguous()
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    assert torch.equal(pickled.read(pickle.dumps(parameter)).tensor(), parameter)


def test_pickles_by_hand_are_read() -> None:
    """So that what is refused below is refused for what is wrong with it."""
    assert pickled.read(tensor(shape=(2, 2), stride=(2, 1))).tensor().shape == (2, 2)
    assert len(pickled.read(loading(stored(3)))) == 3


# What is asked for, and a pickle that asks for it.
HOSTILE: list[tuple[str, bytes]] = [
    *((f"{os.name}.system", pickle.dumps(Calls(os.system, "exit"), protocol)) for protocol in (2, 3, 4, 5)),
    ("builtins.eval", pickle.dumps(Calls(eval, "1"))),
    ("builtins.exec", pickle.dumps({"G_ema": Calls(exec, "1")})),
    ("__builtin__.eval", pickle.dumps(Calls(eval, "1"), 2)),
    ("builtins.getattr", b"cbuiltins\ngetattr\n(cos\nS'system'\ntR(S'exit'\ntR."),
    ("builtins.__import__", pickle.dumps(Calls(__import__, "this"))),
    ("importlib.import_module", pickle.dumps(Calls(importlib.import_module, "this"))),
    ("this.s", b"cthis\ns\n."),
    ("this.s", b"\x80\x04" + name("this", "s") + b"0N."),
    ("torch.serialization.load", pickle.dumps(Calls(torch.load, "x"))),
    ("torch.hub.load", pickle.dumps(Calls(torch.hub.load, "x"))),
    ("torch._utils._rebuild_tensor.__globals__", name("torch._utils", "_rebuild_tensor.__globals__") + b"."),
    ("torch.serialization.os.system", b"\x80\x04" + name("torch.serialization", "os.system") + b"."),
    ("_pickle.loads", pickle.dumps(Calls(pickle.loads, b"."))),
    ("copyreg._reconstructor", b"ccopyreg\n_reconstructor\n."),
    ("os.system", b"(S'exit'\nios\nsystem\n."),  # INST
    ("the operation OBJ", b"(cbuiltins\nset\no."),
    ("the operation EXT1", b"\x80\x02\x82\x01."),
    ("the operation EXT4", b"\x80\x02\x84\x01\x00\x00\x00."),
    ("the operation NEWOBJ_EX", b"\x80\x04" + name("dnnlib.util", "EasyDict") + b")}\x92."),
    ("the operation PERSID", b"Pkey\n."),
    ("a persistent object", b"\x80\x02K\x01Q."),
    ("the operation NEXT_BUFFER", b"\x80\x05\x97."),
    ("a call of numpy.ndarray", b"\x80\x04" + name("numpy", "ndarray") + b")R."),
    ("a call of what is not a function", b"\x80\x04K\x01)R."),
    ("a call of torch._utils._rebuild_tensor_v2", b"\x80\x04" + REBUILD + b"]R."),
    ("a state of a name", b"\x80\x04" + LOAD + b"}" + text("__code__") + b"Nsb."),
    ("a state of a dict", b"\x80\x04}}" + text("x") + b"Nsb."),
    ("changes of a tuple", b"\x80\x04)K\x01a."),
    ("changes of a name", b"\x80\x04" + LOAD + b"K\x01K\x02s."),
    ("a name that is not text", b"\x80\x04K\x01K\x02\x93."),
    (f"{os.name}.system", loading(pickle.dumps(Calls(os.system, "exit")))),  # nested: torch would load it
    ("torch.storage._load_from_bytes", loading(loading(b"x"))),
    ("builtins.eval", loading(stored(1)[:21] + pickle.dumps(Calls(eval, "1")))),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "data"), HOSTILE, ids=[f"{i}-{asked}" for i, (asked, _) in enumerate(HOSTILE)])
def test_what_is_not_data_is_refused_by_its_name_and_not_run(
    asked: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, function in ((os, "system"), (builtins, "eval"), (torch, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, function, lambda *_: pytest.fail("it was run"))
    before = set(sys.modules)
    with pytest.raises(Refused) as caught:
        pickled.read(data)
    assert caught.value.asked == asked
    assert str(caught.value) == f"asks for {asked}: expected tensors, numbers, text and containers of these alone"
    assert "this" not in sys.modules
    assert set(sys.modules) == before


def test_pickle_itself_would_have_run_it(tmp_path: pathlib.Path) -> None:
    pickle.loads(pickle.dumps(Calls(os.mkdir, str(tmp_path / "made"))))
    assert (tmp_path / "made").exists()
    with pytest.raises(Refused, match="mkdir"):
        pickled.read(pickle.dumps(Calls(os.mkdir, str(tmp_path / "not"))))
    assert not (tmp_path / "not").exists()


def test_the_source_code_in_a_network_is_not_run() -> None:
    data = writers.published()
    assert b"raise SystemExit" in data
    assert isinstance(pickled.read(data)["G_ema"], pickled.Network)


HUGE = 2**40
DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "ends too early": b"\x80\x04K\x01",
    "an unknown opcode": b"\x80\x04\xff.",
    "nothing on the stack": b"\x80\x04.",
    "no mark": b"\x80\x04t.",
    "nothing remembered": b"\x80\x04h\x07.",
    "odd items": b"\x80\x04}(K\x01u.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"x.",
    "text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "a number that is not there": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "a number of many digits": b"I" + b"9" * 10**5 + b"\n.",
    "a list as a key": b"\x80\x04}]K\x01s.",
    "a deep tuple as a key": b"\x80\x04})" + b"\x85" * 10**5 + b"K\x01s.",
    "a deep tuple in a set": b"\x80\x04\x8f()" + b"\x85" * 10**5 + b"\x90.",
    "a storage of no bytes": b"\x80\x04" + LOAD + b"K\x05\x85R.",
    "a storage that claims more": loading(stored(4, HUGE)),
    "a storage that claims less": loading(stored(4, 3)),
    "a storage that claims less than nothing": loading(stored(4, -1)),
    "a storage of no known kind": loading(stored(4)[:-40]),
    "another order of bytes": loading(stored(4, little_endian=False)),
    "too many numbers": tensor(shape=(HUGE, HUGE), stride=(0, 0)),
    "numbers beyond": tensor(offset=3),
    "a step beyond": tensor(stride=(4,)),
    "a negative size": tensor(shape=(-2,)),
    "a negative step": tensor(stride=(-1,)),
    "a size that is true": tensor(shape=(True,)),
    "another number of steps": tensor(stride=(1, 1)),
    "a size that is text": tensor(shape=("2",)),
    "a size of many digits": tensor(shape=(10**5000,)),
    "a tensor without a storage": b"\x80\x04" + REBUILD + b"(NK\x00))\x89NtR.",
    "too few arguments": b"\x80\x04" + REBUILD + b")R.",
    "a number of objects": b"\x80\x04"
    + name("numpy._core.multiarray", "scalar")
    + name("numpy", "dtype")
    + text("O8")
    + b"\x85RC\x02N.\x86R.",
    "a network without a record": b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}\x85R.",
}  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_what_does_not_hold_together_is_said_in_a_line(data: bytes) -> None:
    with pytest.raises(Damaged) as caught:
        pickled.read(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def again(build: bytes, *arguments: bytes, times: int = 3000) -> bytes:
    """A pickle that makes arguments, and calls something with them again and again, in five bytes each."""
    made = b"(" + b"".join(arguments) + b"tq\x000" + build + b"q\x010"
    return b"\x80\x04" + made + b"](" + times * b"h\x01h\x00R" + b"e."


def listed(item: bytes) -> bytes:
    return b"(" + 10_000 * item + b"l"


COPYING: dict[str, bytes] = {
    "tuples": again(name("torch", "Size"), listed(b"N")),
    "sets": again(name("builtins", "set"), b"(", *(b"M" + struct.pack("<H", i) for i in range(10_000)), b"l"),
    "frozen sets": again(name("builtins", "frozenset"), listed(b"K\x01")),
    "dicts": again(name("collections", "OrderedDict"), listed(b"K\x01K\x02\x86")),
    "bytes": again(name("_codecs", "encode"), text("x" * 200_000), text("latin1")),
    "storages": again(LOAD, b"B" + struct.pack("<I", len(stored(50_000))) + stored(50_000)),
}
GROWING: dict[str, bytes] = {
    "sets": b"\x80\x04](" + 300_000 * b"\x8f" + b"e.",
    "stacks": b"\x80\x04" + 300_000 * b"(" + b".",
    "its memory": b"\x80\x04N" + 300_000 * b"\x94" + b".",
}
TOO_MUCH = r"^is damaged: \d+ bytes would take more than \d+ of memory$"


@pytest.mark.parametrize("data", COPYING.values(), ids=COPYING)
def test_copies_of_what_was_made_are_counted(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match=TOO_MUCH):
            pickled.read(data)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", GROWING.values(), ids=GROWING)
def test_objects_of_one_byte_are_counted(data: bytes) -> None:
    with pytest.raises(Damaged, match=TOO_MUCH):
        pickled.read(data)


def test_containers_are_built_of_lists_and_tuples() -> None:
    for module, kind in (("builtins", "set"), ("torch", "Size"), ("collections", "OrderedDict")):
        with pytest.raises(Damaged, match="items in a str"):
            pickled.read(again(name(module, kind), text("ab"), times=1))


def test_a_number_of_a_large_storage_takes_its_own_bytes() -> None:
    whole = torch.arange(100_000).float()
    for view in (whole[70_000], whole[5:8], whole[::30_000]):
        found = pickled.read(pickle.dumps(view)).tensor()
        assert torch.equal(found, view) and found.untyped_storage().nbytes() == view.numel() * 4


def test_views_that_repeat_numbers_are_as_large_as_the_file_at_most() -> None:
    found = pickled.read(tensor(shape=(3, 4), stride=(0, 1)))
    assert torch.equal(found.tensor(), torch.zeros(3, 4)) and found.tensor().is_contiguous()
    assert pickled.read(tensor(shape=(1, 2), stride=(HUGE**9, 1))).tensor().shape == (1, 2)
    for shape in ((3, 1000), (0, HUGE**3)):
        with pytest.raises(Damaged, match=r"is damaged: a tensor \[\d, \d+\] of 4 numbers"):
            pickled.read(tensor(shape=shape, stride=(0, 0)))


def test_deep_data_does_not_take_the_stack() -> None:
    found = pickled.read(b"\x80\x04)" + b"\x85" * 10**5 + b".")
    assert len(found) == 1
