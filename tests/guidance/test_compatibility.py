"""The page's table of what is taken and what is refused is what the command makes of the installed classes."""

from __future__ import annotations

import functools
import re

import diffusers
import pytest

from benchmarks import compatibility

PAGE = compatibility.on_page(compatibility.PAGE.read_text())


@functools.cache
def made() -> dict[str, list[str]]:
    """Lines by section."""
    every = compatibility.rows()
    names = dict.fromkeys(row.section for row in every)
    return {name: [compatibility.line(row) for row in every if row.section == name] for name in names}


SECTIONS = re.findall(r"^### (.*)$", PAGE, flags=re.MULTILINE)


def test_the_page_has_every_section() -> None:
    assert SECTIONS == list(made())


@pytest.mark.parametrize("section", SECTIONS)
def test_the_table_is_what_the_command_makes(section: str) -> None:
    version = re.search(r"^Made with diffusers (.*)\.$", PAGE, flags=re.MULTILINE)
    assert version is not None
    if version[1] != diffusers.__version__:
        pytest.skip(f"the table was made with diffusers {version[1]}, this is {diffusers.__version__}")
    stands = PAGE.split(f"### {section}\n")[1].split("\n### ")[0]
    lines = [line for line in stands.splitlines() if line.startswith("| ")][1:]
    assert lines == made()[section], "run python -m benchmarks.compatibility"


@pytest.mark.parametrize("section", SECTIONS)
def test_everything_is_taken_or_refused_in_a_sentence(section: str) -> None:
    """With every version of diffusers: nothing deviates, and no library has to say what went wrong."""
    failures = [line for line in made()[section] if line.split(" | ")[1] == "fails"]
    assert not failures, "\n".join(failures)


def test_the_command_tells_a_sentence_from_an_accident() -> None:
    def accident() -> str:
        return str(int("x"))

    def refused() -> str:
        from ldp_fast.guidance import PriorSettings

        return str(PriorSettings(order="no"))  # type: ignore[arg-type]

    def deviates() -> str:
        raise ArithmeticError("the features deviate")

    found = [compatibility.outcome(compatibility.Row("", "", run))[0] for run in (accident, refused, deviates, str)]
    assert found == ["fails", "refused", "fails", "taken"]
