"""Files -> documents as they stand in the source, before cleaning.

    .gz, .zst: unpacked on the way (jobs/corpus/unpack.py)
    texts, HTML, PDF, DOCX: one document a file      XML: by its root element, PubMed's or JATS, one document an article
    rows: JSON lines, a JSON array, Parquet, CSV --row by row--> format (jobs/corpus/formats.py) --> document

A row that cannot be read is a `Rejected` with its place and reason; nothing is skipped. A file that breaks off (a
truncated .gz, malformed XML) gives the documents before the break and one `Rejected` for the rest.
"""

import difflib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO, cast

from cluster.storage import Store
from configs.schema.corpus import Source
from jobs.corpus.convert import licence_of
from jobs.corpus.decoding import decoded
from jobs.corpus.docx import read_docx
from jobs.corpus.formats import convert_row, recognise
from jobs.corpus.html import read_html
from jobs.corpus.hub_files import PREFIX, fetched
from jobs.corpus.jats import ROOTS as JATS_ROOTS
from jobs.corpus.jats import read_jats
from jobs.corpus.json_rows import Row, json_array, json_lines
from jobs.corpus.pdf import read_pdf
from jobs.corpus.pubmed import ROOT as PUBMED_ROOT
from jobs.corpus.pubmed import read_pubmed
from jobs.corpus.raw import Raw, Rejected, RowError, texts_of
from jobs.corpus.schema import DataError
from jobs.corpus.suffixes import DOCUMENTS, ROWS, kind_of
from jobs.corpus.tables import csv_rows, parquet_rows
from jobs.corpus.unpack import DAMAGE, buffered, is_packed, unpacked, whole
from jobs.corpus.xml_stream import XmlStream


def read_file(location: str, uri: str, source: Source) -> Iterator[Raw | Rejected]:
    """All documents and bad rows of one file, in its order; `.gz` and `.zst` are unpacked on the way.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: its rows have no known format, or more than one (`format: auto`); names the row and the nearest formats.
    """
    path = str(fetched(location)) if location.startswith(PREFIX) else location
    folder, _, name = path.rpartition("/")
    count = 0
    with Store(folder).open(name) as file:
        try:
            for row in _documents(file, uri, source):
                count += 1
                yield row
        except (*DAMAGE, RowError) as error:
            reason, said = (error.reason, error.detail) if isinstance(error, RowError) else ("damaged_file", str(error))
            kept = f"; the {count} rows before are kept, the rest is lost" if count or reason == "damaged_file" else ""
            yield Rejected(uri, reason, said + kept)
            return
    if count == 0:
        yield Rejected(uri, "empty_file", "no row found")


def _documents(file: BinaryIO, uri: str, source: Source) -> Iterator[Raw | Rejected]:
    """By the source's format; `auto`: by the file's suffix."""
    kind = kind_of(uri) if source.format == "auto" else source.format
    if kind in DOCUMENT_READERS:
        yield DOCUMENT_READERS[kind](unpacked(file, uri), uri)
    elif kind in ("xml", "pubmed", "jats"):
        yield from _articles(XmlStream(buffered(unpacked(file, uri))), uri, kind)
    elif source.format == "jsonl":
        rows = json_lines(buffered(unpacked(file, uri)), uri)
        yield from _recognised_rows(_require_column(rows, uri, source.licence_column), uri, source.licence_column)
    else:
        rows = _require_column(rows_of(file, uri), uri, source.licence_column)
        if source.format == "auto":
            yield from _rows_of_one_format(rows, uri, source.licence_column)
        else:
            for row in rows:
                yield _document(f"{uri}#{row.number}", row, source.format, source.licence_column)


def _articles(stream: XmlStream, uri: str, kind: str) -> Iterator[Raw | Rejected]:
    if kind == "pubmed" or (kind == "xml" and stream.root == PUBMED_ROOT):
        return read_pubmed(stream, uri)
    if kind == "jats" or stream.root in JATS_ROOTS:
        return read_jats(stream, uri)
    raise RowError("unknown_xml", f"its root element is <{stream.root[:40]}>; known are <{PUBMED_ROOT}> and <article>")


