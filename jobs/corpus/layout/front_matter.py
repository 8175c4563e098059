"""Author lists and affiliations: names and addresses between a paper's title and its abstract, and where they come again.

first lines up to the abstract --names, addresses, dates; at least two of them--> labels
rest of the first page --numbered addresses, correspondence--> labels
"""

import re
from collections.abc import Container
from itertools import pairwise

from configs.schema.layout import LayoutKind
from jobs.corpus.layout.lines import ENDS_MIDWAY, SENTENCE_END, Lines

ZONE = 60
"""Filled lines before the abstract: consortia need that many; later than this no abstract was found in any paper."""
ZONE_WITHOUT_ABSTRACT = 30
FIRST_PAGE = 130
"""Filled lines that a page in two columns has; addresses of its footnotes are among them."""
WRAPPED = 14
"""Lines of one author list."""

ABSTRACT = re.compile(
    r"\s*(?:\d\.?\s+|[IVX]+\.\s+)?(?:abstract|summary|introduction|background|keywords|key ?words|index terms"
    r"|zusammenfassung|kurzfassung|einleitung"
    r"|schlüsselwörter|résumé|resumen|resumo|riassunto|摘\s*要|关键词|引\s*言)\b|\s*(?:摘\s*要|【摘要】|\[摘要\])",
    re.IGNORECASE,
)
MARKS = r"[\d*†‡§¶#∗,ᵃ-ᶻ¹²³⁰-⁹]"  # noqa: RUF001
PARTICLE = r"(?:van|von|de|der|den|del|della|di|da|dos|la|le|el|al|bin|ibn|ter|ten|zu|zur|y)"
CAPITALISED = r"[^\W\d_a-zäöüßéèàçñåø][^\W\d_]*(?:['’-][^\W\d_]+)*"  # noqa: RUF001
NAME = re.compile(
    rf"(?:(?:Prof|Dr|Mr|Ms)\.\s+)*(?:{CAPITALISED}\.?[-\s]+)(?:(?:{CAPITALISED}\.?|{PARTICLE})[-\s]+)*{CAPITALISED}"
    rf"(?:,?\s+(?:Jr|Sr|MD|PhD|M\.D|Ph\.D|MSc|FRCP|RN|II|III)\.?)*"
)
FAMILY_FIRST = re.compile(rf"{CAPITALISED}(?:[-\s]{CAPITALISED})?\s+(?:[A-Z]\.?-?){{1,3}}")
CJK_NAME = re.compile(r"[\u4e00-\u9fff]{1,2}\s?[\u4e00-\u9fff]{1,2}")
BETWEEN_NAMES = re.compile(r"\s*(?:,\s*and\b|,\s*&|[,;&·、,;|]|\band\b|\bund\b|\bet\b|\by\b|\band\s)\s*")
GROUP = re.compile(
    r",?\s*(?:and|for|on behalf of) the [\w -]{3,60}(?:Group|Investigators|Consortium|Collaborators|Network|Team)\W*$"
)
DEGREE = re.compile(r"(?:MD|PhD|M\.D\.|Ph\.D\.|MSc|MPH|RN|Jr\.?|[a-z])?")
NO_NAME = re.compile(
    r"\b(?:the|of|in|for|on|with|from|by|to|University|Institute|Institut|Department|Journal|School|Analysis"
    r"|Study|Effects?|Methods?"
    r"|Systems?|Theory|Review|Chapter|Trial|Model|Data|Science|Report|Table|Figure|Part|Act|Law)\b"
)
INSTITUTION = re.compile(
    r"\b(?:Dep(?:artmen)?t\b|Department|Institut[eo]?\b|Universit(?:y|ät|é|à|y)|Universi(?:dad|dade|teit)"
    r"|Facult(?:y|é)|Fakultät|School of|College|Hospital|Hôpital"
    r"|Laborator(?:y|ies|ium)|Labs?\b|Cent(?:er|re) (?:for|of)|Klinik|Klinikum|Hochschule|Academy|Akademie"
    r"|Division of|Lehrstuhl|Abteilung|Ministry|Inc\.|Corporation"
    r"|Research (?:Group|Unit|Council|Station)|Institution\b)|大学|学院|研究所|科学院|医院|研究院|实验室"
)
EMAIL = re.compile(r"[\w.+}-]+\s?@\s?[\w-]+(?:\.[\w-]+)+|\{[\w., -]+\}\s?@")
ENDS_IN_EMAIL = re.compile(r"@\s?[\w-]+(?:\.[\w-]+)+\W*$")
CORRESPONDENCE = re.compile(
    r"\s*[*†‡∗]?\s*(?:corresponding author|(?:address )?correspondence|address for|e-?mail\b|ORCID"  # noqa: RUF001
    r"|https?://orcid\.org|korrespondenz|\*?通[信讯讯]作者|作者简介|these authors contributed|contributed equally)",
    re.IGNORECASE,
)
DATE = (
    r"(?:\d{1,2}(?:st|nd|rd|th|\.)?[ /.-]+(?:de )?\w+(?: de)?[ /.,-]+(?:19|20)\d\d|[A-Z]\w{2,8}\.? \d{1,2}, ?(?:19|20)\d\d"
    r"|(?:[A-Z]\w{2,8}\.? )?(?:19|20)\d\d(?:-\d\d-\d\d)?)"
)
AROUND_DATES = (
    r"(?:[^\w]|\b(?i:received|accepted|accepté|revised|revision|resubmitted|submitted|available|published|publication|online|first|in|final"
    r"|original|form|version|for|on|at|and|the|am|und|le|et|el|y|eingegangen|angenommen|publiziert|reçu|révisé|recibido"
    r"|aceptado)\b)*+"
)
DATES = re.compile(
    r"\s*\(?(?:Received|Accepted|Revised|Submitted|Available online|(?:First )?Published(?: online)?"
    rf"|Eingegangen|Angenommen|Online publiziert|Reçu|Recibido|Aceptado)\b(?:{AROUND_DATES}{DATE})++{AROUND_DATES}$"
    r"|\s*(?:收稿日期|修回日期|接受日期|录用日期)"
)
"""Whole lines: with another word, "Published in 2015 for all regions" may be where a sentence was wrapped."""
DOI = re.compile(r"\s*(?:doi:?\s*|https?://(?:dx\.)?doi\.org/)10\.\d{4,}\S*\s*", re.IGNORECASE)
MAIL_HEADER = re.compile(r"\s*(?:From|To|Cc|Subject|Sent|Von|An|Betreff|Gesendet|Date):\s")
"""A letter has names, addresses and dates of its own."""
NOTICE = re.compile(r"\s*(?:©|\(c\)|copyright\b)|.*\b(?:WARRANTY|WARRANTIES|LICENSE)\b", re.IGNORECASE)
"""What boilerplate left of copyright lines belongs to a licence, which names people and firms."""
YEAR_OF_OWNER = re.compile(r"\s*(?:19|20)\d\d(?:\s*[-–,]\s*\d{2,4})*,?\s+[^\W\d_a-z]")  # noqa: RUF001
FOOTNOTE = re.compile(rf"\s*(?:{MARKS}|[a-h]\b)\s?\S")
SENTENCE = re.compile(
    r"[a-z]{3,}[.!?]\s+[A-Z][a-z]+\s+[a-z]+|\b(?:was|were|is|are|have|has|had|we|that|which|wurde|wurden|ist"
    r"|sind|dass)\b"
)
ARTICLE = re.compile(r",\s(?:an?|our|its|their)\s")
NO_ADDRESS_WORD = re.compile(
    r"(?<![\w@./'-])(?!(?:and|for|the|with|from|near|both|mail|email|phone|tel|fax|affiliated)\b)[a-z]{3,}(?![\w@./-])"
)
MOST_SUCH_WORDS = 1
"""Addresses are written in capitals. A sentence may begin like one: 1 University of Bern, the oldest building, crumbled."""
ROMANCE_OR_GERMAN = re.compile(r"\b(?:de|des|du|del|della|di|do|für|der|und|van|voor|contributed equally)\b")
"""Their addresses have words in lower case; so has a footnote's remark behind an English one."""
PLACE = re.compile(
    rf"\s*(?:{CAPITALISED}|\d{{4,6}}|[A-Z]{{2}})(?:[ ,.-]+(?:{CAPITALISED}|\d{{3,6}}|[A-Z]{{1,2}}|and|of|de"
    rf"|am))*[.,;]?\s*"
)


