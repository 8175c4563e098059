"""Every kind of file on S3, plain and packed: read as the same file on disk is."""

import gzip
import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cluster.storage import Store
from configs.schema.corpus import CorpusStage, Source
from jobs.corpus.inputs import find_inputs
from jobs.corpus.raw import Raw, Rejected
from jobs.corpus.readers import read_file
from tests.corpus.made_files import HTML, JATS, docx, pdf
from tests.corpus.sources import PUBMED

pytestmark = pytest.mark.cluster

ROWS = [{"text": f"Iron in cells, sample {number}."} for number in range(500)]
LINES = "\n".join(json.dumps(row) for row in ROWS)
CELLS = "\n".join(["text", *(row["text"].replace(",", ";") for row in ROWS)])


def parquet() -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), target, row_group_size=100)
    return target.getvalue()


FILES = {
    ".jsonl": LINES.encode(), ".ndjson": LINES.encode(), ".json": json.dumps(ROWS).encode(), ".csv": CELLS.encode(),
    ".tsv": CELLS.encode(), ".parquet": parquet(), ".txt": b"Iron in cells.", ".md": "# Iron\n\n5 \u00b5g".encode("cp1252"),
    ".html": HTML.encode(), ".xml": PUBMED.encode(), ".nxml": JATS.encode(), ".docx": docx(), ".pdf": pdf("Iron in cells", "and more"),
}  # fmt: skip
PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def write_every_kind(directory: Path) -> None:
    directory.mkdir()
    for suffix, content in FILES.items():
        for packed, pack in PACKERS.items():
            (directory / f"a{suffix}{packed}").write_bytes(pack(content))
    (directory / "cut.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:-9])
    (directory / "cut.parquet").write_bytes(parquet()[:-9])


def all_read(path: str) -> dict[str, list[Raw | Rejected]]:
    """What every file below a path is read as, by its name; places are named by file name alone."""
    source = Source(path=path, licence="CC0-1.0")
    found: dict[str, list[Raw | Rejected]] = {}
    for file in find_inputs(CorpusStage(stage="corpus", sources={"every": source}), Path("/")):
        name = file.uri.rpartition("/")[2]
        rows = read_file(file.location, file.uri, source)
        found[name] = [replace(row, uri=row.uri.rpartition("/")[2]) for row in rows]
    return found


def test_files_on_s3_are_read_as_those_on_disk(s3_store: Store, tmp_path: Path) -> None:
    write_every_kind(tmp_path / "files")
    for path in sorted((tmp_path / "files").iterdir()):
        s3_store.put(path, path.name)
    on_disk, on_s3 = all_read(str(tmp_path / "files")), all_read(s3_store.root)
    assert len(on_disk) == len(FILES) * len(PACKERS) + 2
    assert on_s3 == on_disk
    rejected = {name: [row.reason for row in rows if isinstance(row, Rejected)] for name, rows in on_s3.items()}
    assert rejected.pop("cut.jsonl.gz") == rejected.pop("cut.parquet") == ["damaged_file"]
    assert {reason for name, reasons in rejected.items() if ".xml" not in name for reason in reasons} == set()
    assert {len(on_s3[f"a{suffix}"]) for suffix in (".jsonl", ".json", ".csv", ".tsv", ".parquet")} == {len(ROWS)}
