"""What the readers give: a document as found, or the place and reason of a row that is none."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, NotRequired, TypedDict


class Message(TypedDict):
    """One turn in TRL's conversational type. Example: {"role": "user", "content": "Name a protein."}"""

    role: str
    content: str
    weight: NotRequired[int]
    """0: an answer that is read and not learnt (OpenAI's `weight`)."""


class ByteRange(NamedTuple):
    """Where a row lies in its file; of a packed file (.gz, .zst) in what it unpacks to. Example: ByteRange(120, 58)"""

    offset: int
    length: int


JudgedAs = Literal["preferences", "thumbs"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Answers to one prompt and what people think of them.

    Example:
        Judgement("preferences", prompt=[{"role": "user", "content": "Name a protein."}],
                  answers=[[{"role": "assistant", "content": "Actin."}], [{"role": "assistant", "content": "Iron."}]],
                  levels=[0, 1])
    """

    judged_as: JudgedAs
    """preferences: two or more answers in an order; thumbs: one answer."""
    prompt: list[Message]
    answers: list[list[Message]]
    """Each begins after the prompt and ends with the assistant; more than one message where people and model took turns."""
    levels: list[int]
    """0 is best, equal levels are a tie; of a thumb 0 = up, 1 = down."""
    margin: float = 0.0
    """By how much the chosen answer is better, where the data say it."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A document before cleaning.

    Example:
        Raw(uri="notes.jsonl#3", text="Ribosomes ...", messages=None)
    """

    uri: str
    text: str
    messages: list[Message] | None
    """Of judged answers: the prompt with the best one, if it is worth learning; see jobs/corpus/judgements.py."""
    judgement: Judgement | None = None
    format: str = "text"
    """As what the row was read (jobs/corpus/formats.py)."""
    ignored: tuple[str, ...] = ()
    """Columns that hold something and that the format does not read."""
    byte_range: ByteRange | None = None
    """Of a row of JSON; other formats have rows without a place in bytes, or are one document."""
    encoding: str = "utf-8"
    """As what the file was decoded; anything else was said by a byte order mark, or guessed."""
    licence: str | None = None
    """Of the row's own, where the source has a `licence_column`; else it is the source's."""


def texts_of(document: Raw) -> Iterator[str]:
    """All that a document says: of judged answers every turn, of others the text and then every turn."""
    if document.judgement is not None:
        for turns in (document.judgement.prompt, *document.judgement.answers):
            yield from (turn["content"] for turn in turns)
        return
    yield document.text
    yield from (turn["content"] for turn in document.messages or [])


READING_REASONS = {
    "damaged_file": "packed bytes, Parquet pages or XML that are cut off or altered; what stood before is kept",
    "empty_file": "a file without a row",
    "zip_bomb": "unpacks to more than text does (jobs/corpus/unpack.py)",
    "too_large": "a document of more bytes, pages or characters than are read at once",
    "row_too_long": "a row or article of more bytes than are read at once",
    "too_deep": "elements of XML, or lists and objects of JSON, too deep inside each other",
    "not_utf8": "bytes that are no UTF-8, with their place; of a text: and no other encoding either",
    "nul_bytes": "a text, header or row with NUL: a binary file or UTF-16, or such a text as JSON",
    "broken_json": "a row that is no JSON (NaN and half a surrogate pair are none), or an array from here on",
    "not_an_object": "JSON that is no object",
    "broken_csv": "a quote that is never closed, or bytes after one; the rest of the file is not read",
    "wrong_columns": "a row of CSV with another number of cells than the header",
    "too_many_columns": "more columns than data sets have (jobs/corpus/formats.py)",
    "unknown_fields": "columns of no known format",
    "unknown_licence": "no SPDX expression in the `licence_column`",
    "missing_columns": "columns of another format than the one that is set",
    "unknown_xml": "XML that is neither PubMed's nor JATS",
    "xml_entities": "a DOCTYPE that declares entities",
    "no_text": "a page, scanned PDF, article or letter without text",
    "encrypted": "opens with a password only",
    "broken_pdf": "pdfium cannot open it or one of its pages",
    "broken_docx": "no zip archive, or one without word/document.xml",
    "too_slow": "no text within the time a child process has (jobs/corpus/guarded.py)",
    "crashed": "the child process ended by a signal, or ran out of memory",
}
"""Why a file or a row of it cannot be read. What a readable row lacks has reasons of its own (convert.py, messages.py,
judgements.py, pubmed.py)."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not become a document.

    Example:
        Rejected(uri="notes.jsonl#4", reason="broken_json", detail="unexpected end of data: line 1 column 9")
    """

    uri: str
    reason: str
    """A word that counts are grouped by; those of a file and its rows are in READING_REASONS."""
    detail: str
    """What exactly, for the person who mends the row; never the row's text."""


class RowError(Exception):
    """A row is not a document: becomes a Rejected at the row's place."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
