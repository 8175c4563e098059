"""What there is to prepare and where, and the bytes that it becomes on the way.

    sources of files x Nodes --corpus_volumes--> rows, what is shuffled, spilled and stored      ShardsWork --shards_volumes-->

Pure functions. Nothing is taken away on the way: what duplicates, rules and gates leave out would make the rest less.
"""

import math
from dataclasses import dataclass, replace

from jobs.corpus.schema import reads_a_file, shuffle_batch_bytes
from jobs.estimate.corpus_rates import (
    HELD,
    KINDS,
    OBJECT_STORE_MOST_BYTES,
    OBJECT_STORE_SHARE,
    PACKINGS,
    CorpusAssumptions,
)
from jobs.estimate.hardware import CpuCluster


@dataclass(frozen=True)
class Nodes:
    """Where it is calculated for."""

    cluster: CpuCluster
    assumed: CorpusAssumptions

    @property
    def cores(self) -> int:
        return self.cluster.nodes * self.cluster.cores

    @property
    def memory_bytes(self) -> float:
        """Of each node."""
        return self.cluster.cores * self.assumed.memory_per_core_bytes

    @property
    def object_store_bytes(self) -> float:
        """Of each node."""
        return min(OBJECT_STORE_MOST_BYTES, OBJECT_STORE_SHARE * self.memory_bytes)

    @property
    def task_bytes(self) -> float:
        """Of each node, for what tasks or a driver hold outside Ray's store."""
        return self.assumed.memory_share * self.memory_bytes - self.object_store_bytes


@dataclass(frozen=True)
class SourceFiles:
    """Files of one source and kind, and what its texts go through.

    Example:
        SourceFiles("jsonl", "gz", size=10e12, files=20_000, local=False, layout="web", quality=True, languages=False)
    """

    kind: str
    packing: str | None
    size: float
    """Bytes as they lie."""
    files: int
    local: bool = False
    """On a disk: they are hashed before anything starts, each time."""
    layout: str = "none"
    quality: bool = False
    languages: bool = False

    @property
    def unpacked(self) -> float:
        return self.size * (PACKINGS[self.packing].ratio if self.packing else 1)

    @property
    def text(self) -> float:
        return self.unpacked * KINDS[self.kind].text_share


@dataclass(frozen=True)
class CorpusWork:
    """A corpus stage."""

    sources: tuple[SourceFiles, ...]
    partitions: int
    pii: str = "none"
    near: bool = False
    contamination: bool = False

    @property
    def size(self) -> float:
        return sum(source.size for source in self.sources)

    @property
    def text(self) -> float:
        return sum(source.text for source in self.sources)

    def scaled(self, factor: float) -> "CorpusWork":
        """More or less of the same."""
        sources = [
            replace(source, size=source.size * factor, files=max(1, round(source.files * factor)))
            for source in self.sources
        ]
        return replace(self, sources=tuple(sources))


@dataclass(frozen=True)
class ShardsWork:
    """A shards stage."""

    text: float
    corpus_partitions: int
    partitions: int
    """`shards`."""
    context: int
    rendered: bool = False
    """Through a chat template, document by document."""

    @property
    def size(self) -> float:
        return self.text

    @property
    def reads(self) -> int | None:
        """Of every corpus file, where nothing is shuffled (jobs/corpus/shard_documents.py)."""
        return reads_a_file(self.corpus_partitions, self.partitions)

    def scaled(self, factor: float) -> "ShardsWork":
        return replace(self, text=self.text * factor)


@dataclass(frozen=True)
class Volumes:
    """Bytes over all nodes, but for what is counted.

    Example:
        Volumes(documents=5e9, rows=11.5e12, shuffled=4.3e12, spilled=1.9e12, stored=4e12, passing=0, maps=10_711)
    """

    documents: float
    rows: float
    """In memory, before they are packed for the shuffle."""
    shuffled: float
    """Packed, through Ray's object store."""
    spilled: float
    """Of them, what the object stores do not hold."""
    stored: float
    """Of the artifact."""
    passing: float
    """In the store until the stage is done."""
    maps: int
    """Tasks of the shuffle, each of which makes an object for every partition."""


def corpus_volumes(work: CorpusWork, nodes: Nodes) -> Volumes:
    documents = work.text / nodes.assumed.document_bytes
    found = volumes_of(documents, work.text + documents * HELD["row_bytes_beside_text"], work.partitions, nodes)
    index = documents * HELD["signature_file_bytes"] if work.near else 0
    return replace(
        found,
        stored=work.text * HELD["stored_share"] + index,
        passing=work.text * HELD["kept_share"] if work.near else 0,
    )


def shards_volumes(work: ShardsWork, nodes: Nodes) -> Volumes:
    documents = work.text / nodes.assumed.document_bytes
    found = volumes_of(documents, work.text + documents * HELD["shard_row_bytes_beside_text"], work.partitions, nodes)
    if work.reads is not None:
        found = replace(found, shuffled=0, spilled=0, maps=0)
    return replace(found, stored=tokens_of(work) * HELD["stored_bytes_a_token"])


def tokens_of(work: ShardsWork) -> float:
    return work.text / HELD["bytes_a_token"]


def rows_of(work: ShardsWork) -> float:
    """Packed rows; none of them has an empty place."""
    return tokens_of(work) / work.context


def rank_index_bytes(work: ShardsWork) -> float:
    """What each rank that trains holds of the index, with the orders of two epochs (jobs/train/plan.py)."""
    return HELD["rank_bytes_a_row"] * rows_of(work)


def volumes_of(documents: float, rows: float, partitions: int, nodes: Nodes) -> Volumes:
    packed = rows * HELD["packed_share"]
    spilled = max(0.0, packed - nodes.cluster.nodes * nodes.object_store_bytes)
    cut = shuffle_batch_bytes(partitions, nodes.assumed.shuffle_input_bytes)
    return Volumes(documents, rows, packed, spilled, 0, 0, max(1, math.ceil(rows / cut)))
