"""The lines of a text, each with its number and page, and what several finders ask of a line."""

import re
from collections.abc import Container
from dataclasses import dataclass

LINE_END = re.compile(r"\r?\n\f|\f|\r?\n")
"""pdftotext writes a form feed before a page's first line; joining the pages of pypdfium2 by one leaves no line feed there."""

CODE_LINE = re.compile(
    r"[;{}]\s*$|^\s*(?:import |from \S+ import |def |class |function |#include|#define|#!|//|/\*|\*/|</?\w+[ >]"
    r"|return\b|elif |else:|try:)"
    r"|^\s*(?:if|for|while) .*[:{(]\s*$|^\s*[\w.\[\]]+(?:\(.*\))?\s*[-+*/|]?=\s*\S"
)
DECLARATION = re.compile(
    r"^[ \t]*(?:def \w+\(|class \w+[(:]|from [\w.]+ import |import [\w.]+;?$|#include\b|#define\b"
    r"|package [\w:.]+;|use [\w:]+;|public |static |(?:export |async )*function |@\w+$)",
    re.MULTILINE,
)
CODE_SHARE = 0.3
"""Manuals with examples have fewer such lines; files of Python, C and shell at least 0.4, where comments do not outweigh them."""
COMMENTED_SHARE = 0.08
"""With FEWEST_DECLARATIONS: docstrings are nine lines in ten of some modules."""
FEWEST_DECLARATIONS = 3
CODE_SAMPLE = 400
"""Lines from the beginning that are looked at."""

ENDS_MIDWAY = re.compile(r"(?:[^\W\d_]|[,\-\u00ad\ufffe\u2010])\s*$")
STARTS_MIDWAY = re.compile(r"\s*(?:[^\W\d_A-ZÄÖÜÉÈÀÇÑÅØ]|\(?[a-z])")
SENTENCE_END = re.compile(r"[.!?。!?]['\")”»]?\s*$")


@dataclass(frozen=True, slots=True)
class Lines:
    """Parallel lists. Example: Lines(texts=["Iron is", "3", "a metal."], numbers=[1, 2, 3], pages=[1, 1, 2])"""

    texts: list[str]
    numbers: list[int]
    """From 1, in the text as it was given."""
    pages: list[int]
    """From 1; all the same where there are no form feeds."""

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def without(self, indices: set[int]) -> "Lines":
        kept = [index for index in range(len(self.texts)) if index not in indices]
        return Lines([self.texts[i] for i in kept], [self.numbers[i] for i in kept], [self.pages[i] for i in kept])

    def unpaged(self) -> "Lines":
        """As the text reads once its form feeds are gone."""
        return Lines(self.texts, self.numbers, [1] * len(self.texts))


def numbered_lines(text: str) -> Lines:
    if "\f" not in text and "\r" not in text:
        texts = text.split("\n")
        return Lines(texts, list(range(1, len(texts) + 1)), [1] * len(texts))
    texts, pages, page, start = [], [], 1, 0
    for end in LINE_END.finditer(text):
        texts.append(text[start : end.start()])
        pages.append(page)
        page += end[0].endswith("\f")
        start = end.end()
    texts.append(text[start:])
    pages.append(page)
    return Lines(texts, list(range(1, len(texts) + 1)), pages)


def is_code(text: str) -> bool:
    """Whether most of a text's lines look like a program's."""
    sample = text[: 120 * CODE_SAMPLE]
    lines = [line for line in sample.split("\n")[:CODE_SAMPLE] if line.strip()]
    if len(lines) < 3:
        return False
    share = sum(CODE_LINE.search(line) is not None for line in lines) / len(lines)
    return share >= CODE_SHARE or (share >= COMMENTED_SHARE and len(DECLARATION.findall(sample)) >= FEWEST_DECLARATIONS)


def next_filled(texts: list[str], index: int, step: int, skipped: Container[int]) -> int | None:
    """The nearest line from `index` on, in steps of 1 or -1, that is neither empty nor skipped."""
    while 0 <= index < len(texts):
        if index not in skipped and texts[index].strip():
            return index
        index += step
    return None


def continues(before: str, after: str) -> bool:
    """Whether a sentence runs from the one line into the other."""
    return ENDS_MIDWAY.search(before) is not None and STARTS_MIDWAY.match(after) is not None


def long_lines(texts: list[str]) -> int:
    """Characters of a line that is longer than three in four."""
    lengths = sorted(len(text) for text in texts if text.strip())
    return lengths[int(0.75 * (len(lengths) - 1))] if lengths else 0
