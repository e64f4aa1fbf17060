"""Variables of torchrun that are left over or half set, ranks that come late or are killed: a sentence, and soon."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time

import pytest

from ldp_fast import cli
from ldp_fast.apps import ranks
from ldp_fast.apps.text_to_3d import checkpoints
from ldp_fast.apps.text_to_3d.configuration import read_configuration
from ldp_fast.apps.text_to_3d.scene import checkpoint_steps
from ldp_fast.errors import UsageError

from ..ranks import needs_gloo
from . import text_to_3d_runs as runs

ROOT = pathlib.Path(__file__).parents[2]
NAMES = (*ranks.VARIABLES, ranks.WAIT_VARIABLE, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def started(program: str, words: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", **variables}
    line = [sys.executable, "-c", f"import torch; torch.set_num_threads(1)\n{program}", *words]
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what it said on stderr without the progress bars."""
    _, said = process.communicate(timeout=120)
    return process.returncode, "".join(line for line in said.splitlines(keepends=True) if "step/s" not in line)


COMMAND = "import sys; from ldp_fast import cli; sys.exit(cli.main())"


@needs_gloo
@pytest.mark.parametrize("rank", ["0", "1"])
def test_left_over_variables_are_a_sentence_in_time(
    rank: str, small_model: str, tmp_path: pathlib.Path, free_port: int
) -> None:
    words = [*map(str, runs_flags(small_model, tmp_path / "run"))]
    variables = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": str(free_port)}
    code, said = ended(started(COMMAND, words, **variables, LDP_FAST_RANKS_SECONDS="1.5"))
    assert code == 2 and said.count("\n") == 1, said
    other = "1" if rank == "0" else "0"
    assert f"this is rank {rank} of 2, and rank {other} did not come within 1.5 s" in said
    assert f"RANK={rank} WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={free_port} are set" in said
    assert "`unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT`, else start all with torchrun" in said
    assert "LDP_FAST_RANKS_SECONDS gives slow ones more time" in said
    assert not (tmp_path / "run").exists()


def runs_flags(model: str, out: pathlib.Path) -> tuple[object, ...]:
    small = ("--method", "jacobian-nerf", "--size", 8, "--steps-per-ray", 16, "--voxels", 6, "--levels", "up0")
    return ("text-to-3d", "abc", *small, "--steps", 8, "--checkpoint-every", 2, "--views", 2, "--device", "cpu",
            "--model", model, "--out", out)  # fmt: skip


def test_without_a_word_ranks_are_waited_for_less_than_half_a_minute() -> None:
    assert ranks.read_wait() == ranks.WAIT == 20.0


# The second rank comes three seconds late; after its fifth step it is killed.
LATE_AND_KILLED = """
import os, signal, sys, time
time.sleep(3 * int(os.environ["RANK"]))
from ldp_fast import cli
from ldp_fast.apps.text_to_3d.trainer import Trainer
advance = Trainer.advance
def killed(self, *arguments):
    advance(self, *arguments)
    if self.rank == 1 and self.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
Trainer.advance = killed
sys.exit(cli.main())
"""


@needs_gloo
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_rank_that_is_late_and_then_killed(
    small_model: str, tmp_path: pathlib.Path, free_port: int, only_steps: None
) -> None:
    folder = tmp_path / "run"
    words = [*map(str, runs_flags(small_model, folder))]
    both = [
        started(LATE_AND_KILLED, words, RANK=str(rank), WORLD_SIZE="2", MASTER_PORT=str(free_port)) for rank in (0, 1)
    ]
    (code, said), (killed, _) = ended(both[0]), ended(both[1])
    assert killed == -9 and code == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("ldp-fast: error:")]
    assert f"rank 1 of 2 (process {both[1].pid} on " in line and " is gone; its last checkpoint is whole" in line
    assert line.endswith(f"continue with: ldp-fast text-to-3d --resume {folder}")
    assert "Traceback" not in said and "gloo" not in said
    assert checkpoint_steps(folder) == [2, 4]
    tensors, metadata = checkpoints.read(checkpoints.path_of(folder, 4), read_configuration(folder))
    assert metadata["step"] == "4" and len(tensors["history"]) == 4
    assert runs.command("--resume", folder) == 0 and checkpoint_steps(folder)[-1] == 8


# Three ranks without an object; which of them is killed is an argument.
THREE = """
import os, signal, sys
from ldp_fast.apps.text_to_3d import distributed
from ldp_fast.errors import UsageError
try:
    with distributed.ranks({"views": 3, "device": "cpu"}) as (rank, world, _):
        for step in range(5):
            if step == 3 and rank == int(sys.argv[1]):
                os.kill(os.getpid(), signal.SIGKILL)
            distributed.add(torch.ones(1000))
except UsageError as error:
    sys.exit(str(error))
"""


@needs_gloo
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("lost", [0, 2])
def test_every_other_rank_names_the_one_that_is_gone(lost: int, free_port: int) -> None:
    variables = {"WORLD_SIZE": "3", "MASTER_PORT": str(free_port)}
    processes = [started(THREE, [str(lost)], RANK=str(rank), **variables) for rank in range(3)]
    for rank, process in enumerate(processes):
        code, said = ended(process)
        assert code == (-9 if rank == lost else 1)
        if rank != lost:
            assert f"rank {lost} of 3 (process {processes[lost].pid} on " in said and said.count("\n") == 1, said


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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: pathlib.Path,
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        if value is not None:
            monkeypatch.setenv(name, value)
    (tmp_path / "prompts.txt").write_text("a red cube\n")
    source = "a red cube" if command == "text-to-3d" else str(tmp_path / "prompts.txt")
    assert cli.main([command, source, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "expected numbers with 0 <= RANK < WORLD_SIZE, as torchrun sets them, " + said in error
    assert not (tmp_path / "out").exists()


def test_one_process_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks.read_ranks() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ranks.read_ranks() == (0, 1)
    monkeypatch.setenv("RANK", "0")
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
def test_where_the_ranks_meet_is_checked(address: str, port: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", address), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UsageError, match=f"ADDR, MASTER_PORT: expected where the ranks meet, as torchrun sets them, {said}"
    ):
        ranks.read_address()


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_the_time_to_wait_is_checked(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ranks.WAIT_VARIABLE, seconds)
    with pytest.raises(UsageError, match="LDP_FAST_RANKS_SECONDS: expected a positive number of seconds, got"):
        ranks.read_wait()


@needs_gloo
def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch, taken_port: int) -> None:
    from ldp_fast.apps.text_to_3d.roll_call import RollCall

    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "::1"), ("MASTER_PORT", str(taken_port))):
        monkeypatch.setenv(name, value)
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


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in ("text-to-3d", "sweep", "env")])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_works_in_one_process_says_so(
    command: str,
    rank: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: pathlib.Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main([command, *ALONE[command]]) == 2
    said = capsys.readouterr().err
    assert f"{command} works in one process, and this is one of 2 that would write the same files" in said
    assert f"RANK={rank} WORLD_SIZE=2 are set; if there is no other process, `unset RANK WORLD_SIZE`" in said
    assert not list(tmp_path.iterdir())


def test_the_report_works_under_torchrun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["env"]) == 0 and "versions" in capsys.readouterr().out
