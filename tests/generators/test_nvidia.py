"""Pickles of NVIDIA's networks become generators that make the pictures of NVIDIA's code, which is not run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldp_fast.errors import UsageError
from ldp_fast.generators import nvidia
from ldp_fast.generators.foreign import build

from . import writers


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pictures_are_those_of_nvidias_code(protocol: int) -> None:
    found = nvidia.read(writers.published(protocol=protocol))
    generator = build(found)
    assert found.notes == []
    assert generator.settings.channels == (4, 4, 2)
    assert (generator.settings.clamp, generator.settings.mapping_multiplier) == (6.0, 0.01)
    picture = generator(writers.Z, truncation=0.7)
    stored = torch.tensor(writers.STORED["nvidia"]["image"]).reshape(1, 3, 16, 16)
    torch.testing.assert_close(picture, stored, rtol=1e-5, atol=1e-5 * float(stored.abs().max()))


def test_weights_in_channels_last_are_those_in_rows() -> None:
    tensors = writers.nvidia()
    last = {name: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for name, x in tensors.items()}
    expected = build(nvidia.read(writers.published(tensors))).state_dict()
    found = build(nvidia.read(writers.published(last))).state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in found.items())


def test_a_generator_alone_is_taken_and_g_where_there_is_no_average() -> None:
    generator = writers.network(writers.nvidia())
    alone = build(nvidia.read(writers.pickled(generator)))
    found = nvidia.read(writers.pickled({"G": generator, "D": None}))
    assert found.notes == ["G_ema is missing: the weights as they were trained, G, were taken"]
    assert torch.equal(build(found)(writers.Z), alone(writers.Z))


def test_without_noise_is_noise_of_strength_0() -> None:
    tensors = writers.nvidia()
    quiet = {name: x * 0 if name.endswith("noise_strength") else x for name, x in tensors.items()}
    silent = {name: x for name, x in tensors.items() if "noise" not in name}
    more = {f"b{side}.conv{n}": {} for side in (4, 8, 16) for n in (0, 1)}
    more = {f"synthesis.{name}": {"use_noise": False, "resolution": int(name[1:].split(".")[0])} for name in more}
    expected = build(nvidia.read(writers.published(quiet)))
    assert torch.equal(build(nvidia.read(writers.published(silent, more)))(writers.Z), expected(writers.Z))


def test_a_mean_that_was_not_tracked_is_computed() -> None:
    found = nvidia.read(writers.published({k: x for k, x in writers.nvidia().items() if k != "mapping.w_avg"}))
    generator = build(found)
    assert found.notes == ["its mean w is missing: it was computed from 4096 z"]
    assert torch.equal(generator.w_mean.clone(), generator.average())


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("", {"c_dim": 10}, "holds a conditional network, c_dim 10: expected one without labels"),
        ("synthesis.b8", {"architecture": "resnet"}, "has synthesis.b8.architecture of 'resnet': expected 'skip'"),
        ("mapping.fc1", {"activation": "relu"}, "has mapping.fc1.activation of 'relu': expected 'lrelu'"),
        ("mapping.fc1", {"bias_gain": 1}, "has mapping.fc….bias_gain of 0.01, 1: expected one number above 0"),
        ("synthesis.b8.conv0", {"up": 1}, "has synthesis.b8.conv0.up of 1: expected 2"),
        ("synthesis.b8.conv0", {"act_gain": 1.0}, "has synthesis.b8.conv0.act_gain of 1.0: expected 1.41"),
        (
            "synthesis.b8.torgb",
            {"conv_clamp": None},
            "has conv_clamp of 6.0, 6.0, 6.0, 6.0, None, 6.0: expected one number above 0 for all layers",
        ),
        ("synthesis.b8.torgb", {"conv_clamp": 10**400}, "has conv_clamp of a whole number of 1329 bits: expected one"),
        ("synthesis.b8.conv0", {"up": -(10**5000)}, "has synthesis.b8.conv0.up of a whole number of 16610 bits: expec"),
        ("", {"c_dim": 10**5000}, "holds a conditional network, c_dim a whole number of 16610 bits: expected one"),
        ("mapping.fc0", {"_buffers": {10**5000: 1}}, "is damaged: _buffers of a SynthesisLayer with a name that is"),
        ("synthesis.b8.torgb", {"conv_clamp": [[]]}, "has conv_clamp of a list: expected one number above 0"),
    ],
)
def test_networks_of_another_kind(path: str, more: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        nvidia.read(writers.published(more={path: more}))
    assert str(caught.value).startswith(said)


def changed(**tensors: list[int] | None) -> dict[str, Tensor]:
    """The network with tensors of other shapes, or without them."""
    found = writers.nvidia()
    for name, shape in tensors.items():
        name = name.replace("__", ".")
        found.pop(name, None)
        if shape is not None:
            found[name] = torch.zeros(shape)
    return found


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (changed(synthesis__input__freqs=[4, 2], synthesis__L0__bias=[3]), "holds a StyleGAN3 network"),
        (changed(mapping__embed__weight=[6, 3]), "holds a conditional network"),
        (changed(synthesis__b8__conv1__weight=None), "synthesis.b8.conv1.weight"),
        (changed(synthesis__b8__conv1__weight=[5, 4, 3, 3]), r"b8.conv1.weight is \[5, 4, 3, 3\], expected \[4, 4, 3"),
        (changed(mapping__fc0__weight=[7, 5]), r"mapping.fc0.weight is \[7, 5\], expected \[6, 5\]"),
        (
            changed(synthesis__b16__torgb__weight=[1, 2, 1, 1]),
            r"torgb.weight is \[1, 2, 1, 1\], expected \[3, 2, 1, 1\]",
        ),
        (changed(synthesis__b16__skip__weight=[2, 4, 1, 1]), r"b16.skip.weight \[2, 4, 1, 1\] is not known"),
        (changed(synthesis__b16__resample_filter=[4, 4]), "has another filter, synthesis.b16.resample_filter"),
    ],
)
def test_shapes_that_do_not_fit_are_listed(tensors: dict[str, Tensor], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build(nvidia.read(writers.published(tensors)))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"D": 3, "w": 4}, "does not hold a generator: expected a dict with G_ema; its keys: D, w"),
        ([1, 2], "holds a list: expected a dict with G_ema, or a generator"),
        (
            writers.Persistent("Discriminator", {"_parameters": {}, "_buffers": {}, "_modules": {}}),
            "holds a Discriminat",
        ),
        (writers.Persistent("Generator", {}), "is damaged: a Generator without _modules"),
    ],
)
def test_pickles_of_something_else(found: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        nvidia.read(writers.pickled(found))
    assert str(caught.value).startswith(said)


def test_networks_of_tensorflow_are_told_apart() -> None:
    with pytest.raises(UsageError, match=r"holds a network of TensorFlow: expected one of PyTorch, which legacy\.py"):
        nvidia.read(b"\x80\x03cdnnlib.tflib.network\nNetwork\nq\x00)\x81q\x01.")


def test_a_network_inside_itself_ends() -> None:
    head = (
        b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n}(X\x04\x00\x00\x00typeX\x05\x00\x00\x00class"
    )
    parts = b"X\x08\x00\x00\x00_modules}q\x01X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}"
    state = b"X\x05\x00\x00\x00state}(" + parts + b"uu"
    twice = b"\x85Rq\x02h\x01(X\x01\x00\x00\x00ah\x02X\x01\x00\x00\x00bh\x02u0."
    with pytest.raises(UsageError, match="or inside itself"):
        nvidia.read(head + state + twice)


@pytest.mark.parametrize(("held", "said"), [(None, "nothing"), ("net", "a str"), ([], "a list")])
def test_a_generator_that_is_none(held: object, said: str) -> None:
    with pytest.raises(UsageError, match=f"^does not hold a generator: its G_ema is {said}, expected a network$"):
        nvidia.read(writers.pickled({"G_ema": held, "D": None}))


def test_kinds_of_tensors_and_gains_are_said() -> None:
    whole = writers.nvidia()
    for name, value, said in (
        ("mapping.w_avg", torch.ones(6, dtype=torch.int32), "has mapping.w_avg that is not a tensor of numbers: int32"),
        ("synthesis.b8.resample_filter", 2 * writers.FIR, "synthesis.b8.resample_filter of sum 2: expected 1"),
    ):
        with pytest.raises(UsageError, match=said):
            nvidia.read(writers.published({**whole, name: value}))
