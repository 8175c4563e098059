"""Packed rows from Parquet shards, in the order of the plan, one step ahead of the training.

    manifest + index --plan--> rows of this rank --shard files--> PackedBatch per micro-batch

A shard is checked against the manifest's sha256 when it is opened and kept until the plan leaves it: rows of an epoch are
ordered shard by shard (jobs/train/plan.py).
"""

import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Store
from configs.errors import RunFailed
from jobs.records import ExampleRow, PackedRow
from jobs.train.batch import PackedBatch, empty_batch, pack_rows
from jobs.train.examples import pack_examples, pack_mismatched
from jobs.train.plan import RowTable, plan_step

OPEN_SHARDS = 3
"""A step touches two shards where it crosses from one to the next; the third is being read ahead."""


INDEX_COLUMNS = ("shard", "row", "tokens", "weight", "source")
"""Of jobs/corpus/schema.py, INDEX_SCHEMA."""

EXAMPLE_KINDS = ("preferences", "thumbs")
"""`rows` of shards whose rows are whole examples (jobs/records.py, ExampleRow)."""


class ShardError(RunFailed):
    """A shard is missing or is not what its manifest says."""


@dataclass(frozen=True)
class StepBatch:
    """What one rank computes in one step."""

    micro_batches: tuple[PackedBatch, ...]
    mismatched: tuple[PackedBatch, ...]
    """Thumbs only: the mismatched completions of each micro-batch."""
    weight: float
    """Sum of weights over all ranks."""
    examples: int
    """Rows over all ranks."""
    tokens: int
    """That are computed, over all ranks: of answers to one prompt it counts once."""
    idle_share: float
    """Share of the ranks' time lost to unequal numbers of tokens."""
    rows: tuple[tuple[int, ...], ...]
    """Of this rank: the rows of each micro-batch, to name them where something is wrong with one."""


def read_index(shards: Store, split: str) -> RowTable:
    """The index of a split. Raises ShardError where there is none, or it is empty or of another version."""
    try:
        table = pq.read_table(io.BytesIO(shards.read(split, "index.parquet")))
    except FileNotFoundError as error:
        raise ShardError(f"{shards.root}: no {split}/index.parquet; is this a shards artifact?") from error
    missing = [name for name in INDEX_COLUMNS if name not in table.column_names]
    if missing:
        raise ShardError(
            f"{shards.root}: {split}/index.parquet is of another version, without {', '.join(missing)}; build it again"
        )
    if table.num_rows == 0:
        raise ShardError(f"{shards.root}: the {split} split has no rows")
    column = {name: table.column(name).to_numpy() for name in INDEX_COLUMNS[:-1]}
    return RowTable(
        column["shard"].astype(np.int64), column["row"].astype(np.int64),
        column["tokens"].astype(np.int64), column["weight"].astype(np.float64),
        np.array(table.column("source").to_pylist(), dtype=object),
    )  # fmt: skip


