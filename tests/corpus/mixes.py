"""Shards that are written by hand, and mixes of them that are made in this process."""

import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cluster.storage import Store
from configs.schema.gate import Gate
from configs.schema.mix import MixStage
from jobs.corpus import mix
from jobs.corpus.document_rows import by_document, documents_file, stretches
from jobs.corpus.gate import sealed
from jobs.corpus.mix import MixSummary, build_mix
from jobs.corpus.partitions import Read, Report, Write
from jobs.corpus.schema import INDEX_SCHEMA, ROW_SCHEMA, write_table

CONTEXT = 64


def write_shards(below: Store, source: str, count: int, heldout: int = 4, **manifest: Any) -> Store:
    """A shards artifact in two files of each split, with rows of 8 to 64 tokens that say where they are from."""
    generator = np.random.Generator(np.random.Philox(len(source)))
    files: dict[str, Any] = {}
    documents: dict[int, list[pa.Table]] = {0: [], 1: []}
    for split, total in (("train", count), ("heldout", heldout)):
        index = []
        for shard in range(2):
            own = [packed_row(generator, 1000 * len(source) + number, split) for number in range(shard, total, 2)]
            index += [[shard, row, len(it["input_ids"]), sum(it["weights"]), source] for row, it in enumerate(own)]
            packed = pa.Table.from_pylist(own, schema=ROW_SCHEMA)
            files |= entry(below, f"{split}/shard-{shard:05d}.parquet", packed)
            documents[shard].append(stretches(packed, split))
        columns = zip(*index, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, INDEX_SCHEMA, strict=True)]
        files |= entry(below, f"{split}/index.parquet", pa.table(arrays, schema=INDEX_SCHEMA))
    for shard, tables in documents.items():
        files |= entry(below, documents_file(shard), by_document(tables))
    told = {"rows": "text", "context": CONTEXT, "tokenizer_sha256": "t", "template_sha256": None, **manifest}
    told["gate"] = sealed(Gate(), {"public CC0-1.0": count}, files)
    below.write_json("manifest.json", {**told, "files": files})
    return below


def packed_row(generator: np.random.Generator, document: int, split: str) -> dict[str, Any]:
    length = int(generator.integers(8, CONTEXT + 1))
    document = document if split == "train" else -document - 1
    return {
        "input_ids": generator.integers(3, 100, length).tolist(), "weights": [0.0] + [1.0] * (length - 1),
        "segment_lengths": [length], "document_ids": [document],
    }  # fmt: skip


def entry(store: Store, name: str, table: pa.Table) -> dict[str, Any]:
    written = write_table(store, name, table)
    return {name: {"sha256": written.sha256, "size": written.size, "rows": written.rows}}


def run_here(order: int) -> Any:
    """`run_partitions` in this process, with rows that arrive in a random order."""

    def run(units: list[dict[str, Any]], read: Read, write: Write, partitions: int, *_: object) -> list[Report]:
        rows = pa.concat_tables([table for unit in units for table in read(unit)])
        rows = rows.take(random.Random(order).sample(range(rows.num_rows), rows.num_rows))
        shards = [rows.filter(pc.field("partition") == shard) for shard in range(partitions)]
        return [write(shard, table) for shard, table in enumerate(shards) if table.num_rows]

    return run


def mixed(
    monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Store], output: Store, order: int = 0, **stage: Any
) -> tuple[MixSummary, list[str]]:
    """A mix that is made in this process, and what was said."""
    monkeypatch.setattr(mix, "run_partitions", run_here(order))
    said: list[str] = []
    built = MixStage.model_validate({"stage": "mix", "shards": 3, **stage})
    return build_mix("blend", built, inputs, output, lambda *_: None, said.append), said


def stored(store: Store, split: str) -> list[dict[str, Any]]:
    """All packed rows in the order of the index."""
    index = pq.read_table(io.BytesIO(store.read(split, "index.parquet"))).to_pylist()
    files = {number: read_rows(store, split, number) for number in {row["shard"] for row in index}}
    assert Counter(row["shard"] for row in index) == {number: len(rows) for number, rows in files.items()}
    return [{**row, **files[row["shard"]][row["row"]]} for row in index]


def read_rows(store: Store, split: str, number: int) -> list[dict[str, Any]]:
    return pq.read_table(io.BytesIO(store.read(split, f"shard-{number:05d}.parquet"))).to_pylist()


STAGE = {"shares": {"papers": 0.7, "wiki": 0.3}, "replay": {"shards": "general"}}


def three_inputs(tmp_path: Path) -> dict[str, Store]:
    """30, 200 and 80 rows."""
    store = Store(str(tmp_path / "inputs"))
    return {
        name: write_shards(store.below(name), name, rows)
        for name, rows in (("papers", 30), ("wiki", 200), ("general", 80))
    }
