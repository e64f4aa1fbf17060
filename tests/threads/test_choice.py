"""What the command line sets, and what it leaves: a quota, ranks, and whatever the user has set."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ldp_fast import env_report
from ldp_fast._threads import choice
from ldp_fast._threads.cpus import Cpus, Quota

from ..packaging.installation import ROOT

QUOTA = Quota(2.0, "/sys/fs/cgroup/cpu.max")
FREE, LIMITED = Cpus(64, 64, None), Cpus(64, 64, QUOTA)
DECIDED = {*choice.NUMBER_VARIABLES, *choice.WAITING_VARIABLES, "LOCAL_WORLD_SIZE"}


def test_without_a_quota_nothing_is_set_and_the_command_watches() -> None:
    found = choice.choose({}, FREE, True)
    assert found.set == {} and found.watch
    assert found.threads == "torch's choice: 64 CPUs by affinity, no quota"


def test_a_quota_limits_threads_and_has_them_sleep() -> None:
    found = choice.choose({}, LIMITED, True)
    assert found.set == {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"} and not found.watch
    assert found.threads == "2: 64 CPUs by affinity, a quota of 2 (/sys/fs/cgroup/cpu.max)"


@pytest.mark.parametrize(
    ("quota", "threads"), [(0.5, "1"), (1.0, "1"), (1.5, "2"), (2.5, "3"), (40.0, None), (100.0, None)]
)
def test_a_part_of_a_cpu_is_a_thread(quota: float, threads: str | None) -> None:
    """And more than the physical cores, which torch takes, are never asked for."""
    assert choice.choose({}, Cpus(64, 32, Quota(quota, "")), True).set.get("OMP_NUM_THREADS") == threads


def test_a_quota_beyond_the_affinity_is_none() -> None:
    assert choice.choose({}, Cpus(2, 2, Quota(4.0, "")), True).watch


@pytest.mark.parametrize(("ranks", "threads"), [("4", "16"), ("100", "1"), ("1", None), ("many", None)])
def test_ranks_share(ranks: str, threads: str | None) -> None:
    assert choice.choose({"LOCAL_WORLD_SIZE": ranks}, FREE, True).set.get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize("name", choice.NUMBER_VARIABLES)
def test_a_number_that_the_user_set_stays(name: str) -> None:
    found = choice.choose({name: "7"}, LIMITED, True)
    assert found.set == {"OMP_WAIT_POLICY": "passive"} and found.threads == f"as the environment says: {name}=7"


@pytest.mark.parametrize("name", choice.WAITING_VARIABLES)
@pytest.mark.parametrize("cpus", [FREE, LIMITED], ids=["free", "limited"])
def test_waiting_that_the_user_set_stays(name: str, cpus: Cpus) -> None:
    found = choice.choose({name: "0"}, cpus, True)
    assert "OMP_WAIT_POLICY" not in found.set and not found.watch
    assert found.waiting == f"as the environment says: {name}=0"


def test_an_empty_variable_is_nobody_s_decision() -> None:
    assert choice.choose({"OMP_NUM_THREADS": ""}, LIMITED, True).set["OMP_NUM_THREADS"] == "2"


def test_what_cannot_be_watched_sleeps() -> None:
    found = choice.choose({}, FREE, False)
    assert found.set == {"OMP_WAIT_POLICY": "passive"} and not found.watch and "does not say" in found.waiting


def test_nothing_is_set_after_torch_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: F401

    monkeypatch.setattr(choice, "_adopted", None)
    environment = {"OTHER": "1"}
    found = choice.adopt(environment, LIMITED)
    assert environment == {"OTHER": "1"} and found.set == {} and "torch was imported" in found.threads


def python(code: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in DECIDED} | variables
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


SHOW = "import json, os, sys; from ldp_fast import cli; sys.argv = ['ldp-fast', 'env', '--json']; "
LIMIT = "from ldp_fast._threads import cpus; cpus.quota = lambda root: cpus.Quota(1.5, '/made/up'); "
LIMIT += "cpus.affinity = lambda: set(range(8)); "


def test_the_command_shows_what_it_chose() -> None:
    found = json.loads(python(f"{SHOW}sys.exit(cli.main())"))["threads"]
    assert found["set"] in ("nothing", "OMP_WAIT_POLICY=passive") or found["set"].startswith("OMP_NUM_THREADS=")
    assert found["number"] and found["waiting"] and "hint" not in found


def test_torch_takes_what_the_command_chose() -> None:
    found = json.loads(python(f"{LIMIT}{SHOW}sys.exit(cli.main())"))["threads"]
    assert found["torch_threads"] == 2 and found["set"] == "OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive"
    assert found["allowed"] == "8 CPUs by affinity, a quota of 1.5 (/made/up)"


def test_torch_takes_what_the_user_chose() -> None:
    found = json.loads(python(f"{LIMIT}{SHOW}sys.exit(cli.main())", OMP_NUM_THREADS="1", GOMP_SPINCOUNT="1"))["threads"]
    assert found["torch_threads"] == 1 and found["set"] == "nothing"
    assert found["waiting"] == "as the environment says: GOMP_SPINCOUNT=1"


def test_importing_changes_nothing_and_loads_no_runtime() -> None:
    code = "import os; before = dict(os.environ); import sys, ldp_fast, ldp_fast.cli, ldp_fast.env_report; "
    code += "from ldp_fast._threads import choice, waiting; "
    code += "print(before == dict(os.environ), 'torch' in sys.modules, 'numpy' in sys.modules, waiting.runtime(), "
    code += "choice.adopted())"
    assert python(code).split() == ["True", "False", "False", "None", "None"]


def test_a_call_from_a_program_changes_nothing() -> None:
    code = f"{LIMIT}import os; from ldp_fast import cli; before = dict(os.environ); cli.main(['--version']); "
    assert python(code + "print(before == dict(os.environ))").split()[-1] == "True"


@pytest.mark.parametrize(
    ("cpus", "variables", "hint"),
    [
        (LIMITED, {}, "before torch is imported, OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive"),
        (FREE, {}, "OMP_WAIT_POLICY=passive: slower on a quiet machine"),
        (FREE, {"GOMP_SPINCOUNT": "5"}, "as the environment says: GOMP_SPINCOUNT=5"),
    ],
)
def test_importers_get_a_hint(
    monkeypatch: pytest.MonkeyPatch, cpus: Cpus, variables: dict[str, str], hint: str
) -> None:
    for name in DECIDED:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(choice, "_adopted", None)
    monkeypatch.setattr(env_report.Cpus, "read", lambda: cpus)
    monkeypatch.setattr(env_report.waiting, "observable", lambda: True)
    found = env_report.threads()
    assert hint in found["hint"] and found["set"] == "nothing" and found["chosen"] == "nothing: a library sets nothing"
