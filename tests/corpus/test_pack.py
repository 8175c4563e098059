import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.data_utils import _pack_bfd

from jobs.corpus.pack import fill_rows, pack
from jobs.corpus.schema import ROW_SCHEMA
from jobs.corpus.segments import SEGMENT_SCHEMA


def segments(documents: list[list[int]], weights: list[list[float]] | None = None) -> pa.Table:
    return pa.table(
        {
            "input_ids": documents,
            "weights": weights if weights is not None else [[1.0] * len(ids) for ids in documents],
            "document_id": [1000 + number for number in range(len(documents))],
        },
        schema=SEGMENT_SCHEMA,
    )


def cut(row: dict) -> list[tuple[int, list[int], list[float]]]:
    """(document id, tokens, weights) of each segment of a packed row."""
    stops = np.cumsum(row["segment_lengths"])
    return [
        (owner, row["input_ids"][stop - length : stop], row["weights"][stop - length : stop])
        for owner, length, stop in zip(row["document_ids"], row["segment_lengths"], stops, strict=True)
    ]


def test_best_fit_by_hand():
    # Lengths 3, 6, 2, 4 in rows of 8: 6 first; 4 opens a row; 3 fits best beside 4 (space 4, not 2); 2 beside 6 (space 2).
    documents = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15]]
    rows = pack(segments(documents), 8, "split").to_pylist()
    assert rows == [
        {
            "input_ids": [4, 5, 6, 7, 8, 9, 10, 11],
            "weights": [0, 1, 1, 1, 1, 1, 0, 1],
            "segment_lengths": [6, 2],
            "document_ids": [1001, 1002],
        },
        {
            "input_ids": [12, 13, 14, 15, 1, 2, 3],
            "weights": [0, 1, 1, 1, 0, 1, 1],
            "segment_lengths": [4, 3],
            "document_ids": [1003, 1000],
        },
    ]


def test_rows_that_best_fit_leaves_open_are_filled_by_exact_sums():
    # Rows of 12: best fit puts 5 beside 5, which leaves 2 places, and 4 beside 4 and 4, then 3 and 3: three rows.
    lengths = [5, 5, 4, 4, 3, 3]
    assert sorted(sorted(lengths[piece] for piece in row) for row in fill_rows(lengths, 12)) == [[3, 4, 5], [3, 4, 5]]


def test_a_piece_as_long_as_the_context_is_a_row_of_its_own():
    assert sorted(fill_rows([8, 1, 8], 8)) == [[0], [1], [2]]


def test_rows_are_never_more_than_best_fit_makes():
    """Found by search: what is left after an exchange takes a row more when it is packed anew."""

    text = """7 29 7 7 32 7 31 27 31 32 17 31 17 27 7 29 22 31 17 29 27 29 7 22 27 31 17 32 22 22 32 29 7 22 7 32 22 32 17 17 27 7 27 27
    17 31 22 27 22 27 29 7 27 22 22 22 22 32 29 27 31 31 29 27 17 17 31 29 29 17 32 29 27 27 7 27 17 17 31 29 27"""
    lengths = [int(word) for word in text.split()]
    assert len(fill_rows(lengths, 60)) <= 33


def test_conversations_of_nearly_the_same_length_fill_rows_as_far_as_they_can():
    drawn = np.random.default_rng(1).normal(350, 60, 300).round().astype(int).tolist()
    peer = _pack_bfd(pa.table({"input_ids": [[0] * length for length in drawn]}), 1024, "truncate")
    assert len(fill_rows(drawn, 1024)) <= 0.96 * len(peer)


def test_empty_documents_make_no_row():
    assert pack(segments([[]]), 8, "split").equals(ROW_SCHEMA.empty_table())


@pytest.mark.parametrize("mean", [250, 330, 400, 450])
def test_conversations_of_which_two_or_three_make_a_row_are_packed_tighter_than_by_best_fit(mean: int):
    context = 1024
    drawn = np.random.default_rng(mean).normal(mean, 120, 650).round().astype(int).clip(60, context).tolist()
    rows = fill_rows(drawn, context)
    assert sorted(piece for row in rows for piece in row) == list(range(len(drawn)))
    assert max(sum(drawn[piece] for piece in row) for row in rows) <= context
    peer = _pack_bfd(pa.table({"input_ids": [[0] * length for length in drawn]}), context, "truncate")
    assert len(rows) < len(peer)
    assert sum(drawn) / (len(rows) * context) > 0.985
    assert fill_rows(drawn, context) == rows


def test_truncation_keeps_the_beginning_and_its_weights():
    rows = pack(segments([[1, 2, 3, 4, 5, 6]], [[0, 0, 1, 1, 1, 1]]), 4, "truncate").to_pylist()
    assert rows == [
        {"input_ids": [1, 2, 3, 4], "weights": [0, 0, 1, 1], "segment_lengths": [4], "document_ids": [1000]}
    ]


def test_nothing_packs_to_nothing():
    assert pack(segments([]), 8, "split").equals(ROW_SCHEMA.empty_table())


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=40), min_size=1, max_size=25), st.integers(2, 16))
def test_no_token_is_lost_and_no_document_torn_apart(documents: list[list[int]], context: int):
    rows = pack(segments(documents), context, "split").to_pylist()
    pieces: dict[int, list[list[int]]] = {}
    for row in rows:
        assert 0 < len(row["input_ids"]) <= context
        for owner, ids, weights in cut(row):
            pieces.setdefault(owner, []).append(ids)
            assert weights == [0.0] + [1.0] * (len(ids) - 1)
    for number, ids in enumerate(documents):
        mine = pieces.pop(1000 + number)
        # Pieces of a long document may lie in any order and row; all but one are full.
        expected = [ids[start : start + context] for start in range(0, len(ids), context)]
        assert sorted(mine) == sorted(expected)
    assert not pieces
