"""The step plan: same rows for every world size, every row once an epoch, balanced ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema.training import LanguageModelStage
from jobs.train.plan import RowTable, epoch_order, plan_step, rows_of_step, total_steps


def table(tokens: list[int], shards: int = 3) -> RowTable:
    count = len(tokens)
    shard = np.arange(count, dtype=np.int64) % shards
    weights = np.array(tokens, dtype=np.float64) - 1
    sources = np.array(["papers", "talks", "talks", None] * count, dtype=object)[:count]
    return RowTable(np.sort(shard), np.arange(count, dtype=np.int64), np.array(tokens), weights, sources)


rows = st.lists(st.integers(1, 64), min_size=1, max_size=60)


@given(rows, st.integers(0, 2**31), st.integers(0, 5), st.integers(1, 9), st.integers(1, 5))
def test_the_rows_of_a_step_do_not_depend_on_the_world_size(
    tokens: list[int], seed: int, step: int, count: int, world_size: int
) -> None:
    one = plan_step(table(tokens), seed, step, count, 1, 64)
    many = plan_step(table(tokens), seed, step, count, world_size, 64)
    flat = lambda plan: sorted(row for rank in plan.ranks for batch in rank for row in batch)  # noqa: E731
    assert flat(one) == flat(many) == sorted(rows_of_step(table(tokens), seed, step, count).tolist())
    assert one.weight == many.weight == sum(tokens[row] - 1 for row in flat(one))
    assert len({len(rank) for rank in many.ranks}) == 1
    assert all(sum(tokens[row] for row in batch) <= 64 for rank in many.ranks for batch in rank)


@given(rows, st.integers(0, 1000), st.integers(1, 7))
def test_an_epoch_holds_every_row_once_and_steps_cut_the_stream(tokens: list[int], seed: int, count: int) -> None:
    source = table(tokens)
    stream = np.concatenate([epoch_order(source.shard, seed, epoch) for epoch in range(3)])
    assert sorted(stream[: len(tokens)].tolist()) == list(range(len(tokens)))
    steps = 2 * len(tokens) // count
    cut = [rows_of_step(source, seed, step, count) for step in range(steps)]
    assert [row for rows in cut for row in rows] == stream[: steps * count].tolist()


def test_epochs_and_seeds_differ() -> None:
    shard = table([8] * 50).shard
    orders = {tuple(epoch_order(shard, seed, epoch).tolist()) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


def test_a_shard_is_read_to_its_end_before_the_next() -> None:
    source = table([8] * 12, shards=4)
    visited = source.shard[epoch_order(source.shard, 5, 0)]
    assert len(np.flatnonzero(np.diff(visited))) == 3


def test_by_hand() -> None:
    # Rows 0..3 with 40, 30, 20, 10 tokens on 2 ranks: longest first, to the lighter rank: {0: 40+10, 1: 30+20}.
    plan = plan_step(table([40, 30, 20, 10], shards=1), seed=0, step=0, count=4, world_size=2, micro_batch_tokens=45)
    assert plan.ranks == (((0,), (3,)), ((1,), (2,)))
    assert plan.tokens == 100
    assert plan.weight == 96.0


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"), [(7, None, 7), (None, 1.0, 25), (None, 0.5, 13), (None, 3.0, 75)]
)
def test_total_steps(steps: int | None, epochs: float | None, expected: int) -> None:
    stage = LanguageModelStage(stage="cpt", model="m", shards="s", steps=steps, epochs=epochs, batch_tokens=4096)
    assert total_steps(stage, row_count=100, context=1024) == expected


def test_rows_are_told_apart_by_source_unless_one_is_of_several() -> None:
    whole = table([5, 6, 7, 8, 9])
    assert whole.sources() == [] and whole.first(3).sources() == ["papers", "talks"]
    assert whole.of_source("talks").tokens.tolist() == [6, 7]
    assert whole.first(3).of_source("papers").row.tolist() == [0]
