"""Words broken at line ends are joined; the document's own words, then frequent English ones, tell whether the hyphen stays.

"co-" / "worker and" --"coworker" elsewhere in the text--> "coworker" / "and"
                     --"co-worker" elsewhere-->            "co-worker" / "and"
                     --neither--> "coworker" a frequent word: it goes; both halves words, here or frequent: it stays; else it goes
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jobs.corpus.layout.lines import Lines, long_lines

HYPHENS = "-\u2010\u00ad\ufffe\u0002"
"""Hyphen-minus, hyphen, soft hyphen, and what PDFium writes for a hyphen at a line's end."""
MARKERS = "\u00ad\ufffe\u0002"
"""Say that the word was broken: no hyphen of the writer's."""
LETTER = r"[^\W\d_]"
HINTS = ("-\n", "\u2010\n", "\u00ad", "\ufffe", "\u0002")
HEAD = re.compile(rf"((?:{LETTER}+[-'’/])*{LETTER}+)([{HYPHENS}])$")  # noqa: RUF001
TAIL = re.compile(rf"\s*({LETTER}+(?:[-'’]{LETTER}+)*)(\S*)\s*")  # noqa: RUF001
INSIDE = re.compile(rf"({LETTER}+)[\ufffe\u0002]({LETTER}+)")
"""PDFium leaves the line end out as well."""
WORD = re.compile(rf"{LETTER}+(?:[-\u2010]{LETTER}+)*")
SUSPENDED = {"and", "or", "to", "und", "oder", "bzw", "bis", "et", "ou", "y", "o", "e", "as", "nor", "sowie"}
"""Behind them the word is named that the hyphen stands for: pre- and postoperative."""
STANDS_BEFORE = {
    "self", "non", "semi", "quasi", "full", "high", "low", "half", "double", "single", "two", "three", "four",
    "well", "cross", "nano", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
}  # fmt: skip
"""First halves before a hyphen of the writer's, unless an ending follows (lower, wellness)."""
ENDING = re.compile(r"(?:er|est|ly|ing|ness|en|ened|ening|ered|ering|ish|ity)s?$|.{1,3}$")
STANDS_BEFORE_WORDS = {
    "long", "short", "time", "dose", "age", "sex", "case", "follow", "health", "risk", "group", "type", "old", "new",
    "open", "wide", "one", "five", "six", "first", "second", "third", "best", "real", "state", "large", "small",
    "all", "ex", "evidence", "post", "pre", "meta",
}  # fmt: skip
"""They do before a word of this document, or a frequent one."""
PREFIXES = {
    "anti", "co", "re", "up", "down", "off", "on", "over", "under", "inter", "intra", "multi", "sub",
    "peri", "extra", "trans",
}  # fmt: skip
"""They do before a word, though they are none themselves or a short one."""
STANDS_BEHIND = {
    "dependent", "independent", "based", "related", "induced", "like", "specific", "derived", "free", "treated",
    "associated", "term", "level", "type", "fold", "rich", "up", "down", "mediated", "resistant", "sensitive",
    "positive", "negative", "controlled", "blind", "effective", "scale", "wide", "driven", "aware", "order", "time",
    "known", "old", "year", "long", "off", "to", "of", "in", "art", "world", "risk", "income", "quality",
    "dimensional", "linear", "significant", "bound", "binding", "reported", "guided", "assisted", "activated",
    "modified", "containing", "targeted", "adjusted", "matched", "stimulated", "deficient", "infected", "expressing",
    "producing", "responsive", "exposed", "enhanced",
}  # fmt: skip
"""Second halves that are mostly the writer's own, behind a whole word."""
FREQUENT = frozenset(Path(__file__).with_name("english_words.txt").read_text().split())
"""8000 words: an abstract has 200 of its own, which say nothing of most breaks (tests/benchmarks/hyphenation.py finds both)."""
LONGEST_ACRONYM = 4
"""Behind another one, GC-MS: longer capitals are a heading's broken word."""
FEWEST = 2
"""Broken words before a text is taken for one set in lines: one may be a verse, or a table's cell."""
NEARLY_FULL = 0.55
"""Of the text's long lines: words are broken where a line is full."""
CLAUSE_END = re.compile(r"[.,;:!?—][”’\"')]*\s*$")  # noqa: RUF001
VERSE = 0.5
"""Of lines end in a mark: of prose in lines one in six, of verse two in three."""
SHORTEST = 20
"""Characters of a broken line; a column of a newspaper has 30."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A word that was broken. Example: Joined(line=17, hyphens_removed=1)"""

    line: int
    """Number of the line that the word began on."""
    hyphens_removed: int


