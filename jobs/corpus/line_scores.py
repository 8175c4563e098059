"""What the lines of a text are like: Gopher's bullets and ellipses, FineWeb's ends and lengths, C4's cuts.

C4 (arXiv 1910.10683) cuts lines out, one rule after the other, and then drops what has too few sentences left, `lorem ipsum`
or `{`. Here nothing is cut: a line counts at the first rule that would have cut it, as in datatrove.
"""

import re
from collections import Counter

from jobs.corpus.repetition import repeated
from jobs.corpus.words import SENTENCE_ENDS, count_sentences, split_words

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
C4_ENDS = (".", "?", "!", '"', "'")
C4_CUTS = frozenset(("long_word", "unpunctuated", "few_word", "javascript", "policy"))
C4_LONGEST_WORD = 1000
C4_LEAST_WORDS = 3
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
SHORT_LINE = 30
"""Characters; FineWeb's."""


def gopher_lines(text: str) -> dict[str, float]:
    lines = text.splitlines()
    return {
        "bullet_lines": sum(line.lstrip().startswith(("•", "-")) for line in lines) / max(len(lines), 1),
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in lines) / max(len(lines), 1),
    }


def fineweb_lines(text: str) -> dict[str, float]:
    """Of lines that are not blank; a text without any has no line that ends a sentence."""
    lines = [line for line in text.split("\n") if line.strip()]
    _, repeated_characters = repeated(lines)
    return {
        "punctuated_lines": sum(line[-1] in SENTENCE_ENDS for line in lines) / max(len(lines), 1),
        "short_lines": sum(len(line) <= SHORT_LINE for line in lines) / max(len(lines), 1),
        "repeated_line_characters": repeated_characters / max(len(text) - text.count("\n"), 1),
    }


def citation_characters(text: str) -> float:
    return sum(map(len, CITATION.findall(text))) / max(len(text), 1) if "[" in text else 0.0


def c4_lines(lines: list[tuple[str, list[str]]]) -> dict[str, float]:
    """Lines that C4 cuts out by reason, those for which it drops the text, and the sentences of what is left.

    Args:
        lines: each with its words.
    """
    found: Counter[str] = Counter()
    sentences = 0
    for line, words in lines:
        line = line.strip()
        kept = CITATION.sub("", line) if "[" in line else line
        reasons = _c4_reasons(line, kept)
        found.update(reasons)
        if C4_CUTS.isdisjoint(reasons):
            sentences += count_sentences(words if kept is line else split_words(kept))
    shares = {f"{name}_lines": found[name] / max(len(lines), 1) for name in ("lorem_ipsum", "brace", *sorted(C4_CUTS))}
    return {"sentences": float(sentences), **shares}


def _c4_reasons(line: str, kept: str) -> list[str]:
    """Why C4 cuts the line out or drops the text; `kept` is the line without citations."""
    words = line.split()
    if len(line) > C4_LONGEST_WORD and max(map(len, words)) > C4_LONGEST_WORD:
        return ["long_word"]
    if not kept.endswith(C4_ENDS) or kept.endswith("..."):
        return ["unpunctuated"]
    if len(words) < C4_LEAST_WORDS:
        return ["few_word"]
    lower = kept.lower()
    lorem = ["lorem_ipsum"] if "lorem ipsum" in lower else []
    if "javascript" in lower:
        return [*lorem, "javascript"]
    brace = ["brace"] if "{" in kept else []
    policy = ["policy"] if any(phrase in lower for phrase in POLICY) else []
    return [*lorem, *brace, *policy]
