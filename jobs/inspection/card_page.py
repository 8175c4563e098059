"""A data card as one HTML page, in the look of the report: no scripts, nothing from outside, texts of documents escaped."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from jobs.evaluate.charts import histogram, shares
from jobs.evaluate.page import render
from jobs.evaluate.report import flattened
from jobs.inspection.card_records import CorpusCard, DataCard
from jobs.inspection.card_samples import Bin, Lengths

TEMPLATE = "card.html.jinja"
LENGTH_UNITS = ((2**30, "G"), (2**20, "M"), (2**10, "k"))
"""Bins begin at powers of two."""
SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def card_html(card: DataCard) -> str:
    """The page."""
    corpus, shards = card.corpus, card.shards
    own = corpus if shards is None else shards
    return render(
        Path(__file__).parent,
        TEMPLATE,
        own=own,
        corpus=corpus,
        shards=shards,
        documents=_shares({source.source: source.documents for source in corpus.sources}, "documents by source"),
        tokens={} if shards is None else {name: _shares(counts, f"{name} tokens by source") for name, counts in (
            ("training", shards.train.tokens_by_source), ("held-out", shards.heldout.tokens_by_source))},
        characters=_lengths(corpus.lengths, "characters of a document"),
        token_lengths=None if shards is None else _lengths(shards.lengths, "tokens of a document"),
        clusters=_clusters(corpus),
        settings={part.name: dict(flattened(part.settings)) for part in (shards, corpus) if part is not None},
        size=size,
    )  # fmt: skip


def size(count: float) -> str:
    """Bytes: 2048 -> 2.0 KiB."""
    for unit in SIZE_UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {SIZE_UNITS[-1]}"


def _shares(counts: dict[str, int], label: str) -> Markup | None:
    """The largest first; None where there is nothing to draw."""
    ordered = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    return shares(ordered, label) if sum(counts.values()) else None


def _lengths(lengths: Lengths, label: str) -> Markup | None:
    return _columns(lengths.bins, lengths.unit, "documents", label)


def _clusters(corpus: CorpusCard) -> Markup | None:
    found = corpus.duplicates.comparison
    return None if found is None else _columns(found.sizes.bins, "documents", "clusters", "documents of a cluster")


def _columns(bins: Sequence[Bin], unit: str, counted: str, label: str) -> Markup | None:
    """None where there is nothing to draw."""
    columns = {
        _short(each.least): (each.count, f"{each.least:,} to {each.below - 1:,} {unit}: {each.count:,} {counted}")
        for each in bins
    }
    return histogram(columns, label) if columns else None


def _short(number: int) -> str:
    """4096 -> 4k, in powers of two."""
    for unit, letter in LENGTH_UNITS:
        if number >= unit:
            return f"{number // unit}{letter}"
    return str(number)
