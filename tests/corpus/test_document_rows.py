"""Which rows hold a document: the tables beside the shards against a search through every packed row."""

import io
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.storage import Store
from jobs.corpus.document_rows import (
    DOCUMENT_ROWS_SCHEMA,
    by_document,
    documents_file,
    rows_of_documents,
    stretches,
    tokens_by_source,
)
from jobs.corpus.pack import pack
from jobs.corpus.schema import PROMPT_SCHEMA, DataError, partition_of, write_table
from jobs.corpus.segments import SEGMENT_SCHEMA, read_tokenizer_files
from jobs.corpus.shards import partition_writer
from tests.corpus.test_examples import documents_of, model, stage_of, thumb  # noqa: F401 - a fixture

Places = dict[int, list[tuple[str, int, int]]]
"""By document id: split, row and tokens, one place a row."""


def searched(rows: dict[str, pa.Table]) -> Places:
    """Every row of every split is opened and looked through."""
    found: Places = {}
    for split, table in rows.items():
        for number, row in enumerate(table.to_pylist()):
            owners = row["document_ids"] if "document_ids" in row else [row["document_id"]]
            lengths = row.get("segment_lengths", [len(row["input_ids"])])
            tokens: Counter[int] = Counter()
            for owner, length in zip(owners, lengths, strict=True):
                tokens[owner] += length
            for owner, length in tokens.items():
                found.setdefault(owner, []).append((split, number, length))
    return found


def require_equal(table: pa.Table, expected: Places) -> None:
    """Rows and tokens are those of `expected`; sorted; no two stretches could be one."""
    stretched = table.to_pylist()
    assert stretched == sorted(stretched, key=lambda each: (each["document_id"], each["split"], each["row"]))
    rows: dict[int, list[tuple[str, int]]] = {}
    tokens: Counter[int] = Counter()
    for each in stretched:
        covered = [(each["split"], row) for row in range(each["row"], each["row"] + each["rows"])]
        before = rows.setdefault(each["document_id"], [])
        assert (each["split"], each["row"] - 1) not in before
        before += covered
        tokens[each["document_id"]] += each["tokens"]
    assert {document: sorted(found) for document, found in rows.items()} == {
        document: sorted((split, row) for split, row, _ in places) for document, places in expected.items()
    }
    assert tokens == {document: sum(length for *_, length in places) for document, places in expected.items()}


def packed(lengths: list[int], context: int, first_id: int) -> pa.Table:
    ids = [first_id + 7 * number * (-1) ** number for number in range(len(lengths))]
    columns = {
        "input_ids": [list(range(length)) for length in lengths],
        "weights": [[1.0] * length for length in lengths],
        "document_id": ids,
    }
    return pack(pa.table(columns, schema=SEGMENT_SCHEMA), context, "split")


@settings(deadline=None)
@given(
    train=st.lists(st.integers(1, 90), max_size=25),
    heldout=st.lists(st.integers(1, 90), max_size=8),
    context=st.integers(4, 32),
)
def test_texts_that_span_rows(train: list[int], heldout: list[int], context: int) -> None:
    rows = {"train": packed(train, context, 5), "heldout": packed(heldout, context, -(2**40))}
    table = by_document([stretches(table, split) for split, table in rows.items()])
    assert table.schema == DOCUMENT_ROWS_SCHEMA
    require_equal(table, searched(rows))


def test_a_long_text_is_one_stretch_and_its_end() -> None:
    """30 tokens in rows of 8 are three full rows, one after the other, and 6 tokens beside the text of 2."""
    rows = packed([30, 2], 8, 100)
    assert [len(owners) for owners in rows["document_ids"].to_pylist()].count(2) == 1
    of_long = [row for row in stretches(rows, "train").to_pylist() if row["document_id"] == 100]
    assert sum(row["rows"] for row in of_long) == 4 and sum(row["tokens"] for row in of_long) == 30
    assert len(of_long) <= 2


def test_a_prompt_is_a_row() -> None:
    values = [{"input_ids": [1] * n, "document_id": -n, "messages": "[]", "answer": None} for n in (3, 1, 2)]
    table = stretches(pa.Table.from_pylist(values, schema=PROMPT_SCHEMA), "heldout")
    assert table.to_pylist() == [
        {"document_id": -3, "split": "heldout", "row": 0, "rows": 1, "tokens": 3},
        {"document_id": -2, "split": "heldout", "row": 2, "rows": 1, "tokens": 2},
        {"document_id": -1, "split": "heldout", "row": 1, "rows": 1, "tokens": 1},
    ]
    assert tokens_by_source(table, {-3: "a", -2: "b", -1: "a"}) == {"a": 4, "b": 2}


