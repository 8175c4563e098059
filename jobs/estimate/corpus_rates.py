"""How fast one core prepares texts, what that holds, and what is assumed where nothing could be measured.

Measured by tests/benchmarks/corpus_speed.py with the real code on real texts (50 MB of PubMed, Wikipedia and web pages; one
core of a virtual machine on an AMD EPYC). The numbers are those of tests/benchmarks/results.json,
"corpus_speed"; a test compares them.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from jobs.estimate.hardware import check_assumed


class Kind(NamedTuple):
    """How files of a kind are read; of unpacked bytes."""

    bytes_per_s: float
    text_share: float
    """Bytes of text for one of the file: mark-up and other columns are not text."""


PDF_BYTES = 1e6
"""Of a paper with pictures; assumed. Measured are documents a second, of 60,000 characters each."""

KINDS = {
    "jsonl": Kind(1.55e8, 0.983), "csv": Kind(1.01e8, 0.996), "parquet": Kind(7.91e7, 2.52),
    "xml": Kind(3.59e7, 0.13), "text": Kind(4.88e7, 1), "html": Kind(3.13e7, 0.392), "docx": Kind(9.5e6, 1.68),
    "pdf": Kind(15.9 * PDF_BYTES, 5.92e4 / PDF_BYTES),
}  # fmt: skip
"""Of html, docx and xml the numbers depend on what else the files hold: measured on pages of which two fifths are text, on
documents without pictures, and on PubMed's own XML. A PDF costs its process and its text, whatever its pictures weigh."""

OTHER_NAMES = {"json": "jsonl", "tsv": "csv", "pubmed": "xml", "jats": "xml"}
"""Kinds that are read like another: not measured for themselves."""


class Packing(NamedTuple):
    """What packed files cost beside what they hold."""

    bytes_per_s: float
    """Of unpacked bytes."""
    ratio: float
    """Unpacked over packed bytes, of the benchmark's JSON lines."""


PACKINGS = {
    "gz": Packing(2.89e8, 2.81), "zst": Packing(1.39e9, 4.85),
}  # fmt: skip

RATES = {
    "clean": 2.22e7, "layout_paper": 1.34e7, "layout_web": 2.04e7, "quality": 4.73e6, "language": 2.29e6,
    "pii_patterns": 8.48e7, "pii_presidio": 7.67e5, "pii_ner": 6e4, "table": 3.41e8, "shuffle_map": 1.46e8,
    "shuffle_reduce": 3.88e8, "write": 1.44e8, "describe": 2.48e7, "keep": 1.27e8, "write_kept": 8.99e7,
    "contamination": 5.46e6, "shard_read": 8.19e8, "tokenise": 1.4e8, "conversations": 1.39e6, "pack": 1.06e8,
    "keys": 1.75e6, "pairs": 1.05e6, "cluster": 1.05e5, "clusters_read": 1.42e8, "index": 3.72e6, "hash": 1.85e9,
    "shard_refs": 6.67e4,
}  # fmt: skip
"""Of one core, each of what its step reads: bytes of text a second in most; of rows in a table (`shuffle_*`), of Parquet
(`clusters_read`), of files (`hash`); documents (`keys`, `cluster`), keys (`pairs`), packed rows (`index`), pieces (`shard_refs`).

`tokenise` is gigatoken's; a tokenizer that it cannot stand in for (jobs/corpus/fast_tokens.py) takes some fifteen times as long.

`pii_ner` is not measured, because no pipeline comes with this: spaCy's own figure for en_core_web_lg, 10,014 words a second on
a CPU (spacy.io/usage/facts-figures), of six bytes. Pipelines with transformers are much slower."""