def joined_words(lines: Lines) -> tuple[Lines, list[Joined]]:
    """The lines with the second halves moved up to the first."""
    whole = lines.text
    if not any(hint in whole for hint in HINTS):
        return lines, []
    texts, joined = _inside_lines(lines)
    full = NEARLY_FULL * long_lines(texts)
    broken = [index for index in range(len(texts) - 1) if _is_broken(texts, index, full)]
    marked = [index for index in broken if texts[index][-1] in MARKERS]
    if (len(broken) < FEWEST or _is_verse(texts)) and not marked:
        return Lines(texts, lines.numbers, lines.pages), joined
    vocabulary = _vocabulary(texts, broken)
    emptied: set[int] = set()
    for index in broken:
        head, tail = HEAD.search(texts[index]), TAIL.match(texts[index + 1])
        if head is None or tail is None:  # the line was one long word whose second half moved up
            continue
        stays = _hyphen_stays(head[1], head[2], tail[1], vocabulary)
        texts[index] = texts[index][: head.end(1)] + ("-" if stays else "") + tail[1] + tail[2]
        texts[index + 1] = texts[index + 1][tail.end() :]
        if not texts[index + 1]:
            emptied.add(index + 1)
        joined.append(Joined(lines.numbers[index], 0 if stays else 1))
    return Lines(texts, lines.numbers, lines.pages).without(emptied), joined


def _inside_lines(lines: Lines) -> tuple[list[str], list[Joined]]:
    joined: list[Joined] = []
    texts = list(lines.texts)
    vocabulary: Counter[str] | None = None
    for index, text in enumerate(texts):
        if "\ufffe" not in text and "\u0002" not in text:
            continue
        vocabulary = vocabulary or _vocabulary(texts, [])
        for match in reversed(list(INSIDE.finditer(text))):
            stays = _hyphen_stays(match[1], "\ufffe", match[2], vocabulary)
            text = f"{text[: match.end(1)]}{'-' if stays else ''}{text[match.start(2) :]}"
            joined.append(Joined(lines.numbers[index], 0 if stays else 1))
        texts[index] = text
    return texts, joined


def _is_verse(texts: list[str]) -> bool:
    """Whether lines end where clauses do."""
    filled = [text for text in texts if text.strip()]
    return sum(CLAUSE_END.search(text) is not None for text in filled) > VERSE * len(filled)


def _is_broken(texts: list[str], index: int, full: float) -> bool:
    text = texts[index]
    if len(text) < SHORTEST or text[-1] not in HYPHENS or len(text) < full:
        return False
    head = HEAD.search(text)
    tail = TAIL.match(texts[index + 1]) if head else None
    if head is None or tail is None:
        return False
    return (
        tail[1].lower() not in SUSPENDED
        and (len(tail[1]) > 1 or tail[1].isupper())
        and (len(head[1]) > 1 or " " in text.strip())
    )


def _vocabulary(texts: list[str], broken: list[int]) -> Counter[str]:
    """Words of the text, lower case, without the halves of those that are broken."""
    words: Counter[str] = Counter()
    ends, starts = set(broken), {index + 1 for index in broken}
    for index, text in enumerate(texts):
        if index in ends and (head := HEAD.search(text)):
            text = text[: head.start()]
        if index in starts and (tail := TAIL.match(text)):
            text = text[tail.end() :]
        words.update(word.lower() for word in WORD.findall(INSIDE.sub(" ", text)))
    return words


def _hyphen_stays(head: str, hyphen: str, tail: str, vocabulary: Counter[str]) -> bool:
    head = head.rpartition("/")[2]
    part = head.rpartition("-")[2]
    first, second = part.lower(), tail.lower()
    whole, hyphenated = vocabulary[(head + tail).lower()], vocabulary[f"{head}-{tail}".lower()]
    if whole != hyphenated:
        return hyphenated > whole
    if hyphen == "\u00ad" or _is_frequent(first + second.partition("-")[0]):
        return False
    if len(part) > 1 and part.isupper() and tail.isupper():
        return len(tail) <= LONGEST_ACRONYM
    if len(head) == 1 or tail[0].isupper() or part != head or "-" in tail:
        return True  # a chain, state-of-the-art, is broken at its own hyphens
    return _stands_between(part, second, vocabulary)


def _stands_between(head: str, second: str, vocabulary: Counter[str]) -> bool:
    """Whether two halves are words for a hyphen between them."""
    first = head.lower()
    known_first, known_second = (vocabulary[half] > 0 or _is_frequent(half) for half in (first, second))
    if first in STANDS_BEFORE and (known_second or not ENDING.match(second)):
        return True
    if second in STANDS_BEHIND and (known_first or len(first) >= 4 or not first.isascii()):
        return True
    if first in STANDS_BEFORE_WORDS:
        return known_second
    is_acronym = sum(map(str.isupper, head)) > 1
    shortest = 3 if vocabulary[first] and vocabulary[second] else 4  # for-give, car-pet
    before = first in PREFIXES or is_acronym or (known_first and len(first) >= shortest)
    return before and known_second and len(second) >= 4


def _is_frequent(word: str) -> bool:
    return word in FREQUENT or (word.endswith("s") and word[:-1] in FREQUENT)
