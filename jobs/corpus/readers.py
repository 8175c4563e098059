"""Files -> documents as they stand in the source, before cleaning.

    text:   one document a file                  pubmed: jobs/corpus/pubmed.py
    rows:   JSON lines, a JSON array, Parquet, CSV --row by row--> format (jobs/corpus/formats.py) --> document

A row that cannot be read is a `Rejected` with its place and reason; nothing is skipped. A file that breaks off (a
truncated .gz, malformed XML) gives the documents before the break and one `Rejected` for the rest.
"""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, cast
from xml.etree.ElementTree import ParseError

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Store
from configs.schema.corpus import Source
from jobs.corpus.formats import convert_row, recognise
from jobs.corpus.pubmed import read_pubmed
from jobs.corpus.raw import Raw, Rejected, RowError
from jobs.corpus.schema import DataError

UTF8_BOM = b"\xef\xbb\xbf"
PARQUET_ROWS = 1000
"""Rows in memory at a time, as Python objects: a few MB of conversations."""

NumberedRow = tuple[int, object | Rejected]
"""The number of a row in its file, from 1, and its JSON value, or what is wrong with it."""


def read_file(location: str, uri: str, source: Source) -> Iterator[Raw | Rejected]:
    """All documents and bad rows of one file, in its order; `.gz` is unpacked on the way.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: its rows have no known format, or more than one (`format: auto`); names the row and the nearest formats.
    """
    folder, _, name = location.rpartition("/")
    count = 0
    with Store(folder).open(name) as packed:
        file = cast(BinaryIO, gzip.GzipFile(fileobj=packed)) if location.lower().endswith(".gz") else packed
        try:
            for row in _documents(file, uri, source):
                count += 1
                yield row
        except (EOFError, gzip.BadGzipFile, zlib.error, ParseError, pa.ArrowInvalid) as error:
            yield Rejected(uri, "damaged_file", f"{error}; the {count} rows before are kept, the rest is lost")
            return
    if count == 0:
        yield Rejected(uri, "empty_file", "no row found")


def _documents(file: BinaryIO, uri: str, source: Source) -> Iterator[Raw | Rejected]:
    match source.format:
        case "text":
            return read_text(file, uri)
        case "pubmed":
            return read_pubmed(file, uri)
        case "jsonl":
            return _recognised_rows(json_lines(file, uri), uri)
        case "auto":
            return _rows_of_one_format(rows_of(file, uri), uri)
        case name:
            return _converted_rows(rows_of(file, uri), uri, name)


def read_text(file: BinaryIO, uri: str) -> Iterator[Raw | Rejected]:
    try:
        yield Raw(uri, file.read().removeprefix(UTF8_BOM).decode(), None)
    except UnicodeDecodeError as error:
        yield Rejected(uri, "not_utf8", str(error))


def _recognised_rows(rows: Iterator[NumberedRow], uri: str) -> Iterator[Raw | Rejected]:
    """Every row by its own columns; what fits nothing is set aside."""
    for number, row in rows:
        yield _document(f"{uri}#{number}", row, None)


def _converted_rows(rows: Iterator[NumberedRow], uri: str, name: str) -> Iterator[Raw | Rejected]:
    for number, row in rows:
        yield _document(f"{uri}#{number}", row, name)


def _rows_of_one_format(rows: Iterator[NumberedRow], uri: str) -> Iterator[Raw | Rejected]:
    """All rows have the format of the first one that tells it. Raises DataError at a row of another."""
    first: tuple[str, str] | None = None
    for number, row in rows:
        place = f"{uri}#{number}"
        if isinstance(row, Rejected) or not isinstance(row, dict):
            yield _document(place, row, None)
            continue
        try:
            name = recognise(row)
        except RowError as error:
            # In a table every row has every column: one that is partly empty does not tell yet what the rows are.
            if error.reason == "unknown_fields" and (first is not None or None in row.values()):
                yield Rejected(place, error.reason, error.detail)
                continue
            raise DataError(f"{place}: {error.detail}. Set the source's `format`, or mend the row.") from None
        first = first or (name, place)
        if name != first[0]:
            raise DataError(
                f"{place} is `{name}`, {first[1]} is `{first[0]}`: one file with two formats. Split the file, or set the "
                "source's `format` to the one that is meant (other rows are then set aside)."
            )
        yield _document(place, row, name)


