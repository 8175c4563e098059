"""What a reader says of shards that it cannot read."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.storage import Store
from jobs.train.reader import ShardError, read_index
from tests.world.toy_training import write_toy_shards


def test_an_index_of_another_version_is_named(tmp_path: Path) -> None:
    shards = write_toy_shards(Store(str(tmp_path)))
    table = pq.read_table(io.BytesIO(shards.read("train/index.parquet")))
    sink = io.BytesIO()
    pq.write_table(table.drop_columns(["source"]), sink)
    shards.write("train/index.parquet", sink.getvalue())
    with pytest.raises(ShardError, match=r"index.parquet is of another version, without source; build it again"):
        read_index(shards, "train")
