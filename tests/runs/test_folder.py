"""A run's folder: what a record may remove, whose folder it is, and what others add to it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from ldp_fast.errors import UsageError
from ldp_fast.runs import checkpoints, loop
from ldp_fast.runs import folder as folders
from ldp_fast.runs.folder import RunFolder

from . import toy


def record(folder: pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def test_overwriting_removes_what_the_record_lists_and_nothing_else(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    assert toy.run(run) == 0
    mine = [run / "notes.txt", run / "mesh.obj", run / "checkpoints" / "mine.bin"]
    for path in mine:
        path.write_text("years of work")
    RunFolder(run, toy.APPLICATION).add([tmp_path / "outside.txt", run / "exported.obj"])
    (run / "exported.obj").write_text("ours")
    assert toy.run(run, loop.Options(overwrite=True), seed=1, steps=4) == 0
    assert all(path.read_text() == "years of work" for path in mine) and not (run / "exported.obj").exists()
    assert checkpoints.steps(run) == [2, 4] and record(run)["files"] == [*folders.ALWAYS, "result.txt"]


def test_a_name_of_the_record_is_not_a_pattern(tmp_path: pathlib.Path) -> None:
    assert toy.run(tmp_path, steps=2) == 0
    for name in ("shot[1].png", "shot1.png", "a*.png", "ab.png"):
        (tmp_path / name).write_text("")
    RunFolder(tmp_path, toy.APPLICATION).add([tmp_path / "shot[1].png", tmp_path / "a*.png"])
    assert toy.run(tmp_path, loop.Options(overwrite=True), steps=4) == 0
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["ab.png", "shot1.png"]


def test_a_record_that_somebody_edited_removes_nothing_outside(tmp_path: pathlib.Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "mine.txt"
    (tmp_path / "elsewhere").mkdir()
    behind, inside = tmp_path / "elsewhere" / "mine.txt", run / "listed.txt"
    assert toy.run(run, steps=2) == 0
    (run / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for path in (outside, behind, inside):
        path.write_text("years of work")
    names = [
        str(outside),
        "../mine.txt",
        "../*.txt",
        "link/mine.txt",
        "/",
        "",
        ".",
        "..",
        3,
        None,
        ["x"],
        "\0",
        "x" * 999,
    ]
    found = {**record(run), "process": "mine", "files": [*folders.ALWAYS, *names, "listed.txt"]}
    (run / "run.json").write_text(json.dumps(found))
    with folders.locked(run), pytest.raises(UsageError, match="is being written by another process"):
        toy.run(run, loop.Options(overwrite=True), steps=4)
    assert toy.run(run, loop.Options(overwrite=True), steps=4) == 0
    assert outside.exists() and behind.exists() and not inside.exists() and checkpoints.steps(run) == [2, 4]


def test_a_picture_of_a_run_at_work_leaves_its_record_alone(tmp_path: pathlib.Path, capsys: Any) -> None:
    assert toy.run(tmp_path, steps=2) == 0
    home, before = RunFolder(tmp_path, toy.APPLICATION), record(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**before, "process": {"pid": 7, "host": "here"}}))
    working = (tmp_path / "run.json").read_bytes()
    capsys.readouterr()
    with folders.locked(tmp_path):
        home.add_later([tmp_path / "mine.png"])
        home.add_later([tmp_path.parent / "elsewhere.png"])
    said = capsys.readouterr().err
    assert (tmp_path / "run.json").read_bytes() == working and said.count("\n") == 1
    assert f"{tmp_path} is being written by process 7 on here" in said and "does not list mine.png" in said
    home.add_later([tmp_path / "mine.png"])
    assert record(tmp_path)["files"] == [*before["files"], "mine.png"] and not capsys.readouterr().err


@pytest.mark.parametrize(
    "own",
    [
        {"config.yaml": "format: 1\nprompt: mine\n", "run.json": '{"status": "finished"}'},
        {"config.yaml": "my own notes: 1\n", "run.json": '{"application": "webshop", "debug": true}'},
        {"run.json": '{"application": "toy", "status": "finished", "versions": {"node": "22"}, "files": ["mesh.obj"]}'},
        {"run.json": '{"application": "toy", "status": "live", "versions": {"ldp-fast": "1"}, "files": ["mesh.obj"]}'},
        {"config.yaml": "format: 1\napplication: toy\n", "run.json": '{"status": "finished", "versions": 3}'},
        {"config.yaml": "format: 1\napplication: toy\n", "run.json": "[]"},
    ],
)
def test_somebodys_own_folder_is_not_taken_for_a_run(own: dict[str, str], tmp_path: pathlib.Path) -> None:
    own = {**own, "mesh.obj": "v 0 0 0", "preview.png": "mine"}
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is not empty and"):
            folders.check_free(tmp_path, overwrite)
        with pytest.raises(UsageError, match="is not empty and"):
            toy.run(tmp_path, loop.Options(overwrite=overwrite))
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != folders.LOCK} == own
