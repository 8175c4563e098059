"""Which rows make up which step, and who computes them: pure functions of (index, seed, step, world size).

    index of rows --epoch order--> stream of rows --cut--> rows of step s --balance--> ranks x micro-batches

The rows of a step do not depend on the world size, so a run that is resumed on other hardware sees the same global batches.
There is no state to save: the order of epoch e is drawn from a generator keyed by (seed, e).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from configs.schema.training import ExampleStage, LanguageModelStage, TrainStage

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class RowTable:
    """The index of a split as columns; row i of the table is packed row `row[i]` of shard `shard[i]`. Shape (R,) each."""

    shard: Rows
    row: Rows
    tokens: Rows
    """That are computed: answers to one prompt share it."""
    weight: NDArray[np.float64]
    source: NDArray[np.object_]
    """Name of the corpus source; None of a row whose documents have several."""
    _orders: dict[tuple[int, int], Rows] = field(default_factory=dict, init=False, repr=False, compare=False)

    def epoch_order(self, seed: int, epoch: int) -> Rows:
        """`epoch_order` of these rows; the last two epochs are kept, because every step asks for one."""
        if (seed, epoch) not in self._orders:
            while len(self._orders) > 1:
                del self._orders[next(iter(self._orders))]
            self._orders[seed, epoch] = epoch_order(self.shard, seed, epoch)
        return self._orders[seed, epoch]

    def first(self, count: int | None) -> "RowTable":
        """The first `count` rows; None for all of them."""
        return self._only(slice(count))

    def of_source(self, source: str) -> "RowTable":
        """The rows of one source."""
        return self._only(self.source == source)

    def sources(self) -> list[str]:
        """The sources of the rows, in order of their names; none where a row has several."""
        return [] if None in self.source else sorted(set(self.source.tolist()))

    def _only(self, rows: slice | NDArray[np.bool_]) -> "RowTable":
        return RowTable(self.shard[rows], self.row[rows], self.tokens[rows], self.weight[rows], self.source[rows])

    def __len__(self) -> int:
        return len(self.shard)


@dataclass(frozen=True)
class StepPlan:
    """Who computes what in one step: `ranks[r][m]` are the rows (of the RowTable) in micro-batch m of rank r.

    Every rank has the same number of micro-batches, empty ones included, because each is a round of collectives.

    Example:
        StepPlan(ranks=(((4, 7), (1,)), ((9,), (3,))), weight=4090.0, tokens=4096, rows=4)
    """

    ranks: tuple[tuple[tuple[int, ...], ...], ...]
    weight: float
    """Sum of the weights of all rows of the step: next-token loss is divided by it on every rank."""
    tokens: int
    rows: int

    def idle_share(self, token_counts: "Rows") -> float:
        """Share of the ranks' time in which they wait for the one with the most tokens."""
        loads = [sum(int(token_counts[row]) for batch in rank for row in batch) for rank in self.ranks]
        return 1 - sum(loads) / (max(loads) * len(loads))


def rows_per_step(stage: TrainStage, context: int) -> int:
    """How many rows a global batch holds: examples, or packed rows, each a fixed budget of tokens and nearly full."""
    if isinstance(stage, ExampleStage):
        return stage.batch_examples
    assert isinstance(stage, LanguageModelStage), stage
    return max(1, stage.batch_tokens // context)


def total_steps(stage: TrainStage, row_count: int, context: int) -> int:
    """Length of the run in optimizer steps."""
    if stage.steps is not None:
        return stage.steps
    assert stage.epochs is not None
    return max(1, math.ceil(stage.epochs * row_count / rows_per_step(stage, context)))


def epoch_order(shard: Rows, seed: int, epoch: int) -> Rows:
    """The rows of one epoch in training order, shape (R,).

    Shards come in random order and rows in random order inside a shard, so a reader holds one shard at a time. A shard is
    itself a random sample of the documents, because documents go to shards by a hash of their content.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)))
    order = [
        generator.permutation(np.flatnonzero(shard == number)) for number in generator.permutation(np.unique(shard))
    ]
    return np.concatenate(order)


def rows_of_step(table: RowTable, seed: int, step: int, count: int) -> Rows:
    """The rows of global batch `step` (from 0): `count` consecutive ones of the stream of epochs, shape (count,)."""
    first, row_count = step * count, len(table)
    rows: list[Rows] = []
    position = first
    while position < first + count:
        epoch, offset = divmod(position, row_count)
        taken = table.epoch_order(seed, epoch)[offset : offset + first + count - position]
        rows.append(taken)
        position += len(taken)
    return np.concatenate(rows)


def plan_step(table: RowTable, seed: int, step: int, count: int, world_size: int, micro_batch_tokens: int) -> StepPlan:
    """Gives the rows of a step to ranks and micro-batches so that every rank has about the same number of tokens."""
    rows = rows_of_step(table, seed, step, count)
    tokens = {int(row): int(table.tokens[row]) for row in rows}
    ranks = share_out(rows.tolist(), tokens, world_size, micro_batch_tokens)
    return StepPlan(ranks, float(table.weight[rows].sum()), int(table.tokens[rows].sum()), len(rows))


MicroBatch = tuple[int, ...]
"""Numbers of rows; may be empty."""


def share_out(
    rows: Sequence[int], tokens: Mapping[int, int], ranks: int, micro_batch_tokens: int
) -> tuple[tuple[MicroBatch, ...], ...]:
    """Rows -> for each rank its micro-batches, as many as every other rank has: each is a round of collectives."""
    per_rank = [_micro_batches(mine, tokens, micro_batch_tokens) for mine in _balance(rows, tokens, ranks)]
    rounds = max(len(batches) for batches in per_rank)
    return tuple(tuple(batches) + ((),) * (rounds - len(batches)) for batches in per_rank)


def _balance(rows: Sequence[int], tokens: Mapping[int, int], world_size: int) -> list[list[int]]:
    """Longest first, each to the rank with the fewest tokens so far (Graham's rule: at most 4/3 of the best split)."""
    ranks: list[list[int]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for row in sorted(rows, key=lambda row: (-tokens[row], row)):
        lightest = min(range(world_size), key=lambda rank: (load[rank], rank))
        ranks[lightest].append(row)
        load[lightest] += tokens[row]
    return ranks


def _micro_batches(rows: Sequence[int], tokens: Mapping[int, int], limit: int) -> list[tuple[int, ...]]:
    """First fit; a row longer than the limit travels alone."""
    batches: list[list[int]] = []
    loads: list[int] = []
    for row in rows:
        place = next((index for index, load in enumerate(loads) if load + tokens[row] <= limit), None)
        if place is None:
            batches.append([row])
            loads.append(tokens[row])
        else:
            batches[place].append(row)
            loads[place] += tokens[row]
    return [tuple(batch) for batch in batches] or [()]
