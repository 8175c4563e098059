"""Running headers, footers and page numbers: lines that repeat, or count, where pages begin and end.

with form feeds: the outermost lines of each page --count with the pages, or repeat on several--> labels
without: short lines that repeat or count at even distances and cut sentences apart --> labels
"""

import re
from collections import Counter, defaultdict
from statistics import mean, pstdev

from configs.schema.layout import LayoutKind
from jobs.corpus.layout.lines import SENTENCE_END, Lines, continues, long_lines, next_filled

DEPTH = 4
"""Lines at a page's end that may be headers: title, authors, number and a rule."""
FEWEST = 3
"""Pages on which a line is on, or numbers count, before it is layout: two may be chance."""
FEWEST_COUNTED = 2
"""Where numbers count already: of four pages, two have the left header."""
SHARE = 0.12
"""Of the pages: a chapter's name is on few of them, though on more than FEWEST."""
MOSTLY_AT_ENDS = 0.45
"""Of a line's places; of a header on both sides half are at either end, and a chapter's name is its heading as well."""
LONGEST = 130
GAP = (15, 150)
"""Lines from one page's end to the next where no form feed tells: verses and stanzas are shorter, chapters longer."""
UNEVEN = 0.4
"""Standard deviation of the gaps by their mean: pages are about equally long."""
MIDWAY = 0.3
"""Of page ends cut a sentence apart: of prose more than half do, of German (whose nouns hide it) a third."""

NEARLY_FULL = 0.75
"""Of the text's long lines: prose that repeats at page ends fills its line and runs on."""

CUT_WHEN_FULL = 0.65
FEWEST_WORDS = 4
MOST_HEADERS = 5
"""Different ones in text without form feeds: left and right titles, footers. More, and it is the text that repeats."""
SPAN = 0.5
"""Of the text, from a header's first place to its last, where no form feeds tell."""

DIGITS = re.compile(r"\d+")
LONE_NUMBER = re.compile(
    r"\s*(?:[-–—|\[(]\s*)?(?:(?:page|seite|página|p\.|pp\.|s\.)\s*)?(?:第\s*)?(\d{1,4}|[ivxl]{1,7})\s*(?:页|頁)?"
    r"(?:\s*(?:of|von|/|sur|de)\s*\d{1,4})?(?:\s*[-–—|\])])?\s*",
    re.IGNORECASE,
)
SAYS_PAGE = re.compile(r"page|seite|página|第|\bof\b|\bvon\b|/", re.IGNORECASE)
END_NUMBER = re.compile(r"^\s*(\d{1,4})(?=[\s|·–—A-ZÄÖÜ\u4e00-\u9fff]|$)|(?<=[\s|·–—])(\d{1,4})\s*$")
"""Extractors leave out the space behind a number on the left: 3Shared MIME-info Database."""
HEADING = re.compile(r"\s*(?:chapter|section|part|article|§|kapitel|abschnitt|artikel|teil|canto|act|scene|第)\W*[\divxlc]+\W*", re.IGNORECASE)
"""Counts with the pages where each begins a new one, and is text."""
CODE = re.compile(r"[`=@\[\]{}\\]|::|->|[(,:]\s*$|^\s*[a-z_]+\s*:")
NO_HEADER = re.compile(r"^\s*(?:[#%*/{}<>|+=~_-]|\d+[.)]\s|$)|[;{}=<>\\]\s*$")


def find_page_ends(lines: Lines) -> dict[int, LayoutKind]:
    """Index -> running_headers or page_numbers; empty lines inside a sentence that they cut go with them."""
    if lines.pages and lines.pages[-1] - lines.pages[0] >= FEWEST - 1:
        found = _at_page_breaks(lines)
    else:
        found = _between_sentences(lines)
    return found | _empty_lines_around(lines.texts, found)


def _at_page_breaks(lines: Lines) -> dict[int, LayoutKind]:
    ends = _page_ends(lines)
    pages = {page for page, _ in ends}
    fewest = max(FEWEST, SHARE * len(pages))
    offset = _offset(lines, ends, fewest=max(FEWEST, len(pages) / 2))
    repeated = _repeated(lines, ends, fewest)
    alone = {
        page
        for (page, _), indices in ends.items()
        if offset is not None
        and any(LONE_NUMBER.fullmatch(lines.texts[i]) and page + offset in _end_numbers(lines.texts[i]) for i in indices[:2])
    }
    full = NEARLY_FULL * long_lines(lines.texts)
    if offset is not None:
        repeated |= {text for text in _repeated(lines, ends, min(fewest, FEWEST_COUNTED)) if len(text) < full}
    title = next_filled(lines.texts, 0, 1, set())
    found: dict[int, LayoutKind] = {}
    for (page, side), indices in ends.items():
        for index in indices:
            text = lines.texts[index]
            if index == title and text.strip() in repeated and not _end_numbers(text):
                break  # the title of the first page is the header of the others
            if len(text) >= full and _runs_on(lines.texts, index, side):
                break
            counts = offset is not None and page + offset in _end_numbers(text) and not HEADING.fullmatch(text)
            if counts and LONE_NUMBER.fullmatch(text):
                found[index] = "page_numbers"
            elif _may_be_header(text) and (text.strip() in repeated or (counts and page not in alone and not SENTENCE_END.search(text))):
                found[index] = "running_headers"
            elif offset is not None and LONE_NUMBER.fullmatch(text) and text.strip().isalpha():
                found[index] = "page_numbers"  # roman ones before the first page
            else:
                break
    return found


