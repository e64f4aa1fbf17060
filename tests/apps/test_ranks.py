"""Variables of torchrun that are left over or half set, ranks that come late or are killed: a sentence, and soon."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ldp_fast import cli
from ldp_fast.errors import UsageError
from ldp_fast.runs import checkpoints, distributed, ranks, roll_call
from ldp_fast.runs.roll_call import RollCall

from ..runs import toy
from ..support import processes
from ..support.ranks import needs_gloo

NAMES = (*ranks.VARIABLES, ranks.WAIT_VARIABLE, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def set_variables(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets variables as torchrun does; None leaves one away."""

    def names(**values: object) -> None:
        for name, value in values.items():
            if value is not None:
                monkeypatch.setenv(name, str(value))

    return names


def start_ranks(function: Callable[..., Any], *arguments: Any, world: int, port: int) -> list[processes.Started]:
    """Processes with torchrun's variables, each of which calls the function."""
    mine = {name: value for name, value in os.environ.items() if name not in NAMES}
    mine |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [processes.Started(function, *arguments, environment={**mine, "RANK": str(r)}) for r in range(world)]


@needs_gloo
@pytest.mark.parametrize("rank", [0, 1])
def test_left_over_variables_are_a_sentence_in_time(
    rank: int,
    small_model: str,
    tmp_path: pathlib.Path,
    free_port: int,
    set_variables: Callable[..., None],
    capfd: pytest.CaptureFixture,
) -> None:
    set_variables(RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port, LDP_FAST_RANKS_SECONDS=0.5)
    code = cli.main(words_of_a_run(small_model, tmp_path / "run"))
    said = capfd.readouterr().err
    assert code == 2 and said.count("\n") == 1, said
    assert f"this is rank {rank} of 2, and rank {1 - rank} did not come within 0.5 s" in said
    assert f"RANK={rank} WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={free_port} are set" in said
    assert "`unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT`, else start all with torchrun" in said
    assert "LDP_FAST_RANKS_SECONDS gives slow ones more time" in said
    assert not (tmp_path / "run").exists()


def words_of_a_run(model: str, out: pathlib.Path) -> list[str]:
    """Of a small one whose every step has two views."""
    small = "--method jacobian-nerf --size 8 --steps-per-ray 16 --voxels 6 --levels up0 --views 2 --device cpu"
    steps = "--steps 8 --checkpoint-every 2"
    return ["text-to-3d", "abc", *small.split(), *steps.split(), "--model", model, "--out", str(out)]


def test_without_a_word_ranks_are_waited_for_less_than_half_a_minute() -> None:
    assert ranks.read_wait() == ranks.WAIT == 20.0


def late_and_killed(folder: str) -> str:
    """The second rank comes a second late; after its fifth step it is killed."""
    time.sleep(int(os.environ["RANK"]))
    # Nobody is left who could answer, however long it is waited for.
    roll_call.ANSWER = 1.0
    advance = toy.Walk.advance

    def killed(self: toy.Walk, *arguments: Any) -> None:
        advance(self, *arguments)
        if self.rank == 1 and self.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    toy.Walk.advance = killed  # type: ignore[method-assign]
    try:
        return f"it ended with {toy.run(pathlib.Path(folder))}"
    except UsageError as error:
        return str(error)


@needs_gloo
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_rank_that_is_late_and_then_killed(tmp_path: pathlib.Path, free_port: int) -> None:
    folder = tmp_path / "run"
    both = start_ranks(late_and_killed, str(folder), world=2, port=free_port)
    (code, _, said), (killed, _, _) = [process.wait() for process in both]
    assert killed == -9 and code == 1, said
    *_, line = said.splitlines()
    assert f"rank 1 of 2 (process {both[1].pid} on " in line and " is gone; its last checkpoint is whole" in line
    assert line.endswith(f"continue with: ldp-fast toy --resume {folder}")
    assert "Traceback" not in said and "gloo" not in said
    assert checkpoints.steps(folder) == [2, 4]
    _, metadata = checkpoints.read(checkpoints.path_of(folder, 4), toy.Toy().fingerprint())
    assert metadata["step"] == "4"
    assert toy.run(folder) == 0 and checkpoints.steps(folder)[-1] == 8


def killed_rank_of_three(lost: int) -> str:
    """Three ranks without an object."""
    try:
        with distributed.ranks((3, "--views"), "cpu") as (rank, _, _):
            for step in range(5):
                if step == 3 and rank == lost:
                    os.kill(os.getpid(), signal.SIGKILL)
                distributed.add(torch.ones(1000))
    except UsageError as error:
        return str(error)
    return "it went on"