def read_shard(shards: Store, split: str, number: int, sha256: str) -> pa.Table:
    """One shard as a table. Raises ShardError where it is missing or damaged."""
    name = f"{split}/{shard_name(number)}"
    try:
        data = shards.read(name)
    except FileNotFoundError as error:
        raise ShardError(f"{shards.path(name)} is missing. {_how_to_rebuild(shards)}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise _damaged(shards, name, found, sha256)
    return pq.read_table(io.BytesIO(data))


def verify_shards(shards: Store) -> None:
    """Reads every file that training reads and compares it with the manifest. Raises ShardError naming the first bad one."""
    files = shards.read_json("manifest.json")["files"]
    for name, entry in files.items():
        if not name.startswith("train/"):
            continue
        try:
            with shards.open(name) as file:
                found = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
        except FileNotFoundError:
            raise ShardError(f"{shards.path(name)} is missing. {_how_to_rebuild(shards)}") from None
        if found != entry["sha256"]:
            raise _damaged(shards, name, found, entry["sha256"])


def _damaged(shards: Store, name: str, found: str, wanted: str) -> ShardError:
    return ShardError(
        f"{shards.path(name)} is damaged: sha256 {found[:12]}..., its manifest says {wanted[:12]}... "
        f"{_how_to_rebuild(shards)}"
    )


def _how_to_rebuild(shards: Store) -> str:
    """`shards` is the content of an artifact: .../<kind>-<key>/attempts/<number>."""
    return f"Remove {shards.root.partition('/attempts/')[0]} and run again to rebuild it."


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


References = Mapping[int, Sequence[float]]
"""Row -> log-probability of each of its segments under the reference (jobs/train/reference.py)."""


class RowReader:
    """Reads the batches of one rank. `batch(step)` returns at once where the steps are asked for in order."""

    def __init__(
        self,
        shards: Store,
        split: str,
        seed: int,
        rows_per_step: int,
        rank: int,
        world_size: int,
        micro_batch_tokens: int,
        learn_best_prompt: bool = False,
        most_rows: int | None = None,
        source: str | None = None,
    ) -> None:
        """Args:
        learn_best_prompt: see examples.pack_examples.
        most_rows: only the first so many rows of the index; default: all.
        source: of these, only the rows of one source; default: all.
        """
        self._shards, self._split, self._seed = shards, split, seed
        self._rows_per_step, self._rank, self._world_size = rows_per_step, rank, world_size
        self._micro_batch_tokens = micro_batch_tokens
        self._learn_best_prompt = learn_best_prompt
        self._table = read_index(shards, split).first(most_rows)
        if source is not None:
            self._table = self._table.of_source(source)
        if most_rows is not None:
            self._rows_per_step = min(rows_per_step, len(self._table))
        manifest = shards.read_json("manifest.json")
        self._kind: str = manifest["rows"]
        self._sha256 = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        self._open: OrderedDict[int, pa.Table] = OrderedDict()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._next: tuple[int, Future[StepBatch]] | None = None
        self.row_count = len(self._table)
        self.references: References | None = None
        """Set once before the first step of an objective that needs them."""

    def batch(self, step: int) -> StepBatch:
        """The batch of `step`; the one of `step + 1` is read meanwhile. Raises ShardError."""
        if self._next is not None and self._next[0] == step:
            result = self._next[1].result()
        else:
            result = self.read(step)
        self._next = (step + 1, self._ahead.submit(self._read, step + 1))
        return result

    def read(self, step: int) -> StepBatch:
        """The batch of `step`, without looking ahead. Raises ShardError."""
        return self._ahead.submit(self._read, step).result()

    def close(self) -> None:
        self._ahead.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int) -> StepBatch:
        plan = plan_step(self._table, self._seed, step, self._rows_per_step, self._world_size, self._micro_batch_tokens)
        mine = plan.ranks[self._rank]
        if self._kind in EXAMPLE_KINDS:
            batches, mismatched = self._examples(mine)
        else:
            batches = tuple(pack_rows([self._packed(row) for row in rows]) if rows else empty_batch() for rows in mine)
            mismatched = ()
        idle = plan.idle_share(self._table.tokens)
        return StepBatch(batches, mismatched, plan.weight, plan.rows, plan.tokens, idle, mine)

    def _examples(self, mine: tuple[tuple[int, ...], ...]) -> tuple[tuple[PackedBatch, ...], tuple[PackedBatch, ...]]:
        batches: list[PackedBatch] = []
        mismatched: list[PackedBatch] = []
        for numbers in mine:
            rows = [self._example(number) for number in numbers]
            own = self._known_references(numbers, rows, mismatched=False)
            batches.append(pack_examples(rows, own, self._learn_best_prompt))
            if self._kind == "thumbs":
                mismatched.append(pack_mismatched(rows, self._known_references(numbers, rows, mismatched=True)))
        return tuple(batches), tuple(mismatched)

    def _known_references(
        self, numbers: Sequence[int], rows: Sequence[ExampleRow], mismatched: bool
    ) -> list[list[float]] | None:
        if self.references is None:
            return None
        return [
            [
                value
                for value, level in zip(self.references[number], row.levels, strict=True)
                if (level < 0) == mismatched
            ]
            for number, row in zip(numbers, rows, strict=True)
        ]

    def _packed(self, number: int) -> PackedRow:
        return PackedRow(**self._columns(number, PackedRow.__slots__))

    def _example(self, number: int) -> ExampleRow:
        return ExampleRow(**self._columns(number, ExampleRow.__slots__))

    def _columns(self, number: int, names: Iterable[str]) -> dict[str, Any]:
        shard, row = int(self._table.shard[number]), int(self._table.row[number])
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            sha256 = self._sha256[f"{self._split}/{shard_name(shard)}"]
            self._open[shard] = read_shard(self._shards, self._split, shard, sha256)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        table = self._open[shard]
        return {name: table.column(name)[row].as_py() for name in names}
