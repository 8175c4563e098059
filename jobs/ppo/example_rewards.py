"""Reward functions to start from; any `module:function` of the checkout can stand in their place."""

import re
from typing import Any

WANTED_WORDS = 20
"""Two short sentences."""
FEWEST_WORDS = 5
"""Of less the formula says nothing."""

WORD = re.compile(r"[A-Za-z]+")
VOWELS = re.compile(r"[aeiouy]+", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")


def reading_ease(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """How easily an answer reads: Flesch's formula (1948) over 100, cut off at 0 and 1.2; 0 for less than FEWEST_WORDS words.

    About 0.3 for an abstract of a paper, 0.9 for a fairy tale. Syllables are counted as groups of vowels, a silent e left out.
    """
    del columns
    eases = []
    for completion in completions:
        text = completion[0]["content"]
        words = WORD.findall(text)
        if len(words) < FEWEST_WORDS:
            eases.append(0.0)
            continue
        syllables = sum(_syllables(word) for word in words)
        sentences = max(1, len(SENTENCE_END.findall(text)))
        ease = 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)
        eases.append(min(1.2, max(0.0, ease / 100)))
    return eases


def few_commas(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """One thought a sentence: 1 for an answer without commas, a third less for each, 0 from three on."""
    del columns
    return [max(0.0, 1 - completion[0]["content"].count(",") / 3) for completion in completions]


def short_and_easy(completions: list[list[dict[str, str]]], finished: list[bool], **columns: Any) -> list[float]:
    """`reading_ease` x `brevity`: a finished answer of about WANTED_WORDS words that reads easily."""
    del columns
    eases, near = reading_ease(completions), brevity(completions, finished)
    return [ease * length for ease, length in zip(eases, near, strict=True)]


def _syllables(word: str) -> int:
    found = len(VOWELS.findall(word))
    silent = word.lower().endswith("e") and not word.lower().endswith("le")
    return max(1, found - silent)


def brevity(completions: list[list[dict[str, str]]], finished: list[bool], **columns: Any) -> list[float]:
    """1 for a finished answer of about WANTED_WORDS words, falling to 0 at none and at twice as many.

    Args:
        completions: each a list of one message, as TRL hands them over.
        finished: whether an answer ended by itself.
    """
    del columns
    rewards = []
    for completion, ended in zip(completions, finished, strict=True):
        words = len(completion[0]["content"].split())
        near = max(0.0, 1 - abs(words - WANTED_WORDS) / WANTED_WORDS)
        rewards.append(near if ended else 0.0)
    return rewards
