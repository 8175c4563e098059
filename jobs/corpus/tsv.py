"""Tab-separated lines -> cells. TSV has no quoting of its own (IANA), yet pandas and Python's csv quote cells as in CSV.

    line --a cell that begins with a quote: does it close before a tab or line end?--> yes: without its quotes, may hold tabs and
                                                                                          line ends
                                                                                   --> no: the quote is a character of the cell

So `1\\t"Never closed` is a row like any other, and what pandas writes is read back. Two things are guessed: a cell that is quoted
as a whole loses its quotes, and where each line of a quoted cell would make a row of the right width, they are rows (sentences
of a quotation, one a line), unless there is one column only.
"""

import re
from collections import deque
from collections.abc import Iterator

from jobs.corpus.json_rows import MAX_ROW_BYTES

PLAIN = re.compile(r"[^\t\r\n]*+")
QUOTED = re.compile(r'[^"]*+(?:""[^"]*+)*+')
"""Up to a quote that is not doubled, or the end."""


def tsv_records(lines: Iterator[str]) -> Iterator[list[str]]:
    """The cells of every row; an empty line is none. The first row says how many there are."""
    ahead: deque[str] = deque()
    columns = 0
    while line := _next(ahead, lines):
        if not line.strip("\r\n"):
            continue
        cells: list[str] = []
        at = -1
        while at < 0 or line.startswith("\t", at):
            at += 1
            quoted = _quoted_cell(line, at, columns, ahead, lines) if line.startswith('"', at) else None
            if quoted is not None:
                cell, line, at = quoted
            else:
                start, at = at, PLAIN.match(line, at).end()  # pyright: ignore[reportOptionalMemberAccess] - nothing matches too
                cell = line[start:at]
            cells.append(cell)
        columns = columns or len(cells)
        yield cells


def _next(ahead: deque[str], lines: Iterator[str]) -> str:
    return ahead.popleft() if ahead else next(lines, "")


def _quoted_cell(
    line: str, at: int, columns: int, ahead: deque[str], lines: Iterator[str]
) -> tuple[str, str, int] | None:
    """A cell whose quote opens at `at`, the line it ends in and where; None where that quote quotes nothing."""
    taken, size, start = [line], len(line), at + 1
    while (end := QUOTED.match(taken[-1], start).end()) == len(taken[-1]):  # pyright: ignore[reportOptionalMemberAccess]
        more = _next(ahead, lines) if size <= MAX_ROW_BYTES else ""
        if not more:
            break
        taken.append(more)
        size, start = size + len(more), 0
    last = taken[-1]
    closes = end < len(last) and last[end + 1 : end + 2] in ("", "\t", "\r", "\n")
    lines_are_rows = len(taken) > 1 and columns > 1 and all(part.count("\t") == columns - 1 for part in taken)
    if not closes or lines_are_rows:
        ahead.extendleft(reversed(taken[1:]))
        return None
    text = "".join(taken)[at + 1 : size - len(last) + end]
    return text.replace('""', '"'), last, end + 1
