"""What lasts of a document's origin stands in its row, what was true at one time in collected.parquet; together they are the manifest."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from cluster.storage import Store
from configs.schema.corpus import Cleaning, CorpusStage, Source
from jobs.corpus.inputs import InputFile, find_inputs
from jobs.corpus.provenance import COLLECTED_SCHEMA, collected, document_manifest, write_collected
from jobs.corpus.reading import partition_reader, read_units
from jobs.corpus.writing import partition_writer

LINES = b'{"text": "Iron in cells."}\n{"text": "Oxygen in cells."}\n'
TIME = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)


def build(stage: CorpusStage, inputs: list[InputFile], output: Store, at: datetime) -> None:
    """What build_corpus does, in this process: one partition, no cluster."""
    import pyarrow as pa

    tables = [table for unit in read_units(stage, inputs) for table in partition_reader(stage)(unit)]
    report = partition_writer(stage, output, lambda: None)(0, pa.concat_tables(tables))
    write_collected(stage, inputs, output, at)
    output.write_json("manifest.json", {"files": report["files"]})


def made(tmp_path: Path) -> tuple[CorpusStage, list[InputFile]]:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(LINES)
    (tmp_path / "in/b.txt").write_bytes("Größe.".encode("cp1252"))
    source = Source(path="in", licence="CC0-1.0", confidentiality="public")
    stage = CorpusStage(
        stage="corpus",
        sources={"docs": source},
        cleaning=Cleaning(minimum_characters=1),
        heldout_fraction=0,
        partitions=1,
    )
    return stage, find_inputs(stage, tmp_path)


def test_one_manifest_row_a_document(tmp_path: Path) -> None:
    stage, inputs = made(tmp_path)
    os.utime(tmp_path / "in/a.jsonl", (0, 0))
    inputs = find_inputs(stage, tmp_path)
    output = Store(str(tmp_path / "corpus"))
    build(stage, inputs, output, TIME)
    rows = {row["uri"]: row for row in document_manifest(output).to_pylist()}
    assert set(rows) == {"in/a.jsonl#1", "in/a.jsonl#2", "in/b.txt"}
    second = rows["in/a.jsonl#2"]
    start, length = second["byte_offset"], second["byte_length"]
    assert json.loads(LINES[start : start + length]) == {"text": "Oxygen in cells."}
    sha256 = hashlib.sha256(b"Oxygen in cells.").hexdigest()
    assert second == {
        "document_id": int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True),
        "uri": "in/a.jsonl#2", "file": "in/a.jsonl", "byte_offset": 27, "byte_length": 29, "sha256": sha256,
        "licence": "CC0-1.0", "confidentiality": "public", "source": "docs", "etag": None,
        "file_sha256": hashlib.sha256(LINES).hexdigest(), "modified_at": "1970-01-01T00:00:00+00:00",
        "collected_at": "2026-11-26T12:00:00+00:00",
    }  # fmt: skip
    assert rows["in/b.txt"]["byte_offset"] is None


def test_a_corpus_built_later_from_the_same_files_differs_in_collected_parquet_only(tmp_path: Path) -> None:
    stage, inputs = made(tmp_path)
    first, second = Store(str(tmp_path / "one")), Store(str(tmp_path / "two"))
    build(stage, inputs, first, TIME)
    os.utime(tmp_path / "in/a.jsonl", (0, 0))
    build(stage, find_inputs(stage, tmp_path), second, TIME.replace(year=2027))
    names = [file.name for file in first.files()]
    assert names == [file.name for file in second.files()]
    assert [name for name in names if first.read(name) != second.read(name)] == ["collected.parquet"]


def test_etags_and_git_ids_are_kept_as_such(tmp_path: Path) -> None:
    stage, _ = made(tmp_path)
    remote = [
        InputFile(uri, uri, 1, mark, "docs", "CC0-1.0") for uri, mark in (("s3://b/a", "etag:e1"), ("hf:b", "git:0f"))
    ]
    table = collected(stage, remote, TIME)
    assert table.schema == COLLECTED_SCHEMA
    assert table["etag"].to_pylist() == ["e1", "git:0f"] and table["file_sha256"].to_pylist() == [None, None]
