"""What the readers give: a document as found, or the place and reason of a row that is none."""

from dataclasses import dataclass
from typing import TypedDict


class Message(TypedDict):
    """One turn in TRL's conversational type. Example: {"role": "user", "content": "Name a protein."}"""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Raw:
    """A document before cleaning.

    Example:
        Raw(uri="notes.jsonl#3", text="Ribosomes ...", messages=None)
    """

    uri: str
    text: str
    messages: list[Message] | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not become a document.

    Example:
        Rejected(uri="notes.jsonl#4", reason="broken_json", detail="unexpected end of data: line 1 column 9")
    """

    uri: str
    reason: str
    """A word that counts are grouped by."""
    detail: str
    """What exactly, for the person who mends the row; never the row's text."""


class RowError(Exception):
    """A row is not a document: becomes a Rejected at the row's place."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
