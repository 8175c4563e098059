"""A partition's files are the same in whatever order its rows arrive; clusters differ in that order by chance only."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.storage import Store
from configs.schema.corpus import Cleaning, CorpusStage, ShardsStage, Source
from jobs.corpus.reading import partition_reader as candidate_reader
from jobs.corpus.segments import read_tokenizer_files
from jobs.corpus.shards import partition_writer as shard_writer
from jobs.corpus.writing import partition_writer as corpus_writer
from tests.corpus.sources import text_rows, write_jsonl


def test_rows_in_any_order_give_the_same_files(tmp_path: Path, tiny_model: Path):
    rows = [*text_rows(30), *text_rows(8), {"text": 1}, {"text": None}]
    source = Source(path="a.jsonl", format="jsonl", licence="CC0-1.0")
    corpus_stage = CorpusStage(
        stage="corpus",
        sources={"a": source},
        cleaning=Cleaning(minimum_characters=1),
        heldout_fraction=0.3,
        partitions=1,
    )
    shards_stage = ShardsStage(stage="shards", corpus="c", model="m", rows="text", context=32, shards=1)
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    files = [{"location": str(path), "uri": "a.jsonl"}]
    candidates = pa.concat_tables(candidate_reader(corpus_stage)({"source": "a", "files": files}))
    tokenizer_files = read_tokenizer_files(Store(str(tiny_model)))

    corpora, shards = [], []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(candidates.num_rows)
        store = Store(str(tmp_path / f"corpus-{seed}"))
        corpora.append(corpus_writer(corpus_stage, store, lambda: None)(0, candidates.take(pa.array(order))))
        documents = candidates.filter(pa.array([reason is None for reason in candidates["reason"].to_pylist()]))
        split = ["heldout" if number % 3 == 0 else "train" for number in range(documents.num_rows)]
        documents = documents.append_column("split", pa.array(split))
        order = np.random.default_rng(seed).permutation(documents.num_rows)
        write = shard_writer(shards_stage, Store(str(tmp_path / f"shards-{seed}")), tokenizer_files, frozenset({0}), 0)
        shards.append(write(0, documents.take(pa.array(order))))
    assert corpora[0] == corpora[1] == corpora[2]
    assert corpora[0]["quarantined"] == {"duplicate": 8, "unknown_fields": 1, "wrong_type": 1}
    assert shards[0] == shards[1] == shards[2]
    assert set(shards[0]["files"]) == {
        "train/shard-00000.parquet", "heldout/shard-00000.parquet", "documents/shard-00000.parquet",
    }  # fmt: skip
