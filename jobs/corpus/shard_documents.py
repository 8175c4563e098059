"""Which documents of a corpus a shard is made of, brought together in one task a shard.

    corpus files --read, by id modulo the number of shards--> documents of one shard --> write

The number of a document's file is its id modulo the number of files. Where that says which shards a file has documents for, each
shard's task reads those files by itself: no row goes through Ray's object store, and no task holds two shards.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from jobs.corpus.partitions import Progress, Read, Report, Write, run_each, run_partitions
from jobs.corpus.schema import number_of, partitions_of, read_table, reads_a_file
from jobs.corpus.shard_rows import KEPT

READ_COLUMNS = [
    "document_id", "text", "messages", "judged_as", "judgement", "uri", "source", "sha256", "licence", "confidentiality",
]  # fmt: skip


def made_of_documents(
    stage: ShardsStage,
    corpus: Store,
    units: list[dict[str, Any]],
    partitions: int | None,
    write: Write,
    progress: Progress,
) -> list[Report]:
    """`write` of every shard that has documents; its reports in the order of the shards.

    Args:
        units: files of the corpus with their manifest entries: `name`, `sha256`.
        partitions: of the corpus; None where it was written before corpora said so.
    """
    read, label = partition_reader(stage, corpus), f"shards ({stage.rows})"
    if partitions is None or reads_a_file(partitions, stage.shards) is None:
        return run_partitions(units, read, write, stage.shards, label, progress)
    by_file = _shards_by_file(units, stage.shards, partitions)
    return [report for report in run_each(by_file, _shard_maker(read, write), label, progress) if report]


def partition_reader(stage: ShardsStage, corpus: Store) -> Read:
    """Reads one corpus file and gives every document its shard."""

    def read(unit: dict[str, Any]) -> Iterator[pa.Table]:
        documents = read_table(corpus, unit["name"], unit["sha256"], READ_COLUMNS)
        wanted, unused = KEPT[stage.rows]
        documents = documents.filter(wanted).drop_columns([*unused, "judged_as"])
        shard = partitions_of(documents["document_id"].to_numpy(), stage.shards)
        split = [unit["name"].partition("/")[0]] * documents.num_rows
        yield documents.append_column("partition", pa.array(shard)).append_column("split", pa.array(split, pa.string()))

    return read


def _shards_by_file(units: list[dict[str, Any]], shards: int, partitions: int) -> list[dict[str, Any]]:
    """Every shard with the corpus files that its documents are in."""
    step = math.gcd(partitions, shards)
    files: dict[int, list[dict[str, Any]]] = {}
    for unit in units:
        files.setdefault(number_of(unit["name"]) % step, []).append(unit)
    return [{"shard": shard, "files": files[shard % step]} for shard in range(shards) if shard % step in files]


def _shard_maker(read: Read, write: Write) -> Callable[[dict[str, Any]], Report]:
    """Makes one of `_shards_by_file`; an empty report where it has no documents."""

    def make(unit: dict[str, Any]) -> Report:
        mine = pc.field("partition") == unit["shard"]
        documents = pa.concat_tables(table.filter(mine) for file in unit["files"] for table in read(file))
        return write(unit["shard"], documents) if documents.num_rows else {}

    return make