def find_front_matter(lines: Lines) -> dict[int, LayoutKind]:
    """Index -> author_lists or affiliations, where names stand beside addresses, or addresses beside e-mails or dates."""
    filled = [index for index, text in zip(range(4 * ZONE), lines.texts, strict=False) if text.strip()][:ZONE]
    if any(MAIL_HEADER.match(lines.texts[index]) for index in filled[:10]):
        return {}
    zone = _zone(lines.texts, filled)
    top = [lines.texts[index] for index in filled[: len(zone) + 1]]
    if any(NOTICE.match(text) for text in top) or sum(YEAR_OF_OWNER.match(text) is not None for text in top) > 1:
        return {}
    addresses = [index for index in zone if _is_address(lines.texts[index])]
    contacts = [index for index in zone if index not in addresses and _is_contact(lines.texts[index])]
    if not addresses and not contacts:
        return {}
    marked = {*addresses, *contacts}
    authors = _author_lists(lines.texts, zone, marked)
    headed = bool(zone) and any(ABSTRACT.match(lines.texts[index]) for index in filled if index > zone[-1])
    if not authors and not (addresses and contacts and headed):
        return {}
    found: dict[int, LayoutKind] = {}
    found.update((index, "author_lists") for index in authors)
    found.update((index, "affiliations") for index in marked)
    more = _rest_of_addresses(lines.texts, zone, found) | _footnotes(lines.texts, zone)
    found.update((index, "affiliations") for index in more if index not in found)
    return found


