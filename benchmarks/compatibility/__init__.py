"""What a prior takes, and what it refuses and why: small models of the very classes, and the table made of them.

    python -m benchmarks.compatibility          # writes the table into docs/prior.md
    python -m benchmarks.compatibility --show   # prints it

A prior is made on each model and a step is taken: the table says what is true of the installed versions when it is run.
Classes that the installed diffusers does not have are left out.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import re
import warnings
from collections.abc import Iterator

import diffusers

from .autoencoders import autoencoders
from .common import Row
from .pipelines import pipelines
from .schedulers import schedulers

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "prior.md"
MARKS = ("<!-- made by python -m benchmarks.compatibility -->", "<!-- end of what it made -->")


def rows() -> list[Row]:
    """Every row, in the order of the page."""
    sections = {"Pipelines and UNets": pipelines, "Autoencoders": autoencoders, "Schedulers": schedulers}
    with quietly():
        return [Row(section, name, run) for section, made in sections.items() for name, run in made()]


def outcome(row: Row) -> tuple[str, str]:
    """What becomes of a row: `taken`, `refused` or `fails`, and what is said of it.

    Refused is what raises an error in a sentence of ours; all other errors are failures.
    """
    try:
        with quietly():
            return "taken", row.run()
    except ArithmeticError as error:
        return "fails", str(error)
    except Exception as error:
        return ("refused" if _ours(error) else "fails"), _sentence(error)


def _ours(error: BaseException) -> bool:
    """Whether the package raised it, in a sentence, and no library below."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    # Ours begin with the name of what is wrong.
    sentence = isinstance(error, TypeError | ValueError) and re.match(r"[\w.]+: ", str(error)) is not None
    return sentence and where.startswith("ldp_fast.")


def _sentence(error: BaseException) -> str:
    said = (str(error).strip() or "no message").splitlines()[0]
    return said if _ours(error) else f"{type(error).__name__}: {said[:100]}"


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the deprecations and notes of the libraries that make the models."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def line(row: Row) -> str:
    """A row in Markdown."""
    verdict, said = outcome(row)
    return f"| {row.name} | {verdict} | {said.replace('|', '∣')} |"


def table(every: list[Row]) -> str:
    """All rows, a table for each section."""
    parts = [f"Made with diffusers {diffusers.__version__}."]
    for section in dict.fromkeys(row.section for row in every):
        lines = [line(row) for row in every if row.section == section]
        parts.append("\n".join([f"### {section}", "", "| model | | |", "|---|---|---|", *lines]))
    return "\n\n".join(parts)


def on_page(page: str) -> str:
    """What stands between the marks of a page."""
    return page.split(MARKS[0])[1].split(MARKS[1])[0].strip()
