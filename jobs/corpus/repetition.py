"""How much of a text was said before in it: lines, paragraphs, and runs of 2 to 10 words.

Definitions of Gopher (arXiv 2112.11446, table A1) as datatrove computes them; all are over the characters of the whole text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import itemgetter

PARAGRAPH_END = re.compile(r"\n{2,}")
LINE_END = re.compile(r"\n+")
TOP_GRAMS = (2, 3, 4)
DUPLICATE_GRAMS = (5, 6, 7, 8, 9, 10)


def repeated(parts: Iterable[str]) -> tuple[int, int]:
    """How many parts stood before, and their characters."""
    again = [(count - 1, len(part)) for part, count in Counter(parts).items() if count > 1]
    return sum(count for count, _ in again), sum(count * length for count, length in again)


def line_repetition(text: str) -> dict[str, float]:
    paragraphs, lines = PARAGRAPH_END.split(text.strip()), LINE_END.split(text)
    paragraph_count, paragraph_characters = repeated(paragraphs)
    line_count, line_characters = repeated(lines)
    return {
        "duplicate_lines": line_count / len(lines),
        "duplicate_paragraphs": paragraph_count / len(paragraphs),
        "duplicate_line_characters": line_characters / max(len(text), 1),
        "duplicate_paragraph_characters": paragraph_characters / max(len(text), 1),
    }


def gram_repetition(words: list[str], characters: int) -> dict[str, float]:
    """Shares of `characters` in the most frequent 2..4-gram and in repeated 5..10-grams.

    The most frequent one counts at all its places, with its spaces, even where they overlap; of those that are equally
    frequent it is the first. Of the longer ones the first place does not count, and none counts twice; without spaces.
    """
    scores: dict[str, float] = {}
    grams: list[tuple[str, ...]] = list(pairwise(words))
    places: Sequence[int] = range(len(grams))
    for n in range(2, max(DUPLICATE_GRAMS) + 1):
        if n > 2:
            # An n-gram that is there twice begins with an (n-1)-gram that is: only its places are looked at.
            places = [place for place in places if place + n <= len(words)]
            grams = [tuple(words[place : place + n]) for place in places]
        counts = Counter(grams)
        if n in TOP_GRAMS:
            top, count = max(counts.items(), key=itemgetter(1), default=((), 0))
            top, count = (top, count) if count > 1 else (words[:n], int(len(words) >= n))
            scores[f"top_{n}_gram"] = len(" ".join(top)) * count / max(characters, 1)
        again = [(place, gram) for place, gram in zip(places, grams, strict=True) if counts[gram] > 1]
        places, grams = [place for place, _ in again], [gram for _, gram in again]
        if n in DUPLICATE_GRAMS:
            scores[f"duplicate_{n}_gram"] = _duplicate_characters(places, grams) / max(characters, 1)
    return scores


def _duplicate_characters(places: Sequence[int], grams: list[tuple[str, ...]]) -> int:
    """Of grams with their places, from left to right; one that is counted hides those that overlap it."""
    seen: set[tuple[str, ...]] = set()
    characters = free = 0
    for place, gram in zip(places, grams, strict=True):
        if place < free:
            continue
        if gram in seen:
            characters += sum(map(len, gram))
            free = place + len(gram)
        seen.add(gram)
    return characters
