"""Which packed rows hold a document: what a list of documents to be removed becomes a list of rows with.

    rows of a shard --(document, split, row), run-length--> documents/shard-NNNNN.parquet, written beside them by the same task
    document ids --modulo `shards`--> the tables they can be in --rows_of_documents--> shard, split, rows

A long text fills whole rows that follow each other, so a stretch of rows says it in one entry. There is one table a shard and
none of all of them: whoever looks a document up opens the table of its shard only, and nobody ever holds all documents.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import Store
from jobs.corpus.schema import PROMPT_SCHEMA, DataError, partition_of, read_table

DOCUMENT_ROWS_SCHEMA = pa.schema(
    [
        ("document_id", pa.int64()),
        ("split", pa.string()),
        ("row", pa.int32()),
        ("rows", pa.int32()),
        ("tokens", pa.int32()),
    ]
)
"""A stretch: `rows` rows of a split of the shard, from `row` on, each of which holds something of the document; `tokens` are
those of its segments in all of them. Sorted by document_id, split and row. A completion that a thumb borrows is of the document
that lends it, with the borrower's prompt before it, so a training document may have held-out rows too."""

DOCUMENTS = "documents/"
"""Below it are the tables of shards, and of mixes, where a document may be in the tables of several shards."""

FOUND_SCHEMA = pa.schema([("shard", pa.int32()), *DOCUMENT_ROWS_SCHEMA])


def documents_file(shard: int) -> str:
    """Not below train/: what training reads, and checks before it, is there."""
    return f"{DOCUMENTS}shard-{shard:05d}.parquet"


def stretches(rows: pa.Table, split: str) -> pa.Table:
    """DOCUMENT_ROWS_SCHEMA of the rows (ROW_SCHEMA, EXAMPLE_SCHEMA or PROMPT_SCHEMA) of one split of a shard."""
    if rows.num_rows == 0:
        return DOCUMENT_ROWS_SCHEMA.empty_table()
    documents, places, lengths = _segments(rows)
    order = np.lexsort((places, documents))
    documents, places, lengths = documents[order], places[order], lengths[order]
    begins = np.ones(len(documents), dtype=bool)
    # Two segments of a document in one row (the answers of a pair) are one place.
    begins[1:] = (documents[1:] != documents[:-1]) | (np.diff(places) > 1)
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(documents)) - 1
    columns = {
        "document_id": documents[first], "split": [split] * len(first), "row": places[first],
        "rows": places[last] - places[first] + 1, "tokens": np.add.reduceat(lengths, first),
    }  # fmt: skip
    return pa.table(columns, schema=DOCUMENT_ROWS_SCHEMA)


def by_document(of_splits: Sequence[pa.Table]) -> pa.Table:
    """The stretches of all splits of a shard in one table, as it is written."""
    return pa.concat_tables(of_splits).sort_by(
        [("document_id", "ascending"), ("split", "ascending"), ("row", "ascending")]
    )


def _segments(rows: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every segment its document, row and length; a prompt is one segment."""
    if rows.schema.equals(PROMPT_SCHEMA):
        lengths = pc.list_value_length(rows["input_ids"]).to_numpy()
        return rows["document_id"].to_numpy(), np.arange(rows.num_rows), lengths
    owners = pa.concat_arrays(rows["document_ids"].chunks)
    places = np.repeat(np.arange(rows.num_rows), pc.list_value_length(owners).to_numpy())
    return owners.flatten().to_numpy(), places, pa.concat_arrays(rows["segment_lengths"].chunks).flatten().to_numpy()


def tokens_by_source(found: pa.Table, sources: Mapping[int, str]) -> Counter[str]:
    """Stored tokens of `stretches`, by the source of their document.

    Args:
        sources: by document id.
    """
    counts: Counter[str] = Counter()
    for document, tokens in zip(found["document_id"].to_pylist(), found["tokens"].to_pylist(), strict=True):
        counts[sources[document]] += tokens
    return counts


def rows_of_documents(shards: Store, ids: Iterable[int]) -> pa.Table:
    """FOUND_SCHEMA: all rows of a shards artifact that hold something of some documents, by shard, document, split and row.

    A document that was not packed (of another kind, in quarantine, in another corpus) has none. Reads one table for each shard
    that the ids can be in, one after the other.

    Args:
        shards: content of the artifact.

    Raises:
        DataError: the artifact is damaged, or older than these tables.
    """
    manifest = shards.read_json("manifest.json")
    wanted = _tables_of(shards, manifest, set(ids))
    found = [FOUND_SCHEMA.empty_table()]
    for shard, documents in sorted(wanted.items()):
        entry = manifest["files"].get(documents_file(shard))
        if entry is None:
            continue  # nothing was packed in that shard
        table = read_table(shards, documents_file(shard), entry["sha256"])
        table = table.filter(pc.is_in(table["document_id"], pa.array(documents, pa.int64())))
        found.append(table.add_column(0, FOUND_SCHEMA.field("shard"), pa.array([shard] * table.num_rows, pa.int32())))
    return pa.concat_tables(found).combine_chunks()


def _tables_of(shards: Store, manifest: Mapping[str, Any], ids: set[int]) -> dict[int, set[int]]:
    """Which documents to look for in the table of which shard: of a mix, for all of them in every table."""
    if "shares" in manifest:
        names = [name for name in manifest["files"] if name.startswith(DOCUMENTS)]
        return {int(name.removesuffix(".parquet")[-5:]): ids for name in names}
    count = shard_count(shards, manifest)
    wanted: dict[int, set[int]] = {}
    for document in ids:
        wanted.setdefault(partition_of(document, count), set()).add(document)
    return wanted


def shard_count(shards: Store, manifest: Mapping[str, object]) -> int:
    """Modulo what a document's id is its shard. Raises DataError where the artifact is older than its tables of documents."""
    count = manifest.get("shards")
    if not isinstance(count, int):
        raise DataError(
            f"{shards.root} does not say which rows a document is in: it was made by an earlier version; run its config again"
        )
    return count
