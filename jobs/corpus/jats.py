"""JATS XML (journals, PubMed Central) -> the text of each article.

    article --titles, abstracts, body, appendices, floating figures and tables; then each sub-article alike--> parts
            --block by block--> text

Left out: references, authors, formula sources, and what else the back matter holds (thanks, notes, glossaries).
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from jobs.corpus.raw import Raw, Rejected
from jobs.corpus.xml_stream import XmlStream, local_name

ROOTS = frozenset({"article", "pmc-articleset", "articles"})
BLOCKS = frozenset({
    "article-title", "subtitle", "trans-title", "trans-subtitle", "title", "p", "label", "tr", "disp-formula", "term",
    "verse-line", "preformat", "code", "attrib", "speaker",
})  # fmt: skip
"""Elements that become a paragraph of their own."""
LEFT_OUT = frozenset({
    "ref-list", "contrib-group", "aff", "author-notes", "tex-math", "graphic", "inline-graphic", "media", "object-id",
    "supplementary-material", "fn-group", "permissions", "alt-text", "long-desc", "index-term", "alt-title",
})  # fmt: skip
"""tex-math repeats a formula with its whole LaTeX preamble."""
LINES_COUNT = ("code", "preformat")
ABSTRACT_TYPES_LEFT_OUT = frozenset({"graphical", "toc", "teaser"})


def read_jats(stream: XmlStream, uri: str) -> Iterator[Raw | Rejected]:
    """Every article of a file. Raises RowError as XmlStream does."""
    for number, article in enumerate(stream.elements("article"), start=1):
        place = uri if stream.root == "article" else f"{uri}#{number}"
        text = "\n\n".join(_paragraphs(article))
        yield (
            Raw(place, text, None, format="jats") if text else Rejected(place, "no_text", "no title, abstract or body")
        )


def _paragraphs(article: ET.Element) -> Iterator[str]:
    waiting = [article]
    while waiting:
        item = waiting.pop()
        for part in _parts(item):
            for block in _blocks(part):
                yield from _texts(block)
        # Translations, reviews and answers to them are articles inside the article.
        waiting.extend(reversed(_children(item, "sub-article", "response")))


def _parts(article: ET.Element) -> list[ET.Element]:
    meta = _child(_child(article, "front"), "article-meta")
    meta = _child(article, "front-stub") if meta is None else meta
    abstracts = [
        abstract
        for abstract in _children(meta, "abstract", "trans-abstract")
        if abstract.get("abstract-type") not in ABSTRACT_TYPES_LEFT_OUT
    ]
    appendices = _children(_child(article, "back"), "app-group", "app")
    return [
        *_children(meta, "title-group"),
        *abstracts,
        *_children(article, "body"),
        *appendices,
        *_children(article, "floats-group"),
    ]


def _children(element: ET.Element | None, *names: str) -> list[ET.Element]:
    return [child for child in element if local_name(child) in names] if element is not None else []


def _child(element: ET.Element | None, name: str) -> ET.Element | None:
    return next((child for child in element if local_name(child) == name), None) if element is not None else None


def _blocks(part: ET.Element) -> Iterator[ET.Element]:
    """The paragraphs, headings and table rows below an element, in their order."""
    waiting = [part]
    while waiting:
        element = waiting.pop()
        name = local_name(element)
        if name in BLOCKS:
            yield element
        elif name not in LEFT_OUT:
            waiting.extend(reversed(element))


def _texts(block: ET.Element) -> Iterator[str]:
    """All text below a block in one line, the cells of a table's row apart; code of several lines apart, line by line."""
    parts: list[str] = []
    waiting: list[ET.Element | str] = [block]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        name = local_name(item)
        if not name or name in LEFT_OUT:
            continue
        if name in LINES_COUNT and "\n" in (lines := "".join(item.itertext()).strip("\n").rstrip()):
            yield from _joined(parts)
            yield lines
            parts = []
            continue
        for child in reversed(item):
            waiting += [child.tail or "", child]
        if name in ("td", "th", "p", "list-item", "title", "speaker"):
            parts.append(" ")
        waiting.append(item.text or "")
    yield from _joined(parts)


def _joined(parts: list[str]) -> Iterator[str]:
    """One line, none where it would be empty."""
    if line := " ".join("".join(parts).split()):
        yield line
