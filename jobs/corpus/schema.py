"""Columns of the corpus and shard files, and the one way their bytes are written.

Which file a row belongs to, and its place in it, follow from the row's content. Together with fixed writer options this
makes the files byte-equal on any number of machines.
"""

import hashlib
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Store
from configs.errors import UserError

SPLITS = ("train", "heldout")

DOCUMENT_SCHEMA = pa.schema(
    [
        ("document_id", pa.int64()),
        ("text", pa.large_string()),
        ("messages", pa.large_string()),
        ("judged_as", pa.string()),
        ("judgement", pa.large_string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("confidentiality", pa.string()),
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("file", pa.string()),
        ("byte_offset", pa.int64()),
        ("byte_length", pa.int64()),
    ]
)
"""The fields of records.Document. Text is large_string: a partition may hold more than 2 GiB of it."""

QUARANTINE_SCHEMA = pa.schema(
    [("uri", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)

ROW_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("weights", pa.list_(pa.float32())),
        ("segment_lengths", pa.list_(pa.int32())),
        ("document_ids", pa.list_(pa.int64())),
    ]
)
"""The fields of records.PackedRow."""

EXAMPLE_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        ("levels", pa.list_(pa.int32())),
        ("prompt_lengths", pa.list_(pa.int32())),
        ("margin", pa.float32()),
    ]
)
"""The fields of records.ExampleRow."""

PROMPT_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("document_id", pa.int64()),
        ("messages", pa.large_string()),
        ("answer", pa.large_string()),
    ]
)
"""The fields of records.PromptRow."""

INDEX_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("tokens", pa.int32()),
        ("weight", pa.float32()),
        ("source", pa.string()),
    ]
)
"""Where each packed row lies and what it costs and weighs: enough to plan every step without reading a token. `tokens` are
those that are computed: answers to one prompt share it. `weight` is the sum of the row's weights, its share of the loss
denominator; float32 is exact for whole ones up to 2**24. `source` is that of the row's documents, null where they have
several; held-out rows have one."""

ROW_GROUP_ROWS = 4096
"""A reader holds one row group: about 8 MB of abstracts, or 4 M packed tokens."""


MOST_READS = 4
"""Of a corpus file: as many cost what it costs to send its rows through a shuffle."""

PIECE_BYTES, LEAST_BATCH_BYTES = 8 << 20, 64 << 20


class DataError(UserError, ValueError):
    """The data cannot become what the config asks for; the message says where and how to mend it. Exit code 2."""


@dataclass(frozen=True)
class WrittenFile:
    """A finished file of an artifact.

    Example:
        WrittenFile(name="train/part-00003.parquet", sha256="9f2c...", size=104233, rows=512)
    """

    name: str
    sha256: str
    size: int
    rows: int

    @property
    def entry(self) -> dict[str, Any]:
        """What a manifest's `files` says of it, by its name."""
        return {"sha256": self.sha256, "size": self.size, "rows": self.rows}


def partition_of(document_id: int, partitions: int) -> int:
    """The file a document belongs to. Its id is a hash already, so its remainder is spread evenly."""
    return document_id % partitions


def shuffle_batch_bytes(partitions: int, most: float) -> float:
    """What one map task of a shuffle cuts: so much that every partition's piece of it has PIECE_BYTES, within LEAST_BATCH_BYTES
    and `most`. Ray's own setting, 1 GiB, would make one task of a small corpus: it holds everything twice while one core works.
    """
    return min(most, max(LEAST_BATCH_BYTES, partitions * PIECE_BYTES))


def partitions_of(document_ids: np.ndarray, partitions: int) -> np.ndarray:
    """`partition_of` every one, int32."""
    return np.mod(document_ids, partitions).astype(np.int32)


def number_of(name: str) -> int:
    """Of the partition or shard that is in this file."""
    return int(name.removesuffix(".parquet")[-5:])


def reads_a_file(partitions: int, shards: int) -> int | None:
    """How often each file of a corpus is read where its shards are made without a shuffle; None where that is too often.

    A document of file f is in a shard s with s = f modulo the greatest common divisor of both counts: if they are equal, s = f.
    """
    reads = shards // math.gcd(partitions, shards)
    return reads if reads <= MOST_READS else None


def document_id_of(sha256: str) -> int:
    """First 8 bytes of a hexadecimal sha256 as a signed big-endian integer."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def parquet_bytes(table: pa.Table) -> bytes:
    """The same bytes for the same rows: fixed compression, row groups and version; Parquet writes no times."""
    sink = io.BytesIO()
    pq.write_table(
        table.combine_chunks(),
        sink,
        version="2.6",
        compression="zstd",
        compression_level=3,
        row_group_size=ROW_GROUP_ROWS,
    )
    return sink.getvalue()


def write_table(store: Store, name: str, table: pa.Table) -> WrittenFile:
    """Puts a table as one whole Parquet file; putting it again changes nothing."""
    data = parquet_bytes(table)
    store.write(name, data)
    return WrittenFile(name, hashlib.sha256(data).hexdigest(), len(data), table.num_rows)


def read_table(store: Store, name: str, sha256: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file of an artifact. Raises DataError where it is missing or not what the manifest says."""
    try:
        data = store.read(name)
    except FileNotFoundError as error:
        raise DataError(f"{store.path(name)} is missing; remove the artifact and run again to rebuild it") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError(
            f"{store.path(name)} is damaged: its sha256 is {found[:12]}..., the manifest says {sha256[:12]}... "
            "Remove the artifact and run again to rebuild it."
        )
    return pq.read_table(io.BytesIO(data), columns=columns)