def rows_of(kind: str) -> list[dict[str, Any]]:
    pairs = [{"prompt": f"Question {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(12)]
    if kind == "text":
        return [{"text": "iron and oxygen in cells. " * (n % 9 + 1) + str(n)} for n in range(30)]
    if kind in ("messages", "prompts"):
        return [
            {"messages": [{"role": "user", "content": f"Q{n}?"}, {"role": "assistant", "content": "so " * (n % 7 + 1)}]}
            for n in range(30)
        ]
    return pairs if kind == "preferences" else [*pairs, *(thumb(n, n % 2 == 0) for n in range(12))]


@pytest.fixture(scope="module")
def written(model: Store, tmp_path_factory: pytest.TempPathFactory):  # noqa: F811 - the fixture
    """A shards artifact of any kind of rows, without Ray: (its content, rows by shard and split)."""

    def write(kind: str) -> tuple[Store, dict[int, dict[str, pa.Table]]]:
        store = Store(str(tmp_path_factory.mktemp(kind)))
        documents = documents_of(*rows_of(kind))
        split = ["heldout" if n % 4 == 0 else "train" for n in range(documents.num_rows)]
        documents = documents.append_column("split", pa.array(split))
        work = partition_writer(stage_of(kind), store, read_tokenizer_files(model), frozenset({0}), 0)
        files: dict[str, Any] = {}
        tables: dict[int, dict[str, pa.Table]] = {}
        for shard in range(2):
            mine = [partition_of(document, 2) == shard for document in documents["document_id"].to_pylist()]
            report = work(shard, documents.filter(pa.array(mine)))
            files |= report["files"]
            names = {split: f"{split}/shard-{shard:05d}.parquet" for split in ("train", "heldout")}
            tables[shard] = {
                split: pq.read_table(io.BytesIO(store.read(name)))
                for split, name in names.items()
                if name in report["files"]
            }
            stored = {split: sum(map(len, table["input_ids"].to_pylist())) for split, table in tables[shard].items()}
            assert {split: sum(counts.values()) for split, counts in report["tokens"].items() if counts} == stored
        store.write_json("manifest.json", {"shards": 2, "files": files})
        return store, tables

    return write


@pytest.mark.parametrize("kind", ["text", "messages", "preferences", "thumbs", "prompts"])
def test_every_kind_of_rows_is_found_again(written, kind: str) -> None:
    store, tables = written(kind)
    expected = {shard: searched(rows) for shard, rows in tables.items()}
    ids = sorted({document for places in expected.values() for document in places})
    assert len(ids) >= 12
    found = rows_of_documents(store, ids)
    assert found["shard"].to_pylist() == sorted(found["shard"].to_pylist())
    for shard, places in expected.items():
        require_equal(found.filter(pa.array([each == shard for each in found["shard"].to_pylist()])), places)
    some = ids[::5]
    few = rows_of_documents(store, [*some, some[0], 2**62 + 1])  # asked twice; and one that is not there
    assert set(few["document_id"].to_pylist()) == set(some)
    assert few.num_rows == sum(document in some for document in found["document_id"].to_pylist())
    assert rows_of_documents(store, []).num_rows == 0


def test_a_lender_is_found_in_the_row_that_borrows(written) -> None:
    """Who removes a document has to remove the rows that borrow its completion too, also held-out ones."""
    store, tables = written("thumbs")
    lent = [
        (shard, split, number, row["document_ids"][1])
        for shard, rows in tables.items()
        for split, table in rows.items()
        for number, row in enumerate(table.to_pylist())
    ]
    shard, split, number, lender = next(each for each in lent if each[1] == "heldout")
    found = rows_of_documents(store, [lender]).to_pylist()
    assert [
        each
        for each in found
        if each["shard"] == shard and each["split"] == split and each["row"] <= number < each["row"] + each["rows"]
    ]


def test_only_the_tables_that_can_have_the_documents_are_read(written) -> None:
    store, tables = written("text")
    mine = next(iter(searched(tables[0])))
    store.write(documents_file(1), b"damaged")
    assert rows_of_documents(store, [mine]).num_rows > 0
    with pytest.raises(DataError, match="documents/shard-00001.parquet is damaged"):
        rows_of_documents(store, [mine, mine + 1])


def test_an_older_artifact_is_refused_with_a_way_out() -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(directory)
        store.write_json("manifest.json", {"files": {}})
        with pytest.raises(DataError, match="made by an earlier version; run its config again"):
            rows_of_documents(store, [1])


def test_the_bytes_do_not_depend_on_how_tables_are_chunked(tmp_path: Path) -> None:
    rows = packed([30, 2, 9, 17, 4], 8, 100)
    parts = pa.concat_tables([rows.slice(0, 2), rows.slice(2)])
    store = Store(str(tmp_path))
    digests = {
        write_table(store, str(number), by_document([stretches(table, "train")])).sha256
        for number, table in enumerate((rows, parts))
    }
    assert len(digests) == 1
