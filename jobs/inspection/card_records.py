"""What a data card holds: the fields of `acclimate data card --json`, and what its page is drawn from."""

from dataclasses import dataclass
from typing import Any

from jobs.inspection.card_samples import ClusterSizes, Lengths, Quarantined, SampledDocument, SourceSample


@dataclass(frozen=True)
class InputFile:
    """Example: InputFile(uri="papers.jsonl", size=2048, fingerprint="sha256:0123...")"""

    uri: str
    size: int
    """Bytes."""
    fingerprint: str
    """What its bytes were when the corpus was made: sha256, the etag of S3, or a hub's blob id."""


@dataclass(frozen=True)
class SourceCard:
    """One source of a corpus."""

    source: str
    licence: str
    """SPDX expression or LicenseRef-..., as the config says it."""
    confidentiality: str
    """public, internal or restricted."""
    documents: int
    share: float
    """Of all documents."""
    formats: dict[str, int]
    """Documents by what their rows were read as (jobs/corpus/formats.py)."""
    files: int
    bytes: int
    """Of its files, as they were collected (packed ones packed)."""
    inputs: list[InputFile]
    """The first of its files."""
    sample: SourceSample
    """What was measured on documents of this source."""


@dataclass(frozen=True)
class NearDuplicateCard:
    """What the comparison of near-duplicates found; counts are exact but for `sizes` of very many clusters."""

    compared: int
    """Pairs of documents with an equal band of their signatures."""
    alike: int
    """Pairs that are as alike as the config asks."""
    clusters: int
    """Groups of two documents and more."""
    largest: int
    """Documents of the largest group."""
    sizes: ClusterSizes


@dataclass(frozen=True)
class DuplicateCard:
    """Documents that were set aside because they are somewhere already."""

    exact: int
    """Rows with the text of another row."""
    near: int | None
    """Documents that are like one that stayed; None where they were not compared."""
    contaminated: int | None
    """Documents that hold a text of an evaluation set; None where it was not looked for."""
    comparison: NearDuplicateCard | None


@dataclass(frozen=True)
class PersonalCard:
    """Personal data and secrets."""

    tier: str
    """What looked for them; none where nothing did, so that there may be any."""
    replaced: dict[str, int]
    """Placeholders in the texts, by kind."""
    canary_recall: dict[str, float]
    """Share of made-up values of each kind, planted beside the corpus, that the same rules found in that run."""


@dataclass(frozen=True)
class CorpusCard:
    """A corpus."""

    name: str
    key: str
    directory: str
    """Where its files are."""
    finished_at: str
    """ISO 8601, UTC."""
    documents: int
    train: int
    heldout: int
    conversations: int
    """Documents that have messages."""
    preferences: int
    """Documents with an order of answers."""
    thumbs: int
    characters: int
    sources: list[SourceCard]
    """The largest first."""
    documents_by_licence: dict[str, int]
    documents_by_confidentiality: dict[str, int]
    documents_by_encoding: dict[str, int]
    lengths: Lengths
    """In characters, of the sampled documents."""
    duplicates: DuplicateCard
    personal: PersonalCard
    stripped: dict[str, int]
    """Characters of page layout that were taken out, by kind."""
    quarantined: list[Quarantined]
    """Rows that were set aside, by reason, most frequent first."""
    samples: list[SampledDocument]
    """Some documents, of each source in turn; none of restricted sources."""
    withheld: list[str]
    """Sources that are restricted: they are counted, and nothing of them is shown."""
    sampled: int
    """Documents that lengths, languages and samples are of."""
    seed: int
    """That chose them."""
    parents: dict[str, str]
    """Earlier corpora that it was compared with, by config key."""
    settings: dict[str, Any]
    """Of the stage."""


@dataclass(frozen=True)
class SplitCard:
    """The packed rows of one split (jobs/corpus/shards.py, SplitSummary)."""

    rows: int
    documents: int
    tokens: int
    weighted_tokens: int
    """That are learnt."""
    fill: float
    """Share of the rows' places that hold a token."""
    tokens_by_source: dict[str, int]


@dataclass(frozen=True)
class ShardsCard:
    """Shards: a corpus packed for one tokenizer."""

    name: str
    key: str
    directory: str
    finished_at: str
    rows: str
    """Their kind: text, messages, preferences, thumbs or prompts."""
    context: int
    """Tokens of a row."""
    shards: int
    train: SplitCard
    heldout: SplitCard
    truncated: int
    """Conversations and answers cut off at the context."""
    lost_tokens: int
    lone_tokens: int
    left_out: int
    """Documents of another kind than `rows`."""
    quarantined: list[Quarantined]
    lengths: Lengths
    """In tokens, of documents over all the rows they are in."""
    model: str
    """The artifact whose tokenizer and template were used."""
    tokenizer_sha256: str
    template_sha256: str | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class DataCard:
    """What `acclimate data card` says of an artifact."""

    corpus: CorpusCard
    shards: ShardsCard | None
    """Where the artifact is shards; `corpus` then is what they were packed from."""
