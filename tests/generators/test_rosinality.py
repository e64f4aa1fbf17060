"""Checkpoints of rosinality's code become generators that make its pictures."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pathlib
import pickle
import struct
import zipfile
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.errors import UsageError
from ldp_fast.generators import rosinality
from ldp_fast.generators.foreign import Found, build

from . import writers


def saved(found: Any, path: pathlib.Path, **how: Any) -> pathlib.Path:
    torch.save(found, path / "model.pt", **how)
    return path / "model.pt"


def read(found: Any, path: pathlib.Path, **how: Any) -> Found:
    return rosinality.read(saved(found, path, **how))


def mean() -> Tensor:
    return writers.numbers("latent_avg", [5])


@pytest.mark.parametrize("archive", [True, False])
def test_pictures_are_those_of_the_real_code(archive: bool, tmp_path: pathlib.Path) -> None:
    found = read(
        {"g_ema": writers.rosinality(), "latent_avg": mean()}, tmp_path, _use_new_zipfile_serialization=archive
    )
    generator = build(found)
    assert found.notes == []
    assert generator.settings.channels == (3, 2, 4)
    assert (generator.settings.mapping_layers, generator.settings.clamp) == (2, None)
    stored = torch.tensor(writers.STORED["rosinality"]["image"]).reshape(1, 3, 16, 16)
    picture = generator(writers.Z, truncation=0.7)
    torch.testing.assert_close(picture, stored, rtol=1e-5, atol=1e-5 * float(stored.abs().max()))


def test_checkpoints_of_a_training_and_bare_states_are_taken(tmp_path: pathlib.Path) -> None:
    state = writers.rosinality()
    other = {name: x + 1 if x.ndim != 2 else x for name, x in state.items()}
    training = {"g": other, "d": {}, "g_ema": state, "d_optim": {"state": {}}, "args": argparse.Namespace(size=16)}
    expected = build(read({"g_ema": state}, tmp_path))(writers.Z)
    for found in (training, state, {f"module.{name}": x for name, x in state.items()}):
        assert torch.equal(build(read(found, tmp_path))(writers.Z), expected)
    trained = read({"g": state}, tmp_path)
    assert trained.notes == ["g_ema is missing: the weights as they were trained, g, were taken"]
    assert torch.equal(build(trained)(writers.Z), expected)


def test_what_is_missing_is_made_and_said(tmp_path: pathlib.Path) -> None:
    state = {name: x for name, x in writers.rosinality().items() if not name.startswith("noises.")}
    found = read(state, tmp_path)
    generator = build(found)
    assert found.notes == [
        "its fixed noise is missing: it was drawn anew",
        "its mean w is missing: it was computed from 4096 z",
    ]
    torch.manual_seed(5)
    assert torch.equal(build(read(state, tmp_path)).conv1.noise, generator.conv1.noise)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))


def changed(**tensors: Any) -> dict[str, Any]:
    """The state with tensors of other shapes, other values, or without them."""
    found: dict[str, Any] = writers.rosinality()
    for name, value in tensors.items():
        name = name.replace("__", ".")
        found.pop(name, None)
        if value is not None:
            found[name] = torch.zeros(value) if isinstance(value, list) else value
    return found


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            changed(convs__3__conv__weight=[1, 6, 4, 3, 3], style__2__bias=[9]),
            r"does not hold together as a generator of 16 pixels, channels \[3, 2, 4\], w of 5 and 2 mapping layers: "
            r"style.2.bias is \[9\], expected \[5\]; convs.3.conv.weight is \[1, 6, 4, 3, 3\], expected \[4, 4, 3, 3\]",
        ),
        (changed(style__3__weight=[5, 5]), r"and 3 mapping layers: style.3.bias \[5\] is missing"),
        (
            changed(convs__4__conv__weight=[1, 4, 4, 3, 3]),
            r"32 pixels.*convs.4.conv.modulation.weight \[4, 5\] is missing",
        ),
        (changed(convs__1__conv__weight=None), "convs.1.conv.weight"),
        (changed(to_rgbs__1__bias=None), r"to_rgbs.1.bias \[3\] is missing"),
        (changed(noises__noise_2=[1, 1, 4, 4]), r"noises.noise_2 is \[1, 1, 4, 4\], expected \[8, 8\]"),
        (changed(iwt__ll=[2, 2]), r"iwt.ll \[2, 2\] is not known"),
        (changed(convs__0__conv__blur__kernel=[4, 4]), "has another filter, convs.0.conv.blur.kernel"),
        (changed(conv1__noise__weight=torch.tensor([torch.nan])), "has NaN or infinity in conv1.noise.weight"),
        (changed(conv1__noise__weight=torch.tensor([1])), "has conv1.noise.weight that is not a tensor of numbers"),
        (changed(conv1__noise__weight=3.0), "has conv1.noise.weight that is not a tensor of numbers: float"),
        (changed(style__1__weight=None), "is not a StyleGAN2 that is known: style.1.weight is missing"),
        ({"encoder.x": torch.zeros(2)}, "expected g_ema, or a state dict; its keys: encoder.x"),
        ({"g_ema": 3}, "its keys: g_ema"),
        (
            {"g_ema": None, "g": {}},
            "known: its g_ema is nothing, expected a generator's state dict; its keys: g_ema, g",
        ),
        ({"g": "weights"}, "is not a StyleGAN2 that is known: its g is a str, expected a generator's state dict"),
        ({"g_ema": {"x": torch.zeros(2)}}, "its g_ema is a dict without input.input, expected a generator's state"),
        (changed(conv1__noise__weight=torch.tensor([1])), "numbers: int64, expected a floating-point dtype"),
        (changed(conv1__noise__weight=torch.ones(1).to_sparse()), "layout sparse_coo on cpu, expected strided on cpu"),
        (changed(conv1__noise__weight=torch.ones(1, device="meta")), "numbers: a tensor of layout strided on meta"),
        (changed(conv1__noise__weight=torch.ones(1).expand(10**7)), r"\[10000000\] of 40000000 bytes, expanded from 4"),
        (
            changed(to_rgbs__0__upsample__kernel=8 * writers.FIR),
            "has another filter, to_rgbs.0.upsample.kernel of sum 8: expected 4",
        ),
        (changed(convs__0__conv__blur__kernel=writers.FIR), "convs.0.conv.blur.kernel of sum 1: expected 4"),
        ([1], "holds a list: expected a dict with g_ema, or a state dict"),
    ],
)
def test_states_that_do_not_fit(state: Any, said: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=said):
        build(read(state, tmp_path))


def test_tensors_that_claim_to_be_larger_than_they_are(tmp_path: pathlib.Path) -> None:
    wide = torch.zeros(1).expand(1, 2**20, 2**20, 4)  # 16 TB, and four bytes in the file
    with pytest.raises(UsageError, match=r"has input\.input that is not a tensor of numbers"):
        read(changed(input__input=wide), tmp_path)
    shared = torch.zeros(10**5)
    with pytest.raises(UsageError, match="bytes claim to be tensors of"):
        read(changed(**{f"more__{index}": shared for index in range(9)}), tmp_path)


@pytest.mark.parametrize("archive", [True, False])
def test_parameters_and_views_are_taken(archive: bool, tmp_path: pathlib.Path) -> None:
    state: dict[str, Any] = {"g_ema": writers.rosinality(), "latent_avg": mean()}
    plain = {name: x * 0 + 0.5 if name.startswith("noises.") else x for name, x in state["g_ema"].items()}
    expected = build(read({**state, "g_ema": plain}, tmp_path)).state_dict()

    def as_found(name: str, x: Tensor) -> Tensor:
        if name.startswith("noises."):
            return torch.full((1,), 0.5).expand(x.shape)
        if name.endswith("modulation.weight"):
            return torch.stack([x, x])[1].t().contiguous().t()
        return torch.nn.Parameter(x, requires_grad=name.endswith("bias"))

    views = {name: as_found(name, x) for name, x in plain.items()}
    whole = {"g_ema": views, "latent_avg": torch.nn.Parameter(mean())}
    made = build(read(whole, tmp_path, _use_new_zipfile_serialization=archive))
    found = made.state_dict()
    assert all(torch.equal(x, found[name]) for name, x in expected.items())
    assert all(x.is_contiguous() and x.untyped_storage().nbytes() == x.nbytes for x in found.values())
    assert not any(x.requires_grad for x in made.parameters())


def with_pickle(data: bytes, path: pathlib.Path, archive: bool) -> pathlib.Path:
    """A file of torch.save whose object is another pickle."""
    path = saved("an object", path, _use_new_zipfile_serialization=archive)
    whole, own = path.read_bytes(), pickle.dumps("an object", 2)
    if not archive:
        assert whole.count(own) == 1
        path.write_bytes(whole.replace(own, data))
        return path
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(path, "w") as new:
        for record in old.infolist():
            new.writestr(record.filename, data if record.filename.endswith("data.pkl") else old.read(record))
    return path


def again(build: bytes, arguments: bytes, call: bytes = b"R") -> bytes:
    """A pickle of what is called with some arguments 2000 times, by operations that torch has."""
    return b"\x80\x02((" + arguments + b"tq\x00" + build + b"q\x01](" + 2000 * (b"h\x01h\x00" + call) + b"et."


MANY = b"](" + 20_000 * b"K\x01" + b"e"
TEXT = b"X" + struct.pack("<I", 200_000) + 200_000 * b"x" + b"X\x06\x00\x00\x00latin1"


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        again(b"ctorch\nSize\n", MANY),
        again(b"ctorch\nSize\n", MANY, b"\x81"),
        again(b"c__builtin__\nset\n", MANY),
        again(b"ccollections\nOrderedDict\n", b"](" + 20_000 * b"K\x01K\x02\x86" + b"e"),
        again(b"c_codecs\nencode\n", TEXT),
        b"\x80\x02](" + 300_000 * b"\x8f" + b"e.",
    ],
    ids=["sizes", "new sizes", "sets", "dicts", "bytes", "empty sets"],
)
def test_a_small_file_does_not_take_much_memory(
    data: bytes, archive: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_pickle(data, tmp_path, archive)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    with pytest.raises(UsageError, match=r"^is damaged: \d+ bytes would take more than \d+ of memory$"):
        rosinality.read(path)


@pytest.mark.parametrize("archive", [True, False])
def test_a_checkpoint_of_a_training_is_gone_through(archive: bool, tmp_path: pathlib.Path) -> None:
    network = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(40)))
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(3)).sum().backward()
    optimiser.step()
    more = {
        "d": network.state_dict(),
        "g_optim": optimiser.state_dict(),
        "args": argparse.Namespace(betas=(0, 1), n={1}),
    }
    whole = {"g_ema": collections.OrderedDict(writers.rosinality()), "latent_avg": mean(), **more}
    assert read(whole, tmp_path, _use_new_zipfile_serialization=archive).notes == []


class Evil:
    """Runs something where it is unpickled."""

    def __init__(self, *words: str):
        self.words = words

    def __reduce__(self) -> Any:
        return os.system, (f"echo {' '.join(self.words)}",)


@pytest.mark.parametrize("archive", [True, False])
def test_a_file_that_wants_to_run_something_is_refused(
    archive: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved({"g_ema": writers.rosinality(), "x": Evil()}, tmp_path, _use_new_zipfile_serialization=archive)
    monkeypatch.setattr(os, "system", lambda _: pytest.fail("it was run"))
    with pytest.raises(UsageError, match=f"asks for {os.name}.system: expected tensors, numbers, text and containers"):
        rosinality.read(path)


def test_files_that_are_cut_off_or_grow(tmp_path: pathlib.Path) -> None:
    path = saved(writers.rosinality(), tmp_path)
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="is damaged"):
            rosinality.read(path)
    end = whole.rindex(b"PK\x06\x07")  # where the end of an archive of 64 bits lies, and of how many disks
    path.write_bytes(whole[: end + 16] + b"\x09" + whole[end + 17 :])
    with pytest.raises(UsageError, match="is damaged"):
        rosinality.read(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
        new.writestr("model/data/99", bytes(10**6))
    with pytest.raises(UsageError, match="is damaged: it claims to be larger than it is"):
        rosinality.read(tmp_path / "new.pt")
