"""Text repair before documents are compared, split or counted."""

import re
import unicodedata
from dataclasses import replace

from configs.schema.corpus import Cleaning
from jobs.corpus.judgements import judged_document
from jobs.corpus.raw import Judgement, Message, Raw, RowError

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
    """The document with its text, messages and judged answers cleaned. Raises RowError where too little is left."""
    if raw.judgement is not None:
        return replace(judged_document(raw.uri, _clean_judgement(raw.judgement, cleaning)), format=raw.format)
    text = clean_text(raw.text, cleaning)
    if len(text) < max(cleaning.minimum_characters, 1):
        raise RowError(
            "too_short", f"{len(text)} characters, cleaning.minimum_characters is {cleaning.minimum_characters}"
        )
    if raw.messages is None:
        return replace(raw, text=text)
    messages = _clean_messages(raw.messages, cleaning)
    empty = [number for number, turn in enumerate(messages) if not turn["content"]]
    if empty:
        raise RowError("empty_message", f"message {empty[0]} has no text")
    return replace(raw, text=text, messages=messages)


def _clean_judgement(judgement: Judgement, cleaning: Cleaning) -> Judgement:
    answers = [_clean_messages(answer, cleaning) for answer in judgement.answers]
    return replace(judgement, prompt=_clean_messages(judgement.prompt, cleaning), answers=answers)


def _clean_messages(messages: list[Message], cleaning: Cleaning) -> list[Message]:
    return [{**turn, "content": clean_text(turn["content"], cleaning)} for turn in messages]