def _document(place: str, row: object, name: str | None) -> Raw | Rejected:
    """`name`: the format to read the row as; None to go by its columns."""
    if isinstance(row, Rejected):
        return row
    if not isinstance(row, dict):
        return Rejected(place, "not_an_object", f"a {type(row).__name__}")
    try:
        return convert_row(place, row, name or recognise(row))
    except RowError as error:
        return Rejected(place, error.reason, error.detail)


def rows_of(file: BinaryIO, uri: str) -> Iterator[NumberedRow]:
    """The rows of a file by its suffix."""
    for suffixes, read in ROW_READERS.items():
        if _suffixed(uri, suffixes):
            return read(file, uri)
    known = ", ".join(suffix for suffixes in ROW_READERS for suffix in suffixes)
    raise DataError(
        f"{uri}: rows are read from files ending in {known}; for other files set `format: text` or `format: pubmed`"
    )


def json_lines(lines: BinaryIO | Iterator[bytes], uri: str) -> Iterator[NumberedRow]:
    """Lines end at \\n only: U+2028 and U+0085 are ordinary characters inside a JSON string."""
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(UTF8_BOM)
        if not line.strip():
            continue
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield number, Rejected(f"{uri}#{number}", "broken_json", str(error))


def json_array(file: BinaryIO, uri: str) -> Iterator[NumberedRow]:
    """An array of rows; a file that begins with an object holds one a line, whatever its name says."""
    start = next(line for line in itertools.chain(file, [b" "]) if line.strip() or line == b" ")
    if not start.removeprefix(UTF8_BOM).lstrip().startswith(b"["):
        yield from json_lines(itertools.chain([start], file), uri)
        return
    try:
        rows = orjson.loads(start.removeprefix(UTF8_BOM) + file.read())
    except orjson.JSONDecodeError as error:
        yield 1, Rejected(uri, "broken_json", f"{error}; an array is read as a whole")
        return
    yield from enumerate(rows, start=1)


def parquet_rows(file: BinaryIO, uri: str) -> Iterator[NumberedRow]:
    """Raises pa.ArrowInvalid where the file is damaged; what the store raises while it is read passes."""
    del uri
    try:
        batches = pq.ParquetFile(cast(io.BytesIO, file)).iter_batches(batch_size=PARQUET_ROWS)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(str(error)) from error
    except OSError as error:
        # Arrow raises a bare OSError for a damaged page (thrift, snappy, gzip); one of a disk or network has a number or a class.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise pa.ArrowInvalid(str(error)) from error


LONGEST_CELL = 1 << 28
"""Characters; Python's own limit of 131,072 would end the reading of a file at its first long document."""
csv.field_size_limit(LONGEST_CELL)


def csv_rows(file: BinaryIO, uri: str) -> Iterator[NumberedRow]:
    """Rows of text; a cell without text is no value. Numbers count rows after the header, not lines."""
    # newline="": line ends inside quotes belong to the cell.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    # strict: a quote that is never closed would otherwise make one cell of the rest of the file.
    rows = csv.DictReader(text, delimiter="\t" if _suffixed(uri, (".tsv",)) else ",", strict=True)
    number = 0
    try:
        _require_different_names(rows.fieldnames or (), uri)
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                yield (
                    number,
                    Rejected(f"{uri}#{number}", "wrong_columns", "another number of cells than the header has"),
                )
            else:
                yield number, {name: cell or None for name, cell in row.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        reason = "not_utf8" if isinstance(error, UnicodeDecodeError) else "broken_csv"
        yield number + 1, Rejected(f"{uri}#{number + 1}", reason, f"{error}; the rest of the file is not read")
    finally:
        if not file.closed:  # closed: whoever asked for rows has enough of them, and the file went first
            text.detach()  # the file is closed where it was opened


def _require_different_names(columns: Sequence[str], uri: str) -> None:
    repeated = sorted({name for name in columns if list(columns).count(name) > 1})
    if repeated:
        raise DataError(
            f"{uri}: the header names {', '.join(f'`{name}`' for name in repeated)} more than once, so one column would hide "
            "the other. Rename or remove one."
        )


def _suffixed(uri: str, suffixes: tuple[str, ...]) -> bool:
    return uri.lower().removesuffix(".gz").endswith(suffixes)


ROW_READERS: dict[tuple[str, ...], Callable[[BinaryIO, str], Iterator[NumberedRow]]] = {
    (".jsonl", ".ndjson"): json_lines,
    (".json",): json_array,
    (".parquet",): parquet_rows,
    (".csv", ".tsv"): csv_rows,
}
