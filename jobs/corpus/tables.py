"""Parquet and CSV files -> rows. A cell without text is no value."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.corpus.formats import MAX_COLUMNS, shortened
from jobs.corpus.json_rows import MAX_ROW_BYTES, Row
from jobs.corpus.raw import Rejected, RowError
from jobs.corpus.schema import DataError

PARQUET_ROWS = 1000
"""Rows in memory at a time, as Python objects: a few MB of conversations."""

LONGEST_CELL = MAX_ROW_BYTES
"""Characters; Python's own limit of 131,072 would end the reading of a file at its first long document."""
csv.field_size_limit(LONGEST_CELL)


def parquet_rows(file: BinaryIO, uri: str) -> Iterator[Row]:
    """Raises RowError `damaged_file` where the file is damaged; what the store raises while it is read passes."""
    try:
        parquet = pq.ParquetFile(cast(io.BytesIO, file))
        if len(parquet.schema_arrow.names) > MAX_COLUMNS:
            raise RowError("too_many_columns", f"{len(parquet.schema_arrow.names):,} columns, at most {MAX_COLUMNS:,}")
        _require_different_names(parquet.schema_arrow.names, uri)
        batches = parquet.iter_batches(batch_size=PARQUET_ROWS)
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
            yield Row(number, row)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise RowError("damaged_file", " ".join(str(error).split())) from error
    except OSError as error:
        # Arrow raises a bare OSError for a damaged page (thrift, snappy, gzip); one of a disk or network has a number or a class.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise RowError("damaged_file", str(error)) from error


def csv_rows(file: BinaryIO, uri: str, separator: str) -> Iterator[Row]:
    """Rows of text. Numbers count rows after the header, not lines.

    A line or cell that is too long ends the reading, unlike that of JSON lines: inside quotes a line is no row, and where the
    next row begins cannot be told. Raises DataError at a header that names a column twice.
    """
    # newline="": line ends inside quotes belong to the cell.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    # strict: a quote that is never closed would otherwise make one cell of the rest of the file.
    rows = csv.DictReader(_lines(text), delimiter=separator, strict=True)
    number = 0
    try:
        columns = rows.fieldnames or ()
        if len(columns) > MAX_COLUMNS:
            yield Row(1, Rejected(uri, "too_many_columns", f"{len(columns):,} columns, at most {MAX_COLUMNS:,}"))
            return
        _require_different_names(columns, uri)
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                said = "another number of cells than the header has"
                yield Row(number, Rejected(f"{uri}#{number}", "wrong_columns", said))
            else:
                yield Row(number, {name: cell or None for name, cell in row.items()})
    except (UnicodeDecodeError, csv.Error, RowError) as error:
        said = error.detail if isinstance(error, RowError) else str(error)
        reason = "not_utf8" if isinstance(error, UnicodeDecodeError) else "broken_csv"
        reason = error.reason if isinstance(error, RowError) else reason
        yield Row(number + 1, Rejected(f"{uri}#{number + 1}", reason, f"{said}; the rest of the file is not read"))
    finally:
        if not file.closed:  # closed: whoever asked for rows has enough of them, and the file went first
            text.detach()  # the file is closed where it was opened


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
