"""Running headers and page numbers of text whose pages form feeds tell.

outermost lines of each page --count with the pages, or repeat on several--> labels
"""

from collections import Counter, defaultdict
from itertools import pairwise

from configs.schema.layout import LayoutKind
from jobs.corpus.layout.lines import SENTENCE_END, Lines, continues, long_lines, next_filled
from jobs.corpus.layout.page_lines import FEWEST, HEADING, LONE_NUMBER, LONGEST, end_numbers, line_key, may_be_header

DEPTH = 4
"""Lines at a page's end that may be headers: title, authors, number and a rule."""

FEWEST_COUNTED = 2
"""Where numbers count already: of four pages, two have the left header."""

SHARE = 0.12
"""Of the pages: a chapter's name is on few of them, though on more than FEWEST."""

MOSTLY_AT_ENDS = 0.45
"""Of a line's places; of a header on both sides half are at either end, and a chapter's name is its heading as well."""

NEARLY_FULL = 0.75
"""Of the text's long lines: prose that repeats at page ends fills its line and runs on."""


def at_page_breaks(lines: Lines) -> dict[int, LayoutKind]:
    ends = _page_ends(lines)
    pages = {page for page, _ in ends}
    fewest = max(FEWEST, SHARE * len(pages))
    offset = _offset(lines, ends, fewest=max(FEWEST, len(pages) / 2))
    repeated = _repeated(lines, ends, fewest)
    alone = {
        page
        for (page, _), indices in ends.items()
        if offset is not None
        and any(
            LONE_NUMBER.fullmatch(lines.texts[i]) and page + offset in end_numbers(lines.texts[i]) for i in indices[:2]
        )
    }
    full = NEARLY_FULL * long_lines(lines.texts)
    if offset is not None:
        repeated |= {text for text in _repeated(lines, ends, min(fewest, FEWEST_COUNTED)) if len(text) < full}
    title = next_filled(lines.texts, 0, 1, set())
    found: dict[int, LayoutKind] = {}
    for (page, side), indices in ends.items():
        for index in indices:
            text = lines.texts[index]
            if index == title and text.strip() in repeated and not end_numbers(text):
                break  # the title of the first page is the header of the others
            if len(text) >= full and _runs_on(lines.texts, index, side):
                break
            counts = offset is not None and page + offset in end_numbers(text) and not HEADING.fullmatch(text)
            if counts and LONE_NUMBER.fullmatch(text):
                found[index] = "page_numbers"
            elif may_be_header(text) and (
                text.strip() in repeated or (counts and page not in alone and not SENTENCE_END.search(text))
            ):
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
            places[line_key(text), side].append((page, text))
            if line_key(text) != text.lower():
                places[text, side].append((page, text))
    elsewhere = Counter(line_key(text) for text in lines.texts if len(text) <= LONGEST)
    headers: set[str] = set()
    for (key, _), found in places.items():
        texts = {text for _, text in found}
        rises = len(texts) > 1 and _rises([end_numbers(text) for _, text in found]) and not HEADING.match(found[0][1])
        if len({page for page, _ in found}) >= max(fewest, MOSTLY_AT_ENDS * elsewhere[key]) and (
            len(texts) == 1 or rises
        ):
            headers |= texts
    return headers


def _rises(numbers: list[list[int]]) -> bool:
    """Whether the first, or the last, number at the ends of lines grows from one to the next."""
    if not all(numbers):
        return False
    sides = ([line[0] for line in numbers], [line[-1] for line in numbers])
    return any(all(a < b for a, b in pairwise(side)) for side in sides)


def _offset(lines: Lines, ends: dict[tuple[int, str], list[int]], fewest: float) -> int | None:
    """Printed number minus page, where most pages agree on it."""
    votes: Counter[int] = Counter()
    by_page: dict[int, set[int]] = defaultdict(set)
    for (page, _), indices in ends.items():
        for index in indices[:3]:
            if not HEADING.fullmatch(lines.texts[index]):
                by_page[page] |= {number - page for number in end_numbers(lines.texts[index])}
    for offsets in by_page.values():
        votes.update(offsets)
    if not votes:
        return None
    offset, pages = min(votes.items(), key=lambda vote: (-vote[1], vote[0]))
    return offset if pages >= fewest else None
