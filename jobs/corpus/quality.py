"""How good a text is in numbers, and which rules it breaks.

text --score--> {"words": 212, "duplicate_lines": 0.1, ...} --thresholds (configs/schema/quality.py)--> broken rules

Scores are those of Gopher, C4 and FineWeb as datatrove 0.10 computes them, so that published thresholds mean what they meant;
tests/benchmarks/quality_oracle.py compares. They are pure functions of the text and say nothing about it by themselves.

Texts in scripts without spaces between words (Chinese, Japanese, Thai, ...) have no scores that are made of words: a rule
about such a score is not broken, and `unjudged_rules` names it, so that a report can say so.
"""

from collections import Counter
from typing import NamedTuple

from configs.schema.corpus import CorpusStage
from configs.schema.quality import Quality
from jobs.corpus.language import confidence, identify
from jobs.corpus.line_scores import c4_lines, citation_characters, fineweb_lines, gopher_lines
from jobs.corpus.repetition import gram_repetition, line_repetition
from jobs.corpus.words import UNSPACED_SHARE, has_letter, is_symbol, split_words, unspaced_share

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
"""Gopher's, in small letters as they stand in a text."""


class BrokenRule(NamedTuple):
    """Example: BrokenRule(rule="min_words", value=12.0, threshold=50.0)"""

    rule: str
    value: float
    threshold: float


class Verdict(NamedTuple):
    """What a text scores and why it would be set aside.

    Example:
        Verdict({"words": 12.0, ...}, [BrokenRule("min_words", 12.0, 50.0)], [])
    """

    scores: dict[str, float]
    broken: list[BrokenRule]
    unjudged: list[str]
    """Rules that gate and say nothing about a text in this script."""


def quality_of(stage: CorpusStage, source: str) -> Quality:
    """The rules of a source: its own, or the stage's."""
    own = stage.sources[source].quality
    return stage.quality if own is None else own


def judge(text: str, quality: Quality) -> Verdict:
    """All scores, and the rules that the text breaks; its language is looked at only where `languages` gate."""
    scores = score(text)
    if quality.languages:
        scores["language_confidence"] = confidence(identify(text), quality.languages)
    return Verdict(scores, broken_rules(scores, quality), unjudged_rules(scores, quality))


def score(text: str) -> dict[str, float]:
    """All scores of a text but its language. Shares are of 0 to 1; the rest are counts and ratios (see the rules' fields)."""
    scores = {
        "unspaced_characters": unspaced_share(text),
        **gopher_lines(text),
        **line_repetition(text),
        **fineweb_lines(text),
        "citation_characters": citation_characters(text),
    }
    if scores["unspaced_characters"] > UNSPACED_SHARE:
        return scores
    lines = [(line, split_words(line)) for line in text.splitlines()]  # no word goes on over the end of a line
    words = [word for _, found in lines for word in found]
    return scores | word_scores(text, words) | gram_repetition(words, len(text)) | c4_lines(lines)


def word_scores(text: str, words: list[str]) -> dict[str, float]:
    """Gopher's scores and FineWeb's last; `words` holds the punctuation marks, which are no words to the first two."""
    number = characters = with_letter = 0
    distinct = Counter(words)
    for word, count in distinct.items():
        spelt = word.isalpha()
        if spelt or not is_symbol(word):
            number += count
            characters += count * len(word)
            with_letter += count if spelt or has_letter(word) else 0
    everything = max(len(words), 1)
    return {
        "words": float(number),
        "mean_word_length": characters / max(number, 1),
        "hashes_per_word": text.count("#") / everything,
        "ellipses_per_word": (text.count("...") + text.count("…")) / everything,
        "words_with_letter": with_letter / everything,
        "stop_words": float(len(STOP_WORDS & distinct.keys())),
        "newlines_per_word": text.count("\n") / everything,
    }


def broken_rules(scores: dict[str, float], quality: Quality) -> list[BrokenRule]:
    """The rules that gate and are broken, in the order of the config's fields. A value at its threshold is good."""
    judged = [(rule, scores.get(score_of(rule)), threshold) for rule, threshold in quality.thresholds.items()]
    return [
        BrokenRule(rule, value, threshold)
        for rule, value, threshold in judged
        if value is not None and breaks(rule, value, threshold)
    ]


def unjudged_rules(scores: dict[str, float], quality: Quality) -> list[str]:
    """The rules that gate and have no score here."""
    return [rule for rule in quality.thresholds if score_of(rule) not in scores]


def breaks(rule: str, value: float, threshold: float) -> bool:
    return value < threshold if rule.startswith("min_") else value > threshold


def score_of(rule: str) -> str:
    """ "max_top_2_gram" -> "top_2_gram" """
    return rule.split("_", 1)[1]
