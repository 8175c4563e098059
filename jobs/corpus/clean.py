"""Text repair before documents are compared, split or counted.

text of a document --NFC, whitespace collapsed--> text
turns of a conversation --NFC, \\n, empty lines around--> turns whose code, tables and verses are as they were written
"""

import re
import unicodedata
from dataclasses import replace

from configs.schema.corpus import Cleaning
from jobs.corpus.formats import QUESTION_FORMATS
from jobs.corpus.judgements import judged_document
from jobs.corpus.raw import Judgement, Message, Raw, RowError

LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029\x85\x0b\x0c]")
SPACES = re.compile(r"[^\S\n]+")
SPACES_AROUND_LINE_END = re.compile(r" ?\n ?")
EMPTY_LINES = re.compile(r"\n{3,}")
LINE_ENDS_OF_FILES = re.compile(r"\r\n?")
"""The other characters that end lines stand in messages only where somebody wrote them: a form feed in code, say."""
EMPTY_LINES_BEFORE = re.compile(r"\A(?:[^\S\n]*\n)+")


def clean_text(text: str, cleaning: Cleaning) -> str:
    """Idempotent: cleaning a cleaned text changes nothing."""
    if cleaning.unicode == "nfc":
        text = unicodedata.normalize("NFC", text)
    return collapsed(text) if cleaning.collapse_whitespace else text


def clean_message(text: str, cleaning: Cleaning) -> str:
    """A turn with its indentation, tabs and empty lines: they are what code means, and a model is to write them.

    Only what surrounds it goes, as many templates trim it: empty lines before, whitespace after, so that an answer ends
    right before its end token. The first line keeps its indentation (an answer may be the body of a function). Idempotent.
    """
    if cleaning.unicode == "nfc":
        text = unicodedata.normalize("NFC", text)
    if cleaning.collapse_whitespace:
        text = LINE_ENDS_OF_FILES.sub("\n", text).rstrip()
        text = EMPTY_LINES_BEFORE.sub("", text)
    return text


def collapsed(text: str) -> str:
    """One space between words, one empty line between paragraphs, none around."""
    text = LINE_ENDS.sub("\n", text)
    text = SPACES.sub(" ", text)
    text = SPACES_AROUND_LINE_END.sub("\n", text)
    return EMPTY_LINES.sub("\n\n", text).strip()


def clean_document(raw: Raw, cleaning: Cleaning) -> Raw:
    """The document with its text, messages and judged answers cleaned. Raises RowError where too little is left."""
    if raw.judgement is not None:
        cleaned = judged_document(raw.uri, _clean_judgement(raw.judgement, cleaning))
        return replace(raw, text=cleaned.text, messages=cleaned.messages, judgement=cleaned.judgement)
    # The text of a conversation is its turns: two that differ in indentation are no duplicates.
    text = (clean_message if raw.format in QUESTION_FORMATS else clean_text)(raw.text, cleaning)
    if len(text) < max(cleaning.minimum_characters, 1):
        raise RowError(
            "too_short", f"{len(text)} characters, cleaning.minimum_characters is {cleaning.minimum_characters}"
        )
    if raw.messages is None:
        return replace(raw, text=text)
    messages = _clean_messages(raw.messages, cleaning)
    empty = [number for number, turn in enumerate(messages) if not turn["content"].strip()]
    if empty:
        raise RowError("empty_message", f"message {empty[0]} has no text")
    return replace(raw, text=text, messages=messages)


def _clean_judgement(judgement: Judgement, cleaning: Cleaning) -> Judgement:
    answers = [_clean_messages(answer, cleaning) for answer in judgement.answers]
    return replace(judgement, prompt=_clean_messages(judgement.prompt, cleaning), answers=answers)


def _clean_messages(messages: list[Message], cleaning: Cleaning) -> list[Message]:
    return [{**turn, "content": clean_message(turn["content"], cleaning)} for turn in messages]
