"""What the readers give: a document as found, or the place and reason of a row that is none."""

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict


class Message(TypedDict):
    """One turn in TRL's conversational type. Example: {"role": "user", "content": "Name a protein."}"""

    role: str
    content: str
    weight: NotRequired[int]
    """0: an answer that is read and not learnt (OpenAI's `weight`)."""


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
