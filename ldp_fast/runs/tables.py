"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence


def in_one_line(text: str) -> str:
    """A text, such as a file's name, in one line: line breaks and what cannot be printed as escapes of Python."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as text too; what would end a cell or a line in it is escaped."""
    head, *rows = [[in_one_line(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])
