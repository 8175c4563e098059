"""What a running header and a page number look like."""

import re

from jobs.corpus.layout.lines import SENTENCE_END

LONGEST = 130

FEWEST = 3
"""Pages on which a line is on, or numbers count, before it is layout: two may be chance."""

DIGITS = re.compile(r"\d+")

LONE_NUMBER = re.compile(
    r"\s*(?:[-–—|\[(]\s*)?(?:(?:page|seite|página|p\.|pp\.|s\.)\s*)?(?:第\s*)?(\d{1,4}|[ivxl]{1,7})\s*(?:页|頁)?"  # noqa: RUF001
    r"(?:\s*(?:of|von|/|sur|de)\s*\d{1,4})?(?:\s*[-–—|\])])?\s*",  # noqa: RUF001
    re.IGNORECASE,
)

END_NUMBER = re.compile(r"^\s*(\d{1,4})(?=[\s|·–—A-ZÄÖÜ\u4e00-\u9fff]|$)|(?<=[\s|·–—])(\d{1,4})\s*$")  # noqa: RUF001
"""Extractors leave out the space behind a number on the left: 3Shared MIME-info Database."""

HEADING = re.compile(
    r"\s*(?:chapter|section|part|article|§|kapitel|abschnitt|artikel|teil|canto|act|scene|第)\W*[\divxlc]+\W*",
    re.IGNORECASE,
)
"""Counts with the pages where each begins a new one, and is text."""

NO_HEADER = re.compile(r"^\s*(?:[#%*/{}<>|+=~_-]|\d+[.)]\s|$)|[;{}=<>\\]\s*$")


def line_key(text: str) -> str:
    return DIGITS.sub("#", " ".join(text.lower().split()))


def end_numbers(text: str) -> list[int]:
    if (lone := LONE_NUMBER.fullmatch(text)) and lone[1].isdigit():
        return [int(lone[1])]
    return [int(match[1] or match[2]) for match in END_NUMBER.finditer(text)]


def may_be_header(text: str) -> bool:
    letters = sum(character.isalpha() for character in text)
    return (
        letters >= 3
        and len(text) <= LONGEST
        and not NO_HEADER.search(text)
        and not (SENTENCE_END.search(text) and (len(text) > 90 or text.lstrip()[0].islower()))
    )
