"""Text repair before documents are compared, split or counted."""

import re
import unicodedata

from configs.schema.corpus import Cleaning
from jobs.corpus.raw import Message, Raw, RowError

LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029\x85\x0b\x0c]")
SPACES = re.compile(r"[^\S\n]+")
SPACES_AROUND_LINE_END = re.compile(r" ?\n ?")
EMPTY_LINES = re.compile(r"\n{3,}")


def clean_text(text: str, cleaning: Cleaning) -> str:
    """Idempotent: cleaning a cleaned text changes nothing."""
    if cleaning.unicode == "nfc":
        text = unicodedata.normalize("NFC", text)
    if cleaning.collapse_whitespace:
        text = LINE_ENDS.sub("\n", text)
        text = SPACES.sub(" ", text)
        text = SPACES_AROUND_LINE_END.sub("\n", text)
        text = EMPTY_LINES.sub("\n\n", text).strip()
    return text


def clean_document(raw: Raw, cleaning: Cleaning) -> Raw:
    """The document with its text and messages cleaned. Raises RowError where too little is left."""
    text = clean_text(raw.text, cleaning)
    if len(text) < max(cleaning.minimum_characters, 1):
        raise RowError(
            "too_short", f"{len(text)} characters, cleaning.minimum_characters is {cleaning.minimum_characters}"
        )
    if raw.messages is None:
        return Raw(raw.uri, text, None)
    messages = [Message(role=turn["role"], content=clean_text(turn["content"], cleaning)) for turn in raw.messages]
    empty = [number for number, turn in enumerate(messages) if not turn["content"]]
    if empty:
        raise RowError("empty_message", f"message {empty[0]} has no text")
    return Raw(raw.uri, text, messages)