def _zone(texts: list[str], filled: list[int]) -> list[int]:
    """The filled lines between the title and the abstract, or the first prose where no abstract is headed."""
    for place, index in enumerate(filled):
        if place and ABSTRACT.match(texts[index]) and not DATES.match(texts[index]):
            return filled[1:place]
    prose = 0
    for place, index in enumerate(filled[:ZONE_WITHOUT_ABSTRACT]):
        text = texts[index]
        is_prose = (
            len(text) > 55 and SENTENCE.search(text) is not None and not _is_address(text) and not _is_contact(text)
        )
        prose = prose + 1 if is_prose else 0
        if prose == 2 or (is_prose and len(text) > 200):
            return filled[1 : max(place - prose + 1, 1)]
    return (
        filled[1:ZONE_WITHOUT_ABSTRACT]
        if len(filled) < ZONE_WITHOUT_ABSTRACT
        else filled[1 : ZONE_WITHOUT_ABSTRACT // 2]
    )


def _is_address(text: str) -> bool:
    return len(text) < 400 and INSTITUTION.search(text) is not None and not _is_sentence(text)


def _is_sentence(text: str) -> bool:
    if SENTENCE.search(text) or ARTICLE.search(text):
        return True
    return len(NO_ADDRESS_WORD.findall(text)) > MOST_SUCH_WORDS and ROMANCE_OR_GERMAN.search(text) is None


def _is_contact(text: str) -> bool:
    if len(text) > 300:
        return False
    if CORRESPONDENCE.match(text) or DATES.match(text) or DOI.fullmatch(text):
        return True
    return EMAIL.search(text) is not None and SENTENCE.search(text) is None


def _author_lists(texts: list[str], zone: list[int], marked: Container[int]) -> set[int]:
    """Runs of lines that, joined, are names; one name alone only right above an address."""
    authors: set[int] = set()
    place = 0
    while place < len(zone):
        longest = 0
        for length in range(1, WRAPPED + 1):
            run = zone[place : place + length]
            if len(run) < length or run[-1] in marked:
                break
            names = _names(" ".join(texts[index].strip() for index in run))
            follows = zone[place + length] in marked if place + length < len(zone) else False
            if names >= 2 or (names == 1 and length == 1 and follows):
                longest = length
        authors.update(zone[place : place + longest])
        place += max(longest, 1)
    return authors


def _names(text: str) -> int:
    """Number of names in a line of nothing else, else 0."""
    text = re.sub(r"^\s*(?:by|von|par)\s+(?=[A-Z])", "", text, flags=re.IGNORECASE)
    text = GROUP.sub("", text)
    pieces = [
        re.sub(rf"(?:{MARKS}|\b[a-h]\b|\s)+$|^{MARKS}+|\(.*?\)", "", piece).strip()
        for piece in BETWEEN_NAMES.split(text)
    ]
    pieces = [piece for piece in pieces if not DEGREE.fullmatch(piece)]
    if not pieces or NO_NAME.search(text):
        return 0
    if not _is_name(pieces[0]):
        return 0  # a title above the names
    names = sum(map(_is_name, pieces))
    return names if names >= 0.85 * len(pieces) else 0


def _is_name(piece: str) -> bool:
    shapes = (NAME, FAMILY_FIRST, CJK_NAME)
    return len(piece.split()) <= 6 and any(shape.fullmatch(piece.rstrip(". ")) for shape in shapes)


def _rest_of_addresses(texts: list[str], zone: list[int], found: dict[int, LayoutKind]) -> set[int]:
    """Towns and countries below an institution, and what did not fit on its line."""
    rest: set[int] = set()
    for before, index in pairwise(zone):
        below_address = found.get(before) == "affiliations" or before in rest
        if (
            index not in found
            and below_address
            and len(texts[index]) < 100
            and PLACE.fullmatch(texts[index])
            and index == before + 1
        ):
            rest.add(index)
    return rest


def _footnotes(texts: list[str], zone: list[int]) -> set[int]:
    """Numbered addresses, correspondence and dates below the abstract, on what would be the first page."""
    start = zone[-1] + 1 if zone else 1
    footnotes: set[int] = set()
    for index in range(start, min(start + FIRST_PAGE, len(texts))):
        text = texts[index]
        numbered = (
            FOOTNOTE.match(text) is not None and _is_address(text) and ("," in text or EMAIL.search(text) is not None)
        )
        contact = CORRESPONDENCE.match(text) is not None and (EMAIL.search(text) is not None or "orcid" in text.lower())
        carries_on = (
            index - 1 in footnotes
            and text.strip()
            and (
                _is_contact(text)
                or (ENDS_MIDWAY.search(texts[index - 1]) and not ENDS_IN_EMAIL.search(texts[index - 1]))
            )
        )
        if numbered or contact or (carries_on and not _is_sentence(text) and len(text) < 200):
            footnotes.add(index)
    for index in range(start, len(texts)):
        if len(texts[index]) < 120 and DATES.match(texts[index]) and not _is_inside_sentence(texts, index, footnotes):
            footnotes.add(index)
    return footnotes


def _is_inside_sentence(texts: list[str], index: int, footnotes: Container[int]) -> bool:
    above, below = texts[index - 1].strip(), texts[index + 1].strip() if index + 1 < len(texts) else ""
    ended = not above or above.endswith((":", ";")) or SENTENCE_END.search(above) or index - 1 in footnotes
    return not ended or (below[:1].islower() and not DATES.match(below.capitalize()))
