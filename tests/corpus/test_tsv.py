"""TSV as it is written by hand, and as pandas and Python's csv write it."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.corpus import tsv
from jobs.corpus.tsv import tsv_records
from tests.corpus.read_one import read, reason, text


def records(content: str) -> list[list[str]]:
    return list(tsv_records(iter(io.StringIO(content, newline=""))))


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ('1\t"Quoted start', ["1", '"Quoted start']),
        ('1\t"He left," she said', ["1", '"He left," she said']),
        ('"a" b\tc"d"', ['"a" b', 'c"d"']),
        ('"\t"', ["\t"]),
        ('"a ""b"""\t""', ['a "b"', ""]),
        ("\t", ["", ""]),
    ],
)
def test_a_quote_counts_where_it_closes_before_a_tab_or_the_line_end(line: str, cells: list[str]) -> None:
    for end in ("", "\n", "\r\n"):
        assert records(line + end) == [cells]
        assert records(f"{line}\nnext\trow{end}") == [cells, ["next", "row"]]


def test_lines_that_are_rows_are_not_joined_by_quotes() -> None:
    assert records('n\tsaid\n1\t"I went home.\n2\tThen I slept."\n') == [
        ["n", "said"],
        ["1", '"I went home.'],
        ["2", 'Then I slept."'],
    ]
    assert records('n\tsaid\n1\t"I went home.\n\nThen I slept."\n') == [
        ["n", "said"],
        ["1", "I went home.\n\nThen I slept."],
    ]
    assert records('said\n"one\ntwo"\n') == [["said"], ["one\ntwo"]]


def test_a_quote_that_never_closes_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tsv").write_text('text\tid\n"opened\t1\n' + "plain\t2\n" * 50)
    assert [text(row) for row in read(tmp_path / "a.tsv")] == ['"opened'] + ["plain"] * 50
    monkeypatch.setattr(tsv, "MAX_ROW_BYTES", 30)
    assert len(read(tmp_path / "a.tsv")) == 51
    (tmp_path / "a.tsv").write_text("text\tid\none\ntwo\t2\n")
    short, kept = read(tmp_path / "a.tsv")
    assert (reason(short), short.uri, text(kept)) == ("wrong_columns", "a.tsv#1", "two")


CELLS = st.text(st.sampled_from('ab"\n\r \té'), max_size=6)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=5)))
def test_what_python_quotes_is_read_back(rows: list[list[str]]) -> None:
    width = len(rows[0]) if rows else 1
    if width > 1:  # cells of several lines with tabs in each may look like rows
        rows = [[cell.replace("\t", " ") for cell in row] for row in rows]
    rows = [[f"c{number}" for number in range(width)], *rows]
    out = io.StringIO(newline="")
    csv.writer(out, "excel-tab").writerows(rows)
    assert records(out.getvalue()) == [row for row in rows if row]
