"""The files of one partition: what of it is the corpus, on which side of the split, and what is set aside with its reason.

    candidates --exact duplicates, contaminated ones aside--> Sorted --near-duplicates aside, split--> files

Nothing is lost on the way: every candidate is a row of one of the three files.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from jobs.corpus.contamination import Contamination, without_contaminated
from jobs.corpus.dedup import KEYS, drop_duplicates
from jobs.corpus.partitions import Report, Write
from jobs.corpus.schema import DOCUMENT_SCHEMA, QUARANTINE_SCHEMA, SPLITS, read_table, write_table
from jobs.corpus.split import is_heldout

AUDIT_SCHEMA = pa.schema([("document_id", pa.int64()), ("kind", pa.string()), ("digest", pa.string())])
"""Which document had which personal value, as its keyed digest (jobs/corpus/pii.py)."""


@dataclass(frozen=True)
class Sorted:
    """One partition, as far as it can be decided by itself."""

    documents: pa.Table
    """CANDIDATE_SCHEMA, by document_id and sha256."""
    aside: pa.Table
    """QUARANTINE_SCHEMA."""


def sort_out(candidates: pa.Table, contamination: Contamination | None) -> Sorted:
    """Splits candidates, in whatever order they arrive, into documents and what is set aside."""
    is_document = pc.is_null(candidates["reason"])
    rows = np.flatnonzero(is_document.to_numpy(zero_copy_only=False))
    found = drop_duplicates(candidates.select(KEYS).take(rows))
    duplicates = candidates.select(["uri", "source"]).take(rows[found.duplicates])
    aside = [
        candidates.select(QUARANTINE_SCHEMA.names).filter(pc.invert(is_document)),
        set_aside(duplicates, "duplicate", found.survivor_uri),
    ]
    survivors = rows[found.survivors]
    places = candidates.select(["document_id", "sha256"]).take(survivors)
    order = pc.sort_indices(places, [("document_id", "ascending"), ("sha256", "ascending")])
    documents = candidates.take(survivors[order])
    where = documents.schema.get_field_index("licence")
    documents = documents.set_column(where, documents.schema.field(where), found.licences.take(order))
    if contamination is not None:
        documents, contaminated = without_contaminated(documents, contamination)
        aside.append(set_aside(contaminated, "contaminated", contaminated["holds"]))
    return Sorted(documents, pa.concat_tables(aside))


def without_near_duplicates(partition: Sorted, clusters: pa.Table) -> Sorted:
    """Sets aside what is like a document that stays; what stays is split with its cluster.

    Args:
        clusters: CLUSTER_SCHEMA (jobs/corpus/clusters.py) by id, of this partition's documents and perhaps of others.
    """
    documents = partition.documents
    ids, known = documents["document_id"].to_numpy(), clusters["document_id"].to_numpy()
    if not len(known):
        return partition
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    member = known[place] == ids
    rows = clusters.take(pa.array(place))
    goes = member & ~rows["kept"].to_numpy(zero_copy_only=False)
    split_by = pc.if_else(pa.array(member), rows["split_by"], documents["split_by"])
    where = documents.schema.get_field_index("split_by")
    near = documents.filter(pa.array(goes))
    aside = set_aside(near, "near_duplicate", rows["like"].filter(pa.array(goes)))
    return Sorted(
        documents.set_column(where, "split_by", split_by).filter(pa.array(~goes)),
        pa.concat_tables([partition.aside, aside]),
    )


def write_partition(number: int, partition: Sorted, stage: CorpusStage, output: Store) -> Report:
    """Writes the files of one partition; counts of what is in them."""
    documents = partition.documents
    heldout = np.array(
        [is_heldout(key.as_py(), stage.heldout_fraction, stage.split_seed) for key in documents["split_by"]], dtype=bool
    )
    tables = {
        "train": documents.filter(pa.array(~heldout)).select(DOCUMENT_SCHEMA.names),
        "heldout": documents.filter(pa.array(heldout)).select(DOCUMENT_SCHEMA.names),
        "quarantine": partition.aside.sort_by([(name, "ascending") for name in ("uri", "source", "reason", "detail")]),
    }
    tables["personal"] = _audit(documents)
    written = [
        write_table(output, f"{name}/part-{number:05d}.parquet", table)
        for name, table in tables.items()
        if table.num_rows
    ]
    judged_as = Counter(documents["judged_as"].to_pylist())
    return {
        "files": {file.name: file.entry for file in written},
        "documents": {split: tables[split].num_rows for split in SPLITS},
        "rows": {"written": sum(tables[name].num_rows for name in (*SPLITS, "quarantine"))},
        "counts": {
            "conversations": documents.num_rows - documents["messages"].null_count,
            "preferences": judged_as["preferences"],
            "thumbs": judged_as["thumbs"],
            "characters": sum(len(text.as_py()) for text in documents["text"]),
        },
        "formats": Counter(
            map(" ".join, zip(documents["source"].to_pylist(), documents["format"].to_pylist(), strict=True))
        ),
        "sources": Counter(documents["source"].to_pylist()),
        "licences": Counter(documents["licence"].to_pylist()),
        "encodings": Counter(documents["encoding"].to_pylist()),
        "stripped": _summed(documents["stripped"]),
        "personal": Counter(
            kind for kinds in documents["findings"].to_pylist() for kind, _ in orjson.loads(kinds or "[]")
        ),
        "quarantined": Counter(tables["quarantine"]["reason"].to_pylist()),
    }


def partition_writer(stage: CorpusStage, output: Store, contamination: Callable[[], Contamination | None]) -> Write:
    """Writes the files of one partition where nothing has to be known of the others."""

    def write(number: int, candidates: pa.Table) -> Report:
        report = write_partition(number, sort_out(candidates, contamination()), stage, output)
        assert report["rows"]["written"] == candidates.num_rows, (number, report["rows"], candidates.num_rows)
        return report

    return write


def _audit(documents: pa.Table) -> pa.Table:
    """AUDIT_SCHEMA; empty where no salt was given, because digests that nobody can make again say nothing."""
    rows = [
        {"document_id": document, "kind": kind, "digest": digest}
        for document, found in zip(documents["document_id"].to_pylist(), documents["findings"].to_pylist(), strict=True)
        for kind, digest in orjson.loads(found or "[]")
        if digest
    ]
    return pa.Table.from_pylist(rows, schema=AUDIT_SCHEMA)


def _summed(column: pa.ChunkedArray) -> Counter[str]:
    total: Counter[str] = Counter()
    for counts in column.to_pylist():
        total.update(orjson.loads(counts or "{}"))
    return total


def keep(number: int, partition: Sorted, output: Store) -> Report:
    """Writes a sorted partition as it is, for `kept`."""
    tables = {"documents": partition.documents, "aside": partition.aside}
    written = {name: write_table(output, f"work/{name}-{number:05d}.parquet", table) for name, table in tables.items()}
    return {name: {"name": file.name, "sha256": file.sha256} for name, file in written.items()}


def kept(files: Report, output: Store) -> Sorted:
    """What `keep` wrote."""
    return Sorted(*(read_table(output, files[name]["name"], files[name]["sha256"]) for name in ("documents", "aside")))


def set_aside(rows: pa.Table, reason: str, detail: pa.ChunkedArray | pa.Array) -> pa.Table:
    """QUARANTINE_SCHEMA of documents."""
    reasons = pa.array([reason] * rows.num_rows, pa.string())
    return pa.table(
        {"uri": rows["uri"], "source": rows["source"], "reason": reasons, "detail": detail}, schema=QUARANTINE_SCHEMA
    )
