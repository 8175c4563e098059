import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.records import PackedRow
from jobs.train.batch import empty_batch, pack_rows


def test_weights_move_to_the_position_that_predicts() -> None:
    row = PackedRow([5, 9, 2, 7, 2], [0, 1, 0.5, 0, 1], [3, 2], [1, 2])
    batch = pack_rows([row])
    assert batch.input_ids_T.tolist() == [5, 9, 2, 7, 2]
    assert batch.targets_T.tolist() == [9, 2, 0, 2, 0]
    assert batch.weights_T.tolist() == [1, 0.5, 0, 1, 0]
    assert batch.positions_T.tolist() == [0, 1, 2, 0, 1]
    assert batch.cu_seqlens_S1.tolist() == [0, 3, 5]
    assert batch.weights_W.tolist() == [1, 0.5, 1]


def test_answers_to_one_prompt_go_on_from_one_copy_of_it() -> None:
    row = PackedRow([5, 9, 2, 7, 5, 9, 8, 6], [0, 0, 1, 1, 0, 0, 1, 1], [4, 4], [1, 1])
    batch = pack_rows([PackedRow([3, 4], [0, 1], [2], [0]), row], [[0], [0, 1]])
    assert batch.input_ids_T.tolist() == [3, 4, 5, 9, 2, 7, 9, 8, 6]  # 9 predicts 2 and 8: it is there twice
    assert batch.targets_T.tolist() == [4, 0, 9, 2, 7, 0, 8, 6, 0]
    assert batch.weights_T.tolist() == [1, 0, 0, 1, 1, 0, 1, 1, 0]
    assert batch.positions_T.tolist() == [0, 1, 0, 1, 2, 3, 1, 2, 3]
    assert batch.cu_seqlens_S1.tolist() == [0, 2, 6, 9]
    assert batch.shared_S2 is not None and batch.shared_S2.tolist() == [[0, 0], [0, 0], [1, 1]]
    with pytest.raises(AssertionError):
        pack_rows([row], [[0, 3]])  # the third token is another one


segments = st.lists(st.lists(st.tuples(st.integers(0, 99), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=6))


def row_of(content: list[list[tuple[int, float]]]) -> PackedRow:
    tokens = [token for segment in content for token, _ in segment]
    weights = [0.0 if index == 0 else weight for segment in content for index, (_, weight) in enumerate(segment)]
    return PackedRow(tokens, weights, [len(segment) for segment in content], list(range(len(content))))


@given(st.lists(segments.filter(bool), min_size=1, max_size=4))
def test_every_weighted_token_is_predicted_once_from_its_own_segment(
    contents: list[list[list[tuple[int, float]]]],
) -> None:
    rows = [row_of(content) for content in contents]
    batch = pack_rows(rows)
    bounds = batch.cu_seqlens_S1.tolist()
    predicted = []
    for start, stop in itertools.pairwise(bounds):
        assert batch.positions_T[start:stop].tolist() == list(range(stop - start))
        assert batch.weights_T[stop - 1] == 0
        for position in range(start, stop - 1):
            assert batch.targets_T[position] == batch.input_ids_T[position + 1]
        predicted += list(
            zip(batch.targets_T[start : stop - 1].tolist(), batch.weights_T[start : stop - 1].tolist(), strict=True)
        )
    wanted = [(token, weight) for content in contents for segment in content for token, weight in segment[1:]]
    assert predicted == wanted
    assert float(batch.weights_T.sum()) == sum(sum(row.weights) for row in rows)


def test_rows_one_after_the_other_equal_one_long_row() -> None:
    first, second = PackedRow([1, 2], [0, 1], [2], [1]), PackedRow([3, 4, 5], [0, 1, 1], [3], [2])
    joined = PackedRow([1, 2, 3, 4, 5], [0, 1, 0, 1, 1], [2, 3], [1, 2])
    for a, b in zip(tensors(pack_rows([first, second])), tensors(pack_rows([joined])), strict=True):
        assert torch.equal(a, b)


def test_no_row_gives_one_token_without_weight() -> None:
    for batch in (empty_batch(), pack_rows([])):
        assert batch.weights_T.tolist() == [0] and batch.cu_seqlens_S1.tolist() == [0, 1]


@pytest.mark.parametrize(
    "row",
    [
        PackedRow([1, 2], [0, 1, 1], [2], [1]),
        PackedRow([1, 2], [0, 1], [3], [1]),
        PackedRow([1, 2], [0, 1], [2, 0], [1, 2]),
        PackedRow([1, 2], [1, 1], [2], [1]),
    ],
)
def test_a_broken_row_is_named(row: PackedRow) -> None:
    with pytest.raises(ValueError, match="row 1 of the micro-batch"):
        pack_rows([PackedRow([1], [0], [1], [1]), row])


def tensors(batch) -> list[torch.Tensor]:
    return [batch.input_ids_T, batch.targets_T, batch.weights_T, batch.positions_T, batch.cu_seqlens_S1]
