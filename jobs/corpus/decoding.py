"""Bytes of a text or page -> characters: UTF-8 unless its bytes say something else, and then which encoding was taken.

Rows have no such choice: JSON lines, CSV and Parquet are UTF-8, and a row that is not is set aside with the place of the byte.
"""

import codecs
import contextlib
import re
from dataclasses import dataclass

from resiliparse.parse.encoding import detect_encoding

from jobs.corpus.raw import RowError

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte order marks, UTF-32 before UTF-16: its little-endian mark begins with that of UTF-16."""

GUESSED_FROM_BYTES = 64 << 10
"""Around the first byte that is not UTF-8: a guess from the beginning of a file may see nothing but ASCII."""
SHIFT = re.compile(rb"\x1b\$[@B]")
"""To a Japanese set, in the one encoding of texts that is ASCII byte by byte, and so UTF-8 as well (RFC 1468)."""
CONTROLS = re.compile(r"[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")
"""Characters that texts do not have: a guessed encoding that gives them was the wrong one. Form feed, escape and U+0085 occur."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text and the encoding its bytes were read as. Example: Decoded("Größe", "cp1252")"""

    text: str
    encoding: str


def decoded(content: bytes, is_html: bool = False) -> Decoded:
    """UTF-8, or what a byte order mark says, or else a guess (resiliparse's detector; of HTML its `<meta charset>` first).

    Of nine short texts in six encodings resiliparse named all, charset-normalizer three (cp1250 for most of cp1252).

    Raises:
        RowError: `not_utf8` with the byte where it is none and no guess fits; `nul_bytes`: it is no text.
    """
    if SHIFT.search(content) and b"\0" not in content and content.isascii():
        with contextlib.suppress(UnicodeDecodeError):
            return Decoded(content.decode("iso2022_jp"), "iso2022_jp")
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if mark:
            raise RowError(
                "not_utf8", f"the file begins as {encoding}, but byte {error.start + len(mark)} is not"
            ) from None
        encoding = _guessed(content, error.start, is_html)
        text = _decoded_as(content, encoding, error.start)
    if "\0" in text:
        raise RowError("nul_bytes", f"character {text.index(chr(0))} is NUL: a binary file, or UTF-16 without its mark")
    return Decoded(text, encoding)


def _guessed(content: bytes, at: int, is_html: bool) -> str:
    start = 0 if is_html else max(0, at - GUESSED_FROM_BYTES // 2)
    guessed = detect_encoding(content[start : start + GUESSED_FROM_BYTES], from_html_meta=is_html)
    return guessed or "utf-8"


def _decoded_as(content: bytes, encoding: str, at: int) -> str:
    try:
        text = content.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        raise RowError("not_utf8", f"byte {at} is not UTF-8, and the file is no {encoding} either") from None
    if "\0" not in text and CONTROLS.search(text):
        raise RowError("not_utf8", f"byte {at} is not UTF-8; as {encoding} it would hold control characters")
    return text
