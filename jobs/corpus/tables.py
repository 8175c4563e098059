"""Parquet, CSV and TSV files -> rows. A cell without text is no value.

One that cannot be read is the RowError that says why, in the row's place of it: it costs the row where the row's format reads
that column (jobs/corpus/formats.py), and nothing where it does not.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.corpus.formats import MAX_COLUMNS, shortened
from jobs.corpus.json_rows import LOOKS_LIKE_UTF16, MAX_ROW_BYTES, REST_UNREAD, Row
from jobs.corpus.raw import Rejected, RowError
from jobs.corpus.schema import DataError
from jobs.corpus.tsv import tsv_records

PARQUET_ROWS = 1000
"""Rows in memory at a time, as Python objects: a few MB of conversations."""

LONGEST_CELL = MAX_ROW_BYTES
"""Characters; Python's own limit of 131,072 would end the reading of a file at its first long document."""
csv.field_size_limit(LONGEST_CELL)

NO_UTF8 = re.compile("[\udc80-\udcff]")
"""What Python's `surrogateescape` makes of bytes that are no UTF-8."""

UNREADABLE = (ArithmeticError, LookupError, ValueError, pa.ArrowException)
"""What Arrow raises at a value that Python does not have."""


def parquet_rows(file: BinaryIO, uri: str) -> Iterator[Row]:
    """Raises RowError `damaged_file` where the file is damaged; what the store raises while it is read passes."""
    try:
        parquet = pq.ParquetFile(cast(io.BytesIO, file))
        if len(parquet.schema_arrow.names) > MAX_COLUMNS:
            raise RowError("too_many_columns", f"{len(parquet.schema_arrow.names):,} columns, at most {MAX_COLUMNS:,}")
        _require_different_names(parquet.schema_arrow.names, uri)
        batches = parquet.iter_batches(batch_size=PARQUET_ROWS)
        for number, row in enumerate((row for batch in batches for row in _rows(batch)), start=1):
            yield Row(number, row)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise RowError("damaged_file", " ".join(str(error).split())) from error
    except OSError as error:
        # Arrow raises a bare OSError for a damaged page (thrift, snappy, gzip); one of a disk or network has a number or a class.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise RowError("damaged_file", str(error)) from error


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, object]]:
    names = batch.schema.names
    columns = [_cells(name, column) for name, column in zip(names, batch.columns, strict=True)]
    for cells in zip(*columns, strict=True):
        yield dict(zip(names, cells, strict=True))


def _cells(name: str, column: pa.Array) -> list[object]:
    """Arrow holds what Python cannot (the year 12,000,000, a time zone nobody knows) and does not look whether text is UTF-8."""
    try:
        return column.to_pylist()
    except UNREADABLE:
        return [_cell(name, value) for value in column]


def _cell(name: str, value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except UNREADABLE as error:
        reason = "not_utf8" if isinstance(error, UnicodeDecodeError) else "wrong_type"
        return RowError(reason, f"`{shortened(name)}`, {value.type}: {' '.join(str(error).split())}")


def csv_rows(file: BinaryIO, uri: str, separator: str) -> Iterator[Row]:
    """Rows of text. Numbers count rows after the header, not lines.

    A line or cell that is too long ends the reading, unlike that of JSON lines: inside quotes a line is no row, and where the
    next row begins cannot be told. Raises DataError at a header that names a column twice.
    """
    # newline="": line ends inside quotes belong to the cell.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    # strict: a quote that is never closed would otherwise make one cell of the rest of the file.
    records = filter(None, tsv_records(_lines(text)) if separator == "\t" else csv.reader(_lines(text), strict=True))
    number = 0
    try:
        columns = _header(next(records, []))
        _require_different_names(columns, uri)
        for number, cells in enumerate(records, start=1):
            if len(cells) != len(columns):
                said = "another number of cells than the header has"
                yield Row(number, Rejected(f"{uri}#{number}", "wrong_columns", said))
            else:
                yield Row(number, {name: _text(name, cell) for name, cell in zip(columns, cells, strict=True)})
    except (csv.Error, RowError) as error:
        reason, said = (error.reason, error.detail) if isinstance(error, RowError) else ("broken_csv", str(error))
        yield Row(number + 1, Rejected(f"{uri}#{number + 1}", reason, f"{said}; {REST_UNREAD}"))
    finally:
        if not file.closed:  # closed: whoever asked for rows has enough of them, and the file went first
            text.detach()  # the file is closed where it was opened


def _header(names: list[str]) -> list[str]:
    """Raises RowError. A byte that is no UTF-8 is shown as \\xff: what is read has ASCII names."""
    if len(names) > MAX_COLUMNS:
        raise RowError("too_many_columns", f"{len(names):,} columns, at most {MAX_COLUMNS:,}")
    if any("\0" in name for name in names):
        raise RowError("nul_bytes", f"the header has NUL; {LOOKS_LIKE_UTF16}")
    return [name.encode(errors="surrogateescape").decode(errors="backslashreplace") for name in names]


def _text(name: str, cell: str) -> str | RowError | None:
    found = None if cell.isascii() else NO_UTF8.search(cell)
    if found is None:
        return cell or None
    said = f"`{shortened(name)}` has the byte 0x{ord(found[0]) - 0xDC00:X}, which is no UTF-8 there"
    return RowError("not_utf8", f"{said}; convert the file to UTF-8")


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_ROW_BYTES):
        if len(line) == MAX_ROW_BYTES:
            raise RowError("row_too_long", f"a line of more than {MAX_ROW_BYTES >> 20} M characters")
        yield line


def _require_different_names(columns: Sequence[str], uri: str) -> None:
    repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
    if repeated:
        raise DataError(
            f"{uri}: the header names {', '.join(f'`{shortened(name)}`' for name in repeated[:5])} more than once, so one "
            "column would hide the other. Rename or remove one."
        )
