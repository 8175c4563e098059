"""Scores of documents -> scores of a set. Pure functions on plain numbers.

DocumentScore (nats, tokens, bytes) x D -> summarise -> SetScore
two models' scores of the same documents -> compare  -> Change, with a paired standard error
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """What one model makes of one document.

    Example:
        DocumentScore(document_id=-712, nats=611.2, tokens=255, bytes=1204)
    """

    document_id: int
    nats: float
    """Sum of -log p over the weighted tokens."""
    tokens: int
    """Weighted tokens."""
    bytes: int
    """UTF-8 bytes of the scored text: what the weighted tokens decode to, special tokens left out."""


@dataclass(frozen=True, slots=True)
class SetScore:
    """What one model makes of one held-out set.

    Example:
        SetScore(loss=2.81, loss_standard_error=0.03, perplexity=16.6, bits_per_byte=0.91, tokens=9874, bytes=44012,
                 documents=40)
    """

    loss: float
    """Nats per weighted token."""
    loss_standard_error: float | None
    """Over documents: what another draw of as many documents would change; None for a single document."""
    perplexity: float
    bits_per_byte: float
    """Nats of the weighted tokens / ln 2 / bytes of the scored text. Unlike perplexity it may be compared between models
    with different tokenizers. An end-of-sequence token that is weighted adds nats and no bytes."""
    tokens: int
    bytes: int
    documents: int
    """Those with a weighted token; behind the cut of a set there may be none."""


@dataclass(frozen=True, slots=True)
class Change:
    """From one model to another on the same documents; fractions, -0.05 is 5 % less.

    Example:
        Change(loss=-0.031, perplexity=-0.084, bits_per_byte=-0.031, loss_difference_standard_error=0.006)
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    loss_difference_standard_error: float | None
    """In nats, over the paired differences of the documents: much smaller than the two models' own standard errors,
    because a document that is hard for one model is hard for the other."""


def summarise(scores: Sequence[DocumentScore]) -> SetScore:
    """Pools documents: a token weighs the same in a long and a short one. At least one weighted token and byte.

    The loss is a ratio of two sums over documents, so its standard error is the ratio estimator's (Cochran, Sampling
    Techniques, 1977, chapter 6): sqrt(D / (D - 1) * sum (nats_d - loss * tokens_d)^2) / sum tokens. It is too small for
    fewer than about ten documents.
    """
    scores = [score for score in scores if score.tokens]
    nats, tokens, size = _totals(scores)
    loss = nats / tokens
    return SetScore(
        loss=loss,
        loss_standard_error=_standard_error(_influences(scores)),
        perplexity=math.exp(loss),
        bits_per_byte=nats / math.log(2) / size,
        tokens=tokens,
        bytes=size,
        documents=len(scores),
    )


def compare(before: Sequence[DocumentScore], after: Sequence[DocumentScore]) -> Change:
    """The change from one model to another. Both must have scored the same documents in the same order."""
    assert [score.document_id for score in before] == [score.document_id for score in after]
    scored = [pair for pair in zip(before, after, strict=True) if pair[0].tokens or pair[1].tokens]
    before, after = [pair[0] for pair in scored], [pair[1] for pair in scored]
    first, second = summarise(before), summarise(after)
    differences = [y - x for x, y in zip(_influences(before), _influences(after), strict=True)]
    return Change(
        loss=second.loss / first.loss - 1,
        perplexity=second.perplexity / first.perplexity - 1,
        bits_per_byte=second.bits_per_byte / first.bits_per_byte - 1,
        loss_difference_standard_error=_standard_error(differences),
    )


def _totals(scores: Sequence[DocumentScore]) -> tuple[float, int, int]:
    nats = math.fsum(score.nats for score in scores)
    tokens = sum(score.tokens for score in scores)
    size = sum(score.bytes for score in scores)
    assert tokens > 0 and size > 0, f"{len(scores)} documents with {tokens} weighted tokens of {size} bytes"
    return nats, tokens, size


def _influences(scores: Sequence[DocumentScore]) -> list[float]:
    """How much each document pulls the pooled loss; they sum to 0."""
    nats, tokens, _ = _totals(scores)
    return [(score.nats - nats / tokens * score.tokens) / tokens for score in scores]


def _standard_error(influences: Sequence[float]) -> float | None:
    documents = len(influences)
    if documents < 2:
        return None
    return math.sqrt(documents / (documents - 1) * math.fsum(value * value for value in influences))
