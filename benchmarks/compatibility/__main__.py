"""`python -m benchmarks.compatibility`: writes the table into docs/prior.md, or prints it with `--show`."""

from __future__ import annotations

import sys

from . import MARKS, PAGE, rows, table


def main(arguments: list[str]) -> None:
    made = table(rows())
    if arguments == ["--show"]:
        print(made)
        return
    page = PAGE.read_text()
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{made}\n\n{MARKS[1]}{after}")


main(sys.argv[1:])
