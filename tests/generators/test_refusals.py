"""What a caller of the generators' functions may get wrong is one line; and the same generator is the same bytes."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from ldp_fast.errors import UsageError
from ldp_fast.generators import Settings, StyleGAN2, files, load, save, usual_channels
from ldp_fast.generators.sampling import batch_of

SETTINGS = Settings(resolution=8, z_dim=3, w_dim=3, mapping_layers=1, channels=(2, 2))


@pytest.fixture
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(SETTINGS).requires_grad_(False)


def refused(call: Any, *arguments: Any, **more: Any) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((5,), "resolution: expected a power of two from 8 to 4096, got 5"),
        (("64",), "resolution: expected a power of two from 8 to 4096, got '64'"),
        ((2048, 256, 16), "base: expected a whole number of at least 2048, the resolution, got 256"),
        ((64, 64.0), "base: expected a whole number of at least 64, the resolution, got 64.0"),
        ((64, 1024, 0), "largest: expected a whole number of at least 1, got 0"),
    ],
)
def test_channels_that_there_are_not(arguments: tuple[Any, ...], said: str) -> None:
    assert refused(usual_channels, *arguments) == said
    assert usual_channels(8, 8, 1) == (1, 1)


@pytest.mark.parametrize("side", [1, 4, 5, 48, 4096, 9000])
def test_a_batch_of_any_side(side: int) -> None:
    module = nn.Linear(1, 1)
    module.resolution = side  # type: ignore[assignment]
    assert 1 <= batch_of(module) <= 16 and (batch_of(module) == 1) == (side >= 4096)


def test_settings_of_another_kind() -> None:
    assert refused(Settings, resolution="64", channels=(1, 2)).startswith("resolution: expected a power of two")
    assert refused(Settings, resolution=8, channels=5) == "channels: expected whole numbers, got 5"
    assert Settings(resolution=8, channels=(x for x in (2, 2))) == Settings(resolution=8, channels=(2, 2))  # type: ignore[arg-type]


def test_what_is_not_to_be_saved_changes_nothing(generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    save(out, generator, {"made": 1})
    assert refused(save, out, nn.Linear(2, 2)) == "generator: expected a StyleGAN2, got a Linear"
    assert refused(save, out, generator, "hi") == "about: expected a dict, got 'hi'"
    assert refused(save, out, generator, {"x": object()}).startswith("about: expected what JSON can say (Object of")
    deep: dict[str, Any] = {}
    deep["x"] = deep
    assert refused(save, out, generator, deep).startswith("about: expected what JSON can say (")
    for dtype, named in ((torch.int8, "int8"), ("float16", "'float16'")):
        expected = f"dtype: expected float32, float16, bfloat16, float64, got {named}"
        assert refused(save, out, generator, dtype=dtype) == refused(load, out, dtype=dtype) == expected
    generator.constant[0] = 1e6
    said = refused(save, out, generator, dtype=torch.float16)
    assert said == f"generator: cannot be written to {out}: it has numbers beyond float16: constant has NaN or infinity"
    assert load(out).about == {"made": 1}


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_file_in_the_folders_place(below: str, generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / below
    assert refused(save, place, generator) == f"folder: expected a folder, got {place}: {tmp_path / 'file'} is a file"
    assert (tmp_path / "file").read_text() == "mine"


def test_the_same_generator_is_the_same_bytes(generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    # The library's order of two keys is another one in about half of its calls.
    written = {save(tmp_path, generator, {"of": "é"})[0].read_bytes() for _ in range(12)}
    assert len(written) == 1
    data = written.pop()
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0, "tensors are where they can be mapped"
    with safe_open(str(tmp_path / files.WEIGHTS), "pt") as file:
        assert file.metadata().keys() == {files.KEY, "format"}
    state = generator.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in load(tmp_path).state_dict().items())


def test_a_number_that_is_none_may_be_said_of_a_generator(generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    save(tmp_path, generator, {"loss": math.nan})
    loss: Any = load(tmp_path).about["loss"]
    assert math.isnan(loss)