def _runs_on(texts: list[str], index: int, side: str) -> bool:
    inner = next_filled(texts, index + 1, 1, set()) if side == "top" else next_filled(texts, index - 1, -1, set())
    if inner is None:
        return False
    return continues(texts[index], texts[inner]) if side == "top" else continues(texts[inner], texts[index])


def _page_ends(lines: Lines) -> dict[tuple[int, str], list[int]]:
    """(page, side) -> indices of its outermost lines, outermost first."""
    by_page: dict[int, list[int]] = defaultdict(list)
    for index, (text, page) in enumerate(zip(lines.texts, lines.pages, strict=True)):
        if text.strip():
            by_page[page].append(index)
    ends: dict[tuple[int, str], list[int]] = {}
    for page, filled in by_page.items():
        ends[page, "top"] = filled[:DEPTH]
        ends[page, "bottom"] = filled[::-1][:DEPTH]
    return ends


def _repeated(lines: Lines, ends: dict[tuple[int, str], list[int]], fewest: float) -> set[str]:
    """Texts of lines that are on several pages' ends, alike but for a number that rises."""
    places: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for (page, side), indices in sorted(ends.items()):
        for index in indices:
            text = lines.texts[index].strip()
            places[_key(text), side].append((page, text))
            if _key(text) != text.lower():
                places[text, side].append((page, text))
    elsewhere = Counter(_key(text) for text in lines.texts if len(text) <= LONGEST)
    headers: set[str] = set()
    for (key, _), found in places.items():
        texts = {text for _, text in found}
        rises = len(texts) > 1 and _rises([_end_numbers(text) for _, text in found]) and not HEADING.match(found[0][1])
        if len({page for page, _ in found}) >= max(fewest, MOSTLY_AT_ENDS * elsewhere[key]) and (len(texts) == 1 or rises):
            headers |= texts
    return headers


def _rises(numbers: list[list[int]]) -> bool:
    """Whether the first, or the last, number at the ends of lines grows from one to the next."""
    if not all(numbers):
        return False
    sides = ([line[0] for line in numbers], [line[-1] for line in numbers])
    return any(all(a < b for a, b in zip(side, side[1:], strict=False)) for side in sides)


def _offset(lines: Lines, ends: dict[tuple[int, str], list[int]], fewest: float) -> int | None:
    """Printed number minus page, where most pages agree on it."""
    votes: Counter[int] = Counter()
    by_page: dict[int, set[int]] = defaultdict(set)
    for (page, _), indices in ends.items():
        for index in indices[:3]:
            if not HEADING.fullmatch(lines.texts[index]):
                by_page[page] |= {number - page for number in _end_numbers(lines.texts[index])}
    for offsets in by_page.values():
        votes.update(offsets)
    if not votes:
        return None
    offset, pages = min(votes.items(), key=lambda vote: (-vote[1], vote[0]))
    return offset if pages >= fewest else None


def _between_sentences(lines: Lines) -> dict[int, LayoutKind]:
    """Labels in text without form feeds."""
    texts = lines.texts
    if len(texts) < FEWEST * GAP[0]:
        return {}
    numbered: list[tuple[int, int]] = []
    by_key: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        if len(text) > LONGEST or not text or text.isspace():
            continue
        if (lone := LONE_NUMBER.fullmatch(text)) and lone[1].isdigit():
            numbered.append((index, int(lone[1])))
        else:
            by_key[text].append(index)
    found: dict[int, LayoutKind] = {}
    chain = _with_last_page(texts, numbered, _chain(numbered))
    if len(chain) >= FEWEST and (
        all(SAYS_PAGE.search(texts[index]) for index in chain) or _cut_sentences(texts, chain, set(chain) | _near(by_key, chain))
    ):
        found.update(dict.fromkeys(chain, "page_numbers"))
    headers: list[list[int]] = []
    for text, indices in _merged(by_key).items():
        if not _may_be_header(text) or CODE.search(text) or not _even(indices) or indices[-1] - indices[0] < SPAN * len(texts):
            continue
        beside = sum(any(near in found for near in range(index - 3, index + 4)) for index in indices)
        if beside >= 0.8 * len(indices) or _cut_sentences(texts, indices, set(indices) | set(found)):
            headers.append(indices)
    if len(headers) <= MOST_HEADERS:
        found.update({index: "running_headers" for indices in headers for index in indices})
    return found


