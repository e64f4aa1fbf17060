"""A generator comes back from its files as it was, and a file that is not one says in a line what is wrong."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldp_fast.errors import UsageError
from ldp_fast.generators import Settings, StyleGAN2, files, load, save
from ldp_fast.runs.files import write_atomically

SETTINGS = Settings(resolution=16, z_dim=5, w_dim=6, mapping_layers=2, channels=(4, 3, 2), clamp=2.5)


@pytest.fixture
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    made = StyleGAN2(SETTINGS).requires_grad_(False)
    made.average(64)
    for _, x in made.named_parameters():
        x.add_(0.1 * torch.randn_like(x))
    return made


def test_a_folder_and_its_file_alone_are_the_generator(generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    written = save(tmp_path / "a" / "b", generator, {"prompt": "a red sphere", "steps": [1, 2]})
    assert [path.name for path in written] == ["model.safetensors", "config.json"]
    for name in (tmp_path / "a" / "b", str(written[0])):
        found = load(name)
        assert (found.settings, found.name) == (SETTINGS, str(name))
        assert found.about == {"prompt": "a red sphere", "steps": [1, 2]}
        assert not found.training
        assert not any(x.requires_grad for x in found.parameters())
        state = generator.state_dict()
        assert all(torch.equal(x, state[key]) for key, x in found.state_dict().items())


def test_loading_leaves_the_numbers_to_come_as_they_were(generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    save(tmp_path, generator)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load(tmp_path)
    assert torch.equal(torch.rand(2), expected)


def test_what_is_known_of_a_generator_goes_with_it(generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    generator.about = {"card": 3}
    save(tmp_path, generator)
    assert json.loads((tmp_path / "config.json").read_text())["about"] == {"card": 3}
    save(tmp_path / "again", load(tmp_path))
    assert load(tmp_path / "again").about == {"card": 3}


def test_half_precision_takes_half_the_room(generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    save(tmp_path, generator, dtype=torch.float16)
    assert all(x.dtype == torch.float16 for x in load_file(tmp_path / files.WEIGHTS).values())
    found = load(tmp_path)
    for key, x in found.state_dict().items():
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, generator.state_dict()[key], rtol=2e-3, atol=2e-3)
    assert load(tmp_path, dtype=torch.float64).constant.dtype == torch.float64


def test_an_interruption_leaves_a_generator(
    generator: StyleGAN2, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, generator, {"made": 1})

    def interrupted(path: pathlib.Path, data: bytes) -> None:
        write_atomically(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, generator, {"made": 2})
    assert load(tmp_path).about == {"made": 2}

    def refused(path: pathlib.Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_atomically", refused)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, generator, {"made": 3})
    assert load(tmp_path).about == {"made": 2}


Change = Callable[[pathlib.Path], None]


def without(*keys: str) -> Change:
    """Takes tensors out of the file."""

    def change(folder: pathlib.Path) -> None:
        path = folder / files.WEIGHTS
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata()
        save_file({key: x for key, x in load_file(path).items() if key not in keys}, path, metadata)

    return change


def described(**more: object) -> Change:
    """Replaces what the file says of itself."""

    def change(folder: pathlib.Path) -> None:
        path = folder / files.WEIGHTS
        with safe_open(str(path), "pt") as file:
            said = json.loads(file.metadata()[files.KEY])
        said |= {key: said["settings"] | value if key == "settings" else value for key, value in more.items()}  # type: ignore[operator]
        save_file(load_file(path), path, {files.KEY: json.dumps(said)})
        (folder / files.CONFIG).unlink()

    return change


def cut(folder: pathlib.Path) -> None:
    path = folder / files.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def holding(name: str, value: object) -> Change:
    """Writes a tensor over one of the file's."""

    def change(folder: pathlib.Path) -> None:
        path = folder / files.WEIGHTS
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        made = value if isinstance(value, torch.Tensor) else torch.full_like(tensors[name], value)  # type: ignore[arg-type]
        save_file({**tensors, name: made}, path, metadata)

    return change


def edited(folder: pathlib.Path) -> None:
    path = folder / files.CONFIG
    path.write_text(path.read_text().replace('"w_dim": 6', '"w_dim": 7'))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("conv1.bias", "w_mean"), r"w_mean \[6\] is missing; conv1.bias \[4\] is missing"),
        (described(settings={"w_dim": 8}), r"w_mean is \[6\], expected \[8\]"),
        (described(settings={"channels": [4, 3]}), "channels: expected 3 whole numbers"),
        (described(settings={"z_dim": 2**40}), r"style.fc.0.weight is \[6, 5\], expected \[6, 1099511627776\]"),
        (described(settings={"depth": 2}), "is damaged .*depth"),
        (described(kind="stylegan3"), "holds a stylegan3 of format 1: expected stylegan2 of format 1"),
        (described(format=2), "holds a stylegan2 of format 2: .* a later version of ldp-fast may read it"),
        (cut, "is damaged"),
        (described(settings={"clamp": 10**400}), "clamp: expected a number above 0, got 1000"),
        (described(settings={"mapping_multiplier": None}), "mapping_multiplier: expected a number above 0, got None"),
        (holding("w_mean", torch.zeros(6, dtype=torch.int64)), "w_mean is int64, expected float32, float16, bfloat16"),
        (holding("w_mean", math.inf), "is not the generator that it says: w_mean has NaN or infinity$"),
        (holding("convs.0.weight", math.nan), "convs.0.weight has NaN or infinity"),
        (holding("conv1.bias", torch.full((4,), 1e300, dtype=torch.float64)), "has numbers beyond float32: conv1.bias"),
        (edited, "config.json says something else than .*, whose own copy counts"),
    ],
)
def test_files_that_changed(change: Change, said: str, generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    save(tmp_path, generator)
    change(tmp_path)
    with pytest.raises(UsageError, match=said) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_not_finite_is_not_written(generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    save(tmp_path, generator, {"made": 1})
    generator.conv1.bias[2] = 1e6
    with pytest.raises(UsageError, match=r"cannot be written to .*: conv1.bias has NaN or infinity"):
        save(tmp_path, generator, dtype=torch.float16)
    save(tmp_path / "large", generator)
    with pytest.raises(UsageError, match=r"has numbers beyond float16: conv1.bias has NaN or infinity"):
        load(tmp_path / "large", dtype=torch.float16)
    generator.w_mean[0] = math.nan
    with pytest.raises(UsageError, match=r"generator: cannot be written to .*: w_mean has NaN or infinity; conv1.bias"):
        save(tmp_path, generator, dtype=torch.float16)
    assert load(tmp_path).about == {"made": 1}


def test_many_misfits_are_counted(generator: StyleGAN2, tmp_path: pathlib.Path) -> None:
    save(tmp_path, generator)
    described(settings={"w_dim": 8})(tmp_path)
    with pytest.raises(UsageError, match=r"; and \d+ more$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "generator: expected a name or a path, got ''"),
        ("nowhere", "generator: nowhere does not exist: expected primitives, a folder that"),
        (
            "net.pkl",
            r"generator: net.pkl does not exist, and is in another format: ldp-fast convert-generator net.pkl",
        ),
        (
            "there.pt",
            r"there.pt is in another format: ldp-fast convert-generator .*there.pt --out DIR makes the folder",
        ),
        ("folder", r"folder is a folder without model.safetensors: not a generator of ldp-fast"),
        ("other.safetensors", r"is a safetensors file of something else \(its tensors: x, …\)"),
    ],
)
def test_names_that_are_not_generators(
    name: str, said: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.pt").touch()
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=said):
        load(name)
