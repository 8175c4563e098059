"""The files of shards that are mixed: what their indexes say, which rows of which file are used, and where each goes.

indexes --> units: a file and what is used of it --rows--> tables by shard --> {train,heldout,documents}/shard-NNNNN.parquet
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import Store
from jobs.corpus.document_rows import by_document, documents_file, stretches
from jobs.corpus.partitions import Read, Report, Write
from jobs.corpus.schema import INDEX_SCHEMA, ROW_SCHEMA, SPLITS, DataError, read_table, write_table
from jobs.corpus.shares import Numbers, Placement

Indexes = dict[str, pa.Table]
"""By input, in order of their names: INDEX_SCHEMA of one split."""


def partition_reader(inputs: Mapping[str, Store]) -> Read:
    """Reads what is used of one file and gives every row its shard and its place there."""

    def read(unit: dict[str, Any]) -> Iterator[pa.Table]:
        table = read_table(inputs[unit["input"]], unit["name"], unit["sha256"], ROW_SCHEMA.names)
        rows = table.take(pa.array(unit["rows"], pa.int64()))
        split = [unit["split"]] * rows.num_rows
        yield (
            rows.append_column("partition", pa.array(unit["shard"], pa.int32()))
            .append_column("split", pa.array(split, pa.string()))
            .append_column("place", pa.array(unit["place"], pa.int32()))
        )

    return read


def partition_writer(output: Store) -> Write:
    """Writes one shard of both splits from its rows, in whatever order they arrive."""

    def write(shard: int, rows: pa.Table) -> Report:
        report: Report = {"files": {}}
        documents = []
        for split in SPLITS:
            chosen = rows.filter(pc.field("split") == split).sort_by("place")
            if chosen.num_rows:
                packed = chosen.select(ROW_SCHEMA.names).cast(ROW_SCHEMA)
                put(output, shard_name(split, shard), packed, report["files"])
                documents.append(stretches(packed, split))
        put(output, documents_file(shard), by_document(documents), report["files"])
        return report

    return write


def shard_name(split: str, number: int) -> str:
    return f"{split}/shard-{number:05d}.parquet"


def put(output: Store, name: str, table: pa.Table, files: dict[str, Any]) -> None:
    file = write_table(output, name, table)
    files[name] = file.entry


def read_indexes(inputs: Mapping[str, Store], manifests: Mapping[str, Any], split: str) -> Indexes:
    """Raises DataError at damage and where an input is of another version."""
    indexes: Indexes = {}
    for each, manifest in manifests.items():
        name = f"{split}/index.parquet"
        indexes[each] = read_table(inputs[each], name, manifest["files"][name]["sha256"])
        if not indexes[each].schema.equals(INDEX_SCHEMA):
            raise DataError(f"{inputs[each].path(name)} is of another version; build {each} again")
    return indexes


def told_apart(splits: Mapping[str, Indexes]) -> dict[str, Indexes]:
    """Sources of the same name in several inputs become `INPUT.SOURCE`: their held-out losses are of different rows."""
    found = {(name, each) for indexes in splits.values() for each in indexes for name in _sources(indexes[each])}
    counts = Counter(name for name, _ in found)
    shared = {name for name, count in counts.items() if count > 1}

    def renamed(each: str, index: pa.Table) -> pa.Table:
        names = [f"{each}.{name}" if name in shared else name for name in index["source"].to_pylist()]
        return index.set_column(INDEX_SCHEMA.get_field_index("source"), "source", pa.array(names, pa.string()))

    return {split: {each: renamed(each, indexes[each]) for each in indexes} for split, indexes in splits.items()}


def _sources(index: pa.Table) -> set[str]:
    return {name for name in index["source"].unique().to_pylist() if name is not None}


def tokens_of(indexes: Indexes) -> dict[str, Numbers]:
    """Of packed rows, what is computed is what is stored."""
    return {each: index["tokens"].to_numpy().astype(np.int64) for each, index in indexes.items()}


def units_of(split: str, placement: Placement, indexes: Indexes, manifests: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One for each file of which rows are used: which rows, and where each goes."""
    units: list[dict[str, Any]] = []
    for number, (each, index) in enumerate(indexes.items()):
        mine = np.flatnonzero(placement.input == number)
        files = index["shard"].to_numpy()[placement.place[mine]]
        mine, files = mine[np.argsort(files, kind="stable")], np.sort(files)
        found = np.unique(files)
        firsts, ends = np.searchsorted(files, found), np.searchsorted(files, found, side="right")
        for file, first, end in zip(found.tolist(), firsts, ends, strict=True):
            uses = mine[first:end]
            name = shard_name(split, file)
            units.append({
                "input": each, "split": split, "name": name, "sha256": manifests[each]["files"][name]["sha256"],
                "rows": index["row"].to_numpy()[placement.place[uses]].tolist(),
                "shard": placement.shard[uses].tolist(), "place": placement.row[uses].tolist(),
            })  # fmt: skip
    return units


def index_table(placement: Placement, indexes: Indexes) -> pa.Table:
    """INDEX_SCHEMA of the mix: what the inputs' indexes say of the rows, at their new places."""
    firsts = np.cumsum([0, *(index.num_rows for index in indexes.values())])
    rows = pa.concat_tables(indexes.values()).take(pa.array(firsts[placement.input] + placement.place))
    columns = {"shard": placement.shard, "row": placement.row}
    return pa.table(
        {
            name: pa.array(columns[name]).cast(pa.int32()) if name in columns else rows[name]
            for name in INDEX_SCHEMA.names
        },
        schema=INDEX_SCHEMA,
    )
