"""Tables of contents: lines that lead to a page number, and lists of the headings that follow below."""

import re

from configs.schema.layout import LayoutKind
from jobs.corpus.layout.lines import Lines

HEADING = re.compile(
    r"\s*(?:table of contents|contents|on this page|in this article|inhalt|inhaltsverzeichnis|inhaltsübersicht"
    r"|table des matières"
    r"|sommaire|índice|contenido|indice|目\s*录|目\s*次|list of (?:figures|tables)|abbildungsverzeichnis"
    r"|tabellenverzeichnis)\s*:?\s*",
    re.IGNORECASE,
)
LEADER = re.compile(r"\S\s*(?:(?:\.\s?){4,}|…{2,}\.*|(?:·\s?){4,}|_{4,})\s*(\d{1,4}|[ivxlc]{1,7})\s*$", re.IGNORECASE)
ENDS_IN_NUMBER = re.compile(
    r"\s*[^\d\s.].{0,110}?[^\d,.\s]\S*\s+(\d{1,4}|[ivxl]{1,6})\s*$"
    r"|\s*\d+(?:\.\d+)*\.?\s+\S.{0,100}\s(\d{1,4})\s*$|\s*(?:annex|appendix|anhang|chapter|kapitel|part"
    r"|teil)\s\S{1,4}\s+(\d{1,4})\s*$",
    re.IGNORECASE,
)
HINTS = ("....", ". . . .", "……", "····", "· · · ·", "____")
NUMBERING = re.compile(r"^\s*(?:(?:\d+\.)*\d+\.?|[A-Z]\.|[•*–-])?\s*")  # noqa: RUF001

FEWEST = 3
"""Entries below a heading."""
FEWEST_ALONE = 4
"""Entries with leaders and no heading: a price list may have some."""
WRAPPED = 2
"""Lines of an entry that does not fit, before the one with its number."""


def find_contents(lines: Lines) -> dict[int, LayoutKind]:
    texts = lines.texts
    headings = [index for index, text in enumerate(texts) if len(text) < 40 and HEADING.fullmatch(text)]
    found: set[int] = set()
    for heading in headings:
        if heading in found:
            continue
        entries = _entries(texts, heading + 1, by_leader=False) or _headings_below(texts, heading + 1)
        if entries:
            found |= {heading, *entries}
    whole = lines.text
    if any(hint in whole for hint in HINTS):
        index = 0
        while index < len(texts):
            entries = (
                _entries(texts, index, by_leader=True) if index not in found and LEADER.search(texts[index]) else []
            )
            found |= set(entries)
            index = max(entries, default=index) + 1
    return dict.fromkeys(found, "tables_of_contents")


def _entries(texts: list[str], start: int, by_leader: bool) -> list[int]:
    """Indices of entries from `start` on whose page numbers do not fall, with what of them stands on lines before."""
    entries: list[int] = []
    waiting: list[int] = []
    last = counted = 0
    for index in range(start, len(texts)):
        text = texts[index]
        if not text.strip():
            waiting += [index] if entries else []
            continue
        match = LEADER.search(text) or (None if by_leader else ENDS_IN_NUMBER.match(text))
        number = next((group for group in match.groups() if group), "") if match else ""
        falls = number.isdigit() and int(number) < last
        if match is None or falls:
            if falls or sum(bool(texts[line].strip()) for line in waiting) >= WRAPPED or len(text) > 110:
                break
            waiting.append(index)
            continue
        entries += [*waiting, index]
        waiting = []
        counted += 1
        last = int(number) if number.isdigit() else last
    if counted < (FEWEST_ALONE if by_leader else FEWEST):
        return []
    return [index for index in entries if index >= start]


def _headings_below(texts: list[str], start: int) -> list[int]:
    """Indices of lines, right below `start`, that come again later as lines of their own."""
    candidates: list[int] = []
    for index in range(start, min(start + 200, len(texts))):
        if len(texts[index]) > 100:
            break
        candidates.append(index)
    wanted = {_bare(texts[index]) for index in candidates} - {""}
    places: dict[str, int] = {}
    for index in range(start, len(texts)):
        if len(texts[index]) <= 104 and (bare := _bare(texts[index])) in wanted:
            places[bare] = index
    entries: list[int] = []
    for index in candidates:
        bare = _bare(texts[index])
        if places.get(bare, index + 1) <= index or (not bare and texts[index].strip()):
            break
        if bare or entries:
            entries.append(index)
    filled = [index for index in entries if texts[index].strip()]
    if len(filled) < FEWEST or [places[_bare(texts[index])] for index in filled] != sorted(
        places[_bare(texts[index])] for index in filled
    ):
        return []
    return [index for index in entries if index <= filled[-1]]


def _bare(text: str) -> str:
    return NUMBERING.sub("", text, count=1).strip().lower()
