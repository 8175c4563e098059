"""Shards that are made file by file: which files a shard reads, and what a lost worker costs. Their bytes: test_artifacts.py."""

import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import Store
from jobs.corpus.partitions import run_each
from jobs.corpus.schema import reads_a_file, write_table
from tests.corpus.test_artifacts import raylets, silent


@pytest.mark.parametrize(
    ("partitions", "shards", "reads"), [(8, 8, 1), (8, 4, 1), (8, 32, 4), (8, 33, None), (5, 3, 3), (6, 4, 2)]
)
def test_a_file_is_read_by_shards_that_it_shares_documents_with(partitions: int, shards: int, reads: int | None):
    assert reads_a_file(partitions, shards) == reads
    met = {number: {number + round * partitions for round in range(60 * shards)} for number in range(partitions)}
    readers = {number: len({document % shards for document in ids}) for number, ids in met.items()}
    assert reads is None or set(readers.values()) == {reads}


@pytest.mark.cluster
def test_a_worker_killed_in_a_unit_of_its_own_changes_nothing(tmp_path: Path):
    """As shards are made file by file."""
    killed = tmp_path / "killed"

    def work(unit: dict) -> dict:
        written = write_table(
            Store(str(tmp_path / "out")), f"{unit['number']}.parquet", pa.table({"value": [unit["number"]]})
        )
        if unit["number"] == 2 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"rows": written.rows, **unit}

    with raylets(1, 2):
        reports = run_each([{"number": number} for number in range(6)], work, "kill", silent)
    assert killed.exists() and reports == [{"rows": 1, "number": number} for number in range(6)]
    assert [pq.read_table(tmp_path / "out" / f"{number}.parquet")["value"].to_pylist() for number in range(6)] == [
        [number] for number in range(6)
    ]
