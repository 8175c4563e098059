"""JATS XML (journals, PubMed Central) -> title, abstract and body of each article.

article --title, abstract, sections of the body, block by block--> text; references, authors, formula sources: left out
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from jobs.corpus.raw import Raw, Rejected
from jobs.corpus.xml_stream import XmlStream, local_name

ROOTS = frozenset({"article", "pmc-articleset", "articles"})
BLOCKS = frozenset(
    {"article-title", "title", "p", "label", "tr", "disp-formula", "term", "verse-line", "preformat", "code", "attrib"}
)
"""Elements that become a paragraph of their own."""
LEFT_OUT = frozenset({
    "ref-list", "contrib-group", "aff", "author-notes", "tex-math", "graphic", "inline-graphic", "media", "object-id",
    "supplementary-material", "fn-group", "permissions", "alt-text", "long-desc", "index-term",
})  # fmt: skip
"""tex-math repeats a formula with its whole LaTeX preamble."""
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
    meta = _child(_child(article, "front"), "article-meta")
    titles = _child(meta, "title-group")
    for part in [_child(titles, "article-title"), *_abstracts(meta), _child(article, "body")]:
        for block in _blocks(part):
            if text := _text(block):
                yield text


def _abstracts(meta: ET.Element | None) -> list[ET.Element]:
    found = [child for child in meta if local_name(child) == "abstract"] if meta is not None else []
    return [abstract for abstract in found if abstract.get("abstract-type") not in ABSTRACT_TYPES_LEFT_OUT]


def _child(element: ET.Element | None, name: str) -> ET.Element | None:
    return next((child for child in element if local_name(child) == name), None) if element is not None else None


def _blocks(part: ET.Element | None) -> Iterator[ET.Element]:
    """The paragraphs, headings and table rows below an element, in their order."""
    waiting = [part] if part is not None else []
    while waiting:
        element = waiting.pop()
        name = local_name(element)
        if name in BLOCKS:
            yield element
        elif name not in LEFT_OUT:
            waiting.extend(reversed(element))


def _text(block: ET.Element) -> str:
    """All text below a block, in one line, the cells of a table's row apart."""
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
        for child in reversed(item):
            waiting += [child.tail or "", child]
        if name in ("td", "th", "p", "list-item", "title"):
            parts.append(" ")
        waiting.append(item.text or "")
    return " ".join("".join(parts).split())
