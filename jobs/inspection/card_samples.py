"""What a data card measures on documents and rows: lengths, languages, samples; each of a bounded, seeded excerpt.

    excerpt of documents --> lengths, languages by source, some texts     excerpt of quarantine --> some rows of every reason
    near/clusters.parquet --> sizes of clusters                           documents/ of shards  --> tokens of documents

Of what is restricted only numbers leave this module.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from cluster.storage import Store
from jobs.corpus.language import identify
from jobs.inspection.excerpts import Files, look

RESTRICTED = "restricted"
SHOWN_DOCUMENTS = 5
SHOWN_CHARACTERS = 1200
"""Of a document's text."""
SHOWN_ROWS = 3
"""Of every reason."""
SHOWN_DETAIL = 300
"""Characters of a row's detail and place."""
QUARANTINE_ROWS = 50_000
"""Read to find some of every reason: a second, and some megabytes."""
STRETCHES = 1_000_000
"""Read of documents/ to measure lengths in tokens: about 16 MB."""
CLUSTERED_DOCUMENTS = 20_000_000
"""Whose cluster ids are held at a time, 8 bytes each; of more, a part of the clusters is measured, each whole."""
NUMBERS_AT_ONCE = 65_536
LEAST_CONFIDENCE = 0.5
"""Below it a document is counted as `unsure`: tables, formulas, lists of names."""
UNSURE = "unsure"
LANGUAGES_NAMED = 5
OTHER = "other"


@dataclass(frozen=True)
class Bin:
    """How many are from `least` to below `below`. Example: Bin(least=256, below=512, count=31)"""

    least: int
    below: int
    count: int


@dataclass(frozen=True)
class Lengths:
    """How long things are."""

    unit: str
    """characters or tokens."""
    counted: int
    """Documents that were measured."""
    of: int
    """Documents there are; of many packed ones, estimated."""
    p5: int
    p50: int
    p95: int
    longest: int
    """Of those that were measured."""
    bins: list[Bin]
    """Each twice as wide as the one before; without gaps."""

    @classmethod
    def of_values(cls, values: Sequence[int] | np.ndarray, of: int, unit: str) -> Self:
        array = np.asarray(values, dtype=np.int64)
        if not len(array):
            return cls(unit, 0, of, 0, 0, 0, 0, [])
        p5, p50, p95 = (int(np.percentile(array, q, method="inverted_cdf")) for q in (5, 50, 95))
        return cls(unit, len(array), of, p5, p50, p95, int(array.max()), doubling_bins(array))


@dataclass(frozen=True)
class SourceSample:
    """What was measured on the sampled documents of a source."""

    documents: int
    languages: dict[str, float]
    """Share of these by their most probable language (py3langid), the five most frequent; `unsure` below a probability of 0.5."""
    p50: int
    """Characters of the document in the middle; 0 where none was sampled."""

    @classmethod
    def of(cls, lengths: Sequence[int], languages: Sequence[str]) -> Self:
        counts = Counter(languages)
        named = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:LANGUAGES_NAMED])
        if len(counts) > len(named):
            named[OTHER] = counts.total() - sum(named.values())
        shares = {language: count / len(languages) for language, count in named.items()}
        return cls(len(lengths), shares, Lengths.of_values(lengths, len(lengths), "characters").p50)


@dataclass(frozen=True)
class SampledDocument:
    """A document as it is learnt from."""

    document_id: int
    """First 8 bytes of its sha256 as a signed integer; `rows_of_documents` finds its rows by it."""
    split: str
    source: str
    licence: str
    confidentiality: str
    uri: str
    characters: int
    text: str
    """Its beginning."""


@dataclass(frozen=True)
class QuarantinedRow:
    """A row that was set aside: where it is, and what is wrong with it."""

    uri: str
    source: str
    detail: str


@dataclass(frozen=True)
class Quarantined:
    """What was set aside for one reason."""

    reason: str
    rows: int
    """All of them, counted while the artifact was made."""
    samples: list[QuarantinedRow]
    """Some of those that were read; none of restricted sources."""
    withheld: int
    """Rows of restricted sources among those that were read."""


@dataclass(frozen=True)
class ClusterSizes:
    """How many near-duplicates belong together."""

    bins: list[Bin]
    """Clusters by their number of documents, from two on."""
    one_in: int
    """1 where all clusters were measured, else which part of them."""


@dataclass(frozen=True)
class DocumentsLook:
    """What the sampled documents of a corpus are like."""

    sampled: int
    lengths: Lengths
    sources: dict[str, SourceSample]
    samples: list[SampledDocument]