@needs_gloo
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("lost", [0, 2])
def test_every_other_rank_names_the_one_that_is_gone(lost: int, free_port: int) -> None:
    ranks_of_three = start_ranks(killed_rank_of_three, lost, world=3, port=free_port)
    for rank, process in enumerate(ranks_of_three):
        code, _, said = process.wait()
        assert code == (-9 if rank == lost else 1)
        if rank != lost:
            assert f"rank {lost} of 3 (process {ranks_of_three[lost].pid} on " in said and said.count("\n") == 1, said


@pytest.mark.parametrize(
    ("rank", "world", "said"),
    [
        ("0", None, "got 0 and nothing: RANK=0 is set; if there is no other process, `unset RANK`"),
        (None, "2", "got nothing and 2: WORLD_SIZE=2 is set"),
        ("2", "2", "got 2 and 2: RANK=2 WORLD_SIZE=2 are set"),
        ("-1", "2", "got -1 and 2"),
        ("one", "2", "got one and 2"),
        ("0", "two", "got 0 and two"),
        ("0", "0", "got 0 and 0"),
        ("0.5", "2", "got 0.5 and 2"),
    ],
)
@pytest.mark.parametrize("command", ["text-to-3d", "sweep"])
def test_half_set_variables_are_a_sentence(
    command: str,
    rank: str | None,
    world: str | None,
    said: str,
    set_variables: Callable[..., None],
    capsys: pytest.CaptureFixture,
    tmp_path: pathlib.Path,
) -> None:
    set_variables(RANK=rank, WORLD_SIZE=world)
    (tmp_path / "prompts.txt").write_text("a red cube\n")
    source = "a red cube" if command == "text-to-3d" else str(tmp_path / "prompts.txt")
    assert cli.main([command, source, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "expected numbers with 0 <= RANK < WORLD_SIZE, as torchrun sets them, " + said in error
    assert not (tmp_path / "out").exists()


def test_one_process_is_one_process(set_variables: Callable[..., None]) -> None:
    assert ranks.read_ranks() == (0, 1)
    set_variables(WORLD_SIZE=1)
    assert ranks.read_ranks() == (0, 1)
    set_variables(RANK=0)
    assert ranks.read_ranks() == (0, 1)


@pytest.mark.parametrize(
    ("address", "port", "said"),
    [
        ("", "29500", "got nothing and 29500"),
        ("127.0.0.1", "", "got 127.0.0.1 and nothing"),
        ("127.0.0.1", "ssh", "got 127.0.0.1 and ssh"),
        ("127.0.0.1", "65536", "got 127.0.0.1 and 65536"),
    ],
)
def test_where_the_ranks_meet_is_checked(
    address: str, port: str, said: str, set_variables: Callable[..., None]
) -> None:
    set_variables(RANK=0, WORLD_SIZE=2, MASTER_ADDR=address, MASTER_PORT=port)
    with pytest.raises(
        UsageError, match=f"ADDR, MASTER_PORT: expected where the ranks meet, as torchrun sets them, {said}"
    ):
        ranks.read_address()


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_the_time_to_wait_is_checked(seconds: str, set_variables: Callable[..., None]) -> None:
    set_variables(LDP_FAST_RANKS_SECONDS=seconds)
    with pytest.raises(UsageError, match="LDP_FAST_RANKS_SECONDS: expected a positive number of seconds, got"):
        ranks.read_wait()


@needs_gloo
def test_a_port_that_is_taken(set_variables: Callable[..., None], taken_port: int) -> None:
    set_variables(RANK=0, WORLD_SIZE=2, MASTER_ADDR="::1", MASTER_PORT=taken_port)
    begun = time.monotonic()
    with pytest.raises(UsageError, match=rf"MASTER_PORT: the ranks cannot meet at ::1:{taken_port}: .*in use"):
        RollCall(0, 2)
    assert time.monotonic() - begun < 15


ALONE = {
    "synthesize": ["a red cube"],
    "ablate": ["a red cube"],
    "render": ["run"],
    "export": ["run"],
    "view": ["run"],
    "evaluate": ["r-precision", "run"],
}


@pytest.mark.parametrize("command", ALONE)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_works_in_one_process_says_so(
    command: str,
    rank: str,
    set_variables: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: pathlib.Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    set_variables(RANK=rank, WORLD_SIZE=2)
    assert cli.main([command, *ALONE[command]]) == 2
    said = capsys.readouterr().err
    assert f"{command} works in one process, and this is one of 2 that would write the same files" in said
    assert f"RANK={rank} WORLD_SIZE=2 are set; if there is no other process, `unset RANK WORLD_SIZE`" in said
    assert not list(tmp_path.iterdir())


def test_the_report_works_under_torchrun(set_variables: Callable[..., None], capsys: pytest.CaptureFixture) -> None:
    set_variables(RANK=0, WORLD_SIZE=2)
    assert cli.main(["env"]) == 0 and "versions" in capsys.readouterr().out
