"""JSON lines and JSON arrays -> rows with their place in the file.

    lines:  --split at \\n--> bytes of a row --orjson--> value
    array:  --split at commas outside strings and brackets--> bytes of a row --orjson--> value

Both hold one row at a time and know where each lies. A line that is broken or too long costs that line. In an array nothing
after a broken row can be trusted: where a quote is missing, what is a string and what is not has changed sides. A row that
Python's looser json reads has its quotes and brackets, so NaN or half a surrogate pair costs that row only.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader

import orjson

from jobs.corpus.raw import ByteRange, Rejected

UTF8_BOM = b"\xef\xbb\xbf"
MAX_ROW_BYTES = 64 << 20
"""A row in memory takes up to 30 times its bytes (millions of empty lists), a text about twice. The longest novels have 5 MB."""
SKIP_BYTES = 1 << 20

TOO_DEEP = "depth limit exceeded"
"""How orjson begins what it says of more than 1024 lists or objects inside each other; it does not go deeper."""
LOOSE = "NaN, Infinity, half a surrogate pair and a bare control character are no JSON; write null, or an escape"
NOT_LINES = (
    "a .json holds an array of objects, or one whole object a line: put brackets around it, or each object in one line"
)
REST_UNREAD = "the rest of the file is not read"
LOOKS_LIKE_UTF16 = "it looks like UTF-16: convert the file to UTF-8"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file. Example: Row(3, {"text": "Ribosomes ..."}, ByteRange(120, 58))"""

    number: int
    """In its file, from 1."""
    value: object | Rejected
    """Its JSON value, or what is wrong with it."""
    byte_range: ByteRange | None = None


def json_lines(file: BufferedReader, uri: str) -> Iterator[Row]:
    """Lines end at \\n only: U+2028 and U+0085 are ordinary characters inside a JSON string."""
    offset, number = 0, 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        place = ByteRange(offset, len(line))
        offset += len(line)
        if number == 1 and line.startswith(UTF8_BOM):
            line = line.removeprefix(UTF8_BOM)
            place = ByteRange(len(UTF8_BOM), len(line))
        if place.length > MAX_ROW_BYTES and not line.endswith(b"\n"):
            del line
            offset += _skip_line(file)
            yield Row(number, _too_long(f"{uri}#{number}", place.offset), place)
        elif line.strip():
            yield Row(number, json_value(line, f"{uri}#{number}", place.offset), place)


def json_value(row: bytes, place: str, offset: int) -> object | Rejected:
    """The value of a row that begins at byte `offset` of its file."""
    try:
        return orjson.loads(row)
    except orjson.JSONDecodeError as error:
        said = str(error)
    if said.startswith(TOO_DEEP):
        return Rejected(place, "too_deep", said)
    is_utf16 = row.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in row
    hint = f"; {LOOKS_LIKE_UTF16}" if is_utf16 else ""
    try:
        json.loads(row.decode(), strict=False)
    except UnicodeDecodeError as error:
        where = f"byte {error.start} of the row, {offset + error.start} of the file: {error.reason}"
        return Rejected(place, "not_utf8", where + hint)
    except (ValueError, RecursionError):
        return Rejected(place, "broken_json", said + hint)
    return Rejected(place, "broken_json", f"{said}; {LOOSE}")


def _too_long(place: str, offset: int) -> Rejected:
    return Rejected(place, "row_too_long", f"more than {MAX_ROW_BYTES >> 20} MiB from byte {offset}")


def _skip_line(file: BufferedReader) -> int:
    """Bytes up to the end of a line."""
    skipped = 0
    while piece := file.readline(SKIP_BYTES):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


MARKS = re.compile(rb'[\[\]{},"]')
STRING_REST = re.compile(rb'[^"\\]*+(?:\\[\s\S][^"\\]*+)*+')
"""Up to the closing quote, or to where the bytes end; possessive, so that a long string is looked at once."""


def json_array(file: BufferedReader, uri: str) -> Iterator[Row]:
    """The rows of an array; a file that begins with an object holds one a line, whatever its name says."""
    is_array = file.peek().removeprefix(UTF8_BOM).lstrip().startswith(b"[")
    for row in _elements(file, uri) if is_array else json_lines(file, uri):
        value = row.value
        if not isinstance(value, Rejected) or value.reason != "broken_json" or value.detail.endswith(LOOSE):
            yield row
            continue
        told = REST_UNREAD if is_array else NOT_LINES
        yield replace(row, value=replace(value, detail=f"{value.detail}; {told}"))
        if is_array:
            return


def _elements(file: BufferedReader, uri: str) -> Iterator[Row]:
    """The elements of an array, each parsed alone; after a broken one they are no longer to be trusted."""
    window = bytearray()
    base = 0  # where the window begins in the file
    start, at = 0, 0  # in the window: the row that is being read, and what was looked at
    number, depth = 0, 0
    in_string, too_long = False, False
    while piece := file.read1(SKIP_BYTES):
        window += piece
        while True:
            if in_string:
                at = STRING_REST.match(window, at).end()  # pyright: ignore[reportOptionalMemberAccess] - nothing matches too
                if at >= len(window) or window[at] != ord('"'):
                    break  # a backslash may be the last byte: what it escapes comes with the next piece
                in_string, at = False, at + 1
            mark = MARKS.search(window, at)
            if mark is None:
                at = len(window)
                break
            at = mark.end()
            in_string = mark[0] == b'"'
            depth += (mark[0] in b"[{") - (mark[0] in b"]}")
            if (
                depth == 1
                and mark[0] == b"["
                and number == 0
                and not window[start : at - 1].removeprefix(UTF8_BOM).strip()
            ):
                start, number = at, 1
                continue
            ends = depth == 0
            if not ends and not (depth == 1 and mark[0] == b","):
                continue
            row, place = bytes(window[start : at - 1]), f"{uri}#{number}"
            if too_long:
                yield Row(number, _too_long(place, base + start))
            elif row.strip() or not ends or number > 1:
                lead = len(row) - len(row.lstrip())
                value = json_value(row, place, base + start)
                yield Row(number, value, ByteRange(base + start + lead, len(row.strip())))
            if ends:
                rest = bytes(window[at:]) + file.read(SKIP_BYTES)
                if mark[0] == b"}" or rest.strip():
                    yield Row(
                        number + 1,
                        Rejected(uri, "broken_json", f"the array ends at byte {base + at}, the file does not"),
                    )
                return
            start, number, too_long = at, number + 1, False
        if at - start > MAX_ROW_BYTES:
            too_long, start = True, at
        del window[:start]
        base, at, start = base + start, at - start, 0
    said = f"the array breaks off in row {number}; the {number - 1} rows before are kept"
    yield Row(number, Rejected(uri, "broken_json", said))
