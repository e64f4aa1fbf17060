"""`ldp-fast evaluate METRIC PATH…`: what it takes, and the one line that it says of everything else."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldp_fast import cli
from ldp_fast.apps import clips
from ldp_fast.apps.evaluate.captioned import read_captions
from ldp_fast.apps.evaluate.features import Keeping, Network, features_of
from ldp_fast.apps.evaluate.gathered import Looking, Picture, gather
from ldp_fast.apps.evaluate.store import Store
from ldp_fast.errors import UsageError

from .pictures import CAPTIONS, make_folder
from .sweep_stand_ins import Loader, leave_run
from .test_r_precision import configuration

JUDGE = "primitives/judge"


def error_of(words: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that fails."""
    assert cli.main(["evaluate", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("ldp-fast")]
    assert len(lines) == 1 and out == "" and "Traceback" not in err, err
    return lines[0].removeprefix("ldp-fast: error: ")


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return make_folder(tmp_path / "pictures")


def test_folders_that_hold_nothing(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for metric in ("colour", "lpips", "r-precision", "clip-score"):
        assert "does not hold runs" in error_of([metric, tmp_path], capsys)
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.gif").touch()
    assert error_of(["colour", tmp_path], capsys).endswith("(PNG, JPEG or WebP): it holds a.txt, b.gif")
    assert error_of(["colour", tmp_path / "none"], capsys).endswith("none does not exist")
    assert error_of(["colour", tmp_path / "a.txt"], capsys).endswith("a.txt is not a folder")


def test_what_is_not_a_picture_is_told_and_a_damaged_one_is_named(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("notes.txt", "film.mp4"):
        (folder / name).touch()
    assert cli.main(["evaluate", "colour", str(folder)]) == 0
    assert f"note: {folder}: 2 files are not pictures: film.mp4, notes.txt" in capsys.readouterr().err
    result = json.loads((folder / "evaluation" / "colour.json").read_text())
    assert result["left_out"] == {str(folder): {"not pictures": ["film.mp4", "notes.txt"]}}
    assert result["rows"][0]["count"] == 6
    whole = (folder / "00.png").read_bytes()
    (folder / "00.png").write_bytes(whole[: len(whole) // 2])
    said = error_of(["colour", folder], capsys)
    assert said.startswith(f"{folder / '00.png'} cannot be read as a picture: ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"00.png": None}, r"captions.json: 1 picture without a caption (00.png)"),
        ({"zz.png": "a red cube"}, r"captions.json: 1 caption without a picture (zz.png)"),
        (
            {"00.png": None, "00": "a red cube"},
            "captions.json: 1 caption without a picture (00); 1 picture without a caption (00.png); names have their "
            "suffix, 00.png and not 00",
        ),
        ({"00.png": ""}, 'captions.json: 00.png: expected a caption, got ""'),
        ({"00.png": 3}, "captions.json: 00.png: expected a caption, got 3"),
    ],
)
def test_captions_and_pictures_that_lack_each_other(
    changes: dict[str, Any], said: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = json.loads((folder / "captions.json").read_text()) | changes
    (folder / "captions.json").write_text(json.dumps({k: v for k, v in captions.items() if v is not None}))
    assert error_of(["clip-score", folder, "--clip", JUDGE], capsys) == f"{folder}/{said}"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("captions.json", "{", "captions.json is damaged: "),
        ("captions.json", "[]", "captions.json: expected an object"),
        ("captions.json", '{"a.png": "x", "a.png": "y"}', "captions.json: a.png stands in it twice"),
        ("captions.csv", "", "captions.csv: expected the head name,caption, got 'an empty file'"),
        ("captions.csv", "a.png,x\n", "captions.csv: expected the head name,caption, got 'a.png,x'"),
        ("captions.csv", "name,caption\na.png,x,y\n", "captions.csv:2: expected a name and a caption, got 3 cells"),
    ],
)
def test_captions_that_cannot_be_read(name: str, text: str, said: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as raised:
        read_captions(tmp_path)
    assert said in str(raised.value)


def test_captions_of_a_csv(tmp_path: pathlib.Path) -> None:
    assert read_captions(tmp_path) is None
    (tmp_path / "captions.csv").write_text('\ufeffname,caption\na.png,"a cube, red"\nb.png,a  torus\n')
    assert read_captions(tmp_path) == (tmp_path / "captions.csv", {"a.png": "a cube, red", "b.png": "a torus"})
    (tmp_path / "captions.json").touch()
    with pytest.raises(UsageError, match=r"holds captions.json and captions.csv: expected one of them"):
        read_captions(tmp_path)


def test_flags_that_do_not_fit(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = make_folder(tmp_path / "bare", said=False)
    one = make_folder(tmp_path / "one", CAPTIONS[:1])
    monkeypatch.setattr(clips, "reachable", lambda argument, name, file: _unreachable(argument, name))
    clip = ["--features", "clip:nowhere/x"]
    for words, said in (
        (["clip-score", bare], f"{bare} holds pictures without captions: write captions.json or captions.csv there"),
        (
            ["clip-score", folder],
            "--clip: 'openai/clip-vit-base-patch32' is not here; or, for pictures of the embedded",
        ),
        (["fid", folder, "--against", bare, *clip], "--features: 'nowhere/x' is not here"),
        (["fid", folder, "--against", bare, "--features", "resnet"], "--features: expected inception, clip or clip:N"),
        (["fid", folder, "--against", bare], "--weights: expected a file, or weights-inception-2015-12-05-6726825d"),
        (["fid", folder, "--against", bare, *clip, "--weights", "x"], "--weights: expected only with --features incep"),
        (["lpips", one], f"lpips: {one}: expected at least 2 pictures, got 1"),
        (["lpips", folder, "--against", one], f"5 pictures of {folder} without one of that name in {one} (01.jpg, 02."),
        (["lpips", folder, "--backbone", "resnet"], "--backbone: expected alex, vgg, clip:NAME or vae:NAME, got 'resn"),
        (["lpips", folder, "--backbone", "alex", "--weights", "none.pth"], "--weights: there is no file none.pth"),
        (["lpips", folder, "--backbone", "vae", "--weights", "x.pth"], "--weights: expected only with --backbone alex"),
        (["lpips", folder, "--size", "33"], "--size: expected "),
        (["r-precision", folder], "--distractors: 99 and the right one were asked for, but there are 6 different"),
        (
            ["r-precision", folder, "--protocol", "dreamfields", "--seeds", "1"],
            "--seeds: expected only with --protocol",
        ),
        (["colour", folder, "--background", "0", "0", "256"], "--background: expected three numbers from 0 to 255"),
        (["colour", folder, "--seeds", "-1"], "--seeds: expected at least 0, got -1"),
        (["kid", folder, "--against", bare, *clip, "--seed", "-1"], "--seed: expected at least 0, got -1"),
        (["lpips", folder, "--size", "100000000"], "--size: expected 1 to 4096, got 100000000"),
        (["lpips", folder, "--against", bare, "--alike", "3"], "--alike: expected without --against"),
        (["fid", folder, "--against", bare, *clip, "--resizer", "tf1-bilinear"], "--resizer: expected only with --fea"),
        (["clip-score", folder, "--seeds", "5"], "--seeds: expected with runs, which are looked at; got folders of"),
        (["r-precision", folder, "--elevation", "0", "1"], "--elevation: expected with runs"),
        (["clip-score", folder, "--prompt", " "], "--prompt: expected a caption, got an empty one"),
        (["colour", folder, "--out", folder / "00.png"], f"--out: expected a folder, got {folder / '00.png'}"),
        (["colour", folder, "--out", "/proc/nowhere"], "--out: /proc/nowhere cannot be written to"),
    ):
        assert said in error_of(words, capsys), words


def test_names_and_files_that_are_odd(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "a|b", CAPTIONS[:2], said=False)
    (folder / "00.png").rename(folder / "new\nline.png")
    os.mkfifo(folder / "pipe.png")  # which would be waited for
    assert cli.main(["evaluate", "lpips", str(folder), "--backbone", "clip"]) == 0
    out, err = capsys.readouterr()
    assert f"| {tmp_path}/a\\|b | lpips-like" in out and "1 file is not a picture: pipe.png" in err
    (folder / "captions.csv").write_bytes(b'name,caption\r\n"new\nline.png","a red\ncube"\r\n01.jpg,a torus\r\n')
    assert read_captions(folder) == (folder / "captions.csv", {"new\nline.png": "a red cube", "01.jpg": "a torus"})


def _unreachable(argument: str, name: str) -> str:
    if name == JUDGE:
        return name
    raise UsageError(f"{argument}: {name!r} is not here")


def test_a_caption_that_is_too_long(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a red cube with blue stripes " * 5 + "side view"
    words = ["clip-score", str(folder), "--clip", JUDGE, "--prompt", long]
    said = error_of(words, capsys)
    assert f"{JUDGE} reads 24 tokens, and these words would be lost: '" in said and "side view'" in said
    assert said.endswith("shorten it, or give --truncate")
    assert cli.main(["evaluate", *words, "--truncate"]) == 0
    assert "Captions longer than the text tower were truncated." in capsys.readouterr().out
    said = error_of(["clip-score", folder, "--clip", JUDGE, "--prompt", "a zebra"], capsys)
    assert said.startswith(f"caption 'a zebra': {JUDGE}: the embedded model does not know 'zebra'")


def test_runs_sweeps_and_folders_are_gathered(tmp_path: pathlib.Path) -> None:
    sweep = tmp_path / "sweep"
    for losses in ("full", "lsd"):
        leave_run(sweep / losses, configuration("a red cube", losses))
    leave_run(sweep / "running", configuration("a red cone"), "running")
    pictures = make_folder(tmp_path / "pictures")
    load = Loader()
    looking = Looking(seeds=(0, 5), load=load)
    found = gather([sweep, pictures, sweep], captions=True, looking=looking)
    assert [group.label for group in found.groups] == [
        f"{sweep}: latent-nerf, LSD",
        f"{sweep}: latent-nerf, LSD + FM + KL",
        str(pictures),
    ]
    assert [picture.name for picture in found.groups[1].pictures] == ["full/view0", "full/view5"]
    assert {picture.caption for picture in found.groups[1].pictures} == {"a red cube"}
    assert found.left_out == {str(sweep): {"unfinished": ["running"]}} and found.model is None and load.calls == 2
    # One run alone is looked at in the same way, and nothing is rendered twice.
    alone = gather([sweep / "full"], captions=False, looking=looking)
    assert [picture.name for picture in alone.pictures()] == ["full/view0", "full/view5"]
    assert alone.model == "primitives" and load.calls == 3
    assert gather([sweep / "full", sweep], captions=False, looking=looking).model == "primitives" and load.calls == 3
    with pytest.raises(UsageError, match="running is an unfinished run"):
        gather([sweep / "running"], captions=False, looking=looking)
    with pytest.raises(UsageError, match=r"--prompt: .*sweep holds runs, which have prompts of their own"):
        gather([sweep], captions=True, prompt="a red cube", looking=looking)


class Counting:
    """A network that counts what it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def network(self, weights: int = 0) -> Network:
        return Network("counting", {"weights": weights}, self)

    def __call__(self, pixels: Any) -> Any:
        self.seen += len(pixels)
        return pixels.float().mean((2, 3))


def test_vectors_are_kept_by_content(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pictures = [Picture(path.name, path, None) for path in sorted(folder.glob("??.*"))]
    keeping, count = Keeping(tmp_path / "kept", progress=False), Counting()
    first = features_of(pictures, count.network(), keeping)
    assert first.shape == (6, 3) and count.seen == 6
    again = features_of(pictures[::-1], count.network(), keeping)
    assert np.array_equal(again[::-1], first) and count.seen == 6
    # The same content under another name, and another content under the same name.
    shutil.copy(pictures[0].file, folder / "twin.png")
    features_of([Picture("twin.png", folder / "twin.png", None)], count.network(), keeping)
    assert count.seen == 6
    Image.new("RGB", (20, 30), (9, 9, 9)).save(pictures[0].file)
    assert features_of(pictures, count.network(), keeping)[0].tolist() == [9, 9, 9] and count.seen == 7
    # Other weights, another background.
    features_of(pictures, count.network(1), keeping)
    assert count.seen == 13
    features_of(pictures, count.network(), Keeping(tmp_path / "kept", (0, 0, 0), progress=False))
    assert count.seen == 19


def test_a_damaged_file_of_vectors_is_made_again(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pictures = [Picture(path.name, path, None) for path in sorted(folder.glob("??.*"))]
    keeping, count = Keeping(tmp_path / "kept", progress=False), Counting()
    first = features_of(pictures, count.network(), keeping)
    (file,) = (tmp_path / "kept").rglob("*.vectors")
    whole = file.read_bytes()
    for times, damaged in enumerate((whole[:-5], b"", b"{}\n", whole[:-1] + bytes([whole[-1] ^ 1])), 2):
        file.write_bytes(damaged)
        assert np.array_equal(features_of(pictures, count.network(), keeping), first)
        assert count.seen == 6 * times and file.read_bytes() == whole


def test_an_interruption_loses_nothing_that_was_computed(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt), Store(tmp_path, "x", {}) as store:
        store.add("a", np.ones(3))
        raise KeyboardInterrupt
    store = Store(tmp_path, "x", {})
    assert store.missing(["a", "b", "b"]) == ["b"] and store.rows(["a", "a"]).tolist() == [[1, 1, 1]] * 2


def test_an_interrupted_command_goes_on_where_it_was(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pictures = [Picture(path.name, path, None) for path in sorted(folder.glob("??.*"))]
    Image.new("RGB", (20, 30)).save(pictures[5].file)  # of another size, so in a batch of its own

    class Interrupted(Counting):
        def __call__(self, pixels: Any) -> Any:
            if self.seen:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    keeping, count = Keeping(tmp_path / "kept", progress=False), Interrupted()
    with pytest.raises(KeyboardInterrupt):
        features_of(pictures, count.network(), keeping)
    again = Counting()
    features_of(pictures, again.network(), keeping)
    assert (count.seen, again.seen) == (5, 1)