def _require_column(rows: Iterator[Row], uri: str, column: str | None) -> Iterator[Row]:
    """The same rows. Raises DataError after them where none has the column: a misspelt one would give all that of the source."""
    if column is None:
        yield from rows
        return
    first, found = None, False
    for row in rows:
        if isinstance(row.value, dict):
            first = first or row.value
            found = found or column in row.value
        yield row
    if first and not found:
        near = difflib.get_close_matches(column, first, n=1)
        raise DataError(
            f"{uri}: no row has `{column}`, the source's `licence_column`{f'; the nearest is `{near[0]}`' if near else ''}. Name "
            "the right one, or give the files without one a source of their own."
        )


def read_text(file: BinaryIO, uri: str) -> Raw:
    """Raises RowError."""
    text = decoded(whole(file))
    if not text.text.strip():
        raise RowError("empty_file", "no row found")
    return Raw(uri, text.text, None, encoding=text.encoding)


def _recognised_rows(rows: Iterator[Row], uri: str, licence_column: str | None) -> Iterator[Raw | Rejected]:
    """Every row by its own columns; what fits nothing is set aside."""
    for row in rows:
        yield _document(f"{uri}#{row.number}", row, None, licence_column)


def _rows_of_one_format(rows: Iterator[Row], uri: str, licence_column: str | None) -> Iterator[Raw | Rejected]:
    """All rows have the format of the first one that tells it. Raises DataError at a row of another."""
    first: tuple[str, str] | None = None
    for row in rows:
        place = f"{uri}#{row.number}"
        if not isinstance(row.value, dict):
            yield _document(place, row, None, licence_column)
            continue
        try:
            name = recognise(row.value)
        except RowError as error:
            # In a table every row has every column: one that is partly empty does not tell yet what the rows are.
            partly_empty = error.reason == "unknown_fields" and (first is not None or None in row.value.values())
            if partly_empty or error.reason == "too_many_columns":
                yield Rejected(place, error.reason, error.detail)
                continue
            raise DataError(f"{place}: {error.detail}. Set the source's `format`, or mend the row.") from None
        first = first or (name, place)
        if name != first[0]:
            raise DataError(
                f"{place} is `{name}`, {first[1]} is `{first[0]}`: one file with two formats. Split the file, or set the "
                "source's `format` to the one that is meant (other rows are then set aside)."
            )
        yield _document(place, row, name, licence_column)


def _document(place: str, row: Row, name: str | None, licence_column: str | None) -> Raw | Rejected:
    """`name`: the format to read the row as; None to go by its columns."""
    if isinstance(row.value, Rejected):
        return row.value
    if not isinstance(row.value, dict):
        return Rejected(place, "not_an_object", f"a {type(row.value).__name__}")
    try:
        document = convert_row(place, row.value, name or recognise(row.value))
        if any("\0" in text for text in texts_of(document)):
            raise RowError("nul_bytes", "a text has the character NUL, which no text has")
        ignored = tuple(column for column in document.ignored if column != licence_column)
        licence = licence_of(row.value, licence_column)
        return replace(document, byte_range=row.byte_range, ignored=ignored, licence=licence)
    except RowError as error:
        return Rejected(place, error.reason, error.detail)


def rows_of(file: BinaryIO, uri: str) -> Iterator[Row]:
    """The rows of a file by its suffix. Raises DataError where it is none of a file with rows."""
    match kind_of(uri):
        case "jsonl":
            return json_lines(buffered(unpacked(file, uri)), uri)
        case "json":
            return json_array(buffered(unpacked(file, uri)), uri)
        case "parquet":
            # Parquet is read from its end, which a packed stream reaches only by being unpacked.
            return parquet_rows(cast(BinaryIO, io.BytesIO(whole(unpacked(file, uri)))) if is_packed(uri) else file, uri)
        case "csv":
            return csv_rows(buffered(unpacked(file, uri)), uri, ",")
        case "tsv":
            return csv_rows(buffered(unpacked(file, uri)), uri, "\t")
        case kind:
            known = ", ".join(suffix for suffixes in ROWS.values() for suffix in suffixes)
            others = ", ".join(f"`{name}`" for name in DOCUMENTS)
            told = "" if kind is None else f" (it looks like `{kind}`)"
            raise DataError(
                f"{uri}: rows are read from files ending in {known}; for other files set `format` to one of {others}{told}"
            )


DOCUMENT_READERS: dict[str, Callable[[BinaryIO, str], Raw]] = {
    "text": read_text,
    "html": read_html,
    "pdf": read_pdf,
    "docx": read_docx,
}
