"""XML from strangers, element by element: no entities, no network, no element that fills the memory.

    bytes --prolog: no <!ENTITY>--> root tag --parse by pieces--> each wanted element when it ends, then forgotten

The standard parser is enough: expat loads no external DTD or entity, and without declared ones there is nothing to expand.
"""

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Generator, Iterator
from io import BufferedReader
from typing import cast
from xml.parsers import expat

from jobs.corpus.raw import RowError

PIECE_BYTES = 64 << 10
MAX_PROLOG_BYTES = 1 << 20
"""Before the root element stand a declaration, a DOCTYPE and comments: some hundred bytes."""
MAX_ELEMENT_BYTES = 32 << 20
"""Of one article with everything in it; its tree takes ten times as much memory. The longest reviews have some MB of XML."""
MAX_ELEMENTS = 1_000_000
"""Of one article; a table of ten thousand rows has some hundred thousand. Eight million take minutes and gigabytes."""
MAX_DEPTH = 1000
"""Of elements inside elements; JATS in use stays below 50."""


class XmlStream:
    """A file whose root element is known and whose prolog declares no entities.

    Example:
        stream = XmlStream(file); stream.root == "PubmedArticleSet"; articles = stream.elements("PubmedArticle")
    """

    def __init__(self, file: BufferedReader) -> None:
        """Reads up to the root element. Raises RowError `xml_entities`, `damaged_file`, `too_large` or `empty_file`."""
        self.file = file
        self.head: list[bytes] = []
        self.unfinished = 0
        self.root = self._read_root()

    def elements(self, *tags: str) -> Iterator[ET.Element]:
        """Every element of these tags when it ends. Raises RowError `damaged_file`, `row_too_long` or `too_deep`."""
        parser = ET.XMLPullParser(("start", "end"))
        size = 0
        stack: list[ET.Element] = []
        for piece in itertools.chain(self.head, iter(lambda: self.file.read1(PIECE_BYTES), b""), [None]):
            try:
                if piece is None:
                    parser.close()
                else:
                    parser.feed(piece)
                # What the parser found before an error it gives first, then it raises the error.
                finished = yield from self._ended(parser, tags, stack)
            except (ET.ParseError, LookupError, ValueError) as error:  # unknown and unsupported encodings too
                raise RowError("damaged_file", str(error)) from None
            size = len(piece or b"") if finished else size + len(piece or b"")
            if size > MAX_ELEMENT_BYTES:
                raise RowError("row_too_long", f"an element of more than {MAX_ELEMENT_BYTES >> 20} MiB")
            if self.unfinished > MAX_ELEMENTS:
                raise RowError("row_too_long", f"an element with more than {MAX_ELEMENTS:,} others inside")
            if len(stack) > MAX_DEPTH:
                raise RowError("too_deep", f"elements {MAX_DEPTH} deep inside each other")

    def _ended(
        self, parser: ET.XMLPullParser, tags: tuple[str, ...], stack: list[ET.Element]
    ) -> Generator[ET.Element, None, bool]:
        """Wanted elements that have ended by now, which then leave the tree; returns whether there was one."""
        finished = False
        for event, element in cast(Iterator[tuple[str, ET.Element]], parser.read_events()):
            if event == "start":
                stack.append(element)
                self.unfinished += 1
                continue
            stack.pop()
            if local_name(element) in tags:
                finished, self.unfinished = True, 0
                yield element
                if stack:
                    stack[-1].clear()
        return finished

    def _read_root(self) -> str:
        tags: list[str] = []
        parser = expat.ParserCreate(namespace_separator="}")
        parser.StartElementHandler = lambda tag, attributes: tags.append(tag)
        parser.EntityDeclHandler = _refuse_entity
        while not tags and sum(map(len, self.head)) <= MAX_PROLOG_BYTES:
            piece = self.file.read1(PIECE_BYTES)
            self.head.append(piece)
            try:
                parser.Parse(piece, not piece)
            except (expat.ExpatError, LookupError, ValueError) as error:
                if not tags:
                    raise (
                        RowError("damaged_file", str(error))
                        if any(self.head)
                        else RowError("empty_file", "no row found")
                    ) from None
        if not tags:
            raise RowError("too_large", f"no element in the first {MAX_PROLOG_BYTES >> 20} MiB")
        return tags[0].rpartition("}")[2]


def local_name(element: ET.Element) -> str:
    """The tag without its namespace; of a comment or processing instruction nothing."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _refuse_entity(name: str, *rest: object) -> None:
    del rest
    raise RowError("xml_entities", f"its DOCTYPE declares the entity {name[:40]!r}; entities are not expanded")
