"""Reference lists: from their heading to the last entry, and numbered lists of entries without a heading.

heading, entries that follow closely --> up to what is no entry any more (an appendix, acknowledgements, prose)
"""

import re
from itertools import pairwise

from configs.schema.layout import LayoutKind
from jobs.corpus.layout.lines import Lines

HEADING = re.compile(
    r"\s*(?:#+\s*)?(?:(?:\d{1,2}|[IVX]{1,4}|[A-Z])\.?\s+)?(?:references(?: and notes| cited)?"
    r"|r\s?e\s?f\s?e\s?r\s?e\s?n\s?c\s?e\s?s|bibliography|literature cited|works cited|cited literature"
    r"|list of references|reference list|notes and references|literatur|literaturverzeichnis|literaturangaben"
    r"|quellen|quellenverzeichnis|references et notes|références"
    r"|références bibliographiques|bibliographie|referencias|referencias bibliográficas|bibliografía"
    r"|referências|bibliografia|riferimenti bibliografici|参\s*考\s*文\s*献)\s*:?\s*",
    re.IGNORECASE,
)
HINT = re.compile(r"(?:19|20)\d\d")
"""No list of cited works is without a year."""

YEAR = re.compile(r"(?<![\d.])(?:1[89]|20)\d\d[a-z]?(?![\d.]\d)")
SIGNS = (
    re.compile(
        r"[(\[](?:1[89]|20)\d\d[a-z]?[)\]]|[;,.]\s*(?:1[89]|20)\d\d[a-z]?\s*[;:.,]|(?:1[89]|20)\d\d[a-z]?[.;]?\s*$"
    ),
    re.compile(
        r"(?<=\S )\d{1,4}\s?\(\d{1,3}(?:[-–]\d+)?\)|[;,]\s?\d{1,4}\(\d{1,3}\)|\bvol(?:\.|ume)\s*\d|\bno\.\s*\d"  # noqa: RUF001
        r"|\bBd\.\s*\d|\bJg\.\s*\d",
        re.IGNORECASE,
    ),
    re.compile(r"(?:\bpp?\.|\bS\.|[:,;])\s*[A-Z]?\d{1,5}\s*[-–—]\s*[A-Z]?\d{1,5}"),  # noqa: RUF001
    re.compile(
        r"\bdoi\b|doi\.org|arXiv|https?://|\bPMID\b|\bISBN\b|\[Internet\]|\bAccessed\b|\bRetrieved\b", re.IGNORECASE
    ),
    re.compile(
        r"(?:^|[,;.&\]]|\band|\bund)\s*[A-Z][\w'’-]+,?\s+(?:[A-Z]\.?[ -]?){1,3}(?=[,.;&(:]|\s+(?:and|und|et)\b|\s*$)"  # noqa: RUF001
    ),
    re.compile(r"(?:^|[,;&\]]|\band|\bund)\s*(?:[A-Z]\.[ -]?){1,3}\s*[A-Z][\w'’-]+"),  # noqa: RUF001
    re.compile(
        r"\bet al\b|\beds?\.|\bIn: |\bHrsg\.|\bProc(?:\.|eedings)|\bPress\b|\bPublish(?:ers?|ing)\b|\bVerlag\b"
        r"|\[[JMCDR]\]|\b(?:J|Ann|Arch|Int|Rev|Trans|Z)\.? [A-Z]"
    ),
)
"""A year where citations have it; volume and issue; pages; an identifier; names with initials behind or before; words."""
NAMES = SIGNS[4:6]
START = re.compile(r"\s*(?:\[\d{1,3}\]|\(?\d{1,3}[.)]|\d{1,3}\s+(?=[A-Z])|\[[A-Z][\w+]{1,9}\]|[•*–-]\s+)\s*\S")  # noqa: RUF001
NUMBER = re.compile(r"\s*[\[(]?(\d{1,3})[\].)]?\s")
BEFORE_HEADING = r"\s*(?:#+\s*)?(?:(?:\d{1,2}|[A-Z]|[IVX]{1,4})\.?\s+)?"
ENDING = re.compile(
    BEFORE_HEADING + r"(?:appendix|appendices|annex|supplementa(?:ry|l) (?:information|material|data|figure|table)s?"
    r"|supporting information|acknowledge?ments?"
    r"|author(?:s’|s'|s)? contributions?|conflicts? of interest|competing (?:financial )?interests"  # noqa: RUF001
    r"|data availability|fig(?:ure|\.)\s*[S\d]|table\s+[S\d]|tabelle\s+\d|abbildung\s+\d|abb\.\s*\d"
    r"|anhang|danksagung|interessenkonflikt|about the authors?|notes on contributors|附\s*录|致\s*谢|作者贡献)",
    re.IGNORECASE,
)
ENDING_ALONE = re.compile(
    BEFORE_HEADING + r"(?:(?:online |supplementary |star\W? )?methods|funding|figure (?:legends?|captions?)"
    r"|legends?(?: to figures)?|tables?|figures?|abbreviations?|glossary|index|contributors|"
    r"(?:further|additional) (?:results|details|proofs|experiments)|proofs?(?: of .{3,40})?|notation|tabellen"
    r"|abbildungen|abstract)\s*:?\s*",
    re.IGNORECASE,
)
ENTRY_END = re.compile(r"(?:\d[\w)\]]*|[.)/])\s*$")
CLOSING = re.compile(r"\s*(?:[A-Z][\w.&]{0,12} ){0,3}[\d(][\d–\-(),.:; ]*\.?\s*")  # noqa: RUF001
"""A line with the end of an entry alone: Phys. 372, 1403–1421 (2011)."""  # noqa: RUF001
DENSITY = 0.3
"""Lines with a sign or the next number, of all: in narrow columns an entry has four lines."""
DENSE = 0.8
"""Where entries show a year and little else, nearly all lines must."""
FEWEST = 3
"""Entries below a heading; fewer are left, whatever the heading says."""
FEWEST_ALONE = 5
"""Numbered entries without a heading."""
MOSTLY = 0.8
"""Of them are surely citations: some are web pages and laws."""
LONGEST_GAP = 330
"""Characters without a sign: titles of three wrapped lines are shorter."""
STRONG = 2
"""Signs of a line that is surely part of an entry."""


