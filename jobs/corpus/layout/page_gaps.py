"""Running headers and page numbers of text without form feeds.

short lines that repeat or count --at even distances, cutting sentences apart--> labels
"""

import re
from collections import Counter, defaultdict
from itertools import pairwise
from statistics import mean, pstdev

from configs.schema.layout import LayoutKind
from jobs.corpus.layout.lines import SENTENCE_END, Lines, continues, long_lines, next_filled
from jobs.corpus.layout.page_lines import FEWEST, HEADING, LONE_NUMBER, LONGEST, end_numbers, line_key, may_be_header

GAP = (15, 150)
"""Lines from one page's end to the next where no form feed tells: verses and stanzas are shorter, chapters longer."""

UNEVEN = 0.4
"""Standard deviation of the gaps by their mean: pages are about equally long."""

VERY_EVEN = 0.1
"""As pages of as many lines are: one sentence that is cut apart is enough."""
MIDWAY = 0.3
"""Of page ends cut a sentence apart: of prose more than half do, of German (whose nouns hide it) a third."""

CUT_WHEN_FULL = 0.65

FEWEST_WORDS = 4

MOST_HEADERS = 5
"""Different ones in text without form feeds: left and right titles, footers. More, and it is the text that repeats."""

SPAN = 0.5
"""Of the text, from a header's first place to its last, where no form feeds tell."""

LONGEST_NUMBER = 30
"""Characters of "— Page 12 of 345 —" and the like, with room around."""
SAYS_PAGE = re.compile(r"page|seite|página|第|\bof\b|\bvon\b|/", re.IGNORECASE)

CODE = re.compile(r"[`=@\[\]{}\\]|::|->|[(,:]\s*$|^\s*[a-z_]+\s*:")


def between_sentences(lines: Lines) -> dict[int, LayoutKind]:
    """Labels in text without form feeds."""
    texts = lines.texts
    if len(texts) < FEWEST * GAP[0]:
        return {}
    numbered: list[tuple[int, int]] = []
    by_key: dict[str, list[int]] = defaultdict(list)
    places = Counter(texts)
    for index, text in enumerate(texts):
        if not text or len(text) > LONGEST or text.isspace():
            continue
        if len(text) <= LONGEST_NUMBER and (lone := LONE_NUMBER.fullmatch(text)) and lone[1].isdigit():
            numbered.append((index, int(lone[1])))
        elif (
            places[text] >= FEWEST or text[-1].isdigit() or text[0].isdigit() or text[0].isspace() or text[-1].isspace()
        ):
            by_key[text].append(index)
    found: dict[int, LayoutKind] = {}
    chain = _with_last_page(texts, numbered, _chain(numbered))
    if len(chain) >= FEWEST and (
        all(SAYS_PAGE.search(texts[index]) for index in chain)
        or _cut_sentences(texts, chain, set(chain) | _near(by_key, chain))
    ):
        found.update(dict.fromkeys(chain, "page_numbers"))
    headers: list[list[int]] = []
    for text, indices in _merged(by_key).items():
        if (
            not may_be_header(text)
            or CODE.search(text)
            or not _even(indices)
            or indices[-1] - indices[0] < SPAN * len(texts)
        ):
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
            merged[line_key(text)].append((index, end_numbers(text)))
    headers: dict[str, list[int]] = {}
    for key, found in merged.items():
        if len(found) < FEWEST:
            continue
        found.sort()
        firsts = [numbers[0] for _, numbers in found if numbers]
        rises = all(before <= after for before, after in pairwise(firsts))
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
            if (
                step in (1, 2)
                and GAP[0] <= index - earlier_index <= step * GAP[1]
                and len(longest[before]) >= len(chain)
            ):
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
        if may_be_header(key) and not SENTENCE_END.search(key):
            here = beside.intersection(indices)
            near |= (
                here if len(here) >= max(FEWEST - 1, 0.4 * len(chain)) and len(here) >= 0.8 * len(indices) else set()
            )
    return near


def _even(indices: list[int]) -> bool:
    gaps = [after - before for before, after in pairwise(indices)]
    return min(gaps) >= GAP[0] and max(gaps) <= 3 * GAP[1] and pstdev(gaps) <= UNEVEN * mean(gaps)


def _cut_sentences(texts: list[str], indices: list[int], skipped: set[int]) -> bool:
    """Whether lines stand where sentences run on: behind lines that are full."""
    full, cut = CUT_WHEN_FULL * long_lines(texts), 0
    for index in indices:
        before, after = next_filled(texts, index - 1, -1, skipped), next_filled(texts, index + 1, 1, skipped)
        if (
            before is not None
            and after is not None
            and len(texts[before]) >= full
            and len(texts[before].split()) >= FEWEST_WORDS
        ):
            cut += continues(texts[before], texts[after])
    gaps = [after - before for before, after in pairwise(indices)]
    return cut >= (1 if pstdev(gaps) <= VERY_EVEN * mean(gaps) else max(1, MIDWAY * len(indices)))
