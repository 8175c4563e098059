"""What the index says of a row: tokens to compute, weight, source; and which rows the held-out texts make."""

import io
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from jobs.corpus.pack import pack
from jobs.corpus.schema import EXAMPLE_SCHEMA, QUARANTINE_SCHEMA, document_id_of, text_sha256
from jobs.corpus.segments import SEGMENT_SCHEMA, Segments, read_tokenizer_files, without_lone_tokens
from jobs.corpus.shard_rows import index_of
from jobs.corpus.shards import partition_writer
from jobs.records import ExampleRow
from jobs.train.examples import pack_examples, pack_mismatched
from tests.train.judged import make_example, make_preferences, make_thumbs
from tests.world.tiny_model import SENTENCES


def table(rows: list[ExampleRow]) -> pa.Table:
    return pa.table(
        {name: [getattr(row, name) for row in rows] for name in EXAMPLE_SCHEMA.names}, schema=EXAMPLE_SCHEMA
    )


def test_an_example_costs_what_its_batch_computes() -> None:
    rows = [*make_preferences(), make_example([0, 1, 2], 50, [3, 4, 5], seed=1)]
    index = index_of(table(rows), {row.document_ids[0]: "people" for row in rows})
    assert index["tokens"] == [pack_examples([row]).input_ids_T.numel() for row in rows]
    assert index["tokens"][-1] == 50 + 3 + 4 + 5 + 2  # the prompt's last token predicts the first of each answer
    assert index["stored_tokens"] == sum(len(row.input_ids) for row in rows)
    assert index["weight"] == [sum(row.weights) for row in rows] and index["source"] == ["people"] * len(rows)


def test_a_thumb_and_its_mismatched_completion_are_two_passes() -> None:
    rows = make_thumbs()
    index = index_of(table(rows), {row.document_ids[0]: "people" for row in rows})
    computed = [pack_examples([row]).input_ids_T.numel() + pack_mismatched([row]).input_ids_T.numel() for row in rows]
    assert index["tokens"] == computed == [len(row.input_ids) for row in rows]


def test_held_out_rows_are_of_one_source_and_mixed(tiny_model: Path, tmp_path: Path) -> None:
    """The first rows are measured, so they have to be of all sources."""
    texts = [f"{sentence} {number}" for number in range(12) for sentence in SENTENCES]
    documents = pa.Table.from_pylist([
        {
            "document_id": document_id_of(text_sha256(text)), "text": text, "uri": text, "sha256": text_sha256(text),
            "source": ("papers", "talks")[number % 2], "split": ("train", "heldout")[number // 2 % 2],
            "licence": "CC0-1.0", "confidentiality": "public",
        }
        for number, text in enumerate(texts)
    ])  # fmt: skip
    stage = ShardsStage(stage="shards", corpus="c", model="m", rows="text", context=64, shards=1)
    store = Store(str(tmp_path))
    report = partition_writer(stage, store, read_tokenizer_files(Store(str(tiny_model))), frozenset({0}), 0)(
        0, documents
    )
    source_of = dict(zip(documents["document_id"].to_pylist(), documents["source"].to_pylist(), strict=True))
    for split in ("train", "heldout"):
        rows = pq.read_table(io.BytesIO(store.read(f"{split}/shard-00000.parquet"))).to_pylist()
        found = [{source_of[owner] for owner in row["document_ids"]} for row in rows]
        told = [next(iter(names)) if len(names) == 1 else None for names in found]
        assert report["index"][split]["source"] == told
        if split == "train":
            assert None in told
        else:
            assert set(told) == {"papers", "talks"} == set(told[:8])
            held_out = documents.filter(pc.field("split") == split)["document_id"].to_pylist()
            assert {owner for row in rows for owner in row["document_ids"]} == set(held_out)


@pytest.mark.parametrize("context", [2, 4])
def test_a_token_that_nothing_predicts_makes_no_row(context: int) -> None:
    """Texts of 9, 1, 5 and 8 tokens: with a context of 4 the last token of the first three would be a piece of its own."""
    lengths = [9, 1, 5, 8]
    ids = [list(range(100 * number, 100 * number + length)) for number, length in enumerate(lengths, 1)]
    columns = {"input_ids": ids, "weights": [[1.0] * length for length in lengths], "document_id": [1, 2, 3, 4]}
    segments = Segments(pa.table(columns, schema=SEGMENT_SCHEMA), QUARANTINE_SCHEMA.empty_table(), Counter())
    kept = without_lone_tokens(segments, context)
    assert kept.table["input_ids"].to_pylist() == [ids[0][:8], ids[2][:4], ids[3]]
    assert kept.table["document_id"].to_pylist() == [1, 3, 4] and kept.counts == {"lone_tokens": 3}
    rows = pack(kept.table, context, "split").to_pylist()
    assert min(length for row in rows for length in row["segment_lengths"]) > 1