def documents_look(corpus: Store, files: Files, limit: int, withheld: Collection[str], seed: int) -> DocumentsLook:
    """Reads at most `limit` documents. Raises DataError."""
    columns = ["document_id", "text", "source", "licence", "confidentiality", "uri"]
    excerpt = look(corpus, files, ("train", "heldout"), limit, columns, seed)
    lengths: dict[str, list[int]] = defaultdict(list)
    languages: dict[str, list[str]] = defaultdict(list)
    shown: dict[str, list[tuple[str, SampledDocument]]] = defaultdict(list)
    for name, batch in excerpt.batches():
        for row in batch.to_pylist():
            text, source = row.pop("text"), row["source"]
            lengths[source].append(len(text))
            languages[source].append(_language(text))
            if source not in withheld and row["confidentiality"] != RESTRICTED:
                sample = SampledDocument(
                    split=name.partition("/")[0], characters=len(text), text=text[:SHOWN_CHARACTERS], **row
                )
                _keep_first(shown[source], _draw(seed, row["document_id"]), sample, SHOWN_DOCUMENTS)
    whole = [length for of_source in lengths.values() for length in of_source]
    return DocumentsLook(
        sampled=len(whole),
        lengths=Lengths.of_values(whole, excerpt.of, "characters"),
        sources={source: SourceSample.of(lengths[source], languages[source]) for source in sorted(lengths)},
        samples=_in_turn({source: [sample for _, sample in drawn] for source, drawn in sorted(shown.items())}),
    )


def quarantine_look(
    artifact: Store, manifest: Mapping[str, Any], withheld: Collection[str], seed: int
) -> list[Quarantined]:
    """Every reason with some of its rows. Raises DataError."""
    columns = ["uri", "source", "reason", "detail"]
    excerpt = look(artifact, manifest["files"], ("quarantine",), QUARANTINE_ROWS, columns, seed)
    kept: dict[str, list[tuple[str, QuarantinedRow]]] = defaultdict(list)
    hidden: Counter[str] = Counter()
    for _, batch in excerpt.batches():
        for row in batch.to_pylist():
            if row["source"] in withheld:
                hidden[row["reason"]] += 1
                continue
            sample = QuarantinedRow(_cut(row["uri"]), row["source"], _cut(row["detail"] or ""))
            _keep_first(kept[row["reason"]], _draw(seed, row["uri"], row["detail"]), sample, SHOWN_ROWS)
    return [
        Quarantined(reason, rows, [sample for _, sample in kept[reason]], hidden[reason])
        for reason, rows in sorted(manifest["quarantined"].items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def token_lengths(shards: Store, files: Files, seed: int) -> Lengths:
    """Tokens of documents over all rows they are in, both splits together. Raises DataError."""
    excerpt = look(shards, files, ("documents",), STRETCHES, ["document_id", "tokens"], seed, NUMBERS_AT_ONCE)
    ids, tokens = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for _, batch in excerpt.batches():
        ids.append(batch["document_id"].to_numpy())
        tokens.append(batch["tokens"].to_numpy().astype(np.int64))
    documents, place = np.unique(np.concatenate(ids), return_inverse=True)
    lengths = np.bincount(place, weights=np.concatenate(tokens), minlength=len(documents)).astype(np.int64)
    # Of an excerpt, how many documents there are is known as well as how many stretches a document has.
    there = round(len(documents) * excerpt.of / max(excerpt.rows, 1))
    return Lengths.of_values(lengths, there, "tokens")


def cluster_sizes(corpus: Store, files: Files) -> ClusterSizes:
    """Reads one column of near/clusters.parquet. Raises DataError."""
    name = "near/clusters.parquet"
    rows = int(files[name]["rows"])
    one_in = -(-rows // CLUSTERED_DOCUMENTS) or 1
    found = [np.empty(0, np.int64)]
    for _, batch in look(corpus, {name: files[name]}, ("near",), rows, ["cluster_id"], 0, NUMBERS_AT_ONCE).batches():
        ids = batch["cluster_id"].to_numpy()
        # A cluster's id is a hash: those of one remainder are a sample of clusters, each of them whole.
        found.append(ids[ids % one_in == 0])
    sizes = np.unique(np.concatenate(found), return_counts=True)[1]
    return ClusterSizes(doubling_bins(sizes[sizes > 1]), one_in)


def doubling_bins(values: np.ndarray) -> list[Bin]:
    """From each power of two to the next; 0 for itself. Empty bins only between others."""
    if not len(values):
        return []
    # The exponent of a float64 is exact up to 2**53: 1 -> 1, 2 and 3 -> 2, 4 to 7 -> 3, ...; 0 -> 0.
    counts = np.bincount(np.frexp(values.astype(np.float64))[1])
    first = int(np.flatnonzero(counts)[0])
    return [
        Bin(2 ** (number - 1) if number else 0, 2**number, int(counts[number])) for number in range(first, len(counts))
    ]


def _language(text: str) -> str:
    language, probability = next(iter(identify(text).items()))
    return language if probability >= LEAST_CONFIDENCE else UNSURE


def _draw(seed: int, *what: object) -> str:
    """What decides which are shown: the first by this hash, so that the order in which rows are read does not matter."""
    return hashlib.blake2b(repr((seed, *what)).encode(), digest_size=8).hexdigest()


def _keep_first(kept: list[tuple[str, Any]], draw: str, sample: Any, most: int) -> None:
    kept.append((draw, sample))
    kept.sort(key=lambda pair: pair[0])
    del kept[most:]


def _in_turn(by_source: Mapping[str, Sequence[SampledDocument]]) -> list[SampledDocument]:
    """The first of each source, then the second of each, and so on."""
    most = max(map(len, by_source.values()), default=0)
    turns = [drawn[turn] for turn in range(most) for drawn in by_source.values() if turn < len(drawn)]
    return turns[:SHOWN_DOCUMENTS]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_DETAIL else text[: SHOWN_DETAIL - 1] + "…"