def _merged(by_key: dict[str, list[int]]) -> dict[str, list[int]]:
    """Lines that differ in a number at their beginning or end are one header, if the numbers rise."""
    merged: dict[str, list[tuple[int, list[int]]]] = defaultdict(list)
    for text, indices in by_key.items():
        for index in indices:
            merged[_key(text)].append((index, _end_numbers(text)))
    headers: dict[str, list[int]] = {}
    for key, found in merged.items():
        if len(found) < FEWEST:
            continue
        found.sort()
        firsts = [numbers[0] for _, numbers in found if numbers]
        rises = all(before <= after for before, after in zip(firsts, firsts[1:], strict=False))
        if "#" not in key or (rises and not HEADING.match(key.replace("#", "1"))):
            headers[key] = [index for index, _ in found]
    return headers


def _chain(numbered: list[tuple[int, int]]) -> list[int]:
    """The longest run of numbers that count on from page to page; one may be missing."""
    best: list[int] = []
    longest: dict[int, list[int]] = {}
    for at, (index, number) in enumerate(numbered):
        chain = [index]
        for before in range(max(0, at - 6), at):
            earlier_index, earlier_number = numbered[before]
            step = number - earlier_number
            if step in (1, 2) and GAP[0] <= index - earlier_index <= step * GAP[1] and len(longest[before]) >= len(chain):
                chain = [*longest[before], index]
        longest[at] = chain
        if len(chain) > len(best):
            best = chain
    return best


def _with_last_page(texts: list[str], numbered: list[tuple[int, int]], chain: list[int]) -> list[int]:
    """The chain and the number that ends the text, on a page of few lines."""
    if not chain or numbered[-1][0] <= chain[-1]:
        return chain
    index, number = numbered[-1]
    follows = number == dict(numbered)[chain[-1]] + 1
    return [*chain, index] if follows and not any(text.strip() for text in texts[index + 1 :]) else chain


def _near(by_key: dict[str, list[int]], chain: list[int]) -> set[int]:
    """Repeated lines right beside most of the chain: headers between which a sentence may run on."""
    beside = {index + step for index in chain for step in range(-3, 4)}
    near: set[int] = set()
    for key, indices in _merged(by_key).items():
        if _may_be_header(key) and not SENTENCE_END.search(key):
            here = beside.intersection(indices)
            near |= here if len(here) >= max(FEWEST - 1, 0.4 * len(chain)) and len(here) >= 0.8 * len(indices) else set()
    return near


def _even(indices: list[int]) -> bool:
    gaps = [after - before for before, after in zip(indices, indices[1:], strict=False)]
    return min(gaps) >= GAP[0] and max(gaps) <= 3 * GAP[1] and pstdev(gaps) <= UNEVEN * mean(gaps)


def _cut_sentences(texts: list[str], indices: list[int], skipped: set[int]) -> bool:
    """Whether lines stand where sentences run on: behind lines that are full."""
    full, cut = CUT_WHEN_FULL * long_lines(texts), 0
    for index in indices:
        before, after = next_filled(texts, index - 1, -1, skipped), next_filled(texts, index + 1, 1, skipped)
        if before is not None and after is not None and len(texts[before]) >= full and len(texts[before].split()) >= FEWEST_WORDS:
            cut += continues(texts[before], texts[after])
    return cut >= max(1, MIDWAY * len(indices))


def _empty_lines_around(texts: list[str], found: dict[int, LayoutKind]) -> dict[int, LayoutKind]:
    empty: dict[int, LayoutKind] = {}
    for index, kind in found.items():
        before, after = next_filled(texts, index - 1, -1, found), next_filled(texts, index + 1, 1, found)
        if before is not None and after is not None and continues(texts[before], texts[after]):
            empty.update({between: kind for between in range(before + 1, after) if between not in found})
    return empty


def _key(text: str) -> str:
    return DIGITS.sub("#", " ".join(text.lower().split()))


def _end_numbers(text: str) -> list[int]:
    if (lone := LONE_NUMBER.fullmatch(text)) and lone[1].isdigit():
        return [int(lone[1])]
    return [int(match[1] or match[2]) for match in END_NUMBER.finditer(text)]


def _may_be_header(text: str) -> bool:
    letters = sum(character.isalpha() for character in text)
    return letters >= 3 and len(text) <= LONGEST and not NO_HEADER.search(text) and not (len(text) > 90 and SENTENCE_END.search(text))
