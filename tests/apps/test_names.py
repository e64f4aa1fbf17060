"""Names made from prompts: readable, allowed everywhere, another one for every prompt, and found again."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldp_fast import cli
from ldp_fast.apps.synthesis import ablation
from ldp_fast.apps.text_to_3d import jobs
from ldp_fast.apps.text_to_3d.run import APPLICATION
from ldp_fast.errors import UsageError
from ldp_fast.runs import folder as folders
from ldp_fast.runs.jobs import Job, JobStore
from ldp_fast.runs.names import as_typed, former_slug, name_of
from ldp_fast.runs.prompts import Prompt

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
WINDOWS = {*("con prn aux nul".split()), *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
OTHERS = ["一个红色的球", "一个绿色的球", "كرة حمراء", "красный шар", "赤い球", "🔴", "🔵", "   ", "", "!!"]
PATHS = ["..", ".", "../x", "/", ".hidden", "~"]
TAKEN = ["con", "CON", "nul", "aux", "prn", "com1", "lpt9", "con.txt", "com¹", "CONIN$", "nul ", "aux."]
LONG = ["a red cube " * 30, "a red cube " * 31, "球" * 300, "x" * 40 + "a", "x" * 40 + "b"]


def allowed(name: str) -> bool:
    """Whether a folder may be called so on Linux, macOS and Windows, and no shell takes it for something else."""
    fits = re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) is not None and len(name.encode()) <= 60
    return fits and name.split(".")[0] not in WINDOWS


@pytest.mark.parametrize("prompt", ["a red torus", "a cyan torus with white stripes", "abc", "42", "a" * 40, "conifer"])
def test_what_a_name_can_say_whole_is_the_name(prompt: str) -> None:
    assert name_of(prompt) == prompt.replace(" ", "-")


def test_what_is_lost_is_in_the_digest() -> None:
    alike = ["a red torus", "A red torus", "a red torus.", "a  red torus", " a red torus", "a-red-torus", "a réd torus"]
    names = [name_of(prompt) for prompt in [*alike, *OTHERS, *PATHS, *TAKEN, *LONG]]
    assert len(set(names)) == len(names) and all(map(allowed, names)), names
    assert all(name.startswith("a-red-torus") for name in names[: len(alike)])
    assert name_of("Ein Stück Käse, größer").startswith("ein-stuck-kase-grosser-")
    assert not {name_of(prompt) for prompt in TAKEN} & WINDOWS


def test_a_prompt_that_reads_like_another_ones_name() -> None:
    name = name_of("A red torus")
    assert re.fullmatch(r"a-red-torus-[0-9a-f]{10}", name)
    assert name_of(name.replace("-", " ")) != name


def test_the_name_is_the_same_in_every_process() -> None:
    # Written down: a later version has to find what this one began.
    assert name_of("一个红色的球") == "prompt-8304c62eeb"
    assert name_of("A red torus!") == "a-red-torus-7c3e90e08d"
    assert name_of("con") == "con-1143da2bc5"


@given(st.lists(st.text(st.characters(exclude_categories=[])), min_size=2, max_size=5, unique=True))
def test_any_text(prompts: list[str]) -> None:
    names = {name_of(prompt) for prompt in prompts}
    assert len(names) == len(prompts) and all(map(allowed, names))


def test_thousands_of_prompts_that_no_name_can_show() -> None:
    prompts = [chr(0x4E00 + i // 100) + chr(0x5E00 + i % 100) for i in range(20_000)]
    assert len({name_of(prompt) for prompt in prompts}) == len(prompts)


def test_a_prompt_that_the_locale_hid() -> None:
    hidden = "ein Käse 球".encode().decode("ascii", "surrogateescape")
    assert as_typed(hidden, "prompt") == "ein Käse 球" and as_typed("a b", "prompt") == "a b"
    with pytest.raises(UsageError, match=r"prompt: expected text in UTF-8, got 'caf\\udce9'"):
        as_typed(b"caf\xe9".decode("ascii", "surrogateescape"), "prompt")


def job(prompt: str) -> Job:
    parser = cli.Parser()
    jobs.add_arguments(parser)
    parser.set_defaults(losses=["full"])
    return jobs.plan([Prompt(prompt, "here")], parser.parse_args([]))[0]


def test_a_sweep_keeps_the_names_that_it_was_begun_with(tmp_path: pathlib.Path) -> None:
    store, prompts = JobStore(tmp_path, APPLICATION), ["一个红色的球", "A red cube", "a red cube", "一个绿色的球"]
    former = ["image-8304c6", "a-red-cube-7cfc30"]
    planned = [job(prompt) for prompt in prompts]
    assert store.as_named(planned) == planned
    (tmp_path / "jobs").mkdir()
    for prompt, name in zip(prompts, former, strict=False):
        record = {"prompt": prompt, "status": "interrupted", "configuration": {"prompt": prompt}}
        (tmp_path / "jobs" / f"{name}-latent-nerf-seed0.json").write_text(json.dumps(record))
    found = [j.name.removesuffix("-latent-nerf-seed0") for j in store.as_named(planned)]
    assert found == [*former, "a-red-cube", name_of(prompts[3])]


def test_an_ablation_is_found_under_its_former_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    former = pathlib.Path("out") / "ablation-a-red-cube"
    former.mkdir(parents=True)
    (former / "ablation.json").write_text(json.dumps({"plan": {"configuration": {"prompts": ["A red cube!"]}}}))
    assert former.name == f"ablation-{former_slug('A red cube!')}"
    assert ablation.default_folder("A red cube!") == former
    assert ablation.default_folder("A red cube?") == pathlib.Path("out") / f"ablation-{name_of('A red cube?')}"


@pytest.mark.parametrize("command", ["text-to-3d", "synthesize"])
def test_every_command_takes_the_name(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[pathlib.Path] = []

    def take(folder: pathlib.Path, *_: object) -> None:
        taken.append(folder)
        raise UsageError("seen")

    monkeypatch.setattr(folders, "check_free", take)
    hidden = "一个红色的球".encode().decode("ascii", "surrogateescape")
    for prompt in ("a red torus", "一个红色的球", hidden, "con"):
        assert cli.main([command, prompt, "--device", "cpu"]) == 2
    names = ["a-red-torus", "prompt-8304c62eeb", "prompt-8304c62eeb", "con-1143da2bc5"]
    assert taken == [pathlib.Path("out") / name for name in names]
