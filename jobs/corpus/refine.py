"""What a document goes through on its way from a file into the corpus, and what that took away.

    Raw --layout of the page--> --text repair--> --quality rules--> documents of one batch --personal data--> Refined | Rejected

Page layout and quality rules are for texts: questions and answers have neither. Personal data is looked for in everything,
all texts of a batch at once.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from configs.schema.corpus import CorpusStage
from configs.schema.pii import Pii
from jobs.corpus.clean import clean_document
from jobs.corpus.formats import QUESTION_FORMATS
from jobs.corpus.judgements import judged_document
from jobs.corpus.layout import strip_layout
from jobs.corpus.pii import Finding, redact
from jobs.corpus.quality import judge, quality_of
from jobs.corpus.raw import Judgement, Message, Raw, Rejected, RowError, texts_of

QUALITY = "quality_"
"""Reasons of documents that a rule sets aside are this and the rule."""


@dataclass(frozen=True, slots=True)
class Refined:
    """A document that stays, and what it lost."""

    document: Raw
    stripped: dict[str, int]
    """Characters by kind of layout."""
    findings: tuple[Finding, ...] = ()


def refine(row: Raw | Rejected, stage: CorpusStage, source: str) -> Refined | Rejected:
    """One document, all but its personal data."""
    if isinstance(row, Rejected):
        return row
    try:
        return _refined(row, stage, source)
    except RowError as error:
        return Rejected(row.uri, error.reason, error.detail)


def _refined(row: Raw, stage: CorpusStage, source: str) -> Refined:
    is_text = row.judgement is None and row.format not in QUESTION_FORMATS
    stripped: Counter[str] = Counter()
    layout = stage.sources[source].layout
    if is_text and layout.kinds:
        found = strip_layout(row.text, layout)
        for removed in found.removed:
            stripped[removed.kind] += removed.characters
        row = replace(row, text=found.text)
    document = clean_document(row, stage.cleaning)
    quality = quality_of(stage, source)
    if is_text and (quality.thresholds or quality.languages):
        broken = judge(document.text, quality).broken
        if broken:
            told = "; ".join(f"{rule.rule} {rule.threshold:g}: {rule.value:.3g}" for rule in broken)
            raise RowError(f"{QUALITY}{broken[0].rule}", told)
    return Refined(document, dict(stripped))


def redacted(rows: Sequence[Refined | Rejected], settings: Pii, salt: bytes) -> list[Refined | Rejected]:
    """A batch with typed placeholders instead of personal data."""
    if settings.tier == "none":
        return list(rows)
    texts = [text for row in rows if isinstance(row, Refined) for text in texts_of(row.document)]
    results = iter(redact(texts, settings, salt))
    return [row if isinstance(row, Rejected) else _with_texts(row, results) for row in rows]


def _with_texts(row: Refined, results: Iterator) -> Refined | Rejected:
    """Takes the results in the order of `texts_of`."""
    document, findings = row.document, []

    def taken() -> str:
        result = next(results)
        findings.extend(result.findings)
        return result.text

    def turns(messages: list[Message]) -> list[Message]:
        return [{**turn, "content": taken()} for turn in messages]

    if document.judgement is not None:
        judgement = document.judgement
        prompt, answers = turns(judgement.prompt), [turns(answer) for answer in judgement.answers]
        try:
            document = _judged(document, replace(judgement, prompt=prompt, answers=answers))
        except RowError as error:
            # Two answers that differ in a telephone number alone are one answer now.
            return Rejected(document.uri, error.reason, error.detail)
    else:
        text = taken()
        of_text = len(findings)
        messages = None if document.messages is None else turns(document.messages)
        document = replace(document, text=text, messages=messages)
        if document.messages is not None:
            del findings[:of_text]  # the text of a conversation is its turns once more
    return replace(row, document=document, findings=tuple(findings))


def _judged(document: Raw, judgement: Judgement) -> Raw:
    made = judged_document(document.uri, judgement)
    return replace(document, text=made.text, messages=made.messages, judgement=made.judgement)
