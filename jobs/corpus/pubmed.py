"""PubMed XML (NLM's MEDLINE/PubMed DTD) -> abstracts, and the conclusion-writing task from structured ones.

PubmedArticle -> title + sections -> text
                                  -> messages: context (title, other sections), instruction, conclusion
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.corpus.raw import Message, Raw, Rejected
from jobs.corpus.unpack import buffered, unpacked
from jobs.corpus.xml_stream import XmlStream

ROOT = "PubmedArticleSet"
BOOK = "PubmedBookArticle"
CONCLUSION_INSTRUCTION = "Write the conclusion of this study from its title and the other sections of its abstract."
NO_LABEL = ("", "UNLABELLED")
"""NLM writes UNLABELLED for a paragraph without a heading inside a structured abstract."""


@dataclass(frozen=True, slots=True)
class Section:
    """A paragraph of an abstract. Example: Section(label="METHODS", is_conclusion=False, text="We ...")"""

    label: str
    is_conclusion: bool
    text: str

    @property
    def paragraph(self) -> str:
        return f"{self.label}: {self.text}" if self.label else self.text


def read_pubmed(stream: XmlStream, uri: str) -> Iterator[Raw | Rejected]:
    """Every article of a file, by PMID. Books, other languages, retracted articles and repeated PMIDs are rejected.

    Raises RowError as XmlStream does.
    """
    seen: set[str] = set()
    for record in stream.elements("PubmedArticle", BOOK):
        if record.tag == BOOK:
            said = "a book or chapter of NCBI's Bookshelf, which has other elements than an article and is not read"
            yield Rejected(f"{uri}#{record.findtext('BookDocument/PMID', '')}", "book", said)
        else:
            yield _document(record, uri, seen)


def read_pubmed_file(path: Path) -> Iterator[Raw]:
    """The documents of a local file, packed or not; without those that are rejected."""
    with path.open("rb") as file:
        stream = XmlStream(buffered(unpacked(file, path.name)))
        yield from (row for row in read_pubmed(stream, path.name) if isinstance(row, Raw))


def _document(article: ET.Element, uri: str, seen: set[str]) -> Raw | Rejected:
    pmid = article.findtext("MedlineCitation/PMID", "")
    place = f"{uri}#{pmid}"
    if not pmid:
        return Rejected(place, "no_pmid", "PubmedArticle without MedlineCitation/PMID")
    if pmid in seen:
        return Rejected(place, "repeated_pmid", "an earlier record of the file has the same PMID")
    seen.add(pmid)
    languages = [element.text for element in article.iterfind("MedlineCitation/Article/Language")]
    if "eng" not in languages:
        return Rejected(place, "not_english", f"language {languages}")
    if _is_retracted(article):
        return Rejected(place, "retracted", "tagged as retracted by NLM")
    title = _text(article.find("MedlineCitation/Article/ArticleTitle"))
    sections = _sections(article)
    if not sections:
        return Rejected(place, "no_abstract", "no AbstractText with text")
    text = "\n\n".join([title, *(section.paragraph for section in sections)])
    return Raw(place, text, _conclusion_task(title, sections), format="pubmed")


def _sections(article: ET.Element) -> list[Section]:
    sections = []
    for element in article.iterfind("MedlineCitation/Article/Abstract/AbstractText"):
        label = " ".join(element.get("Label", "").split())
        is_conclusion = element.get("NlmCategory") == "CONCLUSIONS" or "CONCLUSION" in label.upper()
        text = _text(element)
        if text:
            sections.append(Section("" if label in NO_LABEL else label, is_conclusion, text))
    return sections


def _conclusion_task(title: str, sections: list[Section]) -> list[Message] | None:
    """The task as a conversation; None unless there are both a conclusion and other sections to draw it from."""
    others = [section.paragraph for section in sections if not section.is_conclusion]
    conclusion = [section.text for section in sections if section.is_conclusion]
    if not others or not conclusion:
        return None
    return [
        Message(role="system", content="\n\n".join([title, *others])),
        Message(role="user", content=CONCLUSION_INSTRUCTION),
        Message(role="assistant", content="\n\n".join(conclusion)),
    ]


def _is_retracted(article: ET.Element) -> bool:
    types = article.iterfind("MedlineCitation/Article/PublicationTypeList/PublicationType")
    links = article.iterfind("MedlineCitation/CommentsCorrectionsList/CommentsCorrections")
    return any(element.text == "Retracted Publication" for element in types) or any(
        element.get("RefType") == "RetractionIn" for element in links
    )


def _text(element: ET.Element | None) -> str:
    """All text below an element (mark-up such as <sub> dropped), in one line."""
    return " ".join("".join(element.itertext()).split()) if element is not None else ""
