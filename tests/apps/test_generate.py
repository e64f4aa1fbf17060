"""`ldp-fast generate`: a folder of numbered pictures, which an interruption or a larger count goes on with."""

from __future__ import annotations

import json
import os
import pathlib
import signal
from collections.abc import Callable

import pytest
import torch
from PIL import Image

from ldp_fast import cli
from ldp_fast.apps import samples
from ldp_fast.apps.adapted import located
from ldp_fast.apps.evaluate.gathered import gather
from ldp_fast.errors import UsageError
from ldp_fast.generators import Settings, StyleGAN2, load, sampling, save
from ldp_fast.runs import files, image_files

from ..support import processes

Z = 6


def small(seed: int = 0) -> StyleGAN2:
    torch.manual_seed(seed)
    made = StyleGAN2(Settings(resolution=8, z_dim=Z, w_dim=8, mapping_layers=2, channels=(8, 4)))
    with torch.no_grad():
        for conv in (made.conv1, *made.convs):
            conv.noise_strength.fill_(0.5)  # type: ignore[union-attr, operator]
    made.average(256)
    return made


@pytest.fixture
def generator(tmp_path: pathlib.Path) -> str:
    save(tmp_path / "generator", small(), {"from": "a test"})
    return str(tmp_path / "generator")


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Gives a command; returns what it printed, or its one line where it failed."""

    def give(*words: object, fails: bool = False) -> str:
        code = cli.main(["generate", *map(str, words), "--device", "cpu"])
        said = capsys.readouterr()
        assert code == (2 if fails else 0), said.err
        assert not fails or said.err.count("\n") == 1, said.err
        return said.err if fails else said.out

    return give


def pictures_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_pictures_are_the_generators_by_number(
    generator: str, tmp_path: pathlib.Path, typed: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    said = typed(generator, "--count", 5, "--seed", 3, "--truncation", 0.7, "--batch", 2, "--out", out)
    assert said.startswith(f"{out} (5 pictures; truncation 0.7, seed 3; ")
    assert list(pictures_of(out)) == [f"00000{i}.png" for i in range(5)]
    made = image_files.read_images([out / f"00000{i}.png" for i in range(5)])
    wanted = sampling.pictures(load(generator), sampling.latents(3, 0, 5, Z), 0.7)
    assert (made - wanted).abs().max() <= 0.5 / 255 + 1e-6 and made.std() > 0.05
    record = json.loads((out / "samples.json").read_text())
    assert (record["seed"], record["truncation"], record["noise"], record["count"]) == (3, 0.7, "fixed", 5)
    assert record["about"] == {"from": "a test"}
    # The z's, as the record says them.
    assert record["z"] == f"that of picture i is ldp_fast.generators.sampling.latents(3, i, 1, {Z})"


def test_fresh_noise_is_another_for_each(generator: str, tmp_path: pathlib.Path, typed: Callable[..., str]) -> None:
    common = (generator, "--count", 3, "--truncation", 0)
    typed(*common, "--out", tmp_path / "fixed")
    typed(*common, "--noise", "fresh", "--out", tmp_path / "fresh")
    typed(*common, "--noise", "fresh", "--batch", 2, "--out", tmp_path / "again")
    assert len(set(pictures_of(tmp_path / "fixed").values())) == 1
    assert len(set(pictures_of(tmp_path / "fresh").values())) == 3
    made, again = (image_files.read_images(sorted((tmp_path / x).glob("*.png"))) for x in ("fresh", "again"))
    assert (made - again).abs().max() <= 1.01 / 255


def test_what_was_interrupted_goes_on_and_ends_the_same(
    generator: str, tmp_path: pathlib.Path, typed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = (generator, "--count", 7, "--batch", 3)
    typed(*common, "--out", tmp_path / "whole")
    write = image_files.save_png

    def full(path: pathlib.Path, image: torch.Tensor) -> None:
        if path.name == "000004.png":
            raise OSError(28, "No space left on device", str(path))
        write(path, image)

    monkeypatch.setattr(image_files, "save_png", full)
    assert "no space left on device" in typed(*common, "--out", tmp_path / "out", fails=True)
    monkeypatch.undo()
    left = pictures_of(tmp_path / "out")
    assert "000002.png" in left and "000004.png" not in left
    touched = [(tmp_path / "out" / name).stat().st_mtime_ns for name in left]
    assert f"7 pictures, {len(left)} of them from before" in typed(*common, "--out", tmp_path / "out")
    assert [(tmp_path / "out" / name).stat().st_mtime_ns for name in left] == touched
    assert pictures_of(tmp_path / "out") == pictures_of(tmp_path / "whole")
    assert typed(*common, "--out", tmp_path / "out").endswith("7 of them from before; truncation 1, seed 0)\n")


def test_what_is_damaged_is_made_again(
    generator: str, tmp_path: pathlib.Path, typed: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, common = tmp_path / "out", (generator, "--count", 8, "--batch", 4)
    typed(*common, "--out", out)
    whole = pictures_of(out)
    data = whole["000001.png"]
    (out / "000001.png").write_bytes(data[:-9])  # its last checksum alone
    (out / "000002.png").write_bytes(data[:30])
    (out / "000003.png").write_bytes(b"")
    image_files.save_png(out / "000004.png", torch.zeros(3, 8, 9))
    (out / "000005.png").write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    Image.new("L", (8, 8)).save(out / "000006.png")
    Image.new("RGB", (8, 8)).save(out / "000007.png", format="JPEG")
    code = cli.main(["generate", *map(str, common), "--out", str(out), "--device", "cpu"])
    said = capsys.readouterr()
    assert code == 0 and f"note: {out}: damaged, and made again: 000001.png, 000002.png, 000003.png and 4" in said.err
    assert "8 pictures, 1 of them from before" in said.out
    assert pictures_of(out) == whole


def test_a_picture_is_whole_only_to_its_end(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.png"
    image_files.save_png(path, torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)))
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert not samples._is_whole(path, 8), length
    path.write_bytes(data)
    assert samples._is_whole(path, 8) and samples._is_whole(path, None) and not samples._is_whole(path, 16)


def killed(words: tuple[str, ...], count: int) -> int:
    """The command, which a signal ends when it is about to give a file its name."""
    replace, done = os.replace, list[str]()

    def cut_off(part: pathlib.Path, path: pathlib.Path) -> None:
        if len(done) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(path.name)
        replace(part, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", cut_off)
        return cli.main(["generate", *words])


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("count", [0, 5])
def test_what_was_killed_goes_on_and_ends_the_same(
    count: int, generator: str, tmp_path: pathlib.Path, typed: Callable[..., str]
) -> None:
    common = (generator, "--count", "7", "--batch", "3")
    typed(*common, "--out", tmp_path / "whole")
    out = tmp_path / "out"
    ended = processes.Started(killed, (*common, "--out", str(out), "--device", "cpu"), count).wait()
    assert ended.code == -9, ended.err
    assert len(pictures_of(out)) == max(0, count - 1) and list(out.glob(".*.part"))
    typed(*common, "--out", out)
    assert pictures_of(out) == pictures_of(tmp_path / "whole") and not list(out.glob(".*.part"))


def test_more_of_them_and_not_fewer_nor_others(
    generator: str, tmp_path: pathlib.Path, typed: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    typed(generator, "--count", 2, "--out", out)
    before = pictures_of(out)
    typed(generator, "--count", 4, "--out", out)
    assert len(pictures_of(out)) == 4 and pictures_of(out).items() >= before.items()
    assert "a folder of 4 samples" in typed(generator, "--count", 3, "--out", out, fails=True)
    assert "other samples (seed 0)" in typed(generator, "--count", 4, "--seed", 1, "--out", out, fails=True)
    save(tmp_path / "other", small(1))
    said = typed(tmp_path / "other", "--count", 4, "--truncation", 0.5, "--out", out, fails=True)
    assert f"(of another generator, {generator}, truncation 1.0)" in said
    assert len(pictures_of(out)) == 4
    typed(generator, "--count", 3, "--seed", 1, "--out", out, "--overwrite")
    assert len(pictures_of(out)) == 3 and not pictures_of(out).items() & before.items()


def test_samples_of_a_run_of_adapt_have_their_prompt(tmp_path: pathlib.Path, typed: Callable[..., str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    ours = {"application": "adapt", "status": "running", "versions": {"ldp-fast": "1"}}
    files.write_json(folder / "run.json", ours)
    out = tmp_path / "out"
    assert "unfinished run of adapt" in typed(folder, "--count", 2, "--out", out, fails=True)
    assert not out.exists()
    save(folder / "generator", small(), {"adapted": {"prompt": "a red sphere"}})
    typed(folder, "--count", 2, "--out", out)
    found = gather([out], captions=True)
    assert [(x.name, x.caption) for x in found.pictures()] == [(f"00000{i}.png", "a red sphere") for i in range(2)]
    assert not found.left_out
    typed(folder, "--count", 3, "--out", out)
    assert len(gather([out], captions=True).pictures()) == 3
    files.write_json(folder / "run.json", {**ours, "application": "synthesize"})
    with pytest.raises(UsageError, match="holds a run of synthesize"):
        located(str(folder))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--count", 0), "--count: expected 1 to 1000000, got 0"),
        (("--count", 1, "--batch", 0), "--batch: expected 1 to"),
        (("--count", 1, "--seed", -1), "--seed: expected 0 to"),
        (("--count", 1, "--truncation", 3), "--truncation: expected -2 to 2, got 3"),
        (("--count", 1, "--truncation", "nan"), "--truncation: expected a finite number"),
    ],
)
def test_wrong_numbers_are_one_line(
    generator: str, tmp_path: pathlib.Path, typed: Callable[..., str], words: tuple[object, ...], said: str
) -> None:
    assert said in typed(generator, *words, "--out", tmp_path / "out", fails=True)
    assert not (tmp_path / "out").exists()


def test_what_is_somebody_elses_stays(generator: str, tmp_path: pathlib.Path, typed: Callable[..., str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "000000.png").write_bytes(b"mine")
    said = typed(generator, "--count", 1, "--out", out, "--overwrite", fails=True)
    assert "is not empty and does not hold samples" in said
    (out / "samples.json").write_text("[]")
    assert "is not of ldp-fast generate" in typed(generator, "--count", 1, "--out", out, fails=True)
    assert (out / "000000.png").read_bytes() == b"mine"


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_damaged_record_says_what_is_to_be_removed(
    more: tuple[str, ...], generator: str, tmp_path: pathlib.Path, typed: Callable[..., str]
) -> None:
    out = tmp_path / "pictures"
    words = (generator, "--count", 2, "--out", out, *more)
    typed(*words)
    (out / "samples.json").write_text("{")
    before = pictures_of(out)
    said = typed(*words, fails=True)
    assert "samples.json is damaged: " in said and pictures_of(out) == before
    assert said.endswith(
        f": choose another --out, or remove {out / 'samples.json'} and the pictures that lie beside it\n"
    )
    for path in (out / "samples.json", *out.glob("*.png")):
        path.unlink()
    typed(*words)
    assert pictures_of(out) == before


def test_a_generator_that_diverged_makes_nothing(tmp_path: pathlib.Path, typed: Callable[..., str]) -> None:
    made = small()
    with torch.no_grad():  # finite by themselves
        for layer in (made.to_rgb1, made.to_rgbs[0]):
            layer.bias.fill_(3e38)  # type: ignore[operator, union-attr]
    save(tmp_path / "generator", made)
    said = typed(tmp_path / "generator", "--count", 5, "--batch", 2, "--out", tmp_path / "out", fails=True)
    assert "samples 0 to 1 came out with NaN or infinity" in said and not pictures_of(tmp_path / "out")