def find_references(lines: Lines) -> dict[int, LayoutKind]:
    texts = lines.texts
    if not HINT.search(lines.text):
        return {}
    found: set[int] = set()
    for index, text in enumerate(texts):
        if index not in found and len(text) < 60 and text and HEADING.fullmatch(text):
            entries = _entries(texts, index + 1)
            if entries:
                found |= {index, *range(index + 1, entries[-1] + 1)}
    found |= _numbered_without_heading(texts, found)
    return dict.fromkeys(found, "references")


def _entries(texts: list[str], start: int) -> list[int]:
    """Indices of the lines with signs of a citation, up to where they end; empty where there are too few."""
    signs: list[int] = []
    strong = without = number = numbered = 0
    before = ""
    for index in range(start, len(texts)):
        text = texts[index]
        if not text.strip():
            continue
        here = _signs(text)
        if here < STRONG and _is_heading_after(text, before):
            break
        before = text
        follows = (
            START.match(text) is not None and (match := NUMBER.match(text)) is not None and int(match[1]) == number + 1
        )
        number, numbered = number + follows, numbered + follows
        if follows or (here and not (_is_prose(text) and here < STRONG)):
            signs.append(index)
            strong += here >= STRONG
            without = 0
        else:
            without += len(text)
            if without > LONGEST_GAP or (_is_prose(text) and without > LONGEST_GAP / 2):
                break
    years = sum(YEAR.search(texts[index]) is not None for index in signs)
    lines = sum(bool(text.strip()) for text in texts[start : signs[-1] + 1]) if signs else 0
    if years < FEWEST or len(signs) < DENSITY * lines:
        return []
    dated = numbered >= FEWEST and years >= MOSTLY * numbered
    if (
        strong < FEWEST
        and not dated
        and not (len(signs) >= DENSE * lines and sum(map(_is_prose, texts[start : signs[-1] + 1])) == 0)
    ):
        return []
    return [*signs, *_tail(texts, signs[-1])]


def _is_heading_after(text: str, before: str) -> bool:
    """Whether an entry is over and what comes is named as something else."""
    over = not before or ENTRY_END.search(before) is not None
    return (
        over
        and not text.lstrip()[0].islower()
        and any(
            match is not None for match in (ENDING.match(text), ENDING_ALONE.fullmatch(text), HEADING.fullmatch(text))
        )
    )


def _tail(texts: list[str], last: int) -> list[int]:
    """Lines of the last entry below its last sign: a year or pages that did not fit, or words up to a full stop."""
    tail: list[int] = []
    for index in range(last + 1, min(last + 3, len(texts))):
        text = texts[index]
        if not text.strip() or ENDING.match(text) or ENDING_ALONE.fullmatch(text):
            break
        if CLOSING.fullmatch(text):
            return [*tail, index]
        if ENTRY_END.search(texts[index - 1]):
            break
        tail.append(index)
        if ENTRY_END.search(text):
            return tail if len(text) < 120 else []
    return []


def _numbered_without_heading(texts: list[str], found: set[int]) -> set[int]:
    """Runs of entries numbered 1, 2, 3 ..., nearly all of which are citations."""
    alone: set[int] = set()
    starts: list[int] = []
    expected = 0
    for index, text in enumerate(texts):
        if not text or not (text[0].isdigit() or text[0] in "[( \t") or index in found:
            continue
        match = NUMBER.match(text) if START.match(text) else None
        number = int(match[1]) if match else 0
        if number == 1 or (number == expected and number and index - starts[-1] <= 8):
            if number == 1:
                alone |= _if_citations(texts, starts)
                starts = []
            starts.append(index)
            expected = number + 1
    return alone | _if_citations(texts, starts)


def _if_citations(texts: list[str], starts: list[int]) -> set[int]:
    if len(starts) < FEWEST_ALONE:
        return set()
    entries = [texts[start:end] for start, end in pairwise(starts)]
    last = starts[-1]
    end = max(_tail(texts, last), default=last) + 1
    entries.append(texts[last:end])
    if sum(_is_citation(" ".join(entry)) for entry in entries) < MOSTLY * len(entries):
        return set()
    return set(range(starts[0], end))


def _is_citation(entry: str) -> bool:
    names = any(sign.search(entry) for sign in NAMES)
    return names and _signs(entry) > STRONG and YEAR.search(entry) is not None and not _is_prose(entry)


def _signs(text: str) -> int:
    return sum(sign.search(text) is not None for sign in SIGNS)


PROSE = re.compile(
    r"\b(?:was|were|is|are|we|our|this|these|that|have|has|had|been|which|wurde|wurden|dass|nicht|sich)\b",
    re.IGNORECASE,
)


def _is_prose(text: str) -> bool:
    """Verbs and pronouns that titles do without, more than one in a line."""
    return len(PROSE.findall(text)) >= 2
