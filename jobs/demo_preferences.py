"""Preferences constructed from PubMed: a paper's real conclusion, and an answer that fails in one of two ways.

    structured abstracts --title and results--> prompt
                         --conclusion---------> chosen
                         --another paper's conclusion, or a passage copied from the results--> rejected
    -> constructed/conclusion_pairs.jsonl, constructed/conclusion_thumbs.jsonl

Nobody has judged these answers. Rejected ones are made so that what tells them from chosen ones is whether they conclude and
whether they are about this study: both have about the same number of tokens; two papers lend each other their conclusions, so
nothing in such an answer alone says which it is; and to a language model a copied passage is likelier than the conclusion, a
foreign conclusion less likely.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jobs.corpus.pubmed import read_pubmed_file
from jobs.corpus.raw import Raw

INSTRUCTION = "Write the conclusion of this study from its title and its results."
RESULTS = re.compile(r"[A-Z &/]*(RESULT|FINDING)[A-Z &/]*: ")
SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")
WORD = re.compile(r"[a-z]{4,}")
LENGTHS = range(24, 97)
"""Tokens of a conclusion: from one long sentence to three."""
MOST_TOKENS = 320
"""Of prompt and answer: two thirds of the papers, and a step of pairs takes seconds on two cores."""
TEMPLATE_TOKENS = 40
"""Of the chat template and the instruction, about."""
TOLERANCE = 0.15
"""By which share the tokens of a rejected answer may differ from those of the chosen one."""
SIDES = 10
"""Only papers of the same tenth of the split exchange conclusions, so that no conclusion is on both sides of it where
`heldout_fraction` is a multiple of 1/10 (and `split_seed` 0)."""


@dataclass(frozen=True)
class Paper:
    """What is taken of an abstract.

    Example:
        Paper(pmid="32995873", title="Identification of ...", results="RESULTS: ...", conclusion="We ...", tokens=41,
              side=0.37, copied=None)
    """

    pmid: str
    title: str
    results: str
    conclusion: str
    tokens: int
    """Of the conclusion."""
    side: float
    """Place in the split, from 0 to 1; below `heldout_fraction` is held out."""
    copied: str | None
    """Sentences of the results, about as long as the conclusion; None where no run of sentences is."""

    @property
    def prompt(self) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": f"{self.title}\n\n{self.results}"},
            {"role": "user", "content": INSTRUCTION},
        ]


@dataclass(frozen=True)
class ConstructedPair:
    """A paper with an answer that is worse than its conclusion, and by construction why."""

    paper: Paper
    rejected: str
    fails_by: Literal["other_paper", "copied"]


def write_preferences(pubmed: Path, tokenizer: Path, into: Path) -> None:
    """Writes both files below `into`; the same bytes for the same inputs.

    Args:
        pubmed: NLM XML, gzipped.
        tokenizer: tokenizer.json of the model whose tokens are counted.
    """
    pairs = construct_pairs(read_papers(pubmed, tokenizer))
    into.mkdir(parents=True, exist_ok=True)
    _write(into / "conclusion_pairs.jsonl", [_pair_row(pair) for pair in pairs])
    _write(into / "conclusion_thumbs.jsonl", [_thumb_row(pair, place % 2 == 0) for place, pair in enumerate(pairs)])


def read_papers(pubmed: Path, tokenizer: Path) -> list[Paper]:
    """Papers with results and a conclusion of LENGTHS tokens, in the order of the split."""
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(tokenizer)).encode_batch_fast

    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in encode(list(texts), add_special_tokens=False)]

    found = [paper for raw in read_pubmed_file(pubmed) for paper in _paper(raw)]
    read = count([f"{paper.title}\n\n{paper.results}" for paper in found])
    written = count([paper.conclusion for paper in found])
    papers = []
    for number, (paper, prompt, conclusion) in enumerate(zip(found, read, written, strict=True)):
        if conclusion in LENGTHS and prompt + conclusion + TEMPLATE_TOKENS <= MOST_TOKENS:
            sentences = SENTENCE_END.split(RESULTS.sub("", paper.results, count=1))
            copied = copied_passage(sentences, count(sentences), conclusion, longer=number % 2 == 0)
            papers.append(replace(paper, tokens=conclusion, copied=copied))
    return sorted(papers, key=lambda paper: (paper.side, paper.pmid))


def copied_passage(sentences: Sequence[str], tokens: Sequence[int], wanted: int, longer: bool) -> str | None:
    """The run of sentences whose tokens are nearest to `wanted`, if within TOLERANCE; of equals the first.

    Args:
        longer: prefer runs that are at least as long; else those that are at most as long.
    """
    runs = [
        (sum(tokens[start:stop]) - wanted, start, stop)
        for start in range(len(sentences))
        for stop in range(start + 1, len(sentences) + 1)
    ]
    near = [run for run in runs if abs(run[0]) <= TOLERANCE * wanted]
    if not near:
        return None
    _, start, stop = min(near, key=lambda run: ((run[0] >= 0) != longer, abs(run[0])))
    return " ".join(sentences[start:stop])


def construct_pairs(papers: Sequence[Paper]) -> list[ConstructedPair]:
    """Half of the papers against a copied passage, if so many have one, the others against each other; in their order."""
    pairs: list[ConstructedPair] = []
    for side in range(SIDES):
        here = [paper for paper in papers if int(paper.side * SIDES) == side]
        copying: set[str] = set()
        for number, paper in enumerate(here):
            if paper.copied is not None and 2 * len(copying) <= number:
                copying.add(paper.pmid)
        pairs += [ConstructedPair(paper, str(paper.copied), "copied") for paper in here if paper.pmid in copying]
        for first, second in similar_papers([paper for paper in here if paper.pmid not in copying]):
            pairs.append(ConstructedPair(first, second.conclusion, "other_paper"))
            pairs.append(ConstructedPair(second, first.conclusion, "other_paper"))
    return sorted(pairs, key=lambda pair: (pair.paper.side, pair.paper.pmid))


def similar_papers(papers: Sequence[Paper]) -> list[tuple[Paper, Paper]]:
    """Papers two by two, each in one pair at most: the first one left with the one whose title shares the rarest words.

    Conclusions of a pair differ by at most TOLERANCE in tokens.
    """
    words = {paper.pmid: set(WORD.findall(paper.title.lower())) for paper in papers}
    spread = Counter(word for own in words.values() for word in own)
    waiting, found = list(papers), []
    while waiting:
        first = waiting.pop(0)
        near = [
            other
            for other in waiting
            if abs(other.tokens - first.tokens) <= TOLERANCE * min(other.tokens, first.tokens)
        ]
        if near:
            second = max(near, key=lambda other: _rarity(words[first.pmid] & words[other.pmid], spread, len(papers)))
            waiting.remove(second)
            found.append((first, second))
    return found


def _rarity(shared: set[str], spread: Counter[str], papers: int) -> float:
    # fsum: the order of a set changes from run to run, the sum must not.
    return math.fsum(math.log(papers / spread[word]) for word in shared)


def _paper(raw: Raw) -> Iterator[Paper]:
    """The paper, if it has results and a conclusion; its lengths are not known yet."""
    if raw.messages is None:
        return
    context, _, answer = raw.messages
    title, *sections = unicodedata.normalize("NFC", context["content"]).split("\n\n")
    results = next((section for section in sections if RESULTS.match(section)), None)
    if results is not None:
        paper = Paper(
            raw.uri.removeprefix("#"), title, results, unicodedata.normalize("NFC", answer["content"]), 0, 0.0, None
        )
        yield replace(paper, side=_side(paper))


def _side(paper: Paper) -> float:
    """As a corpus stage places the prompt (jobs/corpus/candidates.py, split.py)."""
    question = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in paper.prompt)
    sha256 = hashlib.sha256(question.encode()).hexdigest()
    return int.from_bytes(hashlib.sha256(f"0:{sha256}".encode()).digest()[:8], "big") / 2**64


def _pair_row(pair: ConstructedPair) -> dict[str, object]:
    return {
        "prompt": pair.paper.prompt,
        "chosen": [{"role": "assistant", "content": pair.paper.conclusion}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "pmid": pair.paper.pmid,
        "fails_by": pair.fails_by,
    }


def _thumb_row(pair: ConstructedPair, up: bool) -> dict[str, object]:
    """One thumb a paper, up for its conclusion or down for the other answer: nobody sees both."""
    return {
        "prompt": pair.paper.prompt,
        "completion": [{"role": "assistant", "content": pair.paper.conclusion if up else pair.rejected}],
        "label": up,
        "pmid": pair.paper.pmid,
    }


def _write(target: Path, rows: Sequence[dict[str, object]]) -> None:
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
