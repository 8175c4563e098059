"""DOCX files -> paragraphs and the rows of tables, a line each.

zip --limits--> word/document.xml --paragraph by paragraph--> text

Plain zip and XML: python-docx parses every part of a file, styles and pictures' relations too, before the first word is read.
"""

import io
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from jobs.corpus.raw import Raw, RowError
from jobs.corpus.unpack import whole
from jobs.corpus.xml_stream import XmlStream, local_name

PART = "word/document.xml"
MAX_PART_BYTES = 32 << 20
"""Of a file's text, unpacked: a thousand pages have 5 to 20 MB of mark-up."""
OLE = b"\xd0\xcf\x11\xe0"
"""An encrypted .docx is no zip but an OLE file, as the old .doc is."""
LEFT_OUT = frozenset({"delText", "instrText", "object", "Fallback"})
"""What was deleted with changes tracked, field codes, and the second copy of text boxes for old versions of Word."""


def read_docx(file: BinaryIO, uri: str) -> Raw:
    """The file as one document. Raises RowError."""
    content = whole(file)
    if content.startswith(OLE):
        raise RowError("encrypted", "it opens with a password only, or it is an old .doc: save it as .docx without one")
    part = _part(content)
    lines: list[str] = []
    for element in XmlStream(io.BufferedReader(cast(io.RawIOBase, io.BytesIO(part)))).elements("body"):
        lines = _lines(element)
    if not "".join(lines).strip():
        raise RowError("no_text", f"{PART} has no paragraph with text")
    return Raw(uri, "\n\n".join(line for line in lines if line.strip()), None, format="docx")


def _part(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            info = archive.getinfo(PART)
            if info.flag_bits & 1:
                raise RowError("encrypted", f"{PART} is encrypted")
            with archive.open(info) as file:
                part = file.read(MAX_PART_BYTES + 1)
    except KeyError:
        raise RowError("broken_docx", f"the archive has no {PART}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as error:
        raise RowError("broken_docx", str(error) or type(error).__name__) from None
    if len(part) > MAX_PART_BYTES:
        raise RowError("zip_bomb", f"{PART} unpacks to more than {MAX_PART_BYTES >> 20} MiB")
    return part


def _lines(body: ET.Element) -> list[str]:
    """A line for each paragraph and for each row of a table, in their order; cells are apart by tabs."""
    lines: list[str] = []
    waiting = [body]
    while waiting:
        element = waiting.pop()
        match local_name(element):
            case "p":
                lines.append(_text(element))
            case "tr":
                lines.append("\t".join(" ".join(_text(cell).split()) for cell in _cells(element)))
            case name if name not in LEFT_OUT:
                waiting.extend(reversed(element))
    return lines


def _cells(row: ET.Element) -> Iterator[ET.Element]:
    """The cells of a row, also inside content controls; a table inside a cell is that cell's text."""
    waiting = [row]
    while waiting:
        element = waiting.pop()
        if local_name(element) == "tc":
            yield element
        else:
            waiting.extend(reversed(element))


def _text(element: ET.Element) -> str:
    parts: list[str] = []
    waiting = [element]
    while waiting:
        item = waiting.pop()
        match local_name(item):
            case "t":
                parts.append(item.text or "")
            case "tab":
                parts.append("\t")
            case "br" | "cr":
                parts.append("\n")
            case "noBreakHyphen":
                parts.append("-")
            case name if name not in LEFT_OUT:
                if name == "p" and parts:
                    parts.append("\n")
                waiting.extend(reversed(item))
    return "".join(parts)