HELD = {
    "row_bytes_beside_text": 300, "shard_row_bytes_beside_text": 144, "packed_share": 0.375, "stored_share": 0.356,
    "kept_share": 0.371, "signature_file_bytes": 490, "bytes_a_token": 4.48, "stored_bytes_a_token": 1.29,
    "write_peak": 3.67, "describe_peak": 3.52, "pack_peak": 10.1, "pairs_bytes_a_key": 134,
    "cluster_bytes_a_document": 4110, "clusters_file_bytes_a_row": 17.8, "clusters_bytes_a_row": 108,
    "index_bytes_a_row": 285, "rank_bytes_a_row": 169, "bytes_a_ref": 2420,
}  # fmt: skip
"""Bytes: of a row beside its text; of the artifact for one of text, of one packed for one in a shuffle (`*_share`); memory at
its peak over the rows of a partition, which are not in it (`*_peak`); and by document, key or row where that is what counts."""

BANDS = 16
"""jobs/corpus/minhash.py."""
KEY_ROW_BYTES = 20
"""Of the shuffle by key: key and id of 8 bytes each, partition of 4. Hashes do not pack."""
SHA256_BYTES = 64
"""Of a document's hash as it is written. Arrow's columns of strings end at 2 GiB, and sorting one that is longer is an error
("offset overflow", pyarrow 26)."""
CLUSTER_PARTS = 512
"""jobs/corpus/clusters.py"""
MAX_READ_BLOCKS = 2000
"""jobs/corpus/partitions.py: more tasks than this never read at the same time."""

OBJECT_STORE_SHARE, OBJECT_STORE_MOST_BYTES = 0.3, 200e9
"""Ray's default, of a node's memory (ray_constants.py, 2.60)."""
TASK_SHARE = 0.7
"""Of a node's memory, what Ray counts as the resource `memory` that tasks ask for: all but its object store."""


@dataclass(frozen=True)
class CorpusAssumptions:
    """What is neither in a config nor measured.

    Example:
        CorpusAssumptions(corpus_bytes=10e12)
    """

    corpus_bytes: float | None = field(
        default=None,
        metadata={
            "why": "of all sources of the run together, as they lie (packed); their mix stays. Default: as they are"
        },
    )
    file_bytes: float = field(
        default=0.5e9,
        metadata={
            "why": "of an input file, which one core reads, where corpus_bytes is assumed; C4's have 0.3 GB, FineWeb's 2 GB"
        },
    )
    document_bytes: float = field(
        default=2000,
        metadata={
            "why": "of a document's text: 1.5 KB on PubMed, 2 KB on C4 (156 B tokens in 365 M documents, arXiv 1910.10683)"
        },
    )
    paired_share: float = field(
        default=0.3,
        metadata={
            "why": "documents that share a key with another, with near_duplicates; a property of the data, assumed: crawls of "
            "the web lose about that much"
        },
    )
    memory_per_core_bytes: float = field(
        default=4e9,
        metadata={"why": "general-purpose machines of the three large clouds have 4 GiB a vCPU, those for memory 8"},
    )
    memory_share: float = field(
        default=0.95,
        metadata={
            "why": "of a node's memory, from which on Ray ends tasks (RAY_memory_usage_threshold); its object store is in it"
        },
    )
    disk_bytes: float = field(
        default=0.5e12,
        metadata={"why": "of a node, free where Ray spills (below /tmp); assumed, one attaches what one likes"},
    )
    disk_bytes_per_s: float = field(
        default=0.5e9, metadata={"why": "of a node, read or written: an attached SSD; assumed"}
    )
    network_bytes_per_s: float = field(
        default=1.56e9, metadata={"why": "of a node to the others: 12.5 Gb/s, what clouds promise 32 cores at least"}
    )
    store_bytes_per_s: float = field(
        default=1e9, metadata={"why": "of a node from and to S3, many requests at a time; below its network, assumed"}
    )
    core_speed: float = field(
        default=1.0,
        metadata={
            "why": "of a core over the one that was measured on; less where a vCPU is half a core (hyper-threads)"
        },
    )
    busy_share: float = field(
        default=0.8,
        metadata={"why": "of the cores' time that is this work; starts, waiting and retries are the rest; assumed"},
    )
    shuffle_input_bytes: float = field(
        default=2**30,
        metadata={
            "why": "rows that a task of the shuffle cuts into pieces, at most: RAY_DATA_SHUFFLE_INPUT_BATCH_BYTES of Ray 2.60"
        },
    )

    def __post_init__(self) -> None:
        check_assumed(vars(self))
