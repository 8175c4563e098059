"""Where the documents of a corpus come from: one row a document, joined from what lasts and what was found at one time.

    train/, heldout/ (file, byte range, licence, ...) --file--> collected.parquet (etag, sha256, times) = document_manifest

They are kept apart because a corpus is to be byte-equal wherever and whenever it is built from the same inputs: that is how a
lost worker, a rerun and another cluster are checked. When a file was collected, its time on disk and its absolute path are
none of its content. So document rows name their file, and collected.parquet, which no digest of the corpus covers (the
manifest's `files` do not list it), has what is true of the file at that time.
"""

import io
from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from jobs.corpus.inputs import InputFile
from jobs.corpus.schema import parquet_bytes, read_table

COLLECTED = "collected.parquet"

COLLECTED_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("source", pa.string()),
        ("location", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("file_sha256", pa.string()),
        ("modified_at", pa.string()),
        ("licence", pa.string()),
        ("confidentiality", pa.string()),
        ("collected_at", pa.string()),
    ]
)
"""One row a file. `etag`: of a file on S3, and `git:` with the blob id of a small one on a hub; `file_sha256`: of a local file
and a large one on a hub. On S3 it is null: its etag names the bytes, and reading them twice for a second name costs as much as
the corpus. Times are ISO 8601 in UTC."""

MANIFEST_COLUMNS = [
    "document_id", "uri", "file", "byte_offset", "byte_length", "sha256", "licence", "confidentiality", "source",
]  # fmt: skip
FILE_COLUMNS = ["etag", "file_sha256", "modified_at", "collected_at"]


def write_collected(stage: CorpusStage, inputs: Sequence[InputFile], output: Store, collected_at: datetime) -> None:
    """Writes collected.parquet below `output`."""
    output.write(COLLECTED, parquet_bytes(collected(stage, inputs, collected_at)))


def collected(stage: CorpusStage, inputs: Sequence[InputFile], collected_at: datetime) -> pa.Table:
    """COLLECTED_SCHEMA: the files as `find_inputs` found them, in their order."""
    rows = []
    for file in inputs:
        kind, _, digest = file.fingerprint.partition(":")
        rows.append({
            "file": file.uri,
            "source": file.source,
            "location": file.location,
            "size": file.size,
            "etag": {"etag": digest, "git": file.fingerprint}.get(kind),
            "file_sha256": digest if kind == "sha256" else None,
            "modified_at": file.modified_at,
            "licence": file.licence,
            "confidentiality": stage.sources[file.source].confidentiality,
            "collected_at": collected_at.isoformat(timespec="seconds"),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=COLLECTED_SCHEMA)


def document_manifest(corpus: Store) -> pa.Table:
    """One row a document of both splits, sorted by document_id: MANIFEST_COLUMNS of the document, FILE_COLUMNS of its file.

    Raises DataError where a file of the corpus is missing or damaged.
    """
    files = corpus.read_json("manifest.json")["files"]
    parts = [
        read_table(corpus, name, entry["sha256"], MANIFEST_COLUMNS)
        for name, entry in files.items()
        if name.startswith(("train/", "heldout/"))
    ]
    documents = pa.concat_tables(parts).sort_by([("document_id", "ascending"), ("sha256", "ascending")])
    origin = pq.read_table(io.BytesIO(corpus.read(COLLECTED)))
    # Two sources may read the same file: what is true of its bytes is the same in both rows, so the first one does.
    row_of_file = {file: row for row, file in reversed(list(enumerate(origin["file"].to_pylist())))}
    rows = pa.array([row_of_file[file] for file in documents["file"].to_pylist()], pa.int64())
    found = origin.select(FILE_COLUMNS).take(rows)
    for name in FILE_COLUMNS:
        documents = documents.append_column(name, found[name])
    return documents
