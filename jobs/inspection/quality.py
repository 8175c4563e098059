"""What quality rules would drop of a corpus, before they gate: by source, set of rules and rule. No Ray, nothing is written.

sources --read, clean, dedup--> documents --scores, language, tokens--> the config's own rules, and every preset's --> report
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from cluster.storage import Store
from configs.schema.corpus import CorpusStage, ShardsStage
from configs.schema.quality import PRESETS, Quality
from jobs.corpus.language import confidence, identify
from jobs.corpus.quality import broken_rules, quality_of, score, score_of
from jobs.corpus.words import UNSPACED_SHARE
from jobs.inspection.sample import sample_documents
from jobs.models import load_tokenizer
from jobs.pipeline import PlannedStage
from jobs.preflight.stages import model_origin

CHARACTERS_PER_TOKEN = 4
"""Where no tokenizer is at hand: the usual rule of thumb for English; SmolLM2 has 4.65 on abstracts."""
BY_CHARACTERS = f"characters / {CHARACTERS_PER_TOKEN}"
EXCERPT_CHARACTERS = 100
LANGUAGES_NAMED = 5

CountTokens = Callable[[list[str]], list[int]]


@dataclass(frozen=True)
class DroppedDocument:
    """Example: DroppedDocument(uri="a.jsonl#3", value=0.31, excerpt="Table 1. Values of ...")"""

    uri: str
    value: float
    excerpt: str


@dataclass(frozen=True)
class RuleReport:
    """What one rule of a set does to a source.

    Example:
        RuleReport("min_words", threshold=50.0, judged=1000, percentiles={"p5": 61.0, "p50": 212.0, "p95": 390.0},
                   dropped=31, share=0.031, only=12, only_share=0.012, tokens=1550, samples=[...])
    """

    rule: str
    threshold: float
    judged: int
    """Documents with such a score: all but those in scripts without spaces, where it is made of words."""
    percentiles: dict[str, float]
    """Empty where none is judged."""
    dropped: int
    share: float
    only: int
    """Documents that break no other rule of the set."""
    only_share: float
    tokens: int
    """Of the documents it drops."""
    samples: list[DroppedDocument]
    """Up to three of them: nearest to the threshold, in the middle, furthest."""


@dataclass(frozen=True)
class SetReport:
    """What the rules of the config, or of a preset, do together."""

    name: str
    """`config`: what is set for this source and will gate; else a preset, to compare with."""
    dropped: int
    share: float
    tokens: int
    token_share: float
    rules: list[RuleReport]


@dataclass(frozen=True)
class SourceReport:
    source: str
    documents: int
    tokens: int
    languages: dict[str, float]
    """Share of documents by their most probable language, the five most frequent."""
    without_spaces: int
    """Documents that rules about words do not judge, so that they stay."""
    set_aside: dict[str, int]
    """Rows by the reason they never come before the rules: unreadable, too short, duplicate."""
    sets: list[SetReport]


@dataclass(frozen=True)
class FilterReport:
    stage: str
    complete: bool
    """Whether all documents were read."""
    tokens_by: str
    """How tokens were counted."""
    sources: list[SourceReport]


@dataclass(frozen=True)
class ScoredDocument:
    """A document with its numbers; `languages` is by probability, `tokens` its length."""

    uri: str
    text: str
    scores: dict[str, float]
    languages: dict[str, float]
    tokens: int


def filter_report(name: str, stage: CorpusStage, limit: int, count: CountTokens, tokens_by: str) -> FilterReport:
    """Reads at most `limit` rows of every source and judges them. Raises DataError as the stage itself would."""
    documents = sample_documents(_without_gates(stage), limit)
    sources: list[SourceReport] = []
    for source in stage.sources:
        rows = [row for row in documents.table.select(["source", "uri", "text"]).to_pylist() if row["source"] == source]
        tokens = count([row["text"] for row in rows]) if rows else []
        scored = [
            ScoredDocument(row["uri"], row["text"], score(row["text"]), identify(row["text"]), length)
            for row, length in zip(rows, tokens, strict=True)
        ]
        bad = documents.bad_rows.filter(pc.field("source") == source)
        set_aside = dict(sorted(Counter(bad["reason"].to_pylist()).items()))
        sources.append(source_report(source, scored, quality_of(stage, source), set_aside))
    return FilterReport(name, documents.complete, tokens_by, sources)


def _without_gates(stage: CorpusStage) -> CorpusStage:
    """What is to be dropped has to be read first."""
    sources = {name: source.model_copy(update={"quality": None}) for name, source in stage.sources.items()}
    return stage.model_copy(update={"quality": Quality(), "sources": sources})


def source_report(
    name: str, documents: list[ScoredDocument], quality: Quality, set_aside: dict[str, int]
) -> SourceReport:
    sets = {"config": quality} if quality.thresholds else {}
    sets |= {preset: Quality(presets=[preset]) for preset in PRESETS}
    languages = Counter(next(iter(document.languages)) for document in documents)
    return SourceReport(
        source=name,
        documents=len(documents),
        tokens=sum(document.tokens for document in documents),
        languages={code: count / len(documents) for code, count in languages.most_common(LANGUAGES_NAMED)},
        without_spaces=sum(document.scores["unspaced_characters"] > UNSPACED_SHARE for document in documents),
        set_aside=set_aside,
        sets=[_set_report(label, documents, rules) for label, rules in sets.items()],
    )


def _set_report(name: str, documents: list[ScoredDocument], quality: Quality) -> SetReport:
    scores = [
        {**document.scores, "language_confidence": confidence(document.languages, quality.languages)}
        for document in documents
    ]
    broken = [{found.rule: found.value for found in broken_rules(own, quality)} for own in scores]
    tokens = sum(document.tokens for document, found in zip(documents, broken, strict=True) if found)
    everything = max(sum(document.tokens for document in documents), 1)
    rules = [
        _rule_report(
            rule, threshold, [own[score_of(rule)] for own in scores if score_of(rule) in own], documents, broken
        )
        for rule, threshold in quality.thresholds.items()
    ]
    dropped = sum(map(bool, broken))
    return SetReport(name, dropped, dropped / max(len(documents), 1), tokens, tokens / everything, rules)


def _rule_report(
    rule: str, threshold: float, values: list[float], documents: list[ScoredDocument], broken: list[dict[str, float]]
) -> RuleReport:
    gone = [(document, found) for document, found in zip(documents, broken, strict=True) if rule in found]
    only = sum(len(found) == 1 for _, found in gone)
    ranked = sorted(gone, key=lambda pair: (abs(pair[1][rule] - threshold), pair[0].uri))
    shown = sorted({0, len(ranked) // 2, len(ranked) - 1}) if ranked else []
    number = max(len(documents), 1)
    return RuleReport(
        rule=rule,
        threshold=threshold,
        judged=len(values),
        percentiles={f"p{q}": float(np.percentile(values, q)) for q in (5, 50, 95)} if values else {},
        dropped=len(gone),
        share=len(gone) / number,
        only=only,
        only_share=only / number,
        tokens=sum(document.tokens for document, _ in gone),
        samples=[
            DroppedDocument(document.uri, found[rule], excerpt(document.text))
            for document, found in (ranked[place] for place in shown)
        ],
    )


def excerpt(text: str) -> str:
    """The beginning on one line; what a terminal would obey is made visible."""
    start = " ".join(text[: 4 * EXCERPT_CHARACTERS].split())
    start = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in start)
    return start if len(start) <= EXCERPT_CHARACTERS else start[: EXCERPT_CHARACTERS - 1] + "…"


def token_counter(corpus: str, stages: dict[str, PlannedStage], store: Store) -> tuple[CountTokens, str]:
    """The tokenizer of the first shards stage that reads the corpus, or characters where none is here; and which it is."""
    for planned in stages.values():
        if not isinstance(planned.stage, ShardsStage) or planned.stage.corpus != corpus:
            continue
        origin = model_origin(planned, "model", stages, store)
        if origin is None:
            continue  # still at its hub
        tokenizer = load_tokenizer(origin.directory, origin.trust_remote_code, origin.added_tokens)
        return _counting(tokenizer), f"tokenizer of {planned.stage.model}"
    return lambda texts: [-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts], BY_CHARACTERS


def _counting(tokenizer: PreTrainedTokenizerBase) -> CountTokens:
    def count(texts: list[str]) -> list[int]:
        rows: Any = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [len(ids) for ids in rows]

    return count
