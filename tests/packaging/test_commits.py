"""The newest commit has a message as CONTRIBUTING.md wants it; older ones may be from before the rule."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from .installation import ROOT

LONGEST = 72
# Forms that look like others: Bring is a verb in the imperative, Adding is not.
VERBS = {
    "Bring",
    "String",
    "Ring",
    "Ping",
    "Embed",
    "Need",
    "Feed",
    "Speed",
    "Seed",
    "Shed",
    "Proceed",
    "Exceed",
    "Focus",
}
OTHERS = {"A", "An", "The", "This", "Some", "New", "More", "No", "Minor", "Small", "Various"}


def faults(message: str) -> list[str]:
    """What is wrong with a message."""
    subject, *rest = message.rstrip("\n").split("\n")
    first, found = subject.split(" ")[0], []
    if len(subject) > LONGEST:
        found.append(f"the subject has {len(subject)} characters, more than {LONGEST}")
    if not re.fullmatch(r"[A-Z][a-z-]+", first) or first in OTHERS:
        found.append(f"the subject begins with {first!r}, which is not a verb")
    elif first not in VERBS and first.endswith(("ed", "ing")):
        found.append(f"the subject begins with {first!r}, not with what the commit does: Add, Mend, Measure, …")
    if subject.endswith("."):
        found.append("the subject ends in a full stop")
    if not "".join(rest).strip():
        found.append("there is no body that says why")
    elif rest[0]:
        found.append("there is no empty line below the subject")
    return found


def test_the_newest_commit_has_a_good_message() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a clone, or no git")
    command = ["git", "-c", "safe.directory=*", "log", "-1", "--no-merges", "--format=%B"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        pytest.skip("no commit yet, or only a merge")
    assert not faults(done.stdout)


@pytest.mark.parametrize(
    ("message", "count"),
    [
        ("Lock a run's folder\n\nA second process wrote into it.", 0),
        ("Bring the host's cost down\n\nWhy.", 0),
        ("Lock a run's folder", 1),
        ("Lock a run's folder\nA second process wrote into it.", 1),
        ("Locked a run's folder\n\nWhy.", 1),
        ("Locking of a run's folder\n\nWhy.", 1),
        ("The lock of a run's folder\n\nWhy.", 1),
        ("runs: lock the folder\n\nWhy.", 1),
        ("Lock a run's folder.\n\nWhy.", 1),
        (f"Lock {'x' * 68}\n\nWhy.", 1),
        (f"Lock {'x' * 67}\n\nWhy.", 0),
    ],
)
def test_faults_are_found(message: str, count: int) -> None:
    assert len(faults(message)) == count


def test_the_page_says_the_rule() -> None:
    assert f"at most {LONGEST} characters" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
